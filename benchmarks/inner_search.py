"""How many candidates a second does a search score, against one at a time, Optuna, and the bare predictor?

APQ's ImageNet space, a predictor of the published shape (772-400-400-400-1, random weights), two cost models, a
limit on latency. One core. Only distinct candidates that keep the limit are counted, for everyone.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from apq_tune import NSGA2, Constraint, Encoding, Evolution, Objective, Problem, SearchSpace, search
from apq_tune.candidate import Block, Candidate
from apq_tune.cost import CostModel, bitfusion_energy_mj, bitfusion_latency_ms
from apq_tune.predict.mlp import MLPPredictor, mlp_shapes
from apq_tune.predict.pairs import Scale

HIDDEN, LIMIT_MS = 400, 9.0


def ingredients() -> tuple[Encoding, MLPPredictor, CostModel, CostModel]:
    encoding, rng = Encoding(SearchSpace.load("apq_mobilenet")), np.random.default_rng(0)
    shapes = mlp_shapes(encoding, HIDDEN, bits=True)
    weights = {name: rng.normal(0, (2 / s[0]) ** 0.5, s).astype(np.float32) for name, s in shapes.items()}
    predictor = MLPPredictor(encoding, weights, Scale(0.0, 1.0, log=False))
    return encoding, predictor, bitfusion_latency_ms(encoding), bitfusion_energy_mj(encoding)


def bare_rate(encoding: Encoding, predictor: MLPPredictor, seconds: float) -> float:
    """Candidates a second of the predictor's four products alone, on batches of 1000 ready features."""
    features = encoding.features(encoding.sample(1000, np.random.default_rng(0)))
    w, n_arch = predictor.weights, encoding.n_arch_features
    arch, bits = np.ascontiguousarray(features[:, :n_arch]), np.ascontiguousarray(features[:, n_arch:])

    def once() -> None:
        h = np.maximum(arch @ w["W0"] + w["b0"], 0) + (bits @ w["Wq"] + w["bq"])
        h = np.maximum(h @ w["W1"] + w["b1"], 0)
        h = np.maximum(h @ w["W2"] + w["b2"], 0)
        _ = h @ w["W3"] + w["b3"]

    once()
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        once()
        done += len(features)
    return done / (time.perf_counter() - start)


def our_rate(problem: Problem, algorithm: Evolution, n: int) -> float:
    """Distinct feasible candidates a second; the predictor is asked for feasible ones only, so it can count them."""
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
    search(asked, algorithm, n_evaluations=n)
    return counted / (time.perf_counter() - start)


def one_at_a_time_rate(
    encoding: Encoding, predictor: MLPPredictor, latency: CostModel, energy: CostModel, seconds: float
) -> float:
    """An evolution as commonly written: a loop over candidates, a dictionary of op costs, a predictor call for each."""
    rng = np.random.default_rng(0)
    slots, space = encoding.space.slots, encoding.space
    tables = [_dictionary(encoding, model) for model in (latency, energy)]
    fixed = [model.fixed(space.resolutions[-1]) for model in (latency, energy)]
    bits = space.bit_choices()

    def random_block(slot: Any) -> Block:
        while True:
            block = Block(*(int(rng.choice(v)) for v in (slot.kernel_sizes, slot.channels, *bits)))
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

    start, seen = time.perf_counter(), set()
    population: list[tuple[float, tuple[list[int], list[Block]]]] = []
    while time.perf_counter() - start < seconds:
        parents = [genes for _, genes in sorted(population, key=lambda row: -row[0])[:25]]
        population = population[:0]
        while len(population) < 100 and time.perf_counter() - start < seconds:
            genes = mutate(parents[rng.integers(len(parents))]) if parents else sample()
            scored = score(genes)
            if scored is not None:
                seen.add(scored[1])
                population.append((scored[0], genes))
    return len(seen) / (time.perf_counter() - start)


class _Lookup(dict[Any, float]):
    """Costs of blocks by place and choices, filled when first asked for, as a latency table in memory would be."""

    def __init__(self, price: Callable[[str, Block], float]) -> None:
        super().__init__()
        self._price = price

    def __missing__(self, key: tuple[str, Block]) -> float:
        self[key] = value = self._price(*key)
        return value


def _dictionary(encoding: Encoding, model: CostModel) -> _Lookup:
    slots = {slot.name: i for i, slot in enumerate(encoding.space.slots)}
    return _Lookup(lambda name, block: model.block(slots[name], block))


def optuna_rate(
    encoding: Encoding, predictor: MLPPredictor, latency: CostModel, energy: CostModel, trials: int
) -> float:
    """Plain Optuna: one trial a candidate, its NSGA-II with the same population."""
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


def growth(counts: tuple[int, ...]) -> Iterator[tuple[int, float, float]]:
    """Seconds and peak memory of whole searches, each in a process of its own."""
    for n in counts:
        shown = subprocess.run(
            [sys.executable, __file__, "--only", str(n)], check=True, capture_output=True, text=True
        ).stdout.split()
        yield n, float(shown[0]), float(shown[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--largest", type=int, default=1_000_000)
    parser.add_argument("--only", type=int, help="one search of so many evaluations: seconds and peak MB")
    arguments = parser.parse_args()
    encoding, predictor, latency, energy = ingredients()
    limit = Constraint(latency, LIMIT_MS)
    best = Problem(encoding, [Objective(predictor, "maximize")], [limit], also=[energy])
    if arguments.only:
        start = time.perf_counter()
        search(best, Evolution(population=1000, parents=250), n_evaluations=arguments.only)
        print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    front = Problem(encoding, [Objective(predictor, "maximize"), Objective(latency)], [limit], also=[energy])
    with threadpool_limits(limits=1):
        bare = bare_rate(encoding, predictor, arguments.seconds / 3)
        slow = one_at_a_time_rate(encoding, predictor, latency, energy, arguments.seconds)
        rates = {
            "bare predictor, batches of 1000": bare,
            "one candidate at a time": slow,
            "Optuna NSGA-II": optuna_rate(encoding, predictor, latency, energy, 600),
            "ours: evolution, population 100": our_rate(best, Evolution(), 100_000),
            "ours: evolution, population 1000": our_rate(best, Evolution(population=1000, parents=250), 200_000),
            "ours: NSGA-II, population 100": our_rate(front, NSGA2(), 50_000),
            "ours: NSGA-II, population 500": our_rate(front, NSGA2(population=500, parents=500), 100_000),
        }
    print(f"{'distinct feasible candidates a second':40}{'x one at a time':>16}{'% of bare':>12}")
    for name, rate in rates.items():
        print(f"{name:40}{rate / slow:16.1f}{100 * rate / bare:12.1f}")
    print("\nevolution, population 1000: evaluations, time over that of 1000, peak MB of the process")
    first = None
    for n, seconds, megabytes in growth(tuple(10**k for k in range(3, 7) if 10**k <= arguments.largest)):
        first = first or seconds
        print(f"{n:10}{seconds / first:12.1f}{megabytes:10.0f}")


if __name__ == "__main__":
    main()
