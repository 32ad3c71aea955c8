"""Training: the supernet in full precision, the same supernet with random bits, and one candidate (QAT)."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from apq_tune.data import AnySplit
from apq_tune.errors import RunError
from apq_tune.inputs import ranges
from apq_tune.space.network_encoding import NetworkEncoding
from apq_tune.supernet.batches import Augment, batches, first_images
from apq_tune.supernet.network import Supernet
from apq_tune.supernet.subnet import Subnet

Strategy = Literal["single_path", "warm_single_path", "sandwich", "progressive"]

WIDTHS_OPEN = {"warm_single_path": 0.2, "progressive": 2 / 3}
"""Share of the training after which a strategy begins to shrink widths, sorting channels by importance just before."""

Loss = Callable[[Tensor, Tensor, np.random.Generator, float], Tensor]
"""From images, labels, a generator and the share of training that is done (0 to 1) to the mean loss of the batch."""

MAX_GRADIENT_NORM = 5.0

AUGMENT = 1
"""Last word of the seed of an epoch's augmentation; its other random numbers have none."""


@dataclass(frozen=True)
class Training:
    """How long, how fast and on what.

    Attributes:
        epochs: passes over the images; 0 only where the paper's protocol leaves a training out.
        batch_size: images in a step.
        learning_rate: at the start of the cosine (AdamW).
        weight_decay: of AdamW, on convolution weights.
        images: most images in an epoch, drawn anew for each; ``None`` for all.
        augment: ``none``, ``crop`` or ``crop_flip``.
        label_smoothing: share of the label that is spread over all classes (Szegedy 2016).
        ema: decay of an exponential moving average of the weights, which replaces them in the end; 0 for none.
        bf16: on a GPU, compute in bfloat16 where that is safe (autocast). Small images gain nothing by it.
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
        """Check what was given.

        Raises:
            RunError: naming the setting, the value and what is allowed.
        """
        for name, value in ranges.checked(Training, dataclasses.asdict(self)).items():
            object.__setattr__(self, name, value)

    def steps(self, n: int) -> int:
        """Steps of an epoch of ``n`` images."""
        return max(1, min(n, self.images or n) // self.batch_size)


class Progress(NamedTuple):
    """Where a training stands.

    Attributes:
        epoch: epochs done.
        step: steps of the next epoch that are done.
        rng: state of that epoch's generator, if any are.
    """

    epoch: int = 0
    step: int = 0
    rng: dict[str, Any] | None = None


BEGIN = Progress()


def optimizer_for(network: nn.Module, training: Training) -> torch.optim.AdamW:
    """AdamW that decays weights and leaves biases, batch norm and clip values alone."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    rest = [p for p in network.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=training.learning_rate, weight_decay=training.weight_decay, fused=True)


def average_for(network: nn.Module, training: Training) -> AveragedModel | None:
    """The moving average of the weights, if there is to be one."""
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

    Every epoch has its own generator, made from ``seed`` and its number: resuming equals never stopping.

    Args:
        network: whose parameters the optimizer moves.
        loss: of one batch.
        optimizer: its learning rate is set here, a cosine from ``training.learning_rate`` to zero.
        split: images to train on.
        training: settings.
        seed: of the shuffles and of the generator that ``loss`` gets.
        start: where to go on.
        average: of the weights, to be kept up, and taken over before the last ``after_epoch``.
        before_epoch: called with the number of epochs done, not in the middle of one.
        after_epoch: called with the number of epochs done.
        after_step: called in the middle of an epoch.

    Raises:
        RunError: if the loss, its gradient or a weight is not finite, with the epoch and the learning rate.
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
        if not is_finite(network):  # the last step of an epoch has no later gradient that would tell
            raise RunError(f"training diverged in epoch {epoch + 1}: weights are not finite; lower the learning rate")
        if average is not None and epoch + 1 == training.epochs:
            network.load_state_dict(average.module.state_dict())
        if after_epoch is not None:
            after_epoch(epoch + 1)


def is_finite(network: nn.Module) -> bool:
    """Whether every weight and every running statistic of a network is a finite number."""
    tensors = [tensor for tensor in network.state_dict().values() if tensor.is_floating_point()]
    return bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all())


