"""Batch norm statistics of networks that are cut out of a trained model and quantized without further training.

The statistics of a trained model come from all of its training. Estimating them again on a few images loses more than
it repairs; shifting them by what slicing and quantization change on the same images does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from apq_tune.space.model_candidate import ModelCandidate
from apq_tune.supernet.elastic import EPS, Norms, Statistics
from apq_tune.supernet.graph_supernet import GraphSupernet

LEAST_VARIANCE = 0.1
"""Least variance in units of the stored one: the shifted variance of a channel that is nearly dead may be negative."""

Moments = Mapping[str, tuple[Tensor, Tensor]]
"""Mean and variance of the input of each batch norm by its name."""


@torch.no_grad()
def moments_of_model(supernet: GraphSupernet, x: Tensor) -> Moments:
    """Moments of the inputs of all batch norms of the user's model on images, in full precision.

    Args:
        supernet: Supernet with the weights of the model.
        x: Images, shape ``(n, channels, h, w)``.
    """
    model = supernet.model
    norms = _MeasuredNorms(supernet.stored_of(model))
    supernet.run(x, model, norms, quantize=False)
    return {norm.name: moments for norm, moments in zip(model.norms, norms.moments, strict=True)}


@torch.no_grad()
def shifted_statistics(
    supernet: GraphSupernet,
    x: Tensor,
    candidate: ModelCandidate,
    *,
    quantize: bool = True,
    of_model: Moments | None = None,
) -> Statistics:
    """Stored statistics of a candidate, shifted by how its tensors differ from the model's on the same images.

    Args:
        supernet: Supernet with the weights of a trained model.
        x: Images, shape ``(n, channels, h, w)``.
        candidate: Architecture and bits.
        quantize: Whether the candidate runs at its bits.
        of_model: Result of ``moments_of_model`` on the same images, to compute it once for several candidates.
    """
    of_model = moments_of_model(supernet, x) if of_model is None else of_model
    planned = supernet.planned(candidate)
    before = [
        tuple(supernet.cut(planned, name, own) for name, own in zip(norm.statistics, of_model[norm.name], strict=True))
        for norm in planned.norms
    ]
    norms = _ShiftedNorms(supernet.stored_of(planned), before)
    supernet.run(x, planned, norms, quantize=quantize)
    return norms.shifted


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel."""
    values = x.transpose(0, 1).flatten(1)
    return values.mean(dim=1), values.var(dim=1, correction=0)


class _MeasuredNorms(Norms):
    """Batch norm with given statistics that measures its inputs."""

    def __init__(self, given: Statistics) -> None:
        super().__init__(given, None)
        self.moments: list[tuple[Tensor, Tensor]] = []

    def __call__(self, x: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float = EPS) -> Tensor:
        self.moments.append(_moments(x))
        return super().__call__(x, gamma, beta, eps)


class _ShiftedNorms(Norms):
    """Batch norm whose statistics are shifted, one after the other, by what changes before them."""

    def __init__(self, stored: Statistics, before: Iterable[tuple[Tensor, ...]]) -> None:
        super().__init__(None, None)
        self._pairs = iter(list(zip(stored, before, strict=True)))
        self.shifted: Statistics = []

    def __call__(self, x: Tensor, gamma: Tensor | None, beta: Tensor | None, eps: float = EPS) -> Tensor:
        (mean, variance), (mean_before, variance_before) = next(self._pairs)
        mean_now, variance_now = _moments(x)
        mean = mean + (mean_now - mean_before)
        variance = torch.maximum(variance + (variance_now - variance_before), LEAST_VARIANCE * variance)
        self.shifted.append((mean, variance))
        return functional.batch_norm(x, mean, variance, gamma, beta, False, 0.0, eps)
