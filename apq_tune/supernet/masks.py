"""Which weights are kept: functions from scores of weights to masks, and weights with exact zeros."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from apq_tune.network.sparse import kept_of_group, n_kept


def rank_shares(scores: Tensor) -> Tensor:
    """Ranks of scores within their layer, from 0 (lowest) to 1, of the same shape.

    With them in place of scores, a comparison over all layers prunes each layer alike.

    Args:
        scores: Scores of the weights of one layer; equal ones are ranked in their order in memory.
    """
    flat = scores.flatten()
    ranks = torch.empty(len(flat), dtype=torch.float64, device=flat.device)
    ranks[flat.argsort(stable=True)] = torch.arange(len(flat), dtype=torch.float64, device=flat.device)
    return ((ranks + 0.5) / len(flat)).reshape(scores.shape)


def without_lowest(scores: Sequence[Tensor], n_pruned: int, most: Sequence[int]) -> list[Tensor]:
    """Masks that prune an exact number of weights, those with the lowest scores.

    Args:
        scores: Scores of the weights of each layer.
        n_pruned: Number of weights to prune in all layers together, at most the sum of ``most``.
        most: Largest number of weights to prune in each layer.

    Returns:
        For each layer the mask of weights that are kept, of the shape of its scores.
    """
    orders = [own.flatten().argsort(stable=True)[:n] for own, n in zip(scores, most, strict=True)]
    prunable = torch.cat([own.flatten()[order] for own, order in zip(scores, orders, strict=True)])
    chosen = torch.zeros(len(prunable), dtype=torch.bool, device=prunable.device)
    chosen[prunable.argsort(stable=True)[:n_pruned]] = True
    masks = []
    parts = torch.split(chosen, [len(order) for order in orders])
    for own, order, pruned in zip(scores, orders, parts, strict=True):
        kept = torch.ones(own.numel(), dtype=torch.bool, device=own.device)
        kept[order[pruned]] = False
        masks.append(kept.reshape(own.shape))
    return masks


def n_of_m(scores: Tensor, n_kept: int, group: int) -> Tensor:
    """Mask that keeps the ``n_kept`` highest of each ``group`` consecutive inputs (N:M sparsity, Mishra 2021).

    Args:
        scores: Scores, none of them negative, shape ``(out, in, ...)``; a group at the end may have fewer inputs.
        n_kept: Number of weights that are kept of each group.
        group: Number of consecutive weights along the input channels, at the same output channel and position.
    """
    last = scores.movedim(1, -1)
    whole = functional.pad(last, [0, -last.shape[-1] % group], value=-1.0)
    groups = whole.reshape(*last.shape[:-1], -1, group)
    kept = torch.ones_like(groups, dtype=torch.bool)
    lowest = groups.argsort(dim=-1, stable=True)[..., : group - n_kept]
    return kept.scatter_(-1, lowest, False).reshape(whole.shape)[..., : last.shape[-1]].movedim(-1, 1)


@torch.no_grad()
def largest_weights(weight: Tensor, sparsity: float, group: int) -> Tensor:
    """Mask of the weights of a layer that its sparsity keeps, those of the largest magnitudes.

    Args:
        weight: Weights, shape ``(out, in, ...)``.
        sparsity: Share of zeros, met exactly: see ``apq_tune.network.sparse``.
        group: Number of consecutive input channels of a group; 1 for unstructured sparsity.
    """
    scores = weight.detach().abs()
    if group > 1:
        return n_of_m(scores, kept_of_group(sparsity, group), group)
    n_pruned = weight.numel() - n_kept(weight.numel(), weight.shape[1], sparsity, group)
    return without_lowest([scores], n_pruned, [n_pruned])[0]


class _Pruned(torch.autograd.Function):
    """Zeros where a mask has none, with the gradient of all weights."""

    @staticmethod
    def forward(_ctx: Any, weight: Tensor, kept: Tensor) -> Tensor:
        return torch.where(kept, weight, 0.0)

    @staticmethod
    def backward(_ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def pruned(weight: Tensor, sparsity: float, group: int = 1) -> Tensor:
    """Weights of a supernet at a sparsity, with zeros for those of the smallest magnitudes.

    Masks are made anew at each step, and gradients are straight-through: they reach pruned weights, too, so that these
    can come back (Zhou 2021) even where no candidate keeps them.

    Args:
        weight: Weights, shape ``(out, in, ...)``.
        sparsity: Share of zeros; 0 returns the weights themselves.
        group: Number of consecutive input channels of a group; 1 for unstructured sparsity.
    """
    if not sparsity:
        return weight
    return _Pruned.apply(weight, largest_weights(weight, sparsity, group))  # type: ignore[no-any-return]


def held(weight: Tensor) -> Tensor:
    """Weights of a stand-alone sparse network: those that are exactly zero have no gradient, and so stay zero."""
    return torch.where(weight != 0, weight, 0.0)
