"""Metrics of candidates: what every metric has, and protocols of what only some can do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from apq_tune.space.encoding import Genomes
from apq_tune.space.encodings import encoding_of
from apq_tune.space.gene_encoding import GeneEncoding
from apq_tune.space.narrowing import Narrowing
from apq_tune.space.parameters import Space

Floats = NDArray[np.float64]


class Metric(Protocol):
    """Scalar metric of candidates: a predictor, a cost model, or an evaluator that runs networks."""

    @property
    def name(self) -> str:
        """Name of the metric."""
        ...

    @property
    def unit(self) -> str:
        """Unit of the values, for display."""
        ...

    def __call__(self, genomes: Genomes, /) -> Floats:
        """Values of genomes of shape ``(n, n_genes)`` in ``unit``, without NaN, shape ``(n,)``."""
        ...


@runtime_checkable
class Bounded(Protocol):
    """Metric that knows its range over the whole search space."""

    def reachable(self) -> tuple[float, float]:
        """Exact smallest and largest value in the search space."""
        ...


@runtime_checkable
class Indexed(Protocol):
    """Metric looked up in tables in two steps, the first of which metrics of the same layout share."""

    @property
    def layout(self) -> Any:
        """What ``index`` depends on besides the genomes: one and the same object for metrics that share it."""
        ...

    def index(self, genomes: Genomes) -> tuple[NDArray[Any], ...]:
        """Table indices of the genomes."""
        ...

    def at(self, *index: NDArray[Any]) -> Floats:
        """Values at the given indices, shape ``(n,)``."""
        ...


Report = Callable[[int, Mapping[str, float], Callable[[], bytes]], None]
"""Callback after each epoch: number of epochs done, scores so far, and a function that serializes a checkpoint."""


@runtime_checkable
class TrainedMetric(Protocol):
    """Metric that trains a candidate, with intermediate reports and checkpoints."""

    @property
    def name(self) -> str:
        """Name of the metric, one of the reported scores."""
        ...

    @property
    def fidelity(self) -> str:
        """Description of the training for display, such as ``"QAT, 6 epochs"``."""
        ...

    @property
    def epochs(self) -> int:
        """Number of epochs of the whole training."""
        ...

    def adjusted(self, config: Mapping[str, Any]) -> TrainedMetric:
        """Copy with the training settings that a trial's configuration contains, such as ``learning_rate``."""
        ...

    def train(self, candidate: Any, report: Report, checkpoint: bytes | None) -> None:
        """Train one candidate, from a checkpoint if given; the last report is the result."""
        ...


@dataclass(frozen=True)
class FunctionMetric:
    """Metric made of a function on batches of genomes.

    Attributes:
        name: Name of the metric.
        unit: Unit of its values, for display.
        function: Function from genomes of shape ``(n, n_genes)`` to values of shape ``(n,)``.
    """

    name: str
    unit: str
    function: Callable[[Genomes], Floats]

    @classmethod
    def of_candidates(
        cls, name: str, unit: str, function: Callable[[list[Any]], Sequence[float]], space: Space
    ) -> FunctionMetric:
        """Make a metric of a function on lists of candidates instead of genomes.

        Args:
            name: Name of the metric.
            unit: Unit of its values, for display.
            function: Function from ``n`` candidates to ``n`` numbers.
            space: Search space of the candidates.
        """
        encoding = encoding_of(space)
        return cls(name, unit, lambda genomes: np.asarray(function(encoding.decode(genomes)), np.float64))

    def __call__(self, genomes: Genomes) -> Floats:
        """Values of genomes of shape ``(n, n_genes)``, shape ``(n,)``."""
        return self.function(genomes)


@dataclass(frozen=True)
class WidenedMetric:
    """Metric of a whole space, such as a predictor, on the part of it that a device runs.

    Attributes:
        metric: The metric.
        narrowing: The space and its part.
    """

    metric: Metric
    narrowing: Narrowing

    @property
    def name(self) -> str:
        """Name of the metric."""
        return self.metric.name

    @property
    def unit(self) -> str:
        """Unit of its values."""
        return self.metric.unit

    @property
    def encoding(self) -> GeneEncoding:
        """Encoding of the part."""
        return self.narrowing.part

    def __call__(self, genomes: Genomes) -> Floats:
        """Values of genomes of the part, shape ``(n,)``."""
        return self.metric(self.narrowing.widen(genomes))


def reported_name(metric: Metric) -> str:
    """Name of a metric in trackers and tables, which includes its unit."""
    unit = "".join(filter(str.isalnum, metric.unit)).lower()
    has_unit = unit in ("", "fraction") or unit in metric.name.replace("_", "").lower()
    return metric.name if has_unit else f"{metric.name}_{unit}"