def supernet_loss(
    supernet: Supernet, encoding: NetworkEncoding, strategy: Strategy, *, quantize: bool, label_smoothing: float = 0.0
) -> Loss:
    """The loss of one batch: which candidates are trained on it, and towards what.

    Args:
        supernet: to train.
        encoding: to draw candidates with.
        strategy: ``single_path`` trains one uniform random candidate (Guo 2020); ``sandwich`` the largest on the labels
            and the smallest and two random ones on the largest one's output (Yu 2019); ``progressive`` one candidate
            whose kernels, then depths, then channels are opened, a third of the training each (Cai 2020);
            ``warm_single_path`` the largest for a fifth of the training, then one uniform random candidate.
        quantize: whether candidates come with random bits, from one width everywhere to all widths mixed: what is
            trained with few bits in every network gets worse at many.
        label_smoothing: of the labels, not of the largest one's output.
    """
    smallest, largest = encoding.extremes()
    draw = encoding.sample_policies if quantize else encoding.sample
    on_labels = nn.CrossEntropyLoss(label_smoothing=label_smoothing)

    def single_path(x: Tensor, y: Tensor, rng: np.random.Generator, _: float) -> Tensor:
        (candidate,) = encoding.decode(draw(1, rng))
        return on_labels(supernet(x, candidate, quantize=quantize), y)  # type: ignore[no-any-return]

    def progressive(x: Tensor, y: Tensor, rng: np.random.Generator, done: float) -> Tensor:
        closed = [
            field for field, opens in (("depth", 1 / 3), ("channels", WIDTHS_OPEN["progressive"])) if done < opens
        ]
        (candidate,) = encoding.decode(encoding.at_largest(draw(1, rng), closed))
        return on_labels(supernet(x, candidate, quantize=quantize), y)  # type: ignore[no-any-return]

    def warm_single_path(x: Tensor, y: Tensor, rng: np.random.Generator, done: float) -> Tensor:
        if done >= WIDTHS_OPEN["warm_single_path"]:
            return single_path(x, y, rng, done)
        return on_labels(supernet(x, largest, quantize=quantize), y)  # type: ignore[no-any-return]

    def sandwich(x: Tensor, y: Tensor, rng: np.random.Generator, _: float) -> Tensor:
        logits = supernet(x, largest, quantize=quantize)
        teacher = logits.detach().softmax(dim=1)
        total: Tensor = on_labels(logits, y)
        for candidate in (smallest, *encoding.decode(draw(2, rng))):
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
    encoding: NetworkEncoding,
    optimizer: torch.optim.Optimizer,
    split: AnySplit,
    training: Training,
    strategy: Strategy,
    seed: tuple[int, ...],
    *,
    quantize: bool = False,
    start: Progress = BEGIN,
    average: AveragedModel | None = None,
    after_epoch: Callable[[int], None] | None = None,
    after_step: Callable[[Progress], None] | None = None,
) -> None:
    """Train the weights that all candidates share; see ``supernet_loss`` and ``train_epochs`` for the arguments.

    Where a strategy trains wide networks first, channels are sorted by importance when it begins to shrink widths, and
    the optimizer forgets its moments, which belong to the old order; an average of the weights begins anew.
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
        supernet_loss(supernet, encoding, strategy, quantize=quantize, label_smoothing=training.label_smoothing),
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


def finetune(
    subnet: Subnet,
    split: AnySplit,
    training: Training,
    seed: tuple[int, ...],
    *,
    optimizer: torch.optim.Optimizer | None = None,
    average: AveragedModel | None = None,
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
        average: to resume with; a new one if not given.
        first_epoch: to resume at.
        after_epoch: called with the number of epochs done.
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
    """Record a network's training pass over a batch, and replay it for each one (CUDA graphs).

    A small network's step is a thousand short kernels; recorded, they need not be launched one by one. On a CPU, and
    when the network evaluates, nothing changes.

    Args:
        network: whose shapes and branches do not depend on the images.
        split: images to train on.
        training: size of a batch, and precision.
    """
    device = next(network.parameters()).device
    if device.type != "cuda":
        yield
        return
    images = first_images(split, training.batch_size).to(device)
    gc.collect()  # an old recording that is thrown away while a new one is made would spoil it
    network.train()
    with precision(device, bf16=training.bf16):
        torch.cuda.make_graphed_callables(network, (images,), allow_unused_input=True)
    try:
        yield
    finally:
        del network.forward  # the recorded one, which hides that of the class


def precision(device: torch.device, *, bf16: bool) -> torch.autocast:
    """What a training pass computes in: float32, or on a GPU bfloat16 where that is safe and asked for (autocast)."""
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16 and device.type == "cuda", cache_enabled=False)
