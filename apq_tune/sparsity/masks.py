"""Which weights are kept: pure functions from scores of weights to masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


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
        scores: Scores, shape ``(out, in, ...)``, ``in`` divisible by ``group``.
        n_kept: Number of weights that are kept of each group.
        group: Number of consecutive weights along the input channels, at the same output channel and position.
    """
    last = scores.movedim(1, -1)
    groups = last.reshape(*last.shape[:-1], -1, group)
    kept = torch.ones_like(groups, dtype=torch.bool)
    lowest = groups.argsort(dim=-1, stable=True)[..., : group - n_kept]
    return kept.scatter_(-1, lowest, False).reshape(last.shape).movedim(-1, 1)
