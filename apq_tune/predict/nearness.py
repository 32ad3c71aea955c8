"""Distance of candidates from the pairs of a predictor, which tells where it is asked outside of what it learned."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from apq_tune.predict.ordinal import OrdinalFeatures
from apq_tune.predict.pairs import Floats
from apq_tune.space.encoding import Encoding, Genomes


@dataclass(frozen=True)
class Nearness:
    """Distances in ordinal features, where the mean squared norm of random candidates is 1.

    Attributes:
        features: Features of candidates.
        known: Features of the pairs, shape ``(n, n_features)``.
        farthest: Largest distance of a pair from its nearest other pair. A further candidate that is drawn as the pairs
            were is farther from all of them with a probability of about ``1 / (n + 1)``.
    """

    features: OrdinalFeatures
    known: Floats
    farthest: float

    @classmethod
    def of(cls, encoding: Encoding, genomes: Genomes, seed: int = 0) -> Nearness:
        """Distances from measured candidates.

        Args:
            encoding: Encoding of the search space.
            genomes: Canonical genomes of the pairs, shape ``(n, n_genes)``; repeated ones count once.
            seed: Seed of the random candidates by which features are scaled.
        """
        features = OrdinalFeatures.of(encoding, np.random.default_rng(seed))
        known = features(np.unique(genomes, axis=0))
        between = cdist(known, known)
        np.fill_diagonal(between, np.inf)
        farthest = float(between.min(axis=1).max()) if len(known) > 1 else 0.0
        return cls(features, known, farthest)

    def __call__(self, genomes: Genomes) -> Floats:
        """Distance from the nearest pair, shape ``(n,)``."""
        return np.asarray(cdist(self.features(genomes), self.known).min(axis=1))

    def outside(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Whether candidates are farther from all pairs than any pair is from the others, shape ``(n,)``."""
        return np.asarray(self(genomes) > self.farthest)
