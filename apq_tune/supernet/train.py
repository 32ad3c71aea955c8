"""Training: the supernet in full precision, the same supernet with random bits, and one candidate (QAT)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from apq_tune.data import Split
from apq_tune.encoding import Encoding
from apq_tune.errors import RunError
from apq_tune.supernet.batches import batches
from apq_tune.supernet.network import Subnet, Supernet

Strategy = Literal["single_path", "warm_single_path", "sandwich", "progressive"]

WIDTHS_OPEN = {"warm_single_path": 0.2, "progressive": 2 / 3}
"""Share of the training after which a strategy begins to shrink widths, sorting channels by importance just before."""

Loss = Callable[[Tensor, Tensor, np.random.Generator, float], Tensor]
"""From images, labels, a generator and the share of training that is done (0 to 1) to the mean loss of the batch."""

MAX_GRADIENT_NORM = 5.0


@dataclass(frozen=True)
class Training:
    """How long and how fast.

    Attributes:
        epochs: passes over the images.
        batch_size: images in a step.
        learning_rate: at the start of the cosine (AdamW).
        weight_decay: of AdamW, on convolution weights.
    """

    epochs: int
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 1e-2


def optimizer_for(network: nn.Module, training: Training) -> torch.optim.AdamW:
    """AdamW that decays weights and leaves biases, batch norm and clip values alone."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    rest = [p for p in network.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=training.learning_rate, weight_decay=training.weight_decay, fused=True)


