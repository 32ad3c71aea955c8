"""Hypervolume by number of evaluations: ``apq_tune.search`` against pymoo's and Optuna's NSGA-II and random search.

(a) APQ's ImageNet space: latency from the published table (`--table`; otherwise the analytic model) and a synthetic
    accuracy with main effects and interactions of all choices of active blocks.
(b) NAS-Bench-Macro (`--macro`): all 6,561 networks were trained, so the exact front of accuracy and FLOPs is known.

The other libraries search the same genomes, which are repaired and made canonical before they are evaluated. Their
evaluations are counted with repetitions.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from pymoo.algorithms.moo.nsga2 import NSGA2 as Theirs  # noqa: N811
from pymoo.core.problem import Problem as PymooProblem
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.operators.repair.rounding import RoundingRepair
from pymoo.operators.sampling.rnd import IntegerRandomSampling
from pymoo.optimize import minimize

from apq_tune import (
    NSGA2,
    FunctionMetric,
    NetworkEncoding,
    Objective,
    Problem,
    RandomSearch,
    SearchSpace,
    load_cost_table,
    search,
)
from apq_tune.cli.ending import one_line_errors
from apq_tune.cost import bitfusion_latency_ms
from apq_tune.problem.pareto import Floats, hypervolume
from apq_tune.space.encoding import Genomes

RESULTS = Path(__file__).parent / "results"
COUNTS = (200, 500, 1000, 2000, 5000)

Score = Callable[[Genomes], Floats]
"""Function from genomes to minimised objectives that records all evaluations."""


def made_up_accuracy(encoding: NetworkEncoding) -> FunctionMetric:
    """Synthetic accuracy in about percent: concave in every choice, with interactions of blocks."""
    rng = np.random.default_rng(2020)
    sizes = encoding.n_choices[[gene.kind != "depth" for gene in encoding.genes]]
    gains = [
        np.concatenate([[0.0], np.cumsum(scale * 0.7 ** np.arange(n - 1))]) / (1.7 if n > 2 else 1) + 0.2
        for n, scale in zip(sizes, rng.gamma(2.0, 0.1, len(sizes)), strict=True)
    ]
    alone = np.concatenate(gains)
    together = rng.normal(0, 1, (len(alone), 32)) / 6
    weights = rng.normal(0, 0.5, 32)

    def accuracy(genomes: Genomes) -> Floats:
        features = encoding.features(genomes)
        return 60 + 0.25 * (features @ alone) + np.tanh(features @ together) @ weights

    return FunctionMetric("accuracy", "%", accuracy)


def imagenet(table: Path | None) -> Problem:
    encoding = NetworkEncoding(SearchSpace.load("apq_mobilenet"))
    models = [bitfusion_latency_ms(encoding)] if table is None else load_cost_table(table).models(encoding)
    latency = next(model for model in models if model.name == "latency_ms")
    accuracy = made_up_accuracy(encoding)
    genomes = encoding.sample(1, np.random.default_rng(0))
    for gene in range(encoding.n_genes):  # every gene has a main effect
        others = np.repeat(encoding.at_largest(genomes, ["depth"]), 2, axis=0)
        others[:, gene] = 0, 1
        assert np.ptp(accuracy(encoding.canonicalise(others))) > 0, encoding.names[gene]
    return Problem(encoding, [Objective(accuracy, "maximize"), Objective(latency)])


def macro(path: Path) -> Problem:
    trained = pd.DataFrame(json.loads(path.read_text())).T
    place = {key: i for i, key in enumerate(trained.index)}
    space = SearchSpace.from_choices({f"layer {i}": ["skip", "expand 3", "expand 6"] for i in range(8)})

    def column(name: str, values: Any) -> FunctionMetric:
        known = values.astype(float).to_numpy()
        return FunctionMetric(name, "", lambda g: known[[place["".join(map(str, row))] for row in g]])

    accuracy, flops = column("accuracy", trained["mean_acc"]), column("flops", trained["flops"])
    return Problem(space, [Objective(accuracy, "maximize"), Objective(flops)])


def ours(algorithm: Any) -> Callable[[Problem, Score, int, int], None]:
    def run(problem: Problem, score: Score, n: int, seed: int) -> None:
        held: list[Floats] = []  # objectives of the current batch, as its columns are requested one by one

        def column(c: int, genomes: Genomes) -> Floats:
            if c == 0:
                held[:] = [score(genomes)]
            return held[0][:, c]

        watched = [Objective(FunctionMetric(f"f{c}", "", partial(column, c))) for c in range(len(problem.objectives))]
        search(Problem(problem.encoding, watched), algorithm, n_evaluations=n, seed=seed)

    return run


def pymoo(population: int) -> Callable[[Problem, Score, int, int], None]:
    """NSGA-II of pymoo with its operators for integers."""

    def run(problem: Problem, score: Score, n: int, seed: int) -> None:
        encoding, rng = problem.encoding, np.random.default_rng(seed)

        class Integers(PymooProblem):  # type: ignore[misc]
            def _evaluate(self, x: Any, out: dict[str, Any], *_: Any, **__: Any) -> None:
                out["F"] = score(encoding.canonicalise(encoding.repair(x.astype(np.int16), rng)))

        sizes = encoding.n_choices
        problem_ = Integers(n_var=len(sizes), n_obj=len(problem.objectives), xl=0, xu=sizes - 1, vtype=int)
        algorithm = Theirs(
            pop_size=population,
            sampling=IntegerRandomSampling(),
            crossover=SBX(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
            mutation=PM(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
            eliminate_duplicates=True,
        )
        minimize(problem_, algorithm, ("n_eval", n), seed=seed)

    return run


def plain_optuna(population: int) -> Callable[[Problem, Score, int, int], None]:
    """NSGA-II of Optuna with one trial per candidate."""

    def run(problem: Problem, score: Score, n: int, seed: int) -> None:
        encoding, rng = problem.encoding, np.random.default_rng(seed)

        def objective(trial: optuna.Trial) -> tuple[float, ...]:
            row = [trial.suggest_categorical(str(i), range(size)) for i, size in enumerate(encoding.n_choices)]
            return tuple(score(encoding.canonicalise(encoding.repair(np.array([row], np.int16), rng)))[0])

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler = optuna.samplers.NSGAIISampler(population_size=population, seed=seed)
        optuna.create_study(directions=["minimize"] * len(problem.objectives), sampler=sampler).optimize(
            objective, n_trials=n
        )

    return run


METHODS: dict[str, Callable[[Problem, Score, int, int], None]] = {
    "random": ours(RandomSearch()),
    "ours": ours(NSGA2()),
    "pymoo NSGA-II, population 100": pymoo(100),
    "pymoo NSGA-II, population 50": pymoo(50),
    "Optuna NSGA-II, population 50": plain_optuna(50),
}


def scored(problem: Problem, method: str, n: int, seed: int) -> Floats:
    """Objectives of all candidates that a method evaluated, in order, shape ``(n, m)``."""
    asked: list[Floats] = []

    def score(genomes: Genomes) -> Floats:
        asked.append(problem.evaluate(genomes).F)
        return asked[-1]

    METHODS[method](problem, score, n, seed)
    return np.concatenate(asked)[:n]


def compare(problem: Problem, counts: tuple[int, ...], seeds: int, whole: Floats | None = None) -> pd.DataFrame:
    """Hypervolume as a share of that of the best known front: that of ``whole``, or of all results."""
    runs = {(method, seed): scored(problem, method, counts[-1], seed) for method in METHODS for seed in range(seeds)}
    known = np.concatenate(list(runs.values())) if whole is None else whole
    low, high = known.min(axis=0), known.max(axis=0)
    reference = np.ones(len(low))

    def volume(F: Floats) -> float:
        return hypervolume((F - low) / (high - low), reference)

    best = volume(known)
    return pd.DataFrame(
        [
            {"method": method, "seed": seed, "evaluations": n, "share": volume(F[:n]) / best}
            for (method, seed), F in runs.items()
            for n in counts
        ]
    )


def show(table: pd.DataFrame) -> str:
    """Text of medians and quartiles by method and number of evaluations."""
    quartiles = table.groupby(["method", "evaluations"], sort=False)["share"].quantile([0.25, 0.5, 0.75]).unstack()
    text = quartiles.apply(lambda q: f"{q[0.5]:.4f} ({q[0.25]:.4f}-{q[0.75]:.4f})", axis=1)
    return str(text.unstack("evaluations").to_string())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, help="a table of latencies for apq_mobilenet")
    parser.add_argument("--macro", type=Path, help="NAS-Bench-Macro's JSON file")
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    found = {"apq_mobilenet": compare(imagenet(arguments.table), COUNTS, arguments.seeds)}
    if arguments.macro is not None:
        problem = macro(arguments.macro)
        every = problem.evaluate(problem.encoding.enumerate(7000)).F
        found["nas_bench_macro"] = compare(problem, COUNTS[:3], arguments.seeds, every)
    RESULTS.mkdir(exist_ok=True)
    pd.concat(found, names=["problem"]).reset_index("problem").to_csv(RESULTS / "front_quality.csv", index=False)
    for name, table in found.items():
        print(f"\n{name}: share of the best known hypervolume, median (quartiles) of {arguments.seeds} seeds")
        print(show(table))


if __name__ == "__main__":
    with one_line_errors():
        main()
