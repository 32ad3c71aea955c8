"""What predictors learn from, and what all of them are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from apq_tune.space.encoding import Genomes
from apq_tune.space.network_encoding import NetworkEncoding

Floats = NDArray[np.float64]


class Pairs(NamedTuple):
    """Candidates and what was measured of them."""

    genomes: Genomes  # (n, n_genes), canonical
    target: Floats  # (n,) mean cross-entropy in nats, positive; or accuracy as a fraction

    def rows(self, index: NDArray[np.intp]) -> Pairs:
        """A subset."""
        return Pairs(self.genomes[index], self.target[index])


def networks_of(rows: NDArray[Any]) -> NDArray[np.intp]:
    """Number networks, so that folds and random splits can keep what was measured of one of them on one side.

    Args:
        rows: ``(n, k)`` what is seen of each pair: canonical genomes, or the features of a form that sees fewer.

    Returns:
        ``(n,)`` numbers from 0 in the order of first appearance; without repeats 0 to ``n - 1``.
    """
    _, first, group = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[group.reshape(-1)], np.intp)


def n_networks(pairs: Pairs) -> int:
    """How many different networks were measured."""
    return len(np.unique(pairs.genomes, axis=0))


def rows_of(networks: NDArray[np.intp], chosen: Sequence[int] | NDArray[np.intp]) -> NDArray[np.intp]:
    """The rows of the chosen networks, network after network in the order given.

    Args:
        networks: ``(n,)``, see ``networks_of``.
        chosen: numbers of networks.
    """
    order = np.argsort(networks, kind="stable")
    starts = np.searchsorted(networks[order], np.arange(networks.max(initial=-1) + 2))
    parts = [order[starts[number] : starts[number + 1]] for number in chosen]
    return np.concatenate([np.zeros(0, np.intp), *parts])


class Predictor(Protocol):
    """A metric that was fitted to pairs; losses are learned as logarithms, in which they spread evenly."""

    @property
    def name(self) -> str:
        """Of the metric."""
        ...

    @property
    def unit(self) -> str:
        """Of the predictions."""
        ...

    def __call__(self, genomes: Genomes, /) -> Floats:
        """``(n, n_genes) -> (n,)`` cross-entropy in nats, positive; or accuracy as a fraction."""
        ...


Fit = Callable[[NetworkEncoding, Pairs, int], Predictor]
"""From an encoding, pairs and a seed to a predictor."""


class Scale(NamedTuple):
    """Standardised targets, and back: the logarithm of a loss, or an accuracy as it is."""

    mean: float
    std: float
    log: bool = True

    @classmethod
    def of(cls, target: Floats, *, log: bool = True) -> Scale:
        """Mean and standard deviation."""
        values = np.log(target) if log else target
        return cls(float(values.mean()), float(values.std()) or 1.0, log)

    def standardise(self, target: Floats) -> Floats:
        """To zero mean and unit variance."""
        return ((np.log(target) if self.log else target) - self.mean) / self.std

    def restore(self, value: Floats) -> Floats:
        """Inverse of ``standardise``."""
        raw = value * self.std + self.mean
        return np.exp(raw) if self.log else raw

    @property
    def name(self) -> str:
        """Of the metric that is predicted."""
        return "predicted_loss" if self.log else "accuracy"

    @property
    def unit(self) -> str:
        """Of it."""
        return "nats" if self.log else "fraction"
