"""From which step two trainings may part: the error on the line between their ends (Frankle 2020)."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from apq_tune.errors import RunError

STABLE = 0.02
"""Instability below which trainings end in one linearly connected basin, as a share of images (Frankle 2020)."""

State = Mapping[str, Tensor]


class Instability(NamedTuple):
    """Errors on the line between the ends of two trainings.

    Attributes:
        shares: Share of the second end in the weights, from 0 to 1, shape ``(n,)``.
        errors: Error there, shape ``(n,)``.
    """

    shares: tuple[float, ...]
    errors: tuple[float, ...]

    @property
    def height(self) -> float:
        """Largest error on the line minus the mean of those at its ends; near 0 if nothing lies between them."""
        return max(self.errors) - (self.errors[0] + self.errors[-1]) / 2

    @property
    def stable(self) -> bool:
        """Whether the height is below 2 points of accuracy; of use where errors are shares of images."""
        return self.height < STABLE


def instability(
    module: nn.Module,
    train: Callable[[nn.Module, int], None],
    error: Callable[[nn.Module], float],
    *,
    calibration: Sequence[Tensor] = (),
    points: int = 11,
    seeds: tuple[int, int] = (1, 2),
) -> Instability:
    """Train a network twice from where it is, and follow the line between the ends.

    Args:
        module: Any torch module, a found network among them, at the step where trainings part; it is left as it was.
        train: Training of a module in place to its end, with the order of batches that a seed gives.
        error: Error of a module in evaluation mode, such as the share of images that it gets wrong.
        calibration: Batches of images on which batch norm is estimated anew at every point, ends included; without any,
            statistics are interpolated as weights are, which overstates the error in between.
        points: Number of points, ends included.
        seeds: Seeds of the two trainings.

    Raises:
        RunError: If there are fewer than 3 points.
    """
    if points < 3:
        raise RunError(f"points is {points}; give 3 or more, as both ends are among them")
    begin, mode = copy.deepcopy(module.state_dict()), module.training
    ends: list[State] = []
    try:
        for seed in seeds:
            module.load_state_dict(begin)
            train(module, seed)
            ends.append(copy.deepcopy(module.state_dict()))
        shares = np.linspace(0, 1, points).tolist()
        errors = []
        for share in shares:
            module.load_state_dict(between(ends[0], ends[1], share))
            module.eval()
            estimate_norms(module, calibration)
            with torch.no_grad():
                errors.append(float(error(module)))
    finally:
        module.load_state_dict(begin)
        module.train(mode)
    return Instability(tuple(shares), tuple(errors))


def instability_by_step(
    module: nn.Module,
    train: Callable[[nn.Module, int, int | None, int], None],
    error: Callable[[nn.Module], float],
    steps: Sequence[int],
    *,
    calibration: Sequence[Tensor] = (),
    points: int = 11,
    seed: int = 0,
) -> dict[int, Instability]:
    """Instability of trainings that part at several steps of one training.

    Args:
        module: Any torch module with its initial weights; it is left as it was.
        train: Training of a module in place from one step to another, ``None`` for the end, with the seed of the order
            of batches and an optimizer that begins anew.
        error: Error of a module in evaluation mode.
        steps: Steps at which two trainings part, ascending.
        calibration: Batches of images on which batch norm is estimated anew at every point.
        points: Number of points on each line.
        seed: Seed of the training until they part; they go on with the next two numbers.

    Returns:
        Instability by step.

    Raises:
        RunError: If the steps do not ascend from 0 or more.
    """
    if list(steps) != sorted(set(steps)) or (steps and steps[0] < 0):
        raise RunError(f"steps are {list(steps)}; give different ones in ascending order, from 0")
    begin, found, last = copy.deepcopy(module.state_dict()), {}, 0
    try:
        for step in steps:
            if step > last:
                train(module, last, step, seed)
            last = step

            def to_the_end(own: nn.Module, own_seed: int, step: int = step) -> None:
                train(own, step, None, own_seed)

            seeds = (seed + 1, seed + 2)
            found[step] = instability(module, to_the_end, error, calibration=calibration, points=points, seeds=seeds)
    finally:
        module.load_state_dict(begin)
    return found


def between(one: State, other: State, share: float) -> dict[str, Tensor]:
    """Point on the line between two states; numbers that are not floats, such as counts, are those of the first."""
    return {
        name: own + share * (other[name] - own) if own.is_floating_point() else own.clone() for name, own in one.items()
    }


@torch.no_grad()
def estimate_norms(module: nn.Module, batches: Sequence[Tensor]) -> None:
    """Estimate the statistics of all batch norms anew, as the mean over batches, dropout being off.

    Args:
        module: Module; without batch norm, or with batch norm folded, nothing is done.
        batches: Images as the module reads them; none leaves everything as it is.
    """
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    if not norms or not batches:
        return
    with _cumulative(module, norms):
        for images in batches:
            module(images)


@contextlib.contextmanager
def _cumulative(module: nn.Module, norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Batch norms average the statistics of batches, while all else is in evaluation mode."""
    modes, momenta = {part: part.training for part in module.modules()}, [norm.momentum for norm in norms]
    module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
