"""Trained networks of any folder that a command has left."""

from __future__ import annotations

import functools
from pathlib import Path

from apq_tune.errors import ApqError, RunError
from apq_tune.pipeline.finished import networks_of_run
from apq_tune.pipeline.networks import CHOSEN, KeptNetwork, Networks, chosen_of, classes_of
from apq_tune.pipeline.solved import RECORD as ANSWERS
from apq_tune.pipeline.solved import networks_of_answers
from apq_tune.problem.costs import Costs
from apq_tune.refine.networks import RECORD as REFINEMENT
from apq_tune.refine.networks import networks_of_refinement
from apq_tune.space.encodings import encoding_of
from apq_tune.space.files import network_space_from
from apq_tune.store.digests import Digests, read_record
from apq_tune.store.directory import kept_digests, kept_tables
from apq_tune.store.files import read_json
from apq_tune.supernet.found_network import FoundNetwork

SEARCH = "fleet.json"
"""Record in the folder of one method, and of comparisons, which keep no networks."""

AGAIN = "the same command does that search again"


def load_network(path: str | Path, name: str = CHOSEN) -> FoundNetwork:
    """Load a trained network from the directory of a run, of a refinement, of ``run --method``, or of ``solve``.

    The images need not be there.

    Args:
        path: Directory.
        name: Name of the network in the table of results, such as ``"best"`` of a run or ``"2-05"`` of a refinement;
            ``"chosen"`` for the chosen one.

    Raises:
        RunError: If the folder is not finished, there is no network of that name, which lists those that there are, or
            a file is damaged.
    """
    return open_networks(Path(path)).load(name)


def open_networks(path: Path) -> Networks:
    """Open the trained networks of a directory.

    Raises:
        RunError: If it is none with networks, is not finished, or a file is damaged.
    """
    try:
        if (path / REFINEMENT).exists():
            return networks_of_refinement(path)
        if (path / ANSWERS).exists():
            return networks_of_answers(path)
        if (path / SEARCH).exists():
            return _networks_of_method(path)
        if (path / "run.json").exists():
            return networks_of_run(path)
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}); give the directory of a run") from None
    raise RunError(f"{path}: has no trained networks; give the directory of a run or of a refinement")


def _networks_of_method(path: Path) -> Networks:
    """Networks whose weights a method has kept."""
    remedy = f"delete the folder {path} and repeat the command that made it"
    record = read_record(path / SEARCH, remedy)
    digests = Digests(path)
    names = [name for name in digests if name.startswith("items/") and name.endswith(".pt")]
    if not names:
        raise RunError(f"{path}: is a {record['kind']}, which keeps no networks; get one with: apq-tune run --method")
    run = path.absolute().parent
    of_run = read_record(run / "run.json", remedy) if (run / "run.json").exists() else {}
    try:
        space = network_space_from(record["basis"]["space"])
        limits = [text for texts in record["basis"]["limits"].values() for text in texts]
    except (KeyError, TypeError, AttributeError, ApqError):
        raise RunError(f"{path / SEARCH}: is of another version of apq-tune; {remedy}") from None
    tables = tuple(kept_tables(run))
    if kept_digests(run) != record["basis"].get("tables", []):
        raise RunError(f"{path}: was searched with other cost tables than {run} now has; {remedy}")
    costs = Costs.of(encoding_of(space), tables, limits)
    kept: dict[str, KeptNetwork] = {}
    for weights in names:
        result = f"{weights.removesuffix('.pt')}.json"
        if not digests.whole(result, AGAIN):
            raise RunError(f"{path}: is not finished; give the same command again: {record['command']}")
        records = read_json(path / result).get("networks", {})
        trained = {
            name: KeptNetwork(
                one["candidate"],
                {split: one[split] for split in ("search", "test")},
                functools.partial(_whole, digests, weights),
            )
            for name, one in records.items()
        }
        least = min(trained, key=lambda name: trained[name].scores["search"]["loss"], default=None)
        own = chosen_of(trained, costs, limits) or least
        if own is not None:
            kept[own] = trained[own]  # the only one whose weights are kept
    chosen = chosen_of(kept, costs, limits)
    classes, root = classes_of(of_run, space), of_run.get("data_root")
    return Networks(path, space, kept, chosen, tables, classes, root, tuple(limits))


def _whole(digests: Digests, name: str) -> Path:
    if not digests.whole(name, AGAIN):
        raise RunError(f"{digests.folder / name}: is missing; {AGAIN}")
    return digests.folder / name
