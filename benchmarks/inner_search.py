"""Throughput of a search in candidates per second, against one-by-one evolution, Optuna, pymoo and the bare predictor.

APQ's ImageNet space, a predictor of the published shape (772-400-400-400-1) with random weights, two cost models and a
limit on latency, on one core. Only distinct feasible candidates are counted. All methods take turns for three rounds;
medians are printed.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from apq_tune import NSGA2, Constraint, Evolution, NetworkEncoding, Objective, Problem, SearchSpace, search
from apq_tune.cli.ending import one_line_errors
from apq_tune.cost import CostModel, bitfusion_energy_mj, bitfusion_latency_ms
from apq_tune.predict.mlp import MLPPredictor, mlp_shapes
from apq_tune.predict.pairs import Scale
from apq_tune.space.candidate import Candidate
from apq_tune.space.mbconv import Block

HIDDEN, LIMIT_MS = 400, 9.0


def ingredients() -> tuple[NetworkEncoding, MLPPredictor, CostModel, CostModel]:
    encoding, rng = NetworkEncoding(SearchSpace.load("apq_mobilenet")), np.random.default_rng(0)
    shapes = mlp_shapes(encoding, HIDDEN, bits=True)
    weights = {name: rng.normal(0, (2 / s[0]) ** 0.5, s).astype(np.float32) for name, s in shapes.items()}
    predictor = MLPPredictor(encoding, weights, Scale(0.0, 1.0, log=False))
    return encoding, predictor, bitfusion_latency_ms(encoding), bitfusion_energy_mj(encoding)


def bare_rate(encoding: NetworkEncoding, predictor: MLPPredictor, seconds: float) -> float:
    """Candidates per second of the matrix products of the predictor alone, on batches of 1000 precomputed features."""
    features = encoding.features(encoding.sample(1000, np.random.default_rng(0)))
    w, n_arch = predictor.weights, encoding.n_arch_features
    arch, bits = np.ascontiguousarray(features[:, :n_arch]), np.ascontiguousarray(features[:, n_arch:])

    def once() -> None:
        h = np.maximum(arch @ w["W0"] + w["b0"], 0) + (bits @ w["Wq"] + w["bq"])
        h = np.maximum(h @ w["W1"] + w["b1"], 0)
        h = np.maximum(h @ w["W2"] + w["b2"], 0)
        _ = h @ w["W3"] + w["b3"]

    return len(features) * _calls(once, seconds)


def sparse_rate(encoding: NetworkEncoding, predictor: MLPPredictor, seconds: float) -> float:
    """Architectures per second of the first layer as in the predictor: a sparse product from genomes."""
    genomes = encoding.sample(500, np.random.default_rng(0))
    return len(genomes) * _calls(lambda: encoding.arch_matrix(genomes) @ predictor.weights["W0"], seconds)


def embedding_rate(encoding: NetworkEncoding, predictor: MLPPredictor, seconds: float) -> float:
    """Architectures per second of the first layer as an embedding bag of torch, from precomputed indices.

    Importing torch takes 3 s and 400 MB.
    """
    import torch

    one_hot = encoding.arch_matrix(encoding.sample(500, np.random.default_rng(0)))
    one_hot.eliminate_zeros()
    columns, starts = (torch.from_numpy(part.astype(np.int64)) for part in (one_hot.indices, one_hot.indptr[:-1]))
    weights, n = torch.from_numpy(predictor.weights["W0"]), len(starts)
    return n * _calls(lambda: torch.nn.functional.embedding_bag(columns, weights, starts, mode="sum"), seconds)


def dense_rate(encoding: NetworkEncoding, predictor: MLPPredictor, seconds: float) -> float:
    """Architectures per second of the first layer as a dense product of precomputed features."""
    features = encoding.features(encoding.sample(500, np.random.default_rng(0)))
    arch = np.ascontiguousarray(features[:, : encoding.n_arch_features])
    return len(features) * _calls(lambda: arch @ predictor.weights["W0"], seconds)


def _calls(once: Callable[[], object], seconds: float) -> float:
    """Calls per second."""
    once()
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        once()
        done += 1
    return done / (time.perf_counter() - start)


def our_rate(problem: Problem, algorithm: Evolution, n: int, islands: int | None = None) -> float:
    """Distinct feasible candidates per second, counted by the predictor, which is called for feasible ones only."""
    counted = 0
    learned = problem.objectives[0].metric

    class Counting:
        name, unit = learned.name, learned.unit

        def __call__(self, genomes: Any) -> Any:
            nonlocal counted
            counted += len(genomes)
            return learned(genomes)

    objectives = [Objective(Counting(), "maximize"), *problem.objectives[1:]]
    asked = Problem(problem.encoding, objectives, problem.constraints, also=problem.metrics[1:])
    start = time.perf_counter()
    search(asked, algorithm, n_evaluations=n, islands=islands)
    return counted / (time.perf_counter() - start)


def one_at_a_time_rate(
    encoding: NetworkEncoding, predictor: MLPPredictor, latency: CostModel, energy: CostModel, n: int
) -> tuple[float, float]:
    """Evolution as commonly implemented: one candidate at a time, with a dictionary of costs and predictor calls.

    Returns:
        Candidates per second of a search for ``n`` candidates, and the same without its first, random generation, most
        of which is infeasible and drawn again.
    """
    rng = np.random.default_rng(0)
    slots, space = encoding.space.slots, encoding.space
    tables = [_dictionary(model) for model in (latency, energy)]
    fixed = [model.fixed(space.resolutions[-1]) for model in (latency, energy)]

    def random_block(slot: Any) -> Block:
        while True:
            block = Block(*(int(rng.choice(v)) for v in space.fields(slot).values()))
            if not (block.kernel_size == 7 and block.dw_a_bits == 4):
                return block

    def sample() -> tuple[list[int], list[Block]]:
        return [int(rng.choice(stage.depth)) for stage in space.stages], [random_block(slot) for slot in slots]

    def mutate(parent: tuple[list[int], list[Block]]) -> tuple[list[int], list[Block]]:
        depths = [
            int(rng.choice(s.depth)) if rng.random() < 0.1 else d for s, d in zip(space.stages, parent[0], strict=True)
        ]
        blocks = [random_block(slot) if rng.random() < 0.1 else b for slot, b in zip(slots, parent[1], strict=True)]
        return depths, blocks

    def score(genes: tuple[list[int], list[Block]]) -> tuple[float, Candidate] | None:
        depths, blocks = genes
        active = [(s, b) for s, b in zip(slots, blocks, strict=True) if s.position < depths[s.stage]]
        costs = [f + sum(table[s.name, b] for s, b in active) for f, table in zip(fixed, tables, strict=True)]
        if costs[0] > LIMIT_MS:
            return None
        stages = [tuple(b for s, b in active if s.stage == n) for n in range(len(space.stages))]
        candidate = Candidate(tuple(stages))
        row = np.zeros((1, encoding.n_arch_features + encoding.n_bit_features), np.float32)
        columns = np.flatnonzero(encoding.features(encoding.encode([candidate], check=False))[0])
        row[0, columns] = 1
        w, n_arch = predictor.weights, encoding.n_arch_features
        h = np.maximum(row[:, :n_arch] @ w["W0"] + w["b0"], 0) + (row[:, n_arch:] @ w["Wq"] + w["bq"])
        for layer in "12":
            h = np.maximum(h @ w[f"W{layer}"] + w[f"b{layer}"], 0)
        return float((h @ w["W3"] + w["b3"])[0, 0]), candidate

    start = time.perf_counter()
    seen: set[Candidate] = set()
    begun: tuple[float, int] | None = None  # time and count after the first generation
    population: list[tuple[float, tuple[list[int], list[Block]]]] = []
    while len(seen) < n:
        if population and begun is None:
            begun = time.perf_counter(), len(seen)
        parents = [genes for _, genes in sorted(population, key=lambda row: -row[0])[:25]]
        population = population[:0]
        while len(population) < 100:
            genes = mutate(parents[rng.integers(len(parents))]) if parents else sample()
            scored = score(genes)
            if scored is not None:
                seen.add(scored[1])
                population.append((scored[0], genes))
    end = time.perf_counter()
    assert begun is not None
    return len(seen) / (end - start), (len(seen) - begun[1]) / (end - begun[0])


class _Lookup(dict[Any, float]):
    """Costs of blocks by position and choices, cached on first use like a latency table in memory."""

    def __init__(self, price: Callable[[str, Block], float]) -> None:
        super().__init__()
        self._price = price

    def __missing__(self, key: tuple[str, Block]) -> float:
        self[key] = value = self._price(*key)
        return value


def _dictionary(model: CostModel) -> _Lookup:
    def price(name: str, block: Block) -> float:
        return model.part(name, {f"{name} {field}": value for field, value in block._asdict().items()})

    return _Lookup(price)


def optuna_rate(
    encoding: NetworkEncoding, predictor: MLPPredictor, latency: CostModel, energy: CostModel, trials: int
) -> float:
    """NSGA-II of Optuna with the same population and one trial per candidate."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    seen: set[bytes] = set()

    def objective(trial: optuna.Trial) -> float:
        genome = np.array(
            [
                [
                    trial.suggest_int(name, 0, int(n) - 1)
                    for name, n in zip(encoding.names, encoding.n_choices, strict=True)
                ]
            ],
            np.int16,
        )
        genome = encoding.canonicalise(genome)
        milliseconds = float(latency(genome)[0])
        energy(genome)
        trial.set_constraint("latency_ms", milliseconds - LIMIT_MS)
        if milliseconds <= LIMIT_MS and encoding.is_allowed(genome)[0]:
            seen.add(genome.tobytes())
        return float(predictor(genome)[0])

    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.NSGAIISampler(population_size=100, seed=0)
    )
    start = time.perf_counter()
    study.optimize(objective, n_trials=trials)
    return len(seen) / (time.perf_counter() - start)


