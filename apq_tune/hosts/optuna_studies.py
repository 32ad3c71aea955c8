"""Optuna's own samplers on a problem of ours, one trial a candidate: the rivals to compare with."""

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
"""By name, with Optuna's defaults."""

TRIALS = 2
"""Most trials for each candidate asked for: samplers that come back to what they know would never end."""

IDLE = 100
"""After so many trials in a row that brought nothing new a sampler is at rest."""


def run_study(problem: Problem, sampler: str, *, n_evaluations: int, seed: int) -> int:
    """Ask and tell until so many distinct candidates were evaluated.

    Every gene is a categorical parameter, always; genes that do not matter are reset before a candidate is scored, and
    forbidden combinations are redrawn. What comes again is answered from memory: ``problem.evaluate`` sees every
    candidate once, one at a time. The study begins with the candidates that ``search`` begins with.

    Args:
        problem: objectives and constraints.
        sampler: one of ``SAMPLERS``.
        n_evaluations: distinct candidates.
        seed: of the sampler.

    Returns:
        How many trials that took. There are fewer candidates than asked for if twice as many trials did not find
        them, or 100 trials in a row found none.
    """
    encoding, rng = problem.encoding, np.random.default_rng(seed)
    free = Problem(encoding, problem.objectives)  # what infeasible candidates are worth
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
