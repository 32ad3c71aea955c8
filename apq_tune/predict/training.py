"""Training of the predictors that are networks: AdamW on all pairs at once, with a cosine to zero."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from apq_tune.predict.losses import Loss, calibration, training_loss
from apq_tune.predict.pairs import Floats

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[np.float32]


class PredictorTraining(Protocol):
    """Settings of a training, as those of each network have them."""

    @property
    def steps(self) -> int:
        """Number of optimizer steps."""
        ...

    @property
    def learning_rate(self) -> float:
        """Initial learning rate, with cosine decay."""
        ...

    @property
    def weight_decay(self) -> float:
        """Weight decay of AdamW."""
        ...

    @property
    def loss(self) -> Loss:
        """What is minimised, see ``training_loss``."""
        ...

    @property
    def sharpness(self) -> float:
        """Slope of the loss ``"diffkendall"``."""
        ...


def train(
    weights: dict[str, Tensor], outputs: Callable[[], Tensor], target: Floats, settings: PredictorTraining
) -> dict[str, Array]:
    """Train weights in place.

    Args:
        weights: Weights by name, which need gradients.
        outputs: Function that gives the outputs for all pairs by these weights, shape ``(n,)``.
        target: Standardised targets, shape ``(n,)``.
        settings: Settings.

    Returns:
        The trained weights by name.
    """
    import torch

    goal = torch.tensor(target, dtype=torch.float32)
    optimizer = torch.optim.AdamW(
        list(weights.values()), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.steps)
    for _ in range(settings.steps):
        loss = training_loss(settings.loss, outputs(), goal, settings.sharpness)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    return {name: value.detach().numpy() for name, value in weights.items()}


def scaled(weights: Mapping[str, Array], last: tuple[str, str], scores: Floats, target: Floats) -> dict[str, Array]:
    """Weights with a last layer whose outputs are targets, and not scores of which the order alone was trained.

    Args:
        weights: Trained weights by name.
        last: Names of the matrix and of the bias of the last layer.
        scores: Outputs for the training pairs, shape ``(n,)``.
        target: Their standardised targets, shape ``(n,)``.
    """
    slope, intercept = calibration(scores, target)
    matrix, bias = last
    changed = {matrix: weights[matrix] * slope, bias: weights[bias] * slope + intercept}
    return {**weights, **{name: value.astype(np.float32) for name, value in changed.items()}}