def pymoo_rate(problem: Problem, population: int, n: int) -> float:
    """NSGA-II of pymoo on integer genomes with its own operators; it evaluates whole populations, too."""
    from pymoo.algorithms.moo.nsga2 import NSGA2 as Theirs  # noqa: N811
    from pymoo.core.problem import Problem as PymooProblem
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling
    from pymoo.optimize import minimize

    encoding, rng = problem.encoding, np.random.default_rng(0)
    seen: set[bytes] = set()

    class Integers(PymooProblem):  # type: ignore[misc]
        def _evaluate(self, x: Any, out: dict[str, Any], *_: Any, **__: Any) -> None:
            genomes = encoding.canonicalise(encoding.repair(x.astype(np.int16), rng))
            evaluation = problem.evaluate(genomes)
            seen.update(genome.tobytes() for genome in genomes[evaluation.feasible])
            out["F"] = np.where(np.isfinite(evaluation.F), evaluation.F, 1e9)  # pymoo cannot rank infinite values
            out["G"] = evaluation.G

    sizes = encoding.n_choices
    n_obj, n_limits = len(problem.objectives), len(problem.constraints)
    asked = Integers(n_var=len(sizes), n_obj=n_obj, n_ieq_constr=n_limits, xl=0, xu=sizes - 1, vtype=int)
    algorithm = Theirs(
        pop_size=population,
        sampling=IntegerRandomSampling(),
        crossover=SBX(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
        mutation=PM(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
        eliminate_duplicates=True,
    )
    start = time.perf_counter()
    minimize(asked, algorithm, ("n_eval", n), seed=0)
    return len(seen) / (time.perf_counter() - start)


def peak_megabytes() -> float:
    """Peak memory of this process in MB; ``getrusage`` would include that of the parent process."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def growth(counts: tuple[int, ...]) -> Iterator[tuple[int, float, float]]:
    """Seconds and peak memory in MB of whole searches, each in a separate process."""
    for n in counts:
        shown = subprocess.run(
            [sys.executable, __file__, "--only", str(n)], check=True, capture_output=True, text=True
        ).stdout.split()
        yield n, float(shown[0]), float(shown[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="duration of each measurement without a search")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--largest", type=int, default=1_000_000)
    parser.add_argument(
        "--only", type=int, help="run one search with this number of evaluations, and print seconds and peak MB"
    )
    arguments = parser.parse_args()
    encoding, predictor, latency, energy = ingredients()
    limit = Constraint(latency, LIMIT_MS)
    best = Problem(encoding, [Objective(predictor, "maximize")], [limit], also=[energy])
    if arguments.only:
        start = time.perf_counter()
        search(best, n_evaluations=arguments.only)
        print(time.perf_counter() - start, peak_megabytes())
        return
    front = Problem(encoding, [Objective(predictor, "maximize"), Objective(latency)], [limit], also=[energy])
    large = Evolution(population=1000, parents=250)
    methods: dict[str, Callable[[], float]] = {
        "bare predictor, batches of 1000": lambda: bare_rate(encoding, predictor, arguments.seconds),
        "Optuna NSGA-II, population 100": lambda: optuna_rate(encoding, predictor, latency, energy, 600),
        "evolution, 50,000 evaluations": lambda: our_rate(best, Evolution(), 50_000),
        "evolution, 1,000,000 evaluations": lambda: our_rate(best, Evolution(), 1_000_000),
        "evolution, 4 islands of 1000, 200,000": lambda: our_rate(best, large, 200_000, islands=4),
        "NSGA-II, 50,000 evaluations": lambda: our_rate(front, NSGA2(), 50_000),
        "NSGA-II of 500, 100,000 evaluations": lambda: our_rate(front, NSGA2(population=500, parents=500), 100_000),
    }
    if importlib.util.find_spec("pymoo") is not None:
        methods["pymoo NSGA-II of 500, 20,000"] = lambda: pymoo_rate(front, 500, 20_000)
    rounds: list[dict[str, float]] = []
    with threadpool_limits(limits=1):
        for _ in range(arguments.rounds):
            whole, steady = one_at_a_time_rate(encoding, predictor, latency, energy, 10_000)
            own = {"one at a time": whole, "one at a time, first generation left out": steady}
            rounds.append(own | {name: measure() for name, measure in methods.items()})
        dense = dense_rate(encoding, predictor, arguments.seconds)
        sparse = sparse_rate(encoding, predictor, arguments.seconds) / dense
        rows = embedding_rate(encoding, predictor, arguments.seconds) / dense
    rates = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    whole, steady = list(rates.values())[:2]
    bare = rates["bare predictor, batches of 1000"]
    print(f"{'distinct feasible candidates per second':42}{'x one by one':>16}{'x without first':>16}{'% of bare':>12}")
    for name, rate in rates.items():
        print(f"{name:42}{rate / whole:16.2f}{rate / steady:16.2f}{100 * rate / bare:12.1f}")
    print(
        f"\nfirst layer, relative to a dense product: sparse product {sparse:.2f} x, torch's embedding bag {rows:.2f} x"
    )
    print("\nevolution: evaluations, time relative to that of 1000, peak MB of the process")
    first = None
    for n, seconds, megabytes in growth(tuple(10**k for k in range(3, 7) if 10**k <= arguments.largest)):
        first = first or seconds
        print(f"{n:10}{seconds / first:12.1f}{megabytes:10.0f}")


if __name__ == "__main__":
    with one_line_errors():
        main()
