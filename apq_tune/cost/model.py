"""A cost as tables: every block at every choice is priced once, so a population costs one gather and one reduction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import TableError
from apq_tune.space.encoding import Genomes
from apq_tune.space.mbconv import Block
from apq_tune.space.network_encoding import NetworkEncoding
from apq_tune.space.ops import BlockOps, Op, all_choices, fixed_ops
from apq_tune.space.skeleton import Slot

BlockCost = Callable[[BlockOps, Slot], Any]


class CostModel:
    """A metric that is the sum (or the maximum) over blocks of what each block's own choices cost.

    Attributes:
        name: of the metric, its unit included where it has one.
        unit: for people.
    """

    def __init__(
        self,
        name: str,
        unit: str,
        encoding: NetworkEncoding,
        block_cost: BlockCost,
        fixed_cost: Callable[[int], float],
        reduce: Literal["sum", "max"] = "sum",
    ) -> None:
        """Price every block at every choice.

        Args:
            name: of the metric.
            unit: of its values.
            encoding: of the space whose genomes will come.
            block_cost: from a block's ops, whose numbers are broadcasting arrays, to its cost at each choice.
            fixed_cost: of the parts that are not searched, at a resolution.
            reduce: how blocks and fixed parts combine.

        Raises:
            TableError: if a block that the space allows has no finite cost.
        """
        self.name, self.unit = name, unit
        self._encoding, self._reduce = encoding, reduce
        space = encoding.space
        self._fixed = np.array([fixed_cost(resolution) for resolution in space.resolutions], np.float64)
        tables = []
        self._extremes: list[list[tuple[float, float]]] = []  # of each resolution and slot
        for resolution in space.resolutions:
            tables.append(np.zeros(1))  # index 0 is a block that depth switches off: it costs nothing
            extremes = []
            for slot in space.slots_at(resolution):
                ops, allowed = all_choices(space, slot)
                table = np.broadcast_to(np.asarray(block_cost(ops, slot), np.float64), allowed.shape)
                if not np.isfinite(table[allowed]).all():
                    raise TableError(f"{name} of block {slot.name} is not finite everywhere; mend its block_cost")
                extremes.append((float(table[allowed].min()), float(table[allowed].max())))
                tables.append(table.ravel())
            self._extremes.append(extremes)
        self._tables = np.concatenate(tables).reshape(len(space.resolutions), -1)

    def __call__(self, genomes: Genomes) -> NDArray[np.float64]:
        """``(n, n_genes) -> (n,)``."""
        return self.at(*self.index(genomes))

    def index(self, genomes: Genomes) -> tuple[NDArray[np.int32], NDArray[np.int16]]:
        """Where to look: the same for all models of one encoding."""
        return self._encoding.block_index(genomes), self._encoding.resolution_index(genomes)

    def at(self, blocks: NDArray[np.int32], resolution: NDArray[np.int16]) -> NDArray[np.float64]:
        """``(n,)`` costs from what ``index`` says."""
        tables = self._tables
        costs = tables[0].take(blocks) if len(tables) == 1 else tables[resolution[:, None], blocks]
        if self._reduce == "sum":
            return np.asarray(self._fixed[resolution] + costs.sum(axis=1))
        return np.asarray(np.maximum(self._fixed[resolution], costs.max(axis=1)))

    def fixed(self, resolution: int) -> float:
        """What the parts that are not searched cost at a resolution."""
        return float(self._fixed[self._encoding.space.resolutions.index(resolution)])

    def block(self, slot: int, block: Block) -> float:
        """What one block costs, at the largest resolution.

        Args:
            slot: its place among all slots.
            block: its choices.
        """
        return float(self._tables[-1][self._encoding.block_place(slot, block)])

    def reachable(self) -> tuple[float, float]:
        """Exact smallest and largest value over the space: blocks do not interact, so each is set on its own."""
        ends = [self._reachable_at(fixed, own) for fixed, own in zip(self._fixed, self._extremes, strict=True)]
        return min(low for low, _ in ends), max(high for _, high in ends)

    def _reachable_at(self, fixed: float, extremes: list[tuple[float, float]]) -> tuple[float, float]:
        low = high = float(fixed)
        for number, stage in enumerate(self._encoding.space.stages):
            own = [e for e, s in zip(extremes, self._encoding.space.slots, strict=True) if s.stage == number]
            combine = np.add.accumulate if self._reduce == "sum" else np.maximum.accumulate
            by_depth = combine(np.array(own), axis=0)[np.array(stage.depth) - 1]
            stage_low, stage_high = float(by_depth[:, 0].min()), float(by_depth[:, 1].max())
            if self._reduce == "sum":
                low, high = low + stage_low, high + stage_high
            else:
                low, high = max(low, stage_low), max(high, stage_high)
        return low, high


def sum_over_ops(name: str, unit: str, encoding: NetworkEncoding, op_cost: Callable[[Op], Any]) -> CostModel:
    """A cost that is the sum over all ops of a network, fixed parts included.

    Args:
        name: of the metric.
        unit: of its values.
        encoding: of the space.
        op_cost: from an op, whose numbers may be arrays, to its cost.
    """
    return CostModel(
        name,
        unit,
        encoding,
        lambda ops, _: sum(op_cost(op) for op in ops.all),
        lambda resolution: float(sum(op_cost(op) for op in fixed_ops(encoding.space, resolution).all)),
    )
