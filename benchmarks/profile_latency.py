"""A measured latency table, and a search under a measured limit.

Usage: ``python benchmarks/profile_latency.py digits --out DIR [--minutes M] [--run] [--set NAME=VALUE ...]``, on a
machine that does nothing else. It profiles the search space on onnxruntime, and prints how well sums of operations
agree with whole networks, before and after the correction, on networks that it was not fitted to. With ``--run`` it
searches under limits at quantiles of the latency of random networks, exports the chosen networks, and measures the
files: do they keep the limit, and by how much? The files are measured in turns with networks of the profile, which
show whether the machine is as fast as it was then. Interrupted, it goes on.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from apq_tune import Candidate, NetworkEncoding
from apq_tune.cli import main as apq_tune
from apq_tune.cli.ending import one_line_errors
from apq_tune.deploy import measure
from apq_tune.deploy.profile_folder import Collected, collect
from apq_tune.problem.costs import Costs
from apq_tune.space.files import load_network_space
from apq_tune.store.files import read_json

METRIC = "latency_ms"

VISITS = 15
"""Visits of every exported file."""

CONTROLS = 5
"""Number of networks of the profile that are measured again."""


def main() -> None:
    """Profile a space and print the agreement; with ``--run`` check searches under measured limits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("space")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, help="time for measurements; default: no limit")
    parser.add_argument("--networks", type=int, default=40)
    parser.add_argument("--run", action="store_true", help="search under limits, export, and measure the files")
    parser.add_argument("--at", type=float, nargs="+", default=[0.25, 0.5], help="limits, as quantiles")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="settings of the runs")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    table = arguments.out / "latency.csv"
    minutes = [] if arguments.minutes is None else ["--minutes", str(arguments.minutes)]
    networks = ["--networks", str(arguments.networks)]
    apq_tune(["profile", "--space", arguments.space, "--out", str(table), *minutes, *networks])
    show(agreement(read_json(table.with_suffix(".profile.json"))))
    if arguments.run:
        collected = collect(table.with_suffix(".profile"))
        show(searches(arguments.space, table, collected, arguments.at, arguments.settings, arguments.out))


def agreement(kept: Mapping[str, Any]) -> pd.DataFrame:
    """Agreement of sums with measured networks, one row for each precision."""
    rows = []
    for precision, correction in kept["correction"].items():
        if correction is not None:
            row: dict[str, object] = {"precision": precision, "networks": correction["n_networks"]}
            for when in ("before", "after"):
                row[f"Spearman {when}"] = correction[when]["spearman"]
                row[f"median error {when}"] = correction[when]["error"]
            rows.append(row)
    return pd.DataFrame(rows)


def searches(
    name: str, table: Path, collected: Collected, quantiles: Sequence[float], settings: Sequence[str], out: Path
) -> pd.DataFrame:
    """Search under limits at quantiles of the latency of random networks, and measure the exported networks.

    Args:
        name: Name of the search space.
        table: Cost table.
        collected: Measurements of the table.
        quantiles: Quantiles of the latency.
        settings: Settings of the runs, as ``NAME=VALUE``.
        out: Folder for the runs.

    Returns:
        Limit, prediction and measurement of each network in milliseconds, one row for each quantile.
    """
    encoding = NetworkEncoding(load_network_space(name))
    metric = Costs.of(encoding, [table]).metrics[METRIC]
    drawn = metric(encoding.sample(2000, np.random.default_rng(0)))
    rows, files = [], {}
    for quantile in quantiles:
        limit = float(f"{np.quantile(drawn, quantile):.4g}")
        run, file = out / f"run_{100 * quantile:.0f}", out / f"chosen_{100 * quantile:.0f}.onnx"
        assigned = [f"--set={setting}" for setting in settings]
        limited = ["--table", str(table), "--constraint", f"{METRIC}<={limit}"]
        apq_tune(["run", name, "--out", str(run), *limited, *assigned])
        if not file.exists():
            apq_tune(["export", str(run), "--out", str(file)])
        files[file.stem] = file
        genome = encoding.encode([Candidate.from_dict(read_json(run / "best.json")["candidate"])])
        rows.append({"quantile": quantile, "limit": limit, "predicted": float(metric(genome)[0]), "file": file.stem})
    controls = [key for key in collected.timings if key.startswith("int8-network")][:CONTROLS]
    folder = table.with_suffix(".profile") / "ops"
    seconds = in_turns(files | {key: folder / f"{key}.onnx" for key in controls}, collected.options["threads"])
    now = float(np.median([seconds[key] / collected.timings[key].median for key in controls])) if controls else np.nan
    frame = pd.DataFrame(rows)
    frame["measured"] = [1e3 * seconds[file] for file in frame["file"]]
    frame["below the limit"] = 1 - frame["measured"] / frame["limit"]
    frame["machine now"] = now
    return frame


def in_turns(files: Mapping[str, Path], threads: int) -> dict[str, float]:
    """Median seconds of a run of each file, measured in turns, in random order."""
    runs = {name: measure.load_onnx(path, threads) for name, path in files.items()}
    timings: dict[str, list[float]] = {name: [] for name in runs}
    order = random.Random(0)
    for _ in range(VISITS):
        for name in order.sample(sorted(runs), len(runs)):
            timings[name] += measure.timings(runs[name])
    return {name: float(np.median(values)) for name, values in timings.items()}


def show(frame: pd.DataFrame) -> None:
    """Print a table."""
    print(frame.to_string(index=False, float_format=lambda value: f"{value:.4g}"), flush=True)


if __name__ == "__main__":
    with one_line_errors():
        main()
