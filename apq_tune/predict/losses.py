"""Losses that predictors are trained with: mean square error, and two that see nothing but the order of candidates.

A search needs the order alone. Outputs whose order was trained are scaled to the targets afterwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from apq_tune.errors import ProblemError

if TYPE_CHECKING:
    from torch import Tensor

    from apq_tune.predict.pairs import Floats

Loss = Literal["mse", "pairwise", "diffkendall"]

LOSSES: tuple[str, ...] = get_args(Loss)

SHARPNESS = 2.0
"""Slope of ``soft_tau`` for standardised values. The published .5, on accuracies as fractions, lets ``tanh`` nowhere
leave its linear part, so that it is a covariance and no rank correlation."""

EPSILON = 1e-6
"""Added to standard deviations, for scores that are all the same."""

LEAST_SLOPE = 1e-3
"""Least slope of ``calibration`` in standard deviations, so that the order of the scores is preserved."""


def training_loss(loss: Loss, scores: Tensor, target: Tensor, sharpness: float = SHARPNESS) -> Tensor:
    """Loss of scores, to be minimised.

    Args:
        loss: ``"mse"``; ``"pairwise"``, see ``pairwise_loss``; or ``"diffkendall"``, the negative of ``soft_tau`` of
            standardised scores and targets.
        scores: Outputs of the predictor, shape ``(n,)``.
        target: Targets, shape ``(n,)``; for the mean square error in units of the scores.
        sharpness: Slope of ``soft_tau``; 2 or more with standardised values.

    Raises:
        ProblemError: If there is no such loss, or the sharpness is not positive.
    """
    from torch.nn import functional

    if loss == "mse":
        return functional.mse_loss(scores, target)
    if loss == "pairwise":
        return pairwise_loss(scores, target)
    if loss != "diffkendall":
        raise ProblemError(f"unknown loss {loss!r}; known: {', '.join(LOSSES)}")
    if not sharpness > 0:
        raise ProblemError(f"sharpness is {sharpness}; give a positive number, {SHARPNESS:g} or more")
    return -soft_tau(_standardised(scores), _standardised(target), sharpness)


def soft_tau(scores: Tensor, target: Tensor, sharpness: float) -> Tensor:
    """Differentiable rank correlation (DiffKendall, Zheng 2023): the mean over pairs of ``tanh(a dx/2) tanh(a dy/2)``.

    Without ties it approaches Kendall's tau for a large ``a``, the sharpness; for a small one it is a multiple of the
    covariance. So values need a standard deviation of about 1, and the sharpness to be 2 or more.

    Args:
        scores: Values, shape ``(n,)``, at least two.
        target: Other values, shape ``(n,)``.
        sharpness: Slope ``a``.
    """
    import torch

    i, j = torch.triu_indices(len(scores), len(scores), 1)
    x, y = (torch.tanh(sharpness / 2 * (values[i] - values[j])) for values in (scores, target))
    return (x * y).mean()


def pairwise_loss(scores: Tensor, target: Tensor) -> Tensor:
    """Logistic loss of the order of pairs (Burges 2005): mean of ``log(1 + exp(s_j - s_i))`` where ``y_i > y_j``.

    Args:
        scores: Scores, shape ``(n,)``.
        target: Targets, shape ``(n,)``; if all are the same, the loss is 0.
    """
    from torch.nn import functional

    above = target[:, None] > target[None, :]
    losses = functional.softplus(scores[None, :] - scores[:, None])
    return (losses * above).sum() / above.sum().clamp(min=1)


def calibration(scores: Floats, target: Floats) -> tuple[float, float]:
    """Slope and intercept that turn scores, whose order alone was trained, into targets, by least squares.

    Args:
        scores: Scores of the training pairs, shape ``(n,)``.
        target: Their standardised targets, shape ``(n,)``.

    Returns:
        A positive slope, so that the order stays, and the intercept.
    """
    spread = max(float(scores.std()), EPSILON)
    agreement = float(np.mean((scores - scores.mean()) * target)) / spread
    slope = max(agreement, LEAST_SLOPE) / spread
    return slope, float(target.mean() - slope * scores.mean())


def _standardised(values: Tensor) -> Tensor:
    return (values - values.mean()) / (values.std(correction=0) + EPSILON)
