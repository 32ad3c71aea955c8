"""Checks that losses and weights are finite, made where they arise, so that no later stage fails because of them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from apq_tune.data import Data
from apq_tune.errors import RunError
from apq_tune.space.gene_encoding import GeneEncoding
from apq_tune.space.network_space import NetworkCandidate
from apq_tune.supernet.batches import first_images
from apq_tune.supernet.evaluate import Score, score_candidate
from apq_tune.supernet.interfaces import AnySupernet
from apq_tune.supernet.train import Training

IMAGES = 64
"""Number of images with which a supernet is checked after its training."""


def finite(score: Score, candidate: NetworkCandidate, setting: str, learning_rate: float) -> Score:
    """Return the score of a candidate if its loss is finite.

    Args:
        score: Score of the candidate.
        candidate: NetworkCandidate, for the message.
        setting: Name of the settings of the preceding training.
        learning_rate: Learning rate of that training.

    Raises:
        RunError: If the loss is not finite.
    """
    if math.isfinite(score.loss):
        return score
    raise RunError(
        f"the loss of {candidate} is {score.loss}: its training diverged; lower {setting}.learning_rate, "
        f"which is {learning_rate:g}"
    )


def check_weights(network: nn.Module, setting: str, training: Training, epoch: int) -> None:
    """Refuse weights that are not finite.

    Raises:
        RunError: If a weight is not finite; the message names the epoch and the setting to change.
    """
    values = [value for value in network.state_dict().values() if value.is_floating_point()]
    if not all(bool(torch.isfinite(value).all()) for value in values):
        raise RunError(
            f"training diverged in epoch {epoch}: weights are not finite any more; lower {setting}.learning_rate, "
            f"which is {training.learning_rate:g}"
        )


def check_supernet(
    supernet: AnySupernet, encoding: GeneEncoding, data: Data, setting: str, training: Training, *, quantize: bool
) -> None:
    """Refuse a supernet whose smallest or largest network has no finite loss on some images of the search split.

    Args:
        supernet: Trained supernet; it is not changed.
        encoding: Encoding of its search space.
        data: Data, of which training images recalibrate batch norm.
        setting: Name of the settings of its training.
        training: Settings of its training.
        quantize: Whether networks run at their bits.

    Raises:
        RunError: If a loss is not finite; the message names the setting to change.
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
