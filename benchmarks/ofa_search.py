"""Search of once-for-all networks against the published evolution, with the published predictor and latency tables.

Needs the published files: the predictor, the Note10 latency tables and the results of the published evolution.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from apq_tune import Constraint, Evolution, Objective, Problem, load_cost_table, load_predictor, search
from apq_tune.cli.ending import one_line_errors

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with acc_predictor.pth, note10/ and results")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    if not (arguments.data / "acc_predictor.pth").exists():
        sys.exit(f"{arguments.data}: has no acc_predictor.pth; give the folder of once-for-all's published files")
    predictor = load_predictor(arguments.data / "acc_predictor.pth")
    encoding = predictor.encoding  # type: ignore[attr-defined]
    (latency,) = load_cost_table(arguments.data / "note10").models(encoding)
    published = pd.DataFrame(json.loads((arguments.data / "official_evolution.json").read_text()))
    rows = []
    for limit in (16, 22, 30, 41):
        theirs = published.loc[published["limit_ms"] == limit, "predicted_accuracy"]
        row = {"limit_ms": limit, "published, best of 3": theirs.max(), "published, median": theirs.median()}
        for n in (5_010, 50_100):
            problem = Problem(encoding, [Objective(predictor, "maximize")], [Constraint(latency, limit)])
            found = [
                search(problem, Evolution(), n_evaluations=n, seed=seed).metrics["accuracy"][0]
                for seed in range(arguments.seeds)
            ]
            row |= {f"ours {n}, median": np.median(found), f"ours {n}, worst": min(found)}
        rows.append(row)
    table = pd.DataFrame(rows)
    RESULTS.mkdir(exist_ok=True)
    table.to_csv(RESULTS / "ofa_search.csv", index=False)
    print(table.round(5).to_string(index=False))


if __name__ == "__main__":
    with one_line_errors():
        main()
