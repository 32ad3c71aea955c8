"""Networks in which all values of a gene run at once, weighted by gates: what both kinds of spaces share.

One pass of the largest network that the gates ask for runs all of it: weights are quantized to each bit-width and
added, as are the tensors that layers read (EdMIPS, Cai 2020), smaller kernels are padded, channels are masked
(FBNetV2, Wan 2020), and what a block or nothing does to a tensor is added. With gates of a single network this is that
network; batch norm has the statistics of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apq_tune.network.layer import Numbers
from apq_tune.searchers.gates.draws import Gates
from apq_tune.supernet.quantize import quantize_weight


class Quantity(NamedTuple):
    """Number of a layer as a function of one gene.

    Attributes:
        values: Its value at each value of the gene; a single one if it depends on none.
        gene: Index of the gene; ``None`` if it depends on none.
    """

    values: tuple[int, ...]
    gene: int | None = None

    @classmethod
    def of(cls, numbers: Numbers, genes: Sequence[int]) -> Quantity:
        """Quantity of numbers that broadcast over the values of genes, one axis for each."""
        axes = [axis for axis, size in enumerate(np.shape(numbers)) if size > 1]
        if len(axes) > 1:
            raise NotImplementedError(f"a quantity of a layer depends on {len(axes)} genes; gates run those of one")
        found = tuple(int(value) for value in np.ravel(numbers))
        return cls(found, genes[axes[0] - np.ndim(numbers)] if axes else None)

    def gated(self, gates: Gates) -> list[tuple[int, Tensor | None]]:
        """Values that run, with their gates; ``None`` for the only one."""
        if self.gene is None:
            return [(self.values[0], None)]
        own = gates.of(self.gene)
        return [(self.values[own[0][0]], None)] if len(own) == 1 else [(self.values[i], gate) for i, gate in own]

    def largest(self, gates: Gates) -> int:
        """Largest value that runs."""
        return max(value for value, _ in self.gated(gates))


def mixed(parts: Sequence[tuple[Tensor, Tensor | None]]) -> Tensor:
    """Sum of tensors by their gates; ``None`` for one."""
    total: Tensor | None = None
    for own, gate in parts:
        if gate is not None and gate.is_cpu and not gate:  # nothing flows back to what it was made of
            own = own.detach()
        weighted = own if gate is None else own * gate.to(own)
        total = weighted if total is None else total + weighted
    assert total is not None
    return total


def mixed_weight(
    weight: Tensor,
    bits: Sequence[tuple[int, Tensor | None]],
    inputs: Tensor | None,
    factor_of: Callable[[int], Tensor | None] = lambda _: None,
) -> Tensor:
    """Weights at several bit-widths by their gates.

    Args:
        weight: Weights, shape ``(out, in, ...)``.
        bits: Bit-widths with their gates.
        inputs: How much each input counts, shape ``(in,)``, as the steps are those of the weights that are there;
            ``None`` if all do.
        factor_of: Function from a bit-width to the factors of the steps of output channels.
    """
    scale = None
    if inputs is not None:
        share = inputs.detach().reshape(1, -1, *[1] * (weight.ndim - 2))
        own = weight.detach().square()
        axes = tuple(range(1, weight.ndim))
        mean = (own * share).mean(dim=axes) / share.mean().clamp_min(1e-12)
        scale = (mean / own.mean(dim=axes).clamp_min(1e-24)).sqrt()

    def at(width: int) -> Tensor:
        factor = factor_of(width)
        if scale is not None:
            factor = scale if factor is None else factor * scale
        return quantize_weight(weight, width, factor)

    return mixed([(at(width), gate) for width, gate in bits])


def channel_mask(n: int, widths: Sequence[tuple[int, Tensor | None]], like: Tensor) -> Tensor | None:
    """How much each of ``n`` channels counts if the first of them are there, shape ``(n,)``; ``None`` if all do."""
    if all(gate is None for _, gate in widths):
        return None
    place = torch.arange(n, device=like.device)
    return mixed([((place < width).to(like.dtype), gate) for width, gate in widths])


def masked(x: Tensor, mask: Tensor | None, axis: int = 1) -> Tensor:
    """Tensor with its channels along an axis weighted."""
    return x if mask is None else x * mask.reshape(-1, *[1] * (x.ndim - 1 - axis))


def at_sizes(run: Callable[[Any], Tensor], sizes: Sequence[tuple[Any, Tensor | None]]) -> Tensor:
    """Logits at several image sizes by their gates, one pass for each."""
    return mixed([(run(size), gate) for size, gate in sizes])


def total_gate(gates: Gates, gene: int, counts: NDArray[np.bool_]) -> Tensor | bool:
    """Sum of the gates of some values of a gene; a truth value if these are all or none of what runs.

    Args:
        gates: Gates.
        gene: Index of the gene.
        counts: Whether each of its values counts, shape ``(n_values,)``.
    """
    own = gates.of(gene)
    chosen = [gate for value, gate in own if counts[value]]
    if len(chosen) in (0, len(own)):
        return bool(chosen)
    return torch.stack(chosen).sum()
