"""Fit of the analytic BitFusion model to APQ's published table, and its errors.

Fits the free constants of ``apq_tune.cost.bitfusion`` on half of the op shapes and prints them next to those of the
module, followed by the errors of the module: per op, on the fitted and on the held-out half of the shapes, and for
networks.

Networks are random candidates of APQ's search space, without their fixed parts: ``head`` and ``tail`` of the table;
stem, first block, last convolution and classifier of the model. Fixed parts are compared separately: those of the table
cost hardly more than stem and last convolution of the model, so the table seems to omit the rest.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.stats import spearmanr

from apq_tune.cli.ending import one_line_errors
from apq_tune.cost import bitfusion
from apq_tune.cost.formats import load_cost_table
from apq_tune.cost.rows import CONV_KEY
from apq_tune.cost.table import CostTable
from apq_tune.network.layer import Op
from apq_tune.network.network import ops
from apq_tune.space.network_encoding import NetworkEncoding
from apq_tune.space.search_space import SearchSpace

MODELS: tuple[tuple[str, Callable[..., Any]], ...] = (
    ("latency_ms", bitfusion.op_latency_ms),
    ("energy_mj", bitfusion.op_energy_mj),
)


class Rows(NamedTuple):
    """Ops of the table with the same input size and stride, as one batched ``Op``."""

    op: Op
    number: NDArray[np.int64]  # row of each op in the table


class Ops:
    """Ops of the table.

    Attributes:
        frame: One row per op: its key, ``latency_ms``, ``energy_mj``, ``kind`` and whether it is ``held_out``.
    """

    def __init__(self, table: CostTable) -> None:
        frame = pd.DataFrame(list(table.convs), columns=list(CONV_KEY))
        frame[list(table.metrics)] = list(table.convs.values())
        frame["kind"] = [
            "pointwise" if groups == 1 else f"depthwise {kernel}x{kernel}"
            for groups, kernel in zip(frame["groups"], frame["kernel_size"], strict=True)
        ]
        shape = frame.groupby(list(CONV_KEY[:-2])).ngroup().to_numpy()
        frame["held_out"] = (np.random.default_rng(0).permutation(shape.max() + 1) % 2 == 1)[shape]
        self.frame = frame
        self._rows = [_rows(rows) for _, rows in frame.groupby(["in_size", "stride"])]

    def price(self, op_cost: Callable[[Op], Any]) -> NDArray[np.float64]:
        """Costs of all ops, shape ``(n,)``."""
        costs = np.empty(len(self.frame))
        for op, number in self._rows:
            costs[number] = op_cost(op)
        return costs

    def fit(self, metric: str, op_cost: Callable[..., Any], start: list[float]) -> NDArray[np.float64]:
        """Constants by a robust least-squares fit of log costs on the shapes that are not held out."""
        seen = ~self.frame["held_out"].to_numpy()
        measured = np.log(self.frame[metric].to_numpy())

        def residuals(log_constants: NDArray[np.float64]) -> NDArray[np.float64]:
            constants = np.exp(log_constants)
            return np.asarray((np.log(self.price(lambda op: op_cost(op, *constants))) - measured)[seen])

        best = least_squares(residuals, np.log(start), loss="soft_l1", f_scale=0.03, diff_step=1e-3)
        return np.asarray(np.exp(best.x))


def _rows(rows: pd.DataFrame) -> Rows:
    in_size, stride = int(rows["in_size"].iloc[0]), int(rows["stride"].iloc[0])
    names = ("in_channels", "out_channels", "kernel_size", "groups", "w_bits", "a_bits")
    columns = {name: rows[name].to_numpy() for name in names}
    op = Op(in_size=in_size, out_size=-(-in_size // stride), stride=stride, **columns)
    return Rows(op, rows.index.to_numpy())


def errors(ops: Ops) -> pd.DataFrame:
    """Absolute relative errors in percent, by kind of op and half of the shapes."""
    columns = {}
    for metric, op_cost in MODELS:
        error = 100 * np.abs(ops.price(op_cost) / ops.frame[metric] - 1)
        by = error.groupby([ops.frame["kind"], ops.frame["held_out"].map({False: "fitted", True: "held out"})])
        columns[f"{metric} median"], columns[f"{metric} p95"] = by.median(), by.quantile(0.95)
    return pd.DataFrame(columns).assign(ops=ops.frame.groupby(["kind", "held_out"]).size().to_numpy())


def networks(table: CostTable, n: int, seed: int) -> pd.DataFrame:
    """Spearman's correlation and absolute relative errors in percent over ``n`` candidates without fixed parts."""
    encoding = NetworkEncoding(SearchSpace.load("apq_mobilenet"))
    space = encoding.space
    fixed = ops(space.network.fixed_layers(space.resolutions[-1]))
    genomes = encoding.sample(n, np.random.default_rng(seed))
    ours = bitfusion.bitfusion_latency_ms(encoding), bitfusion.bitfusion_energy_mj(encoding)
    rows = {}
    for number, (metric, op_cost) in enumerate(MODELS):
        measured = table.models(encoding)[number](genomes) - table.fixed[0][number]
        predicted = ours[number](genomes) - sum(op_cost(op) for op in fixed)
        error = 100 * np.abs(predicted / measured - 1)
        rows[metric] = {
            "spearman": spearmanr(predicted, measured).statistic,
            "median error %": np.median(error),
            "p95 error %": np.percentile(error, 95),
            "mean signed error %": 100 * np.mean(predicted / measured - 1),
        }
    return pd.DataFrame(rows).T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, required=True, help="BitFusion_new.b1.dict of mit-han-lab/apq")
    path = parser.parse_args().table
    if not path.is_file():
        sys.exit(f"{path}: no such file; give APQ's published BitFusion table")
    table = load_cost_table(path)
    ops = Ops(table)
    (fill_bits,) = ops.fit("latency_ms", bitfusion.op_latency_ms, [20_000])
    nj_per_cycle, nj_per_dram_bit = ops.fit("energy_mj", bitfusion.op_energy_mj, [1, 0.01])
    print(f"FILL_BITS        fitted {fill_bits:.0f}, module {bitfusion.FILL_BITS}")
    print(f"NJ_PER_CYCLE     fitted {nj_per_cycle:.4f}, module {bitfusion.NJ_PER_CYCLE}")
    print(f"NJ_PER_DRAM_BIT  fitted {nj_per_dram_bit:.5f}, module {bitfusion.NJ_PER_DRAM_BIT}")
    print(f"\nabsolute relative error per op in %\n{errors(ops).round(2).to_string()}")
    print(f"\nerrors over 1000 random networks without fixed parts\n{networks(table, 1000, 0).round(4).to_string()}")
    space = SearchSpace.load("apq_mobilenet")
    fixed = {
        layer.name: layer.op for layer in space.network.fixed_layers(space.resolutions[-1]) if layer.op is not None
    }
    names = ("stem", fixed["stem"]), ("last convolution", fixed["head"])
    values = {name: {metric: float(cost(op)) for metric, cost in MODELS} for name, op in names}
    print(f"\nfixed parts in the model\n{pd.DataFrame(values).T.round(4).to_string()}")
    print(f"head and tail in the table: {dict(zip(table.metrics, np.round(table.fixed[0], 4).tolist(), strict=True))}")


if __name__ == "__main__":
    with one_line_errors():
        main()
