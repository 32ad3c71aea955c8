"""Latency and energy of convolutions on BitFusion (Sharma 2018) at batch size 1: a roofline model of compute and DRAM.

An array of ``ROWS`` (input channels) by ``COLUMNS`` (output channels) fusion units computes one product of 8 by 8 bits
per unit and cycle, or several of fewer bits. A factor takes 1, 2 or 4 bricks of 2 bits, so 5 to 7 bits take as many
cycles as 8 and only save traffic. Partial sums have 32 bits and are stored in DRAM. If neither weights nor inputs fit
into their buffers, one of the three tensors is moved several times. The transfers before the first and after the last
tile do not overlap with computation.

A depthwise convolution runs as dense convolutions of small groups of channels, most of whose weights are zero. Inputs
around each tile of outputs are read repeatedly. This is hidden behind computation, so that it takes energy but no time,
and the compiler chooses the fastest tile regardless of traffic.

Costs are monotone in bits, channels and pixels, except for the energy of a depthwise convolution, which may decrease
with the size of the image where the tile changes.

``benchmarks/bitfusion_fit.py`` reports the errors with respect to APQ's published table (Wang 2020).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from apq_tune.cost.model import CostModel
from apq_tune.cost.sparse import noted
from apq_tune.cost.sums import sum_over_ops
from apq_tune.network.layer import Op

# "simulator" is bf_e_conf.ini and the code beside it in github.com/hsharma35/bitfusion, by the authors of Sharma 2018.
CYCLES_PER_MS = 500_000  # 500 MHz: Sharma 2018 and simulator
ROWS, COLUMNS = 16, 32  # fusion units: simulator
DRAM_BITS = 192  # in a cycle: simulator
WEIGHT_BUFFER = 65_536 * 8 // 2  # bits, half of 64 KB for double buffering: simulator
INPUT_BUFFER = 32_768 * 8 // 2  # bits, half of 32 KB: simulator
OUTPUT_BUFFER = 16_384 * 8 // 2  # bits, half of 16 KB: simulator
SUM_BITS = 32  # of a partial sum: simulator
BRICK_BITS, MAX_BITS = 2, 8  # of one factor in a brick and in a fusion unit: Sharma 2018
DEPTHWISE_ROWS = 8  # of ROWS that a depthwise convolution uses: read off the steps of the published table
TOGETHER = (8, 16, 32)  # channels of a depthwise convolution, up to COLUMNS: read off the published table
TILES = (1, 2, 4, 8, 16, 32, 64)  # sides of a tile of outputs, besides the whole: simulator

FILL_BITS = 24_700  # of inputs and of outputs that overlap with nothing: benchmarks/bitfusion_fit.py
NJ_PER_CYCLE = 0.919  # array and buffers, of computing: benchmarks/bitfusion_fit.py
NJ_PER_DRAM_BIT = 0.0168  # benchmarks/bitfusion_fit.py; simulator: 0.015 without the buffer's side


class Work:
    """Work of an op with given groups of channels that run together; all numbers are broadcasting arrays.

    Attributes:
        runs: Number of consecutive dense convolutions; 1 if the op is dense.
        compute: Cycles of one run.
        weights, inputs, outputs: Sizes of the tensors of one run in bits.
        traffic: Bits between DRAM and buffers in one run, without repeated reads of tiles.
    """

    def __init__(self, op: Op, together: int) -> None:
        """Count the work of an op.

        Args:
            op: Convolution.
            together: Number of groups that run as one dense convolution; the last run takes as long as any other.
        """
        n_groups = np.where(np.asarray(op.groups) > 1, together, 1)
        self._op = op
        self._in, self._out = op.in_channels // op.groups * n_groups, op.out_channels // op.groups * n_groups
        self._out_width = op.out_size if op.out_width is None else op.out_width
        self._kernel_width = op.kernel_size if op.kernel_width is None else op.kernel_width
        n_pixels, n_taps = op.out_size * self._out_width, op.kernel_size * self._kernel_width
        self.runs = -(-op.groups // n_groups)
        self.compute = n_pixels * n_taps * -(-self._in // (ROWS * pairs(op))) * -(-self._out // COLUMNS)
        self.weights = n_taps * self._in * self._out * op.w_bits
        self.inputs = self._input_pixels(op.out_size, self._out_width) * self._in * op.a_bits
        self.outputs = n_pixels * self._out * SUM_BITS
        n_weights = np.maximum(1, np.ceil(self.weights / WEIGHT_BUFFER))
        n_inputs = np.maximum(1, np.ceil(self.inputs / INPUT_BUFFER))
        again = np.minimum((n_weights - 1) * self.inputs, (n_inputs - 1) * self.weights)
        again = np.minimum(again, 2 * (np.minimum(n_weights, n_inputs) - 1) * self.outputs)
        self.traffic = self.weights + self.inputs + 2 * self.outputs + again

    def cycles(self, fill_bits: float) -> Any:
        """Cycles of all runs: the maximum of DRAM cycles and of compute cycles plus transfers that do not overlap."""
        alone = np.minimum(self.inputs, fill_bits) + 2 * np.minimum(self.outputs, fill_bits)
        return self.runs * self._roofline(self.weights, self.traffic, alone)

    def tiled_traffic(self) -> Any:
        """DRAM traffic of all runs in bits, including repeated reads of the fastest tiles."""
        op, several = self._op, np.asarray(self._op.groups) > 1
        if not several.any():
            return self.runs * self.traffic
        input_buffer = INPUT_BUFFER * DEPTHWISE_ROWS // ROWS
        output_buffer = OUTPUT_BUFFER * np.minimum(1, self._out / COLUMNS)
        widest = self.weights // op.w_bits * MAX_BITS  # so that the tile does not depend on weight bits
        best: Any = np.inf
        fastest: Any = np.inf
        sides = op.out_size, self._out_width
        for tile in (*(tile for tile in TILES if tile < max(sides)), max(sides)):
            rows, columns = (min(tile, side) for side in sides)
            n_tiles = math.prod(-(-side // own) for side, own in zip(sides, (rows, columns), strict=True))
            n = max(-(-side // own) for side, own in zip(sides, (rows, columns), strict=True))
            inputs = self._input_pixels(rows, columns) * self._in * op.a_bits
            outputs = rows * columns * self._out * SUM_BITS
            traffic = self.traffic + np.where(several, np.maximum(0, n_tiles * inputs - self.inputs), 0)
            alone = _kept(inputs, n, n_tiles, input_buffer) + 2 * _kept(outputs, n, n_tiles, output_buffer)
            fits = (inputs <= input_buffer) & (outputs <= output_buffer) | (tile == 1)
            cycles = np.where(fits, np.ceil(self._roofline(widest, traffic - self.weights + widest, alone)), np.inf)
            best = np.where(cycles == fastest, np.minimum(best, traffic), np.where(cycles < fastest, traffic, best))
            fastest = np.minimum(fastest, cycles)
        return self.runs * best

    def _roofline(self, weights: Any, traffic: Any, alone: Any) -> Any:
        alone = np.minimum(weights, WEIGHT_BUFFER) + alone
        return np.maximum(traffic / DRAM_BITS, self.compute + alone / DRAM_BITS)

    def _input_pixels(self, height: int, width: int) -> Any:
        """Pixels that are read for a tile of outputs."""
        rows = (height - 1) * self._op.stride + self._op.kernel_size
        return rows * ((width - 1) * self._op.stride + self._kernel_width)


def pairs(op: Op) -> Any:
    """Number of products per fusion unit and cycle: 1, 2 or 4 for each factor."""
    return _per_unit(op.w_bits) * _per_unit(op.a_bits)


def op_latency_ms(op: Op, fill_bits: float = FILL_BITS) -> Any:
    """Latency of a convolution at 2 to 8 bits in milliseconds, number or array; constants are replaced for fitting."""
    return _cheapest(op, lambda work: work.cycles(fill_bits) / CYCLES_PER_MS)


def op_energy_mj(op: Op, nj_per_cycle: float = NJ_PER_CYCLE, nj_per_dram_bit: float = NJ_PER_DRAM_BIT) -> Any:
    """Energy of a convolution at 2 to 8 bits in millijoules, number or array; constants are replaced for fitting."""

    def nj(work: Work) -> Any:
        return nj_per_cycle * work.runs * work.compute + nj_per_dram_bit * work.tiled_traffic()

    # With fewer activation bits the tile may cause more traffic; the larger cost is then used for more bits, too.
    fewer = (op._replace(a_bits=np.minimum(bits, op.a_bits)) for bits in range(BRICK_BITS, MAX_BITS + 1))
    return 1e-6 * np.maximum.reduce([_cheapest(each, nj) for each in fewer])


def bitfusion_latency_ms(encoding: Any) -> CostModel:
    """Latency per image in milliseconds, fixed parts included."""
    return noted(sum_over_ops("latency_ms", "ms", encoding, op_latency_ms, monotone=True), encoding)


def bitfusion_energy_mj(encoding: Any) -> CostModel:
    """Energy per image in millijoules, fixed parts included."""
    return noted(sum_over_ops("energy_mj", "mJ", encoding, op_energy_mj, monotone=True), encoding)


def _per_unit(bits: Any) -> Any:
    """Number of factors of given bits per 8 bits: 1 for 5 to 8 bits, 2 for 3 or 4 bits, 4 for 2 bits."""
    return np.where(np.asarray(bits) <= BRICK_BITS, 4, np.where(np.asarray(bits) <= 2 * BRICK_BITS, 2, 1))


def _kept(tile: Any, n: int, n_tiles: int, buffer: Any) -> Any:
    """Bits loaded at once: largest of tile, row of ``n`` tiles and all ``n_tiles`` tiles that fits the buffer."""
    return np.where(tile * n_tiles <= buffer, tile * n_tiles, np.where(tile * n <= buffer, tile * n, tile))


def _cheapest(op: Op, cost: Callable[[Work], Any]) -> Any:
    """Least cost over the ways to run an op: a depthwise convolution may run several channels together."""
    ways = [np.where(n <= DEPTHWISE_ROWS * pairs(op), cost(Work(op, n)), np.inf) for n in TOGETHER]
    return np.minimum.reduce(ways)
