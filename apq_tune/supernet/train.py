"""Training: its settings, its loop over batches, and quantization-aware training of subnets."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from apq_tune.data import AnySplit
from apq_tune.errors import RunError
from apq_tune.inputs import ranges
from apq_tune.supernet.batches import Augment, batches, first_images
from apq_tune.supernet.interfaces import AnySubnet
from apq_tune.supernet.seeds import AUGMENT

Loss = Callable[[Tensor, Tensor, np.random.Generator, float], Tensor]
"""Mean loss of a batch, given images, labels, a random generator and the share of the training done (0 to 1)."""

MAX_GRADIENT_NORM = 5.0


@dataclass(frozen=True)
class Training:
    """Settings of a training.

    Attributes:
        epochs: Number of epochs; 0 only where the paper's protocol skips a training.
        batch_size: Number of images per step.
        learning_rate: Initial learning rate of AdamW, with cosine decay to zero.
        weight_decay: Weight decay of AdamW, on convolution weights only.
        images: Maximum number of images per epoch, drawn anew for each epoch; ``None`` for all.
        augment: Augmentation: ``none``, ``crop`` or ``crop_flip``.
        label_smoothing: Probability mass that is spread over all classes (Szegedy 2016).
        ema: Decay of an exponential moving average of the weights, which replaces them at the end; 0 for none.
        bf16: Whether to use bfloat16 autocast on a GPU; for small images it is not faster.
    """

    epochs: ranges.EpochsOrNone
    batch_size: ranges.BatchSize = 64
    learning_rate: ranges.LearningRate = 3e-3
    weight_decay: ranges.WeightDecay = 1e-2
    images: ranges.Images | None = None
    augment: Augment = "none"
    label_smoothing: ranges.Share = 0.0
    ema: ranges.Share = 0.0
    bf16: ranges.Flag = False

    def __post_init__(self) -> None:
        """Check all settings.

        Raises:
            RunError: If a setting is invalid; the message names the setting, its value and the allowed values.
        """
        for name, value in ranges.checked(Training, dataclasses.asdict(self)).items():
            object.__setattr__(self, name, value)

    def steps(self, n: int) -> int:
        """Number of steps of an epoch over ``n`` images."""
        return max(1, min(n, self.images or n) // self.batch_size)


class Progress(NamedTuple):
    """Progress of a training.

    Attributes:
        epoch: Number of completed epochs.
        step: Number of completed steps of the current epoch.
        rng: State of the current epoch's random generator, if a step is completed.
    """

    epoch: int = 0
    step: int = 0
    rng: dict[str, Any] | None = None


BEGIN = Progress()


def optimizer_for(network: nn.Module, training: Training) -> torch.optim.AdamW:
    """AdamW with weight decay on weights, but not on biases, batch norm and clip values."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    rest = [p for p in network.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=training.learning_rate, weight_decay=training.weight_decay, fused=True)


def average_for(network: nn.Module, training: Training) -> AveragedModel | None:
    """Exponential moving average of the weights; ``None`` if the settings ask for none."""
    if not training.ema:
        return None
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(training.ema))  # type: ignore[no-untyped-call]


