"""What linear models and Gaussian processes look at: features of a candidate, and what another predictor says of it."""

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
        encoding: Of the space.
        scale: Of the target.
        base: Another predictor of a loss (or accuracy) of the same candidates.
        ordinal: Features with an order; ``None``: one-hot features.
        correct: Whether the base's output is also where learning begins, so that what is learned is a correction;
            else it is a column like others and counts for nothing until pairs say so.
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
        """``(n, n_genes) -> (n, n_features), (n,)``: columns, and where learning begins, in standardised units."""
        features = self.encoding.features(genomes) if self.ordinal is None else self.ordinal(genomes)
        start = np.zeros(len(genomes))
        if self.base is None:
            return features.astype(np.float64), start
        said = self.scale.standardise(self.base(genomes))
        return np.column_stack([features, said]).astype(np.float64), said if self.correct else start


@dataclass(frozen=True)
class DesignPredictor:
    """Base class of predictors that see a design.

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
