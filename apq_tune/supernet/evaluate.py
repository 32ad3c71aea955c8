"""Run candidates on images: what the predictors learn from and what the user is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from apq_tune.data import AnySplit
from apq_tune.space.candidate import Candidate
from apq_tune.supernet.batches import batches
from apq_tune.supernet.network import Supernet
from apq_tune.supernet.quantize import ActivationQuantizer
from apq_tune.supernet.subnet import Subnet

EVALUATION_BATCH = 250  # images; batches of 128 cost half as much again per image, those of 500 no less
GPU_PIXELS = 2**22  # of a batch on a GPU, which waits for the processor if there are few


class Score(NamedTuple):
    """How a network does on a split; the halves are the even and the odd images, for the noise floor."""

    loss: float  # mean cross-entropy, nats
    loss_even: float
    loss_odd: float
    accuracy: float  # fraction, 0 to 1


@torch.no_grad()
def score(network: Callable[[Tensor], Tensor], split: AnySplit, device: torch.device | str = "cpu") -> Score:
    """Loss and accuracy of a function from images to logits, both on ``device``."""
    rows = np.arange(len(split.labels))
    size = EVALUATION_BATCH if torch.device(device).type == "cpu" else max(1, GPU_PIXELS // split.shape[-1] ** 2)
    logits = torch.cat([network(images) for images, _ in batches(split, rows, size, device)])
    labels = torch.from_numpy(split.labels).to(device)
    losses = functional.cross_entropy(logits, labels, reduction="none").double()
    right = (logits.argmax(dim=1) == labels).double()
    return Score(losses.mean().item(), losses[::2].mean().item(), losses[1::2].mean().item(), right.mean().item())


def score_candidate(
    supernet: Supernet, candidate: Candidate, calibration: Tensor, split: AnySplit, *, quantize: bool
) -> Score:
    """Recalibrate batch norm on ``calibration`` images, where the supernet is, then score one candidate of it.

    It is scored as a stand-alone network, whose batch norm is folded: a seventh less work.
    """
    subnet = subnet_from(supernet, candidate, calibration, quantize=quantize)
    return score(lambda x: subnet(x, quantize=quantize), split, calibration.device)


def calibrate_quantizers(network: nn.Module, runs: Sequence[Callable[[], object]], limit: int = 16_000) -> None:
    """Set the clip values of all activation quantizers from what they see in full precision (PTQ).

    Args:
        network: whose quantizers to set; one that no run reaches keeps its clip values.
        runs: calls that send images through the network at full precision.
        limit: values kept for each quantizer, evenly spaced.
    """
    seen: dict[ActivationQuantizer, list[Tensor]] = {}

    def keep(module: nn.Module, inputs: tuple[Tensor, int | None]) -> None:
        assert isinstance(module, ActivationQuantizer)
        values = inputs[0].detach().flatten()
        seen.setdefault(module, []).append(values[:: max(1, len(values) * len(runs) // limit)])

    quantizers = [m for m in network.modules() if isinstance(m, ActivationQuantizer)]
    hooks = [quantizer.register_forward_pre_hook(keep) for quantizer in quantizers]
    try:
        with torch.no_grad():
            for run in runs:
                run()
    finally:
        for hook in hooks:
            hook.remove()
    for quantizer, samples in seen.items():
        quantizer.calibrate(torch.cat(samples))


def subnet_from(supernet: Supernet, candidate: Candidate, calibration: Tensor, *, quantize: bool) -> Subnet:
    """The stand-alone network of one candidate, its batch norm recalibrated and folded.

    Args:
        supernet: source of weights and clip values.
        candidate: which network.
        calibration: ``(n, channels, size, size)`` images for batch norm.
        quantize: whether batch norm sees the candidate's bits, as it should after quantization-aware training.
    """
    return supernet.extract(candidate, supernet.recalibrate(calibration, candidate, quantize=quantize))
