"""What predictors learn from, and what all of them are."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from apq_tune.encoding import Encoding, Genomes

Floats = NDArray[np.float64]


class Pairs(NamedTuple):
    """Candidates and what was measured of them."""

    genomes: Genomes  # (n, n_genes), canonical
    loss: Floats  # (n,) mean cross-entropy in nats, positive

    def rows(self, index: NDArray[np.intp]) -> Pairs:
        """A subset."""
        return Pairs(self.genomes[index], self.loss[index])


class Predictor(Protocol):
    """A metric that was fitted to pairs; it works in the logarithm, where losses spread evenly."""

    @property
    def name(self) -> str:
        """Of the metric."""
        ...

    @property
    def unit(self) -> str:
        """Of the predictions."""
        ...

    def __call__(self, genomes: Genomes, /) -> Floats:
        """``(n, n_genes) -> (n,)`` cross-entropy in nats, positive."""
        ...


Fit = Callable[[Encoding, Pairs, int], Predictor]
"""From an encoding, pairs and a seed to a predictor."""


class Scale(NamedTuple):
    """Standardised log cross-entropy, and back."""

    mean: float
    std: float

    @classmethod
    def of(cls, loss: Floats) -> Scale:
        """Mean and standard deviation of the logarithms."""
        log = np.log(loss)
        return cls(float(log.mean()), float(log.std()) or 1.0)

    def standardise(self, loss: Floats) -> Floats:
        """Loss to zero mean and unit variance."""
        return (np.log(loss) - self.mean) / self.std

    def restore(self, value: Floats) -> Floats:
        """Inverse of ``standardise``."""
        return np.exp(value * self.std + self.mean)
