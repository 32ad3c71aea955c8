"""Free upgrade of a network: what it is made of, and which latencies it may not make grow."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from apq_tune.cost.named_costs import NAMED, named_cost
from apq_tune.errors import TableError
from apq_tune.methods.raised import Raise
from apq_tune.problem.costs import Costs
from apq_tune.problem.metric import Metric
from apq_tune.problem.problem import Constraint
from apq_tune.space.candidate import read_candidate
from apq_tune.space.network_space import NetworkCandidate
from apq_tune.store.files import read_json

RAISED = "raised"
"""Name of the stage that raises bits, and of its network in the table of results."""

FILE = "raised.json"
"""What was raised, and why it was trained or not."""

TIMES = ("ms", "cycles")
"""Units of latencies."""


class Upgrade(NamedTuple):
    """Free upgrade of a network.

    Attributes:
        of: Name of the network.
        raises: Genes of bits that are raised.
        before: Loss of the network in the quantized supernet on search images, nats.
        after: Loss of the raised network there.
        candidate: The raised network.
    """

    of: str
    raises: tuple[Raise, ...]
    before: float
    after: float
    candidate: NetworkCandidate

    @property
    def promising(self) -> bool:
        """Whether the loss after calibration is not worse."""
        return self.after <= self.before

    def to_dict(self) -> dict[str, Any]:
        """Plain data, which ``from_dict`` reads."""
        return {
            "of": self.of,
            "raises": [one._asdict() for one in self.raises],
            "supernet_loss": {"before": self.before, "after": self.after},
            "candidate": self.candidate.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Upgrade:
        """Inverse of ``to_dict``."""
        own, losses = tuple(Raise(**one) for one in data["raises"]), data["supernet_loss"]
        return cls(data["of"], own, losses["before"], losses["after"], read_candidate(data["candidate"]))


def latencies_of(costs: Costs, constraints: Sequence[Constraint] = ()) -> tuple[Metric, ...]:
    """Latencies that must not grow.

    Without a device these are all latencies among the costs, that of the accelerator model included. In a space that
    was narrowed for a device they are its cost model, where it has one, and latencies that are limited.
    """
    own = tuple(metric for metric in costs.metrics.values() if metric.unit in TIMES)
    device = getattr(costs.encoding.space, "device", None)
    if device is None:
        return own
    limited = {limit.metric.name for limit in constraints}
    found = {metric.name: metric for metric in own if metric.name in limited}
    if device.cost_model is not None and device.cost_model.name in NAMED:
        name = device.cost_model.name
        with contextlib.suppress(TableError):  # of layers that its source does not cover nothing is known
            found[name] = costs.metrics.get(name) or named_cost(name, costs.encoding)
    return tuple(found.values())


def read_upgrade(path: Path) -> Upgrade | None:
    """Read the free upgrade that a stage has found; ``None`` if there is none.

    Raises:
        RunError: If the file cannot be read.
    """
    found = read_json(path)
    return None if found is None else Upgrade.from_dict(found)
