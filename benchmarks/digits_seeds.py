"""Accuracy of the network found on the digits against the largest one at 8 bits, and duration of each stage.

Runs ``apq-tune run digits`` with default settings for several seeds, one after the other, and compares test accuracies
after equal QAT. Test images are not used for selection: ``best`` is the single result of a search with
``bit_ops<=25%``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd

from apq_tune.cli.ending import one_line_errors

RUNS, RESULTS = Path("runs/benchmarks/digits"), Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)
    rows, seconds = [], []
    for seed in seeds:
        out = RUNS / f"seed_{seed}"
        program = str(Path(sys.executable).with_name("apq-tune"))
        subprocess.run(
            [program, "run", "digits", f"--seed={seed}", f"--out={out}"], check=True, stdout=subprocess.DEVNULL
        )
        rows.append(pd.read_csv(out / "results.csv").assign(seed=seed))
        seconds.append(json.loads((out / "summary.json").read_text())["seconds"])
    table = pd.concat(rows, ignore_index=True)
    RESULTS.mkdir(exist_ok=True)
    columns = ["seed", "name", "predicted_accuracy", "search_accuracy", "test_accuracy", "test_loss", "bit_ops"]
    table[[*columns, "weight_bytes", "candidate"]].to_csv(RESULTS / "digits_seeds.csv", index=False)

    accuracy = 100 * table.pivot_table(index="seed", columns="name", values="test_accuracy")
    share = table.pivot_table(index="seed", columns="name", values="bit_ops")
    share = 100 * share.div(share["largest_8bit"], axis=0)
    summary = pd.DataFrame(
        {
            "test accuracy %": accuracy.mean(),
            "sd": accuracy.std(),
            "minus largest 8 bit": accuracy.sub(accuracy["largest_8bit"], axis=0).mean(),
            "sd of that": accuracy.sub(accuracy["largest_8bit"], axis=0).std(),
            "BitOps % of it": share.mean(),
            "runs": accuracy.count(),
        }
    )
    print(summary.sort_values("BitOps % of it", ascending=False).round(2).to_string())
    print("\nwall seconds of each stage, mean and largest:")
    times = pd.DataFrame(seconds)
    times["sum"] = times.sum(axis=1)
    print(times.agg(["mean", "max"]).T.round(1).to_string())


if __name__ == "__main__":
    with one_line_errors():
        main()
