"""Overhead of Ray Tune and Optuna: evaluations per second of CPU time of the whole machine, Ray's processes included.

APQ's ImageNet space (131 genes) with two inexpensive objectives and a limit: one trial per candidate in Ray Tune with
`OptunaSearch` and with `ApqSearch` and in plain Optuna, one Ray task per whole search, and the bare search. Each runs
in a separate process; the time of starting Ray and of imports is measured by a run of a few trials and subtracted.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from ray import tune
from ray.tune.search.optuna import OptunaSearch

from apq_tune import (
    NSGA2,
    APQObjective,
    ApqSearch,
    Constraint,
    NetworkEncoding,
    NSGA2Sampler,
    Objective,
    Problem,
    SearchSpace,
)
from apq_tune import search as run_search
from apq_tune.cli.ending import one_line_errors
from apq_tune.cost import bit_ops, weight_bytes
from apq_tune.hosts.executor import start_executor
from apq_tune.hosts.ray import cluster
from apq_tune.hosts.work import Result

RESULTS = Path(__file__).parent / "results"
POPULATION = 20


def problem() -> Problem:
    encoding = NetworkEncoding(SearchSpace.load("apq_mobilenet"))
    ops = bit_ops(encoding)
    return Problem(
        encoding,
        [Objective(weight_bytes(encoding), "maximize"), Objective(ops)],
        [Constraint(ops, ops.reachable()[1] / 2)],
    )


def in_tune(searcher: Callable[[], Any], n: int) -> None:
    """Ray Tune with one trial per candidate; both searchers get the same ``param_space``."""
    asked = problem()
    searching = searcher()
    with cluster(None, 2), tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(None):
        tune.Tuner(
            APQObjective(asked),
            param_space=asked.encoding.space.to_tune(),
            tune_config=tune.TuneConfig(
                search_alg=searching, num_samples=n, max_concurrent_trials=2, reuse_actors=True
            ),
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        ).fit()


def optuna_search() -> OptunaSearch:
    sampler = optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=0)
    return OptunaSearch(metric=["weight_bytes", "bit_ops"], mode=["max", "min"], sampler=sampler)


def plain(sampler: Callable[[Problem], optuna.samplers.BaseSampler], n: int) -> None:
    """Plain Optuna with one trial per candidate."""
    asked = problem()
    objective = APQObjective(asked)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=objective.directions, sampler=sampler(asked))
    study.optimize(objective, n_trials=n)


def whole_search(n: int, _: Any) -> Result:
    return Result({"front": run_search(problem(), NSGA2(500, 500), n_evaluations=n).to_json()})


def no_host(n: int) -> None:
    """The bare search."""
    run_search(problem(), NSGA2(500, 500), n_evaluations=n)


def one_task(n: int) -> None:
    """One Ray task per whole search."""
    with start_executor("ray", None, 1) as executor, tempfile.TemporaryDirectory() as folder:
        list(executor.map(whole_search, None, {"search": n}, directory=Path(folder) / "work"))


THEIRS = optuna.samplers.NSGAIISampler(population_size=POPULATION, seed=0)
METHODS: dict[str, tuple[Callable[[int], None], int, int]] = {
    "one trial a candidate: OptunaSearch(NSGAIISampler)": (lambda n: in_tune(optuna_search, n), 10, 310),
    "one trial a candidate: ApqSearch(NSGAIISampler)": (
        lambda n: in_tune(lambda: ApqSearch(problem(), THEIRS), n),
        10,
        310,
    ),
    "one trial a candidate: ApqSearch, our NSGA-II": (lambda n: in_tune(lambda: ApqSearch(problem()), n), 10, 310),
    "plain Optuna: NSGAIISampler": (lambda n: plain(lambda _: THEIRS, n), 10, 610),
    "plain Optuna: our NSGA2Sampler": (
        lambda n: plain(lambda asked: NSGA2Sampler(space=asked.encoding.space, seed=0), n),
        10,
        610,
    ),
    "one task a search": (one_task, 1_000, 401_000),
    "no host": (no_host, 1_000, 401_000),
}


def busy_seconds() -> float:
    """CPU seconds of all processors since the machine started, without idle and I/O wait time."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    return sum(int(fields[i]) for i in (0, 1, 2, 5, 6)) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--only",
        nargs=2,
        metavar=("METHOD", "N"),
        help="run one method with N evaluations, as the script does in subprocesses",
    )
    arguments = parser.parse_args()
    if arguments.only:
        METHODS[arguments.only[0]][0](int(arguments.only[1]))
        return

    def seconds(name: str, n: int) -> float:
        start = busy_seconds()
        subprocess.run([sys.executable, __file__, "--only", name, str(n)], check=True, capture_output=True)
        time.sleep(1)  # until Ray's processes have ended
        return busy_seconds() - start

    rows = []
    for turn in range(arguments.rounds):
        for name, (_, few, many) in METHODS.items():
            took = seconds(name, many) - seconds(name, few)
            rows.append({"method": name, "round": turn, "evaluations per CPU-second": (many - few) / took})
    table = pd.DataFrame(rows)
    RESULTS.mkdir(exist_ok=True)
    rates = table.groupby("method", sort=False)["evaluations per CPU-second"].median()
    table = table.assign(ratio=table["evaluations per CPU-second"] / rates.iloc[0])
    table[["method", "round", "ratio"]].to_csv(RESULTS / "tune_overhead.csv", index=False)
    for name, rate in rates.items():
        share, times = 100 * rate / rates.iloc[-1], rate / rates.iloc[0]
        print(f"{name:52}{rate:10.1f}{times:10.2f} x the first{share:8.1f}% of the last")


if __name__ == "__main__":
    with one_line_errors():
        main()
