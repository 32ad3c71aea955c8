"""A cost as tables: every block at every choice is priced once, so a population costs one gather and one reduction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from apq_tune.encoding import Encoding, Genomes
from apq_tune.ops import BlockOps, all_choices
from apq_tune.space import Slot

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
        encoding: Encoding,
        block_cost: BlockCost,
        fixed_cost: float,
        reduce: Literal["sum", "max"] = "sum",
    ) -> None:
        """Price every block at every choice.

        Args:
            name: of the metric.
            unit: of its values.
            encoding: of the space whose genomes will come.
            block_cost: from a block's ops, whose numbers are broadcasting arrays, to its cost at each choice.
            fixed_cost: of the parts that are not searched.
            reduce: how blocks and fixed parts combine.
        """
        self.name, self.unit = name, unit
        self._encoding, self._fixed, self._reduce = encoding, float(fixed_cost), reduce
        tables, strides, starts, self._extremes = [], [], [], []
        start = 1  # entry 0 is a block that depth switches off: it costs nothing
        for slot in encoding.space.slots:
            ops, allowed = all_choices(encoding.space, slot)
            table = np.broadcast_to(np.asarray(block_cost(ops, slot), np.float64), allowed.shape)
            self._extremes.append((float(table[allowed].min()), float(table[allowed].max())))
            tables.append(table.ravel())
            strides.append([int(np.prod(table.shape[axis + 1 :])) for axis in range(table.ndim)])
            starts.append(start)
            start += table.size
        self._table = np.concatenate([[0.0], *tables])
        self._strides = np.array(strides).T  # (6, n_slots)
        self._starts = np.array(starts)

    def __call__(self, genomes: Genomes) -> NDArray[np.float64]:
        """``(n, n_genes) -> (n,)``."""
        index = self._starts + (self._encoding.block_genes(genomes) * self._strides).sum(axis=1)
        blocks = self._table.take(np.where(self._encoding.active(genomes), index, 0))
        if self._reduce == "sum":
            return np.asarray(self._fixed + blocks.sum(axis=1))
        return np.asarray(np.maximum(self._fixed, blocks.max(axis=1)))

    def reachable(self) -> tuple[float, float]:
        """Exact smallest and largest value over the space: blocks do not interact, so each is set on its own."""
        low = high = self._fixed
        for number, stage in enumerate(self._encoding.space.stages):
            own = [e for e, s in zip(self._extremes, self._encoding.space.slots, strict=True) if s.stage == number]
            combine = np.add.accumulate if self._reduce == "sum" else np.maximum.accumulate
            by_depth = combine(np.array(own), axis=0)[np.array(stage.depth) - 1]
            stage_low, stage_high = float(by_depth[:, 0].min()), float(by_depth[:, 1].max())
            if self._reduce == "sum":
                low, high = low + stage_low, high + stage_high
            else:
                low, high = max(low, stage_low), max(high, stage_high)
        return low, high
