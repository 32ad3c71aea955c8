"""Evaluation of candidates: scores on a split, calibration, and extraction of subnets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from apq_tune.data import AnySplit
from apq_tune.space.network_space import NetworkCandidate, NetworkSpace
from apq_tune.supernet.batches import batches
from apq_tune.supernet.folded import constant_weights
from apq_tune.supernet.interfaces import AnySubnet, AnySupernet
from apq_tune.supernet.quantize import ActivationQuantizer

EVALUATION_BATCH = 250  # images; batches of 128 take half as much time again per image, batches of 500 no less
GPU_PIXELS = 2**22  # pixels per batch on a GPU, which would wait for the CPU with fewer


class Score(NamedTuple):
    """Scores of a network on a split.

    Attributes:
        loss: Mean cross-entropy in nats.
        loss_even: Mean cross-entropy of the images with even index, for the split-half agreement.
        loss_odd: Mean cross-entropy of the images with odd index.
        accuracy: Accuracy as a fraction.
        top5: Share of the images whose class is among the five likeliest ones.
    """

    loss: float
    loss_even: float
    loss_odd: float
    accuracy: float
    top5: float


class RunsCandidates(Protocol):
    """Source of weights for all candidates of a search space, such as a supernet, as used by metrics."""

    @property
    def space(self) -> NetworkSpace:
        """Search space of the candidates."""
        ...

    def subnet(self, candidate: NetworkCandidate) -> nn.Module:
        """Stand-alone network of a candidate, ready for QAT."""
        ...

    def score(self, candidate: NetworkCandidate, *, quantize: bool) -> Score:
        """Loss and accuracy of a candidate, at its bits or in full precision."""
        ...


@constant_weights()
def score(network: Callable[[Tensor], Tensor], split: AnySplit, device: torch.device | str = "cpu") -> Score:
    """Loss and accuracy of ``network``, a function from images to logits on ``device``, on all images of a split."""
    rows = np.arange(len(split.labels))
    size = EVALUATION_BATCH if torch.device(device).type == "cpu" else max(1, GPU_PIXELS // split.shape[-1] ** 2)
    logits = torch.cat([network(images) for images, _ in batches(split, rows, size, device)])
    labels = torch.tensor(split.labels, device=device)  # a copy: arrays that workers share are read-only
    losses = functional.cross_entropy(logits, labels, reduction="none").double()
    right = (logits.argmax(dim=1) == labels).double()
    own = logits.gather(1, labels.unsqueeze(1))
    # A class is ahead by a larger logit; among equal ones the first is, as argmax has it.
    ahead = (logits > own) | ((logits == own) & (torch.arange(logits.shape[1], device=device) < labels.unsqueeze(1)))
    among = (ahead.sum(dim=1) < 5).double()
    halves = losses[::2].mean().item(), losses[1::2].mean().item()
    return Score(losses.mean().item(), *halves, right.mean().item(), among.mean().item())


def score_candidate(
    supernet: AnySupernet, candidate: NetworkCandidate, calibration: Tensor, split: AnySplit, *, quantize: bool
) -> Score:
    """Recalibrate batch norm and score one candidate of a supernet.

    The candidate is scored as a subnet with folded batch norm, which takes a seventh less time.

    Args:
        supernet: Supernet that provides the weights.
        candidate: Candidate to score.
        calibration: Images for batch norm on the device of the supernet, shape ``(n, channels, size, size)``.
        split: Images to score on.
        quantize: Whether the candidate runs at its bits rather than in full precision.
    """
    subnet = subnet_from(supernet, candidate, calibration, quantize=quantize)
    return score(lambda x: subnet(x, quantize=quantize), split, calibration.device)


def calibrate_quantizers(network: nn.Module, runs: Sequence[Callable[[], object]], limit: int = 16_000) -> None:
    """Calibrate the clip values of all activation quantizers on full-precision activations (PTQ).

    Args:
        network: Network whose quantizers are set; quantizers that no run reaches keep their clip values.
        runs: Functions that run the network on images in full precision.
        limit: Maximum number of evenly spaced activations kept for each quantizer.
    """
    for quantizer, samples in quantizer_inputs(network, runs, limit).items():
        quantizer.calibrate(samples)


def quantizer_inputs(
    network: nn.Module, runs: Sequence[Callable[[], object]], limit: int
) -> dict[ActivationQuantizer, Tensor]:
    """Samples of what the activation quantizers of a network read, before their activation function.

    Args:
        network: Network.
        runs: Functions that run the network on images in full precision.
        limit: Maximum number of evenly spaced activations kept for each quantizer.

    Returns:
        Activations of each quantizer that a run reaches, flat.
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
    return {quantizer: torch.cat(samples) for quantizer, samples in seen.items()}


def subnet_from(
    supernet: AnySupernet, candidate: NetworkCandidate, calibration: Tensor, *, quantize: bool
) -> AnySubnet:
    """Extract the subnet of one candidate, with batch norm recalibrated and folded.

    Args:
        supernet: Supernet that provides weights and clip values.
        candidate: Candidate to extract.
        calibration: Images for batch norm, shape ``(n, channels, size, size)``.
        quantize: Whether batch norm is recalibrated at the candidate's bits, as it should be after quantization-aware
            training.
    """
    return supernet.extract(candidate, supernet.recalibrate(calibration, candidate, quantize=quantize))
