"""Power law of one other metric: the fallback if no form of predictor ranks better than chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from apq_tune.cost import CostModel
from apq_tune.predict.pairs import Floats, Pairs, Predictor, Scale
from apq_tune.space.encoding import Featured, Genomes

MIN_SLOPE = 1e-3
"""Minimum slope in standard deviations, so that the ranking of the metric is preserved however few the pairs are."""


@dataclass(frozen=True)
class LawPredictor:
    """Power law ``log loss = intercept + slope * log metric``, which ranks candidates exactly as the metric does.

    Attributes:
        encoding: Encoding of the search space.
        metric: Predictor of another loss, or a cost model (the higher the cost, the lower the loss).
        slope: Exponent of the law: positive for a predictor, negative for a cost model.
        intercept: Logarithm of the loss where the metric is 1.
    """

    encoding: Featured
    metric: Predictor | CostModel
    slope: float
    intercept: float
    name = "predicted_loss"
    unit = "nats"

    def __call__(self, genomes: Genomes) -> Floats:
        """Predicted losses in nats, shape ``(n,)``."""
        return np.asarray(np.exp(self.intercept + self.slope * np.log(self.metric(genomes))))


def fit_law(
    encoding: Featured,
    pairs: Pairs,
    seed: int,  # noqa: ARG001
    *,
    metric: Predictor | CostModel,
) -> LawPredictor:
    """Fit slope and intercept by least squares; the sign of the slope is given by the metric.

    Args:
        encoding: Encoding of the search space.
        pairs: Pairs of candidates and losses.
        seed: Ignored, as the fit is deterministic.
        metric: Positive metric: a cost model, or a predictor of another loss.
    """
    sign = -1.0 if isinstance(metric, CostModel) else 1.0
    x, y = Scale.of(metric(pairs.genomes)), Scale.of(pairs.target)
    agreement = float(np.mean(x.standardise(metric(pairs.genomes)) * y.standardise(pairs.target)))
    slope = sign * max(sign * agreement, MIN_SLOPE) * y.std / x.std
    return LawPredictor(encoding, metric, slope, y.mean - slope * x.mean)