def train_epochs(
    network: nn.Module,
    loss: Loss,
    optimizer: torch.optim.Optimizer,
    split: AnySplit,
    training: Training,
    seed: tuple[int, ...],
    *,
    start: Progress = BEGIN,
    average: AveragedModel | None = None,
    before_epoch: Callable[[int], None] | None = None,
    after_epoch: Callable[[int], None] | None = None,
    after_step: Callable[[Progress], None] | None = None,
) -> None:
    """Minimise a loss over shuffled batches.

    Each epoch has its own generator, seeded with ``seed`` and its number, so that a resumed training gives the same
    result as an uninterrupted one.

    Args:
        network: Network to train in place.
        loss: Loss of one batch.
        optimizer: Optimizer of the network; its learning rate is set to follow a cosine from
            ``training.learning_rate`` to zero.
        split: Training images.
        training: Training settings.
        seed: Seed of the shuffles and of the generator passed to ``loss``.
        start: Progress to resume from.
        average: Moving average of the weights to update; it replaces the weights before the last ``after_epoch``.
        before_epoch: Callback with the number of completed epochs; not called when resuming within an epoch.
        after_epoch: Callback with the number of completed epochs.
        after_step: Callback with the progress after each step but the last one of an epoch.

    Raises:
        RunError: If the loss, its gradient or a weight is not finite; the message has the epoch and the learning rate.
    """
    device = next(network.parameters()).device
    n = len(split.labels)
    steps = training.steps(n)
    network.train()
    for epoch in range(start.epoch, training.epochs):
        rng = np.random.default_rng((*seed, epoch))
        order = rng.permutation(n)[: steps * training.batch_size]
        first = start.step if epoch == start.epoch else 0
        if first and start.rng is not None:
            rng.bit_generator.state = start.rng
        elif before_epoch is not None:
            before_epoch(epoch)
        own_seed = (*seed, epoch, AUGMENT)
        source = batches(
            split, order, training.batch_size, device, first=first, augment=training.augment, seed=own_seed
        )
        for step, (images, labels) in enumerate(source, start=first):
            done = (epoch + step / steps) / training.epochs
            for group in optimizer.param_groups:
                group["lr"] = training.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
            optimizer.zero_grad(set_to_none=True)
            with precision(device, bf16=training.bf16):
                value = loss(images, labels, rng, done)
            value.backward()  # type: ignore[no-untyped-call]
            norm = nn.utils.clip_grad_norm_(network.parameters(), MAX_GRADIENT_NORM)
            if not torch.isfinite(norm):
                rate = optimizer.param_groups[0]["lr"]
                remedy = "lower it"
                if torch.isfinite(value):  # as in batch norm behind a layer whose every activation was rounded to zero
                    remedy += ", or allow more bits: the loss is finite, only its gradient is not"
                raise RunError(f"training diverged in epoch {epoch + 1} at learning rate {rate:.3g}; {remedy}")
            optimizer.step()
            if average is not None:
                average.update_parameters(network)
            if after_step is not None and step + 1 < steps:
                after_step(Progress(epoch, step + 1, dict(rng.bit_generator.state)))
        if not is_finite(network):  # the last step of an epoch is followed by no gradient that would reveal it
            raise RunError(f"training diverged in epoch {epoch + 1}: weights are not finite; lower the learning rate")
        if average is not None and epoch + 1 == training.epochs:
            network.load_state_dict(average.module.state_dict())
        if after_epoch is not None:
            after_epoch(epoch + 1)


def is_finite(network: nn.Module) -> bool:
    """Whether all weights and running statistics of a network are finite."""
    tensors = [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]
    return bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all())


def finetune(
    subnet: AnySubnet,
    split: AnySplit,
    training: Training,
    seed: tuple[int, ...],
    *,
    optimizer: torch.optim.Optimizer | None = None,
    average: AveragedModel | None = None,
    first_epoch: int = 0,
    after_epoch: Callable[[int], None] | None = None,
) -> None:
    """Quantization-aware training of one subnet at its own bits, with folded batch norm.

    Args:
        subnet: Subnet to train in place.
        split: Training images.
        training: Training settings.
        seed: Seed of the shuffles.
        optimizer: Optimizer to resume with; by default a new one.
        average: Moving average to resume with; by default a new one.
        first_epoch: Number of epochs done before.
        after_epoch: Callback with the number of completed epochs.
    """

    def loss(x: Tensor, y: Tensor, _rng: np.random.Generator, _done: float) -> Tensor:
        return functional.cross_entropy(subnet(x), y, label_smoothing=training.label_smoothing)

    optimizer, average = optimizer or optimizer_for(subnet, training), average or average_for(subnet, training)
    with replayed(subnet, split, training):
        train_epochs(
            subnet,
            loss,
            optimizer,
            split,
            training,
            seed,
            start=Progress(first_epoch),
            average=average,
            after_epoch=after_epoch,
        )


@contextlib.contextmanager
def replayed(network: nn.Module, split: AnySplit, training: Training) -> Iterator[None]:
    """Capture the training pass of a network as a CUDA graph and replay it for each batch.

    A training step of a small network consists of about a thousand short kernels, whose launches dominate. On a CPU,
    and in evaluation mode, nothing changes.

    Args:
        network: Network whose shapes and branches do not depend on the images.
        split: Training images.
        training: Training settings, of which batch size and precision are used.
    """
    device = next(network.parameters()).device
    if device.type != "cuda":
        yield
        return
    images = first_images(split, training.batch_size).to(device)
    gc.collect()  # freeing an old graph during a capture would invalidate the new one
    network.train()
    with precision(device, bf16=training.bf16):
        torch.cuda.make_graphed_callables(network, (images,), allow_unused_input=True)
    try:
        yield
    finally:
        del network.forward  # the captured method, which shadows that of the class


def precision(device: torch.device, *, bf16: bool) -> torch.autocast:
    """Autocast context of a training pass: bfloat16 on a GPU if requested, otherwise float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16 and device.type == "cuda", cache_enabled=False)
