"""Evolutionary algorithms as Optuna samplers, for studies of a few hundred to a few thousand trials.

    study = optuna.create_study(sampler=EvolutionSampler(space=space, seed=0))

Constraints are set by ``trial.set_constraint``; a trial without any is feasible. Choices of a categorical parameter are
treated as ordered, so neighbouring choices should be similar. Results are reproducible with ``n_jobs=1``; with parallel
trials they depend on the order in which trials end.
"""

from __future__ import annotations

from optuna.study import Study

from apq_tune.errors import StudyError
from apq_tune.hosts.optuna_population import PopulationSampler, SpaceOrEncoding
from apq_tune.searchers.algorithms import NSGA2, Evolution

SMALL = 20
"""Default population and number of parents of ``EvolutionSampler``. Those of ``Evolution``, 50, suit many thousands of
evaluations; in 200 and 600 evaluations of synthetic losses over ``digits`` and ``apq_mobilenet``, 20 were better."""


class EvolutionSampler(PopulationSampler):
    """Sampler of single-objective studies by constrained evolution; see ``apq_tune.Evolution``."""

    def __init__(
        self,
        *,
        space: SpaceOrEncoding | None = None,
        population: int = SMALL,
        parents: int = SMALL,
        crossover: float = Evolution.crossover,
        mutation: tuple[float, float] = Evolution.mutation,
        max_age: int | None = Evolution.max_age,
        seed: int | None = 0,
    ) -> None:
        """Create the sampler.

        Args:
            space: Search space whose genes are categorical parameters of the study, possibly beside others. Candidates
                are then never repeated (equal networks count as one), children satisfy the rules of the space, and the
                first generation covers small to large networks. ``None`` for arbitrary parameters.
            population: Number of finished trials per generation.
            parents: Number of survivors, out of parents and children together.
            crossover: Share of children that mix two parents.
            mutation: Smallest and largest expected number of mutated parameters; each child draws its own.
            max_age: Number of generations after which even the best trial is no longer a parent; ``None`` for no limit.
            seed: Random seed; ``None`` to draw one.

        Raises:
            ProblemError: If a setting is invalid; the message names it.
        """
        super().__init__(Evolution(population, parents, crossover, mutation, max_age), space, seed)

    def _check(self, study: Study) -> None:
        n = len(study.directions)
        if n != 1:
            raise StudyError(f"EvolutionSampler has one objective, {study.study_name!r} has {n}; take NSGA2Sampler")


class NSGA2Sampler(PopulationSampler):
    """Sampler of studies with any number of objectives by NSGA-II; see ``apq_tune.NSGA2``."""

    def __init__(
        self,
        *,
        space: SpaceOrEncoding | None = None,
        population: int = NSGA2.population,
        parents: int = NSGA2.parents,
        crossover: float = NSGA2.crossover,
        mutation: tuple[float, float] = NSGA2.mutation,
        max_age: int | None = NSGA2.max_age,
        seed: int | None = 0,
    ) -> None:
        """Create the sampler; see ``EvolutionSampler`` for the arguments.

        Raises:
            ProblemError: If a setting is invalid; the message names it.
        """
        super().__init__(NSGA2(population, parents, crossover, mutation, max_age), space, seed)
