"""Quantization-aware training (QAT) of one candidate and its scores: the one way in which candidates are trained."""

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
from apq_tune.space.candidate import Candidate
from apq_tune.supernet.defaults import plain_torch
from apq_tune.supernet.evaluate import Score, score
from apq_tune.supernet.finite import finite
from apq_tune.supernet.subnet import Subnet
from apq_tune.supernet.train import Training, average_for, finetune, optimizer_for
from apq_tune.supernet.trained import TrainedSupernet

AfterEpoch = Callable[[int, Subnet, Callable[[], bytes]], None]
"""Called with the number of epochs done, the network, and what makes a checkpoint of the training."""


class QATTask(NamedTuple):
    """One training of one candidate.

    Attributes:
        candidate: Network and bits to train.
        training: Length and rate of the training.
        seed: Words of the seed of its shuffles. Trainings with the same words see the same batches.
        splits: Names of the splits to score it on afterwards.
        setting: Name of the setting whose learning rate is to be lowered if the training diverges.
        steps: Number of optimizer steps, instead of the epochs of ``training``. Fewer than an epoch see a random part
            of the images.
    """

    candidate: Candidate
    training: Training
    seed: tuple[int, ...]
    splits: tuple[str, ...] = ("search",)
    setting: str = "final"
    steps: int | None = None


class QATResult(NamedTuple):
    """A trained candidate, and its score on each split."""

    subnet: Subnet
    scores: dict[str, Score]

    def weights(self) -> bytes:
        """A checkpoint of the network's state."""
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
    """Train one candidate from a supernet's weights, then score it.

    Args:
        supernet: Where the training begins, its data and its device.
        task: What to train, how long, and what to score.
        checkpoint: Checkpoint of the same training to go on from; resuming equals never stopping.
        after_epoch: Called after each epoch.

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

    if first_epoch >= training.epochs:  # killed between the last checkpoint and the end
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
    """Images and epochs of a training that is counted in steps.

    Returns:
        A random part of the split, such that a whole number of epochs of it has as many steps, and that number.
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


def _load(checkpoint: bytes, parts: dict[str, Any], candidate: Candidate) -> int:
    """Restore the parts of a training; returns the number of epochs that are done."""
    try:
        state = torch.load(io.BytesIO(checkpoint), map_location="cpu", weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        return int(state["epoch"])
    except (RuntimeError, KeyError, IndexError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise RunError(f"checkpoint of {candidate} cannot be read ({error}); restart the trial") from None
