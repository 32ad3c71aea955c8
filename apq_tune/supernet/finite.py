"""What is not finite never becomes a product: later stages would be blamed for it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from apq_tune.data import Data
from apq_tune.errors import RunError
from apq_tune.space.candidate import Candidate
from apq_tune.space.network_encoding import NetworkEncoding
from apq_tune.supernet.batches import first_images
from apq_tune.supernet.evaluate import Score, score_candidate
from apq_tune.supernet.network import Supernet
from apq_tune.supernet.train import Training

IMAGES = 64
"""That a supernet is looked at with when its training has ended."""


def finite(score: Score, candidate: Candidate, setting: str, learning_rate: float) -> Score:
    """The score itself.

    Args:
        score: of the candidate.
        candidate: to name.
        setting: name of the training before it.
        learning_rate: of that training.

    Raises:
        RunError: if its loss is not finite.
    """
    if math.isfinite(score.loss):
        return score
    raise RunError(
        f"the loss of {candidate} is {score.loss}: its training diverged; lower {setting}.learning_rate, "
        f"which is {learning_rate:g}"
    )


def check_weights(network: nn.Module, setting: str, training: Training, epoch: int) -> None:
    """Refuse weights that are not finite any more.

    Raises:
        RunError: naming the epoch and the setting to change.
    """
    values = [value for value in network.state_dict().values() if value.is_floating_point()]
    if not all(bool(torch.isfinite(value).all()) for value in values):
        raise RunError(
            f"training diverged in epoch {epoch}: weights are not finite any more; lower {setting}.learning_rate, "
            f"which is {training.learning_rate:g}"
        )


def check_supernet(
    supernet: Supernet, encoding: NetworkEncoding, data: Data, setting: str, training: Training, *, quantize: bool
) -> None:
    """Refuse a supernet whose smallest or largest network gives no finite loss on some search images.

    Args:
        supernet: as its training left it; nothing in it changes.
        encoding: of its space.
        data: whose training images recalibrate it.
        setting: name of its training.
        training: settings of that.
        quantize: whether networks run at their bits.

    Raises:
        RunError: naming the setting to change.
    """
    images: Tensor = first_images(data.train, IMAGES).to(next(supernet.parameters()).device)
    split = data.search.first(min(IMAGES, len(data.search.labels)))
    for candidate in encoding.extremes():
        finite(
            score_candidate(supernet, candidate, images, split, quantize=quantize),
            candidate,
            setting,
            training.learning_rate,
        )
