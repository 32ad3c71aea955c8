"""What does joint search gain, with which spread over seeds? Draws the README's picture from `benchmarks/results`.

The figures are those of ``joint_vs_staged.py`` at 14 x 14 pixels, ten seeds; nothing is measured here. `uniform` tries
every width and found 4 bits best in all forty searches, so it is called "uniform 4 bits". The best network of 8 bits
was searched later, on supernets trained anew and on the few seeds that the legend names
(``joint_searches_results.csv``); under the tighter pair of limits there is none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from apq_tune.cli.ending import one_line_errors

RESULTS = Path(__file__).parent / "results"
OUT = Path(__file__).parents[1] / "docs" / "assets" / "joint_vs_staged.png"
FILES = ("memory_memory-tight", "latency_bit_ops")
COLOURS = {"joint": "#c0392b", "uniform": "#2471a3", "uniform-8": "#6c3483", "staged": "#b7950b", "random": "#7f8c8d"}
NAMES = {
    "joint": "joint",
    "uniform": "uniform 4 bits",
    "uniform-8": "uniform 8 bits",
    "staged": "staged",
    "random": "best of random",
}
MARKERS = {"joint": "o", "uniform": "s", "uniform-8": "D", "staged": "^", "random": "x"}
LIMITS = {"memory-tight": 8_615.6, "memory": 12_308}
"""Bytes of flash under the two pairs of memory limits."""
SEEDS = 10
"""Number of seeds of the tables of ten seeds."""
BUDGETS = {"memory": "memory", "memory-tight": "tight memory", "latency": "latency", "bit_ops": "BitOps"}


def main() -> None:
    tables = [pd.read_csv(RESULTS / f"joint_vs_staged_mobilenet_fashion_mnist_14_{name}_results.csv") for name in FILES]
    matplotlib.use("Agg")
    plt.rcParams.update({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False})
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.8, 4.3), width_ratios=[1, 1.15], layout="constrained")
    later = pd.read_csv(RESULTS / "joint_searches_results.csv")
    eight = later[(later["method"] == "uniform-8") & (later["budget"] == "memory")]
    draw_front(left, pd.concat([tables[0], eight]))
    draw_differences(right, pd.concat(tables))
    figure.savefig(OUT, dpi=160, facecolor="white")
    print(OUT)


def draw_front(ax: Axes, table: pd.DataFrame) -> None:
    """Test accuracy against flash: every seed small, means and standard deviations large, the limits as lines."""
    for budget, limit in LIMITS.items():
        ax.axvline(limit / 1000, color="0.4", linestyle="--", linewidth=1)
        ax.text(limit / 1000 + 0.1, 88.75, f"limit\n{limit / 1000:.1f} kB", fontsize=9.5, color="0.3", va="top")
        for i, method in enumerate(COLOURS):
            rows = table[(table["budget"] == budget) & (table["method"] == method)]
            if rows.empty:
                continue
            x, y = rows["weight_bytes"] / 1000, 100 * rows["test_accuracy"]
            ax.scatter(x, y, s=9, color=COLOURS[method], alpha=0.35, linewidths=0)
            style: dict[str, Any] = {"color": COLOURS[method], "marker": MARKERS[method], "markersize": 6, "capsize": 3}
            label = NAMES[method] if budget == "memory" else None
            if label is not None and len(rows) != SEEDS:
                label += f" ({len(rows)} seeds)"
            ax.errorbar(
                x.mean(), y.mean(), y.std() if len(rows) > 2 else None, **style, zorder=5 - i, label=label, linestyle=""
            )
    ax.set(xlabel="flash of the found network, kB", ylabel="test accuracy, %", ylim=(84.2, 88.8), xlim=(6.2, 13.4))
    ax.legend(loc=(0.36, 0.01), fontsize=9.5, frameon=False)
    ax.set_title("Flash and RAM limited, 10 seeds ± sd", fontsize=11, loc="left")


def draw_differences(ax: Axes, table: pd.DataFrame) -> None:
    """Points by which joint search is ahead of each rival on the same seed, and means with 95% intervals."""
    accuracy = 100 * table.pivot(index="seed", columns=["budget", "method"], values="test_accuracy")
    for place, budget in enumerate(BUDGETS):
        for side, rival in enumerate(["uniform", "staged"]):
            ahead = (accuracy[budget, "joint"] - accuracy[budget, rival]).to_numpy()
            x = place + 0.36 * side - 0.18
            spread = 0.05 * np.linspace(-1, 1, len(ahead))
            ax.scatter(x + spread, np.sort(ahead), s=14, color=COLOURS[rival], alpha=0.5, linewidths=0)
            half = 2.262 * ahead.std(ddof=1) / np.sqrt(len(ahead))  # Student's t, 9 degrees of freedom
            bar: dict[str, Any] = {
                "color": COLOURS[rival],
                "marker": MARKERS[rival],
                "markersize": 6,
                "capsize": 4,
                "linestyle": "",
            }
            label = f"{NAMES[rival]}" if place == 0 else None
            ax.errorbar(x + 0.11, ahead.mean(), half, **bar, label=label)
    ax.axhline(0, color=COLOURS["joint"], linewidth=1)
    ax.set_xticks(range(len(BUDGETS)), [f"{name}\nlimit" for name in BUDGETS.values()])
    ax.set(ylabel="points by which joint is ahead", ylim=(-0.28, 1.15))
    ax.legend(title="joint against …", loc="upper left", fontsize=9.5, title_fontsize=9.5, frameon=False)
    ax.set_title("Each seed's difference, mean, 95% interval", fontsize=11, loc="left")


if __name__ == "__main__":
    with one_line_errors():
        main()