def train_epochs(
    network: nn.Module,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    split: Split,
    training: Training,
    seed: tuple[int, ...],
    *,
    first_epoch: int = 0,
    before_epoch: Callable[[int], None] | None = None,
    after_epoch: Callable[[int], None] | None = None,
) -> None:
    """Minimise a loss over shuffled batches.

    Every epoch has its own generator, made from ``seed`` and its number: resuming equals never stopping.

    Args:
        network: whose parameters the optimizer moves.
        loss: of one batch.
        optimizer: its learning rate is set here, a cosine from ``training.learning_rate`` to zero.
        split: images to train on.
        training: settings.
        seed: of the shuffles and of the generator that ``loss`` gets.
        first_epoch: to resume at.
        before_epoch: called with the number of epochs done.
        after_epoch: called with the number of epochs done.

    Raises:
        RunError: if the loss is not finite, with the epoch and the learning rate.
    """
    device = next(network.parameters()).device
    n = len(split.labels)
    steps = max(1, n // training.batch_size)
    network.train()
    for epoch in range(first_epoch, training.epochs):
        if before_epoch is not None:
            before_epoch(epoch)
        rng = np.random.default_rng((*seed, epoch))
        order = rng.permutation(n)[: steps * training.batch_size]
        for step, (images, labels) in enumerate(batches(split, order, training.batch_size, device)):
            done = (epoch + step / steps) / training.epochs
            for group in optimizer.param_groups:
                group["lr"] = training.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
            optimizer.zero_grad(set_to_none=True)
            value = loss(images, labels, rng, done)
            value.backward()  # type: ignore[no-untyped-call]
            norm = nn.utils.clip_grad_norm_(network.parameters(), MAX_GRADIENT_NORM)
            if not torch.isfinite(norm):
                raise RunError(
                    f"training diverged in epoch {epoch + 1} at learning rate {optimizer.param_groups[0]['lr']:.3g}; "
                    "lower it"
                )
            optimizer.step()
        if after_epoch is not None:
            after_epoch(epoch + 1)


def supernet_loss(supernet: Supernet, encoding: Encoding, strategy: Strategy, *, quantize: bool) -> Loss:
    """The loss of one batch: which candidates are trained on it, and towards what.

    Args:
        supernet: to train.
        encoding: to draw candidates with.
        strategy: ``single_path`` trains one uniform random candidate (Guo 2020); ``sandwich`` the largest on the labels
            and the smallest and two random ones on the largest one's output (Yu 2019); ``progressive`` one candidate
            whose kernels, then depths, then channels are opened, a third of the training each (Cai 2020);
            ``warm_single_path`` the largest for a fifth of the training, then one uniform random candidate.
        quantize: whether candidates come with random bits.
    """
    smallest, largest = encoding.extremes()

    def single_path(x: Tensor, y: Tensor, rng: np.random.Generator, _: float) -> Tensor:
        (candidate,) = encoding.decode(encoding.sample(1, rng))
        return functional.cross_entropy(supernet(x, candidate, quantize=quantize), y)

    def progressive(x: Tensor, y: Tensor, rng: np.random.Generator, done: float) -> Tensor:
        closed = [
            field for field, opens in (("depth", 1 / 3), ("channels", WIDTHS_OPEN["progressive"])) if done < opens
        ]
        (candidate,) = encoding.decode(encoding.at_largest(encoding.sample(1, rng), closed))
        return functional.cross_entropy(supernet(x, candidate, quantize=quantize), y)

    def warm_single_path(x: Tensor, y: Tensor, rng: np.random.Generator, done: float) -> Tensor:
        if done >= WIDTHS_OPEN["warm_single_path"]:
            return single_path(x, y, rng, done)
        return functional.cross_entropy(supernet(x, largest, quantize=quantize), y)

    def sandwich(x: Tensor, y: Tensor, rng: np.random.Generator, _: float) -> Tensor:
        logits = supernet(x, largest, quantize=quantize)
        teacher = logits.detach().softmax(dim=1)
        total = functional.cross_entropy(logits, y)
        for candidate in (smallest, *encoding.decode(encoding.sample(2, rng))):
            total = total + functional.cross_entropy(supernet(x, candidate, quantize=quantize), teacher)
        return total / 4

    losses = {
        "single_path": single_path,
        "warm_single_path": warm_single_path,
        "progressive": progressive,
        "sandwich": sandwich,
    }
    return losses[strategy]


def train_supernet(
    supernet: Supernet,
    encoding: Encoding,
    optimizer: torch.optim.Optimizer,
    split: Split,
    training: Training,
    strategy: Strategy,
    seed: tuple[int, ...],
    *,
    quantize: bool = False,
    first_epoch: int = 0,
    after_epoch: Callable[[int], None] | None = None,
) -> None:
    """Train the weights that all candidates share; see ``supernet_loss`` and ``train_epochs`` for the arguments.

    Where a strategy trains wide networks first, channels are sorted by importance when it begins to shrink widths, and
    the optimizer forgets its moments, which belong to the old order.
    """
    opens = WIDTHS_OPEN.get(strategy)
    sort_at = None if opens is None or quantize else math.ceil(opens * training.epochs)

    def before_epoch(epoch: int) -> None:
        if epoch == sort_at:
            supernet.sort_channels()
            optimizer.state.clear()

    train_epochs(
        supernet,
        supernet_loss(supernet, encoding, strategy, quantize=quantize),
        optimizer,
        split,
        training,
        seed,
        first_epoch=first_epoch,
        before_epoch=before_epoch,
        after_epoch=after_epoch,
    )


def finetune(
    subnet: Subnet,
    split: Split,
    training: Training,
    seed: tuple[int, ...],
    *,
    optimizer: torch.optim.Optimizer | None = None,
    first_epoch: int = 0,
    after_epoch: Callable[[int], None] | None = None,
) -> None:
    """Quantization-aware training of one candidate at its own bits, batch norm folded.

    Args:
        subnet: trained in place.
        split: images to train on.
        training: settings.
        seed: of the shuffles.
        optimizer: to resume with; a new one if not given.
        first_epoch: to resume at.
        after_epoch: called with the number of epochs done.
    """

    def loss(x: Tensor, y: Tensor, _rng: np.random.Generator, _done: float) -> Tensor:
        return functional.cross_entropy(subnet(x), y)

    optimizer = optimizer or optimizer_for(subnet, training)
    train_epochs(subnet, loss, optimizer, split, training, seed, first_epoch=first_epoch, after_epoch=after_epoch)
