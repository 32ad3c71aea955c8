"""What predictors learn from, and what all of them are."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from apq_tune.encoding import Encoding
from apq_tune.genotype import Genomes

Floats = NDArray[np.float64]


class Pairs(NamedTuple):
    """Candidates and what was measured of them."""

    genomes: Genomes  # (n, n_genes), canonical
    target: Floats  # (n,) mean cross-entropy in nats, positive; or accuracy as a fraction

    def rows(self, index: NDArray[np.intp]) -> Pairs:
        """A subset."""
        return Pairs(self.genomes[index], self.target[index])


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


Fit = Callable[[Encoding, Pairs, int], Predictor]
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
