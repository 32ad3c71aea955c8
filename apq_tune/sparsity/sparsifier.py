"""Pruning of single weights while a network is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from apq_tune.errors import ModelError, RunError
from apq_tune.network.sparse import Pattern
from apq_tune.sparsity.layers import WEIGHT, largest_sparsities, weighted_layers
from apq_tune.sparsity.schedule import CubicSchedule
from apq_tune.supernet.masks import n_of_m, rank_shares, without_lowest

Criterion = Literal["magnitude", "random"]
Scope = Literal["layer", "global"]

AT_ONCE = CubicSchedule(0, 0)
"""Schedule that prunes before the first step."""


class WeightMask(nn.Module):
    """Parametrization that sets weights to zero, and their gradients.

    Attributes:
        kept: Mask of the weights that are kept; no part of the state dict, so that averages of weights have none.
    """

    kept: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("kept", torch.ones_like(weight, dtype=torch.bool), persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """Weights with exact zeros where they are pruned."""
        return torch.where(self.kept, weight, 0.0)


class Sparsifier:
    """Prunes the weights of a network during a training and lets them come back.

    Pruned weights are zero in the forward pass, before any quantizer, and have no gradient, but keep their values. At
    each update of the schedule the masks are made again from all values, so that a pruned weight comes back when others
    have become smaller (Zhu and Gupta 2017). Any optimizer works; ``follow`` counts its steps:

        sparsifier = Sparsifier(model, 0.9, schedule=CubicSchedule.over(steps))
        sparsifier.follow(optimizer)
        ...  # train as usual
        sparsifier.finish()

    Attributes:
        layers: Layers with weights.
        unsuited: Names of the layers that an N:M pattern leaves dense, since their input channels, one by one in a
            depthwise convolution, are no multiple of M.
        steps: Number of steps so far.
    """

    def __init__(
        self,
        module: nn.Module,
        sparsity: float | str,
        *,
        schedule: CubicSchedule = AT_ONCE,
        criterion: Criterion = "magnitude",
        scope: Scope = "layer",
        at_most: Mapping[str, float] | None = None,
        seed: int = 0,
    ) -> None:
        """Mask the weights of a module in place, as the schedule has it before the first step.

        Args:
            module: Any torch module; its parameters stay the same objects.
            sparsity: Share of zeros among the weights of all convolutions and linear layers together, those included
                that stay dense, reached exactly; or a pattern such as ``"2:4"``: two of four input channels.
            schedule: When masks are made, and how sparsity grows; at once by default.
            criterion: ``"magnitude"``, or ``"random"`` as a control.
            scope: ``"layer"`` prunes all layers to the same sparsity, ``"global"`` compares the weights of all layers.
            at_most: Largest sparsity of layers by name or glob; ``ends_of`` has those of Gale 2019. What they keep, the
                other layers lose.
            seed: Seed of the random criterion.

        Raises:
            ModelError: If the module has no weights, a weight is parametrized already, or a glob fits no layer.
            RunError: If an argument is not valid or the sparsity cannot be reached.
        """
        for name, value, known in (("criterion", criterion, Criterion), ("scope", scope, Scope)):
            if value not in get_args(known):
                raise RunError(f"{name} is {value!r}; choose {' or '.join(map(repr, get_args(known)))}")
        self.layers = weighted_layers(module)
        self._most = largest_sparsities(self.layers, at_most or {})
        self._schedule, self._scope, self.steps = schedule, scope, 0
        self._pattern = Pattern.of(sparsity) if isinstance(sparsity, str) else None
        self.unsuited: tuple[str, ...] = ()
        self._final = self._checked(sparsity) if not isinstance(sparsity, str) else self._of_pattern()
        self._random: list[Tensor] | None = None
        if criterion == "random":
            draws = torch.Generator().manual_seed(seed)
            self._random = [torch.rand(layer.weight.shape, generator=draws) for layer in self.layers]
        self._masks = [WeightMask(layer.weight) for layer in self.layers]
        for layer, mask in zip(self.layers, self._masks, strict=True):
            for part in layer.modules:
                parametrize.register_parametrization(part, WEIGHT, mask)
        self._update()

    def _checked(self, sparsity: float) -> float:
        """Sparsity that is a share and can be reached."""
        if not 0 <= sparsity < 1:
            raise RunError(
                f"sparsity is {sparsity!r}; give a share of at least 0 and below 1, or a pattern such as '2:4'"
            )
        total, reachable = sum(self._sizes), sum(self._largest_counts())
        if round(sparsity * total) > reachable:
            raise RunError(
                f"sparsity is {sparsity}, but with at_most only {reachable / total:.4f} of the weights may be pruned; "
                "give less, or allow more"
            )
        return sparsity

    def _of_pattern(self) -> float:
        """Sparsity of layers with the pattern."""
        assert self._pattern is not None
        kept, group = self._pattern
        self.unsuited = tuple(layer.name for layer in self.layers if not layer.in_groups_of(group))
        if len(self.unsuited) == len(self.layers):
            raise RunError(
                f"sparsity is {kept}:{group}, but no layer has a multiple of {group} input channels; give a share"
            )
        wrong = [layer.name for layer, n in zip(self.layers, self._most, strict=True) if 0 < n < 1 - kept / group]
        if wrong:
            raise RunError(f"at_most: {wrong[0]} may have part of {kept}:{group} only; give 0 or 1")
        return 1 - kept / group

    @property
    def _sizes(self) -> list[int]:
        return [layer.weight.numel() for layer in self.layers]

    def _largest_counts(self) -> list[int]:
        """Largest number of weights to prune in each layer."""
        return [int(share * n + 1e-9) for share, n in zip(self._most, self._sizes, strict=True)]

    @property
    def masks(self) -> dict[str, Tensor]:
        """Masks of the weights that are kept, by layer."""
        return {layer.name: mask.kept for layer, mask in zip(self.layers, self._masks, strict=True)}

    @property
    def sparsity(self) -> float:
        """Share of the weights of all layers that is pruned now."""
        return 1 - sum(int(mask.kept.sum()) for mask in self._masks) / sum(self._sizes)

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Count the steps of an optimizer, and update the masks when they are due."""
        optimizer.register_step_post_hook(lambda *_: self.step())

    def step(self) -> None:
        """Count one step of training, and update the masks if they are due; ``follow`` calls this."""
        self.steps += 1
        self._update()

    @torch.no_grad()
    def _update(self) -> None:
        if not self._schedule.updates(self.steps):
            return
        share = self._schedule.at(self.steps, self._final)
        scores = self._scores()
        new = self._shares(scores, share) if self._pattern is None else self._patterns(scores, share)
        for mask, kept in zip(self._masks, new, strict=True):
            mask.kept.copy_(kept)  # in place, as captured CUDA graphs read this memory

    def _scores(self) -> list[Tensor]:
        if self._random is not None:
            return [own.to(layer.weight.device) for own, layer in zip(self._random, self.layers, strict=True)]
        return [layer.weight.detach().abs() for layer in self.layers]

    def _shares(self, scores: list[Tensor], share: float) -> list[Tensor]:
        compared = scores if self._scope == "global" else [rank_shares(own) for own in scores]
        return without_lowest(compared, round(share * sum(self._sizes)), self._largest_counts())

    def _patterns(self, scores: list[Tensor], share: float) -> list[Tensor]:
        assert self._pattern is not None
        group = self._pattern.group
        kept = max(self._pattern.kept, group - int(share * group + 1e-9))  # a weight of each group more, one by one
        dense = [not most or layer.name in self.unsuited for layer, most in zip(self.layers, self._most, strict=True)]
        return [
            torch.ones_like(own, dtype=torch.bool) if is_dense else n_of_m(own, kept, group)
            for own, is_dense in zip(scores, dense, strict=True)
        ]

    def state_dict(self) -> dict[str, Any]:
        """State to resume from: number of steps, and masks by layer."""
        return {"steps": self.steps, "masks": {name: mask.clone() for name, mask in self.masks.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a state.

        Raises:
            ModelError: If it is of another network.
        """
        given, own = state["masks"], self.masks
        if {name: tuple(mask.shape) for name, mask in given.items()} != {n: tuple(m.shape) for n, m in own.items()}:
            raise ModelError("state of a sparsifier: is of other layers; give that of the same network")
        self.steps = int(state["steps"])
        for name, mask in own.items():
            mask.copy_(given[name])

    def finish(self) -> None:
        """Set pruned weights to zero for good; the module is an ordinary one again, this object of no more use."""
        for layer in self.layers:
            for part in layer.modules:
                parametrize.remove_parametrizations(part, WEIGHT, leave_parametrized=True)
