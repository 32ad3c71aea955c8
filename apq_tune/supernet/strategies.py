"""Strategies by which supernets are trained: which candidates share a step, and what they learn from."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel

from apq_tune.data import AnySplit
from apq_tune.space.gene import Kind
from apq_tune.space.gene_encoding import GeneEncoding
from apq_tune.supernet.interfaces import AnySupernet
from apq_tune.supernet.train import BEGIN, Loss, Progress, Training, train_epochs

Strategy = Literal["single_path", "warm_single_path", "sandwich", "progressive"]

WIDTHS_OPEN = {"warm_single_path": 0.2, "progressive": 2 / 3}
"""Share of the training after which smaller widths are sampled; channels are sorted by importance just before."""


class Teacher(NamedTuple):
    """Trained model that a supernet is made of and goes on learning from (Hinton 2015).

    Attributes:
        logits: Function from images to the logits of the model.
        share: Share of the cross-entropy with the model's probabilities in the loss; the rest is that with the labels.
    """

    logits: Callable[[Tensor], Tensor]
    share: float

    @torch.no_grad()
    def probabilities(self, x: Tensor) -> Tensor:
        """Probabilities of the classes, shape ``(n, classes)``."""
        return self.logits(x).softmax(dim=1)


def supernet_loss(
    supernet: AnySupernet,
    encoding: GeneEncoding,
    strategy: Strategy,
    *,
    quantize: bool,
    label_smoothing: float = 0.0,
    teacher: Teacher | None = None,
) -> Loss:
    """Loss of one batch by a supernet training strategy.

    Args:
        supernet: Supernet to train.
        encoding: Encoding of the search space, from which candidates are sampled.
        strategy: ``single_path`` trains one uniformly sampled candidate per step (Guo 2020). ``sandwich`` trains the
            largest candidate on the labels, and the smallest and two random ones on its output (Yu 2019).
            ``progressive`` trains one candidate and enables smaller kernels, then depths, then channels, for a third
            of the training each (Cai 2020). ``warm_single_path`` trains the largest candidate for a fifth of the
            training, then one uniformly sampled candidate.
        quantize: Whether candidates have random bit-width policies, from uniform to fully mixed ones; if every
            network had some layers of few bits, weights would get worse at many bits.
        label_smoothing: Label smoothing; not applied to the output of the largest candidate.
        teacher: Trained model that candidates learn from, beside the labels.
    """
    smallest, largest = encoding.extremes()
    draw = encoding.sample_policies if quantize else encoding.sample
    smoothed = nn.CrossEntropyLoss(label_smoothing=label_smoothing)

    def loss_of(logits: Tensor, x: Tensor, y: Tensor) -> Tensor:
        on_labels: Tensor = smoothed(logits, y)
        if teacher is None:
            return on_labels
        on_model = functional.cross_entropy(logits, teacher.probabilities(x))
        return (1 - teacher.share) * on_labels + teacher.share * on_model

    def single_path(x: Tensor, y: Tensor, rng: np.random.Generator, _: float) -> Tensor:
        (candidate,) = encoding.decode(draw(1, rng))
        return loss_of(supernet(x, candidate, quantize=quantize), x, y)

    def progressive(x: Tensor, y: Tensor, rng: np.random.Generator, done: float) -> Tensor:
        opens: dict[Kind, float] = {"depth": 1 / 3, "width": WIDTHS_OPEN["progressive"]}
        closed = [kind for kind, share in opens.items() if done < share]
        (candidate,) = encoding.decode(encoding.at_largest(draw(1, rng), closed))
        return loss_of(supernet(x, candidate, quantize=quantize), x, y)

    def warm_single_path(x: Tensor, y: Tensor, rng: np.random.Generator, done: float) -> Tensor:
        if done >= WIDTHS_OPEN["warm_single_path"]:
            return single_path(x, y, rng, done)
        return loss_of(supernet(x, largest, quantize=quantize), x, y)

    def sandwich(x: Tensor, y: Tensor, rng: np.random.Generator, _: float) -> Tensor:
        logits = supernet(x, largest, quantize=quantize)
        own = logits.detach().softmax(dim=1)
        total = loss_of(logits, x, y)
        for candidate in (smallest, *encoding.decode(draw(2, rng))):
            total = total + functional.cross_entropy(supernet(x, candidate, quantize=quantize), own)
        return total / 4

    losses = {
        "single_path": single_path,
        "warm_single_path": warm_single_path,
        "progressive": progressive,
        "sandwich": sandwich,
    }
    return losses[strategy]


def train_supernet(
    supernet: AnySupernet,
    encoding: GeneEncoding,
    optimizer: torch.optim.Optimizer,
    split: AnySplit,
    training: Training,
    strategy: Strategy,
    seed: tuple[int, ...],
    *,
    quantize: bool = False,
    teacher: Teacher | None = None,
    start: Progress = BEGIN,
    average: AveragedModel | None = None,
    after_epoch: Callable[[int], None] | None = None,
    after_step: Callable[[Progress], None] | None = None,
) -> None:
    """Train the shared weights of a supernet; see ``supernet_loss`` and ``train_epochs`` for the arguments.

    If the strategy starts with wide networks, channels are sorted by importance before it samples smaller widths. The
    optimizer's moments and the moving average, which refer to the old order, are then reset.
    """
    opens = WIDTHS_OPEN.get(strategy)
    sort_at = None if opens is None or quantize else math.ceil(opens * training.epochs)

    def before_epoch(epoch: int) -> None:
        if epoch == sort_at:
            supernet.sort_channels()
            optimizer.state.clear()
            if average is not None:
                average.n_averaged.zero_()

    train_epochs(
        supernet,
        supernet_loss(
            supernet,
            encoding,
            strategy,
            quantize=quantize,
            label_smoothing=training.label_smoothing,
            teacher=teacher,
        ),
        optimizer,
        split,
        training,
        seed,
        start=start,
        average=average,
        before_epoch=before_epoch,
        after_epoch=after_epoch,
        after_step=after_step,
    )
