"""Inputs of linear models and Gaussian processes: features of candidates and outputs of a base predictor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from apq_tune.predict.ordinal import OrdinalFeatures
from apq_tune.predict.pairs import Floats, Predictor, Scale
from apq_tune.space.encoding import Featured, Genomes


@dataclass(frozen=True)
class Design:
    """Features, with a base predictor's output as the last column if there is one.

    Attributes:
        encoding: Encoding of the search space.
        scale: Scale of the target.
        base: Predictor of another loss or accuracy of the same candidates.
        ordinal: Ordinal features; ``None`` for one-hot features.
        correct: Whether the output of the base is also the prior mean, so that a correction of it is learned;
            otherwise it is only a feature.
    """

    encoding: Featured
    scale: Scale
    base: Predictor | None = None
    ordinal: OrdinalFeatures | None = None
    correct: bool = True

    @property
    def n_features(self) -> int:
        """Number of columns."""
        encoding = self.encoding
        n = encoding.n_arch_features + encoding.n_bit_features if self.ordinal is None else len(self.ordinal.mean)
        return n + (self.base is not None)

    def __call__(self, genomes: Genomes) -> tuple[Floats, Floats]:
        """Features of shape ``(n, n_features)`` and prior means of shape ``(n,)``, both in standardised units."""
        features = self.encoding.features(genomes) if self.ordinal is None else self.ordinal(genomes)
        start = np.zeros(len(genomes))
        if self.base is None:
            return features.astype(np.float64), start
        said = self.scale.standardise(self.base(genomes))
        return np.column_stack([features, said]).astype(np.float64), said if self.correct else start


@dataclass(frozen=True)
class DesignPredictor:
    """Base class of predictors with a design.

    Attributes:
        design: Features and target scale.
    """

    design: Design

    @property
    def encoding(self) -> Featured:
        """Encoding of the search space."""
        return self.design.encoding

    @property
    def name(self) -> str:
        """Name of the metric."""
        return self.design.scale.name

    @property
    def unit(self) -> str:
        """Unit of the predictions."""
        return self.design.scale.unit
