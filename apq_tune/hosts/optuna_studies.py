"""Studies with the built-in samplers of Optuna, as baselines of comparisons."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import numpy as np
import optuna
from threadpoolctl import threadpool_limits

from apq_tune.problem.problem import Problem

SAMPLERS: Mapping[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "optuna-nsga2": lambda seed: optuna.samplers.NSGAIISampler(seed=seed),
    "optuna-tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "optuna-gp": lambda seed: optuna.samplers.GPSampler(seed=seed),
    "optuna-nsga3": lambda seed: optuna.samplers.NSGAIIISampler(seed=seed),
    "optuna-random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}
"""Built-in samplers of Optuna with default settings, by name."""

TRIALS = 2
"""Maximum number of trials per requested candidate, as samplers that repeat known candidates would never end."""

IDLE = 100
"""Number of consecutive trials without a new candidate after which a study ends."""


def run_study(problem: Problem, sampler: str, *, n_evaluations: int, seed: int) -> int:
    """Run a study until a given number of distinct candidates is evaluated.

    Every gene is a categorical parameter. Inactive genes are reset before a candidate is evaluated, and forbidden
    combinations are repaired. Repeated candidates are answered from a cache, so that ``problem.evaluate`` sees every
    candidate once, one at a time. The study starts with the same candidates as ``search``.

    Args:
        problem: Problem with objectives and constraints.
        sampler: Name of the sampler, one of ``SAMPLERS``.
        n_evaluations: Number of distinct candidates to evaluate.
        seed: Seed of the sampler.

    Returns:
        Number of trials. Fewer candidates than requested are evaluated if ``TRIALS`` times as many trials, or ``IDLE``
        consecutive trials, do not find enough new ones.
    """
    encoding, rng = problem.encoding, np.random.default_rng(seed)
    free = Problem(encoding, problem.objectives)  # gives the objectives of infeasible candidates
    names = [f"gene {place}" for place in range(len(encoding.n_choices))]
    known: dict[bytes, tuple[list[float], list[float]]] = {}
    trials = last_new = 0
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings(), threadpool_limits(limits=1):
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(
                directions=["minimize"] * len(problem.objectives), sampler=SAMPLERS[sampler](seed)
            )
            for genome in encoding.uniform_policies().tolist():
                study.enqueue_trial(dict(zip(names, genome, strict=True)))
            most = min(n_evaluations, encoding.size())
            while len(known) < most and trials < min(TRIALS * n_evaluations, last_new + IDLE):
                trials += 1
                trial = study.ask()
                row = [
                    trial.suggest_categorical(name, list(range(size)))
                    for name, size in zip(names, encoding.n_choices.tolist(), strict=True)
                ]
                genomes = encoding.canonicalise(encoding.repair(np.array([row], np.int16), rng))
                key = genomes.tobytes()
                if key not in known:
                    scores = problem.evaluate(genomes)
                    F = scores.F if scores.feasible.all() else free.evaluate(genomes).F
                    known[key], last_new = (F[0].tolist(), scores.G[0].tolist()), trials
                values, violations = known[key]
                for name, violation in zip(problem.constraint_names, violations, strict=True):
                    trial.set_constraint(name, violation)
                study.tell(trial, values)
    finally:
        optuna.logging.set_verbosity(before)
    return trials
