"""Mean of several predictors, which errs less than a single one selected by cross-validation on few pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from apq_tune.predict.pairs import Fit, Floats, Pairs, Predictor
from apq_tune.space.encoding import Featured, Genomes


@dataclass(frozen=True)
class MeanPredictor:
    """Geometric mean of predicted losses, or arithmetic mean of predicted accuracies.

    Attributes:
        members: Predictors of the same metric.
        log: Whether the metric is a loss.
    """

    members: tuple[Predictor, ...]
    log: bool = True

    @property
    def encoding(self) -> Featured:
        """Encoding of the search space."""
        encoding: Featured = self.members[0].encoding  # type: ignore[attr-defined]
        return encoding

    @property
    def name(self) -> str:
        """Name of the metric."""
        return self.members[0].name

    @property
    def unit(self) -> str:
        """Unit of the predictions."""
        return self.members[0].unit

    def __call__(self, genomes: Genomes) -> Floats:
        """Predicted cross-entropy in nats, or accuracy as a fraction, shape ``(n,)``."""
        said = np.array([member(genomes) for member in self.members])
        return np.asarray(np.exp(np.log(said).mean(axis=0)) if self.log else said.mean(axis=0))


def fit_mean(
    encoding: Featured, pairs: Pairs, seed: int, *, fits: Mapping[str, Fit], log: bool = True
) -> MeanPredictor:
    """Fit each form of predictor to the same pairs and average their predictions."""
    return MeanPredictor(tuple(fit(encoding, pairs, seed) for fit in fits.values()), log)
