"""Trained networks of a refinement."""

from __future__ import annotations

import functools
from pathlib import Path

from apq_tune.pipeline.networks import KeptNetwork, Networks, classes_of
from apq_tune.refine.reading import read_refinement
from apq_tune.space.candidate import candidate_in
from apq_tune.store.directory import kept_tables
from apq_tune.store.stage import StageFiles

RECORD = "refine.json"
"""Record in the folder of a refinement."""


def networks_of_refinement(path: Path) -> Networks:
    """Trained networks of a refinement: those of its longest training.

    Raises:
        RunError: If it is not finished, the run that it refines is missing, or a file is damaged.
    """
    read = read_refinement(path)
    table, run = read.refined.table, read.run
    again = f"this makes it anew: {read.record['command'] or 'the program that began it'}"
    kept: dict[str, KeptNetwork] = {}
    for row in table[table["epochs"] == read.settings.final_epochs].to_dict(orient="records"):
        folder = StageFiles(path / row["stage"].replace(" ", "_"), again)
        kept[row["name"]] = KeptNetwork(
            candidate_in(row["candidate_json"]).to_dict(),
            {split: {kind: row[f"{split}_{kind}"] for kind in ("loss", "accuracy")} for split in ("search", "test")},
            functools.partial(folder.checked, f"{row['name']}.pt"),
        )
    tables = (*kept_tables(run.path), *kept_tables(path))
    space, chosen = run.encoding.space, str(table.loc[read.refined.best, "name"])
    limits = run.settings.constraints if read.settings.constraints is None else read.settings.constraints
    classes, root = classes_of(run.record, space), run.record.get("data_root")
    return Networks(path, space, kept, chosen, tables, classes, root, limits)
