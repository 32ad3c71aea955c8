"""Result of a refinement against other uses of as many epochs of QAT.

Usage: ``apq-tune run digits --out RUN; apq-tune refine RUN; python benchmarks/refined.py RUN``. Compares the result of
the refinement, its best uniform policy, the run's own ``best``, and the best of as many random feasible candidates as
the refinement's epochs allow. All are trained at the refinement's full length on the same batches and selected on the
search split.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

from apq_tune import Candidate, Front, NetworkEncoding, Problem, load_run
from apq_tune.cli.ending import one_line_errors
from apq_tune.problem.costs import Costs
from apq_tune.problem.problem import Objective
from apq_tune.refine.settings import training_of
from apq_tune.store.files import read_json
from apq_tune.supernet.qat import QATTask, train_candidate
from apq_tune.supernet.seeds import SeedWord


def main() -> None:
    """Train the other networks and print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, help="folder of the refinement; by default RUN/refine")
    arguments = parser.parse_args()
    out = arguments.out or arguments.run / "refine"
    run, settings = load_run(arguments.run), read_json(out / "refine.json")["settings"]
    encoding, table = NetworkEncoding(run.space), pd.read_csv(out / "results.csv")
    total, length = int(table["epochs"].sum()), int(table["epochs"].max())
    training, seed = training_of(length, run.settings), (settings["seed"], SeedWord.REFINE, length)

    def trained(candidate: Candidate) -> pd.Series:
        scores = train_candidate(run.supernet, QATTask(candidate, training, seed, ("search", "test"))).scores
        return pd.Series(
            {f"{s}_{kind}": getattr(scores[s], kind) for s in ("search", "test") for kind in ("loss", "accuracy")}
        )

    def show(name: str, row: pd.Series) -> None:
        print(f"{name}: search loss {row.search_loss:.4f}, test loss {row.test_loss:.4f}, ", end="")
        print(f"test accuracy {100 * row.test_accuracy:.2f}%", flush=True)

    final = table[table["epochs"] == length]
    show(f"refined ({total} epochs of QAT)", final.loc[final["search_loss"].idxmin()])
    uniform = final[final["uniform"]]
    show("its best with uniform bits", uniform.loc[uniform["search_loss"].idxmin()])
    best = arguments.run / "8_search" / "best.json"
    if best.exists():
        show("the run's predicted best", trained(Front.load(best).candidates[0]))
    costs = Costs.of(encoding)
    texts = settings["constraints"] or run.settings.constraints
    problem = Problem(encoding, [Objective(costs.metrics["macs"])], costs.limits(texts))
    drawn = np.unique(encoding.sample(20_000, np.random.default_rng(settings["seed"])), axis=0)
    feasible = np.flatnonzero(problem.evaluate(drawn).feasible)
    rows = np.random.default_rng(settings["seed"]).choice(feasible, total // length, replace=False)
    others = pd.DataFrame([trained(candidate) for candidate in encoding.decode(drawn[rows])])
    show(f"random best of {len(others)}", others.loc[others["search_loss"].idxmin()])


if __name__ == "__main__":
    with one_line_errors():
        main()
