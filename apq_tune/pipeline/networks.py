"""Trained networks of a folder: those of a run, of a refinement or of one method."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from apq_tune.data.classes import numbered
from apq_tune.errors import CandidateError, RunError
from apq_tune.pipeline.outcome import networks_table
from apq_tune.problem.costs import Costs
from apq_tune.space.candidate import read_candidate
from apq_tune.space.encodings import encoding_of
from apq_tune.space.network_space import NetworkSpace
from apq_tune.supernet.defaults import plain_torch
from apq_tune.supernet.found_network import CostValue, FoundNetwork, Preprocessing, load_weights
from apq_tune.supernet.kinds import subnet_of

CHOSEN = "chosen"
"""Name of the network that a command has chosen, beside its own name."""


class KeptNetwork(NamedTuple):
    """Record of a trained network.

    Attributes:
        candidate: Architecture and bits as plain data.
        scores: Loss and accuracy by split.
        weights: Function that returns the file of its weights, after a check of its digest.
        limits: Limits of its own search as texts; ``None`` for those of the folder.
    """

    candidate: Mapping[str, Any]
    scores: Mapping[str, Mapping[str, float]]
    weights: Callable[[], Path]
    limits: tuple[str, ...] | None = None


class Networks(NamedTuple):
    """Trained networks of a folder.

    Attributes:
        path: Path of the folder.
        space: Search space of the networks.
        kept: Records of the networks by name.
        chosen: Name of the chosen network; ``None`` if none keeps all limits.
        tables: Cost tables of the run.
        classes: Class names in the order of the logits.
        data_root: Folder with the files of data sets that the run was given, if any.
        limits: Limits of the search as texts, whose costs are told with each network.
        why_none: Reason why none was chosen.
    """

    path: Path
    space: NetworkSpace
    kept: Mapping[str, KeptNetwork]
    chosen: str | None
    tables: tuple[Path, ...]
    classes: tuple[str, ...]
    data_root: str | None
    limits: tuple[str, ...] = ()
    why_none: str = "no network keeps all limits, so none was chosen"

    @plain_torch()
    def load(self, name: str = CHOSEN) -> FoundNetwork:
        """Load a network with its weights.

        Args:
            name: Name of the network; ``"chosen"`` for the one that was chosen.

        Raises:
            RunError: If there is no such network, which lists the known ones, or its weights are damaged or missing.
        """
        if name == CHOSEN and self.chosen is None:
            raise RunError(f"{self.path}: {self.why_none}; known: {self._names()}")
        own = str(self.chosen) if name == CHOSEN else name
        if own not in self.kept:
            raise RunError(f"{self.path}: has no network {name!r}; known: {self._names()}")
        record = self.kept[own]
        weights = record.weights()
        try:
            candidate = read_candidate(record.candidate)
            encoding = encoding_of(self.space)
            genomes = encoding.encode([candidate])
        except CandidateError as error:
            raise RunError(f"{self.path}: its network {own} is not of its search space ({error})") from None
        known = Costs.of(encoding, self.tables, self.limits, strict=False)
        limits = known.limits(self.limits if record.limits is None else record.limits)
        subnet = subnet_of(self.space, candidate)
        load_weights(subnet, weights)
        return FoundNetwork(
            subnet,
            name=own,
            costs={cost: CostValue(float(metric(genomes)[0]), metric.unit) for cost, metric in known.metrics.items()},
            scores=record.scores,
            preprocessing=Preprocessing.of(self.space, self.classes),
            path=self.path,
            bounds={limit.metric.name: limit.bound for limit in limits if limit.sense == "<="},
        )

    def _names(self) -> str:
        return ", ".join([*([CHOSEN] if self.chosen is not None else []), *self.kept])


def chosen_of(kept: Mapping[str, KeptNetwork], costs: Costs, limits: Sequence[str]) -> str | None:
    """Name of the network with the least search loss that keeps all limits; ``None`` if there is none.

    Args:
        kept: Records of trained networks by name.
        costs: Costs of their search space.
        limits: Limits as text.
    """
    if not kept:
        return None
    records = {name: {"candidate": one.candidate, **one.scores} for name, one in kept.items()}
    table = networks_table(records, costs, costs.limits(limits))
    return next(iter(table.loc[table["chosen"], "name"].tolist()), None)


def classes_of(record: Mapping[str, Any], space: NetworkSpace) -> tuple[str, ...]:
    """Class names in the record of a run; numbers if it has none."""
    names = tuple(record.get("classes", ()))
    return names if len(names) == space.classes else numbered(space.classes)
