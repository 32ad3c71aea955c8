"""Lottery tickets: sparse networks that train from an early state of the dense one (Frankle 2019, 2020)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from torch import Tensor, nn

from apq_tune.errors import RunError
from apq_tune.sparsity.sparsifier import Sparsifier

TrainSteps = Callable[[nn.Module, int, int | None], None]
"""Training of a module in place from one step to another, or to the end, with an optimizer that begins anew; equal
arguments give equal results."""


class Ticket(NamedTuple):
    """Sparse network that was trained from the state of a step.

    Attributes:
        level: Number of prunings; 0 for the dense network.
        sparsity: Share of zeros among the weights.
        masks: Weights that are kept, by layer.
        state: State dict of the trained network, pruned weights zero.
    """

    level: int
    sparsity: float
    masks: dict[str, Tensor]
    state: dict[str, Tensor]


def iterative_pruning(
    module: nn.Module,
    train: TrainSteps,
    *,
    levels: int,
    rewind: int = 0,
    share: float = 0.2,
    at_most: Mapping[str, float] | None = None,
) -> Iterator[Ticket]:
    """Iterative magnitude pruning with rewinding.

    The network is trained; a share of the remaining weights, the smallest of all layers, is pruned; those that are left
    are set back to their values at step ``rewind`` and trained to the end; and so on. With ``rewind`` 0 this is the
    lottery ticket, whose tickets are worse than gradual pruning on larger networks (Gale 2019); a step after the first
    few percent of the training is stable there (Frankle 2020, ``instability``).

    Args:
        module: Any torch module with its initial weights, trained in place; at each ticket it is the trained network.
        train: Training.
        levels: Number of prunings.
        rewind: Step whose weights are trained again.
        share: Share of the remaining weights that each pruning removes.
        at_most: Largest sparsity of layers by name or glob, as of ``Sparsifier``.

    Yields:
        The dense network, then a ticket for each pruning.

    Raises:
        RunError: If a number is out of its range, or the sparsity cannot be reached.
    """
    if not 0 < share < 1 or levels < 0 or rewind < 0:
        raise RunError(
            f"pruning {levels} times a share of {share}, rewinding to step {rewind}: give a share between 0 and 1, "
            "levels and a step of at least 0"
        )
    if rewind:
        train(module, 0, rewind)
    early = copy.deepcopy(module.state_dict())
    for level in range(levels + 1):
        sparsity = 1 - (1 - share) ** level
        # Pruned weights are zero, so the smallest ones are those that were pruned before, and then the next share.
        chosen = Sparsifier(module, sparsity, scope="global", at_most=at_most)
        masks = {name: mask.clone() for name, mask in chosen.masks.items()}
        chosen.finish()
        module.load_state_dict(early)
        kept = Sparsifier(module, sparsity, scope="global", at_most=at_most)
        kept.load_state_dict({"steps": 1, "masks": masks})
        train(module, rewind, None)
        kept.finish()
        yield Ticket(level, sparsity_of(masks), masks, copy.deepcopy(module.state_dict()))


def sparsity_of(masks: Mapping[str, Tensor]) -> float:
    """Sparsity of masks."""
    return 1 - sum(int(mask.sum()) for mask in masks.values()) / sum(mask.numel() for mask in masks.values())
