"""What does evaluating whole populations at once gain over one candidate at a time?

Scores the same genomes by a predictor of the shape that runs use (an MLP and a ridge on it) and by all cost models, in
batches of different sizes; then times whole searches. Prints ratios: absolute times depend on the machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from apq_tune import NSGA2, Encoding, Objective, Problem, RandomSearch, SearchSpace, cost_models, search
from apq_tune.predict import Pairs, fit_fp32, fit_mlp, fit_residual

N = 4000


def main() -> None:
    torch.set_num_threads(1)
    encoding, rng = Encoding(SearchSpace.load("digits")), np.random.default_rng(0)
    costs = cost_models(encoding)
    genomes = encoding.sample(200, rng)
    pairs = Pairs(genomes, np.exp(rng.normal(size=200)))
    proxy = fit_mlp(encoding, pairs, 0, bits=True, start=fit_fp32(encoding, pairs, 0))
    problem = Problem(
        encoding, [Objective(fit_residual(encoding, pairs, 0, base=proxy)), Objective(costs[1])], (), costs
    )
    genomes = encoding.sample(N, rng)

    def evaluate(batch: int) -> None:
        for start in range(0, N, batch):
            problem.evaluate(genomes[start : start + batch])

    tasks: dict[str, Callable[[], object]] = {
        f"evaluate, batches of {batch}": partial(evaluate, batch) for batch in (1, 10, 100, 1000)
    }
    tasks |= {
        f"search with {algorithm!r}": partial(search, problem, algorithm, n_evaluations=N)
        for algorithm in (RandomSearch(), NSGA2())
    }
    rates = {}
    for name, task in tasks.items():
        start = time.process_time()
        task()
        rates[name] = N / (time.process_time() - start)
    for name, rate in rates.items():
        print(f"{rate / rates['evaluate, batches of 1']:8.1f} x  {name}")


if __name__ == "__main__":
    main()
