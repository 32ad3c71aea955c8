"""Search spaces that contain feasible networks, determined before anything is trained."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from apq_tune.cost import cost_models
from apq_tune.data.choice import Complaint, spaces_that_keep
from apq_tune.errors import DeviceError, ReachError, TableError
from apq_tune.problem.costs import Costs
from apq_tune.problem.limits import ALIASES, read_limits
from apq_tune.problem.metric import Bounded, Metric
from apq_tune.problem.problem import Constraint
from apq_tune.space.device import DevicePreset
from apq_tune.space.encodings import encoding_of
from apq_tune.space.gene_encoding import GeneEncoding
from apq_tune.space.network_space import NetworkSpace


def complaints(
    texts: Sequence[str],
    budgets: Sequence[str] = (),
    tables: Sequence[Path] = (),
    preset: DevicePreset | None = None,
) -> Complaint:
    """Function that names the first constraint that a search space cannot satisfy.

    Args:
        texts: Constraints as text, such as ``"bit_ops<=25%"``.
        budgets: Names of budgets, which every space satisfies that defines them.
        tables: Files of cost tables.
        preset: Device that networks have to run on.
    """

    def complain(space: NetworkSpace, room: float) -> str | None:
        try:
            encoding = encoding_of(space if preset is None else space.narrowed(preset))
            limits = read_limits(encoding, _metrics(encoding, texts, tables), texts)
            for budget in budgets:
                Costs.of(encoding, tables).budget(budget)
        except (DeviceError, ReachError, TableError) as error:
            return str(error)
        return next((said for limit in limits if (said := _tight(limit, room)) is not None), None)

    return complain


def _metrics(encoding: GeneEncoding, texts: Sequence[str], tables: Sequence[Path]) -> Mapping[str, Metric]:
    """Metrics that constraints may name; accelerator models, which take seconds to build, only if one is named."""
    quick: dict[str, Metric] = {model.name: model for model in cost_models(encoding)}
    named = {ALIASES.get(name, name) for text in texts for name in re.findall(r"^\s*(\w+)", text)}
    return Costs.of(encoding, tables, texts).metrics if tables or named - set(quick) else quick


def _tight(limit: Constraint, room: float) -> str | None:
    if room == 1 or not isinstance(limit.metric, Bounded):
        return None
    low, high = limit.metric.reachable()
    if limit.sense == "<=" and low * room > limit.bound:
        return f"{limit} leaves no room, its smallest network has {low:g} {limit.metric.unit}"
    if limit.sense == ">=" and high < limit.bound * room:
        return f"{limit} leaves no room, its largest network has {high:g} {limit.metric.unit}"
    return None


def with_others(error: ReachError, space: NetworkSpace, complain: Complaint) -> ReachError:
    """Add the shipped spaces that satisfy the constraints to an error message."""
    names = [name for name in spaces_that_keep(space, complain) if name != space.name]
    others = f"; shipped spaces that keep all limits: {', '.join(names)}" if names else "; no shipped space does"
    return ReachError(f"{error}{others}")
