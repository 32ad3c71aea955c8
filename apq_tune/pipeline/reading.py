"""Finished runs as they are read again from their files, without images and without training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apq_tune.errors import RunError
from apq_tune.pipeline.finished import open_run
from apq_tune.pipeline.outcome import Outcome, read_outcome
from apq_tune.pipeline.settings import RunSettings
from apq_tune.pipeline.stages import TRAINED
from apq_tune.problem.costs import Costs
from apq_tune.space.encodings import encoding_of
from apq_tune.space.gene_encoding import GeneEncoding
from apq_tune.store.directory import kept_tables
from apq_tune.store.files import read_json
from apq_tune.store.stage import StageFiles


@dataclass(frozen=True)
class ReadRun:
    """Run whose stages are done, for reading.

    Attributes:
        path: Directory of the run.
        encoding: Encoding of its search space.
        costs: Costs of the search space, those of the run's tables included.
        settings: Settings of the run.
        stages: Files of the stages by name.
        record: Content of ``run.json``.
    """

    path: Path
    encoding: GeneEncoding
    costs: Costs
    settings: RunSettings
    stages: dict[str, StageFiles]
    record: dict[str, Any]

    def directory(self, stage: str) -> StageFiles:
        """Files of a stage."""
        return self.stages[stage]

    @property
    def seconds(self) -> dict[str, float]:
        """Wall time of each stage in seconds."""
        return {name: float(files.record()["seconds"]) for name, files in self.stages.items() if files.begun}

    def outcome(self) -> Outcome:
        """Results of the run.

        Raises:
            RunError: If a file of a stage is missing or damaged.
        """
        return read_outcome(self, self.seconds)


def read_run(path: Path, last: str = TRAINED) -> ReadRun:
    """Open the directory of a run that has done its stages up to ``last``.

    Raises:
        RunError: If it is not a run, has not done these stages, or is damaged; the message names the remedy.
    """
    opened = open_run(path, (last,))
    encoding = encoding_of(opened.space)
    costs = Costs.of(encoding, kept_tables(path), opened.settings.constraints)
    return ReadRun(path, encoding, costs, opened.settings, opened.stages, read_json(path / "run.json"))


def run_of(path: Path, record: Mapping[str, Any]) -> Path:
    """Run that a folder goes on from: around the folder, or at the recorded path.

    Args:
        path: Folder of a refinement, or of answers to new limits.
        record: Its record, with the path of the run as ``run``.

    Raises:
        RunError: If it is in neither place.
    """
    for place in (path.parent, path.absolute().parent, Path(record["run"])):
        if (place / "run.json").exists():
            return place
    raise RunError(f"{path}: goes on from the run {record['run']}, which is not there; put it back, or beside it")
