"""Training pairs of predictors, the predictor protocol and the scaling of targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from apq_tune.space.encoding import Featured, Genomes

Floats = NDArray[np.float64]


class Pairs(NamedTuple):
    """Candidates with measured losses or accuracies.

    Attributes:
        genomes: Canonical genomes, shape ``(n, n_genes)``.
        target: Mean cross-entropy in nats, positive, or accuracy as a fraction, shape ``(n,)``.
    """

    genomes: Genomes
    target: Floats

    def rows(self, index: NDArray[np.intp]) -> Pairs:
        """Select pairs by index."""
        return Pairs(self.genomes[index], self.target[index])


def networks_of(rows: NDArray[Any]) -> NDArray[np.intp]:
    """Group pairs by network, so that folds and splits keep all measurements of a network together.

    Args:
        rows: Canonical genomes, or the features of a predictor that distinguishes fewer networks, shape ``(n, k)``.

    Returns:
        Group numbers from 0 in the order of first appearance, shape ``(n,)``.
    """
    _, first, group = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[group.reshape(-1)], np.intp)


def n_networks(pairs: Pairs) -> int:
    """Number of different networks among the pairs."""
    return len(np.unique(pairs.genomes, axis=0))


def rows_of(networks: NDArray[np.intp], chosen: Sequence[int] | NDArray[np.intp]) -> NDArray[np.intp]:
    """Rows of the chosen networks, network by network in the given order.

    Args:
        networks: Group number of each row (see ``networks_of``), shape ``(n,)``.
        chosen: Group numbers of the chosen networks.
    """
    order = np.argsort(networks, kind="stable")
    starts = np.searchsorted(networks[order], np.arange(networks.max(initial=-1) + 2))
    parts = [order[starts[number] : starts[number + 1]] for number in chosen]
    return np.concatenate([np.zeros(0, np.intp), *parts])


class Predictor(Protocol):
    """Metric that was fitted to pairs. Losses are modelled by their logarithm, which is more evenly distributed."""

    @property
    def name(self) -> str:
        """Name of the metric."""
        ...

    @property
    def unit(self) -> str:
        """Unit of the predictions."""
        ...

    def __call__(self, genomes: Genomes, /) -> Floats:
        """Predicted cross-entropy in nats, positive, or accuracy as a fraction, shape ``(n,)``."""
        ...


Fit = Callable[[Featured, Pairs, int], Predictor]
"""Form of predictor: a function from an encoding, pairs and a seed to a fitted predictor."""


class Scale(NamedTuple):
    """Standardisation of targets: of the logarithm of losses, or of plain accuracies.

    Attributes:
        mean: Mean of the (log) targets.
        std: Standard deviation of the (log) targets.
        log: Whether targets are losses.
    """

    mean: float
    std: float
    log: bool = True

    @classmethod
    def of(cls, target: Floats, *, log: bool = True) -> Scale:
        """Estimate mean and standard deviation from targets of shape ``(n,)``."""
        values = np.log(target) if log else target
        return cls(float(values.mean()), float(values.std()) or 1.0, log)

    def standardise(self, target: Floats) -> Floats:
        """Scale targets to zero mean and unit variance."""
        return ((np.log(target) if self.log else target) - self.mean) / self.std

    def restore(self, value: Floats) -> Floats:
        """Inverse of ``standardise``."""
        raw = value * self.std + self.mean
        return np.exp(raw) if self.log else raw

    @property
    def name(self) -> str:
        """Name of the predicted metric."""
        return "predicted_loss" if self.log else "accuracy"

    @property
    def unit(self) -> str:
        """Unit of the predicted metric."""
        return "nats" if self.log else "fraction"
