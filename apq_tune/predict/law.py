"""A loss as a power of one other metric: what is left to predict by when no form of predictor is of use."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from apq_tune.cost import CostModel
from apq_tune.predict.pairs import Floats, Pairs, Predictor, Scale
from apq_tune.space.encoding import Genomes
from apq_tune.space.network_encoding import NetworkEncoding

FLATTEST = 1e-3
"""Least slope, in standard deviations of both: the order of the metric is kept whatever few pairs say."""


@dataclass(frozen=True)
class LawPredictor:
    """``log loss = intercept + slope * log metric``: ranks exactly as the metric does.

    Attributes:
        encoding: of the space.
        metric: a predictor, which is followed, or a cost, of which more means less loss.
        slope: in nats of the logarithm; its sign says which of the two.
        intercept: of the line.
    """

    encoding: NetworkEncoding
    metric: Predictor | CostModel
    slope: float
    intercept: float
    name = "predicted_loss"
    unit = "nats"

    def __call__(self, genomes: Genomes) -> Floats:
        """``(n, n_genes) -> (n,)`` loss in nats."""
        return np.asarray(np.exp(self.intercept + self.slope * np.log(self.metric(genomes))))


def fit_law(
    encoding: NetworkEncoding,
    pairs: Pairs,
    seed: int,  # noqa: ARG001
    *,
    metric: Predictor | CostModel,
) -> LawPredictor:
    """Fit the two numbers of a law; the direction is not learned.

    Args:
        encoding: of the space.
        pairs: of losses.
        seed: not used, a line has no randomness.
        metric: positive; a cost model, or a predictor of another loss.
    """
    sign = -1.0 if isinstance(metric, CostModel) else 1.0
    x, y = Scale.of(metric(pairs.genomes)), Scale.of(pairs.target)
    agreement = float(np.mean(x.standardise(metric(pairs.genomes)) * y.standardise(pairs.target)))
    slope = sign * max(sign * agreement, FLATTEST) * y.std / x.std
    return LawPredictor(encoding, metric, slope, y.mean - slope * x.mean)
