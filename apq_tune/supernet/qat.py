"""Quantization-aware training (QAT) and scoring of candidates, used wherever candidates are trained."""

from __future__ import annotations

import dataclasses
import io
import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from apq_tune.data import AnySplit
from apq_tune.errors import RunError
from apq_tune.space.network_space import NetworkCandidate
from apq_tune.supernet.defaults import plain_torch
from apq_tune.supernet.evaluate import Score, score
from apq_tune.supernet.finite import finite
from apq_tune.supernet.interfaces import AnySubnet
from apq_tune.supernet.train import Training, average_for, finetune, optimizer_for
from apq_tune.supernet.trained import TrainedSupernet

AfterEpoch = Callable[[int, AnySubnet, Callable[[], bytes]], None]
"""Callback with the number of finished epochs, the network, and a function that serializes a checkpoint."""


class QATTask(NamedTuple):
    """Training of one candidate.

    Attributes:
        candidate: Architecture and bits to train.
        training: Settings of the training.
        seed: Words of the seed of the order of batches. Trainings with the same words use the same batches.
        splits: Names of the splits to score the candidate on afterwards.
        setting: Name of the setting that messages about diverged trainings refer to.
        steps: Number of optimizer steps, which replaces the epochs of ``training``. Less than an epoch uses a random
            subset of the images.
    """

    candidate: NetworkCandidate
    training: Training
    seed: tuple[int, ...]
    splits: tuple[str, ...] = ("search",)
    setting: str = "final"
    steps: int | None = None


class QATResult(NamedTuple):
    """Trained candidate and its score on each split."""

    subnet: AnySubnet
    scores: dict[str, Score]

    def weights(self) -> bytes:
        """Serialized state of the network."""
        buffer = io.BytesIO()
        torch.save(self.subnet.cpu().state_dict(), buffer)
        return buffer.getvalue()


@plain_torch()
def train_candidate(
    supernet: TrainedSupernet,
    task: QATTask,
    *,
    checkpoint: bytes | None = None,
    after_epoch: AfterEpoch | None = None,
) -> QATResult:
    """Train one candidate from the weights of a supernet, then score it.

    Args:
        supernet: Supernet that provides initial weights, data and device.
        task: Training to do.
        checkpoint: Checkpoint of the same training to resume from, with the same result as without interruption.
        after_epoch: Callback after each epoch.

    Raises:
        RunError: If the training diverges, or the checkpoint is damaged.
    """
    torch.set_num_threads(1)
    candidate, data, subnet = task.candidate, supernet.data, supernet.subnet(task.candidate)
    split, training = (data.train, task.training) if task.steps is None else cut(data.train, task)
    optimizer, average = optimizer_for(subnet, training), average_for(subnet, training)
    parts = {"subnet": subnet, "optimizer": optimizer} | ({} if average is None else {"average": average})
    first_epoch = 0 if checkpoint is None else _load(checkpoint, parts, candidate)

    def tell(epoch: int) -> None:
        if after_epoch is not None:
            subnet.eval()
            after_epoch(epoch, subnet, lambda: _checkpoint(parts, epoch))
            subnet.train()

    if first_epoch >= training.epochs:  # interrupted after the last checkpoint
        tell(first_epoch)
    finetune(
        subnet,
        split,
        training,
        task.seed,
        optimizer=optimizer,
        average=average,
        first_epoch=first_epoch,
        after_epoch=tell,
    )
    subnet.eval()
    scores = {name: score(subnet, getattr(data, name), supernet.device) for name in task.splits}
    for own in scores.values():
        finite(own, candidate, task.setting, training.learning_rate)
    return QATResult(subnet, scores)


def cut(split: AnySplit, task: QATTask) -> tuple[AnySplit, Training]:
    """Images and epochs of a training with a given number of steps.

    Returns:
        Random subset of the split of which a whole number of epochs has that many steps, and the training with that
        number of epochs.
    """
    assert task.steps is not None
    n, batch = len(split.labels), task.training.batch_size
    epochs = -(-task.steps // max(1, n // batch))
    rows = np.random.default_rng(task.seed).permutation(n)[: round(task.steps / epochs) * batch]
    return split.take(rows), dataclasses.replace(task.training, epochs=epochs)


def _checkpoint(parts: dict[str, Any], epoch: int) -> bytes:
    buffer = io.BytesIO()
    torch.save({name: part.state_dict() for name, part in parts.items()} | {"epoch": epoch}, buffer)
    return buffer.getvalue()


def _load(checkpoint: bytes, parts: dict[str, Any], candidate: NetworkCandidate) -> int:
    """Restore the parts of a training; returns the number of epochs that are done."""
    try:
        state = torch.load(io.BytesIO(checkpoint), map_location="cpu", weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        return int(state["epoch"])
    except (RuntimeError, KeyError, IndexError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise RunError(f"checkpoint of {candidate} cannot be read ({error}); restart the trial") from None
