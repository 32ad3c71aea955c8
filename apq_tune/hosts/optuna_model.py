"""Bayesian optimization as a stateless Optuna sampler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from threadpoolctl import threadpool_limits

from apq_tune.errors import ProblemError
from apq_tune.hosts.narrowed import NarrowedEncoding
from apq_tune.hosts.optuna_genes import ParameterGenes
from apq_tune.hosts.optuna_population import HUGE, Past, PopulationSampler, SpaceOrEncoding
from apq_tune.problem.problem import Problem, constraint_name
from apq_tune.searchers.algorithms import NSGA2
from apq_tune.searchers.model.columns import Columns
from apq_tune.searchers.model.exact import Exact
from apq_tune.searchers.model.propose import ProposalSettings, propose
from apq_tune.searchers.model.surrogates import Observations
from apq_tune.searchers.model_based import MODELLED
from apq_tune.space.encoding import Genomes


class ModelSampler(PopulationSampler):
    """Sampler by expected hypervolume improvement, for trials that take minutes; see ``apq_tune.ModelBased``.

    It supports any number of objectives. Constraints, set by ``trial.set_constraint``, are modelled one by one; running
    trials are assumed to give their predicted values. After ``modelled`` trials it samples like ``NSGA2Sampler``. It is
    stateless: on a resumed study it continues as if there had been no interruption.
    """

    def __init__(
        self,
        *,
        space: SpaceOrEncoding | None = None,
        problem: Problem | None = None,
        initial: int = ProposalSettings.initial,
        modelled: int = MODELLED,
        pool: int = ProposalSettings.pool,
        seed: int | None = 0,
    ) -> None:
        """Create the sampler.

        Args:
            space: Search space whose genes are categorical parameters of the study, possibly beside others; candidates
                are then never repeated. ``None`` for arbitrary parameters.
            problem: Problem of the study. It provides the search space by default, and objectives and constraints that
                are cost models are computed instead of modelled.
            initial: Number of trials before models are fitted.
            modelled: Number of trials up to which models are used.
            pool: Number of candidates that are scored for each trial.
            seed: Random seed; ``None`` to draw one.

        Raises:
            ProblemError: If a setting is invalid; the message names it.
        """
        if modelled < 1:
            raise ProblemError(f"modelled is {modelled}; give at least 1")
        self._settings, self._modelled, self._problem = ProposalSettings(initial, pool), modelled, problem
        if problem is not None and space is None:
            space = problem.encoding.space
        super().__init__(NSGA2(), space, seed)

    def _forget(self) -> None:
        super()._forget()
        self._columns: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_columns"}

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Parameters of the search space and of all finished trials, with the latest distribution of each."""
        past = self._read(study.get_trials(deepcopy=False), study.directions)
        if len(past.usable) >= self._modelled:
            return super().infer_relative_search_space(study, trial)
        union: dict[str, BaseDistribution] = {}
        for usable in past.usable:
            union |= usable.distributions
        return {name: own for name, own in union.items() if not own.single()} | self._own

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Sample the candidate with the greatest expected improvement."""
        trials = study.get_trials(deepcopy=False)
        past = self._read(trials, study.directions)
        if not search_space or len(past.usable) >= self._modelled:
            return super().sample_relative(study, trial, search_space)
        genes, rng = StudyGenes(search_space, self._encoding), self._rng(trial)
        running = [t for t in trials if t.state == TrialState.RUNNING and t.number != trial.number and t.params]
        exact = Exact() if self._problem is None or genes.own is None else Exact.of(self._problem).on(genes.candidates)
        known = self._known(past, genes, exact, study.directions, running)
        computed = tuple(score for score in exact.constraints if score is not None)
        with threadpool_limits(limits=1):
            found = propose(
                known, 1, genes, self._columns_of(genes), self._settings, rng, Exact(exact.objectives, computed)
            )
        return genes.decode((found if len(found) else genes.sample(1, rng))[0])

    def _known(
        self,
        past: Past,
        genes: StudyGenes,
        exact: Exact,
        directions: Sequence[StudyDirection],
        running: Sequence[FrozenTrial],
    ) -> Observations:
        """Observations of the study; computed constraints precede reported ones."""
        told = past.usable
        numbers = {trial.number for trial in told}
        lost = [trial for trial in past.finished if trial.number not in numbers and trial.params]
        genomes = genes.read([*told, *lost])
        scores, aliases = [], set()
        if self._problem is not None:
            for constraint, score in zip(self._problem.constraints, exact.constraints, strict=False):
                if score is not None:
                    scores.append(score(genomes))
                    aliases |= {str(constraint), constraint_name(constraint)}
        names = list(dict.fromkeys(name for trial in told for name in trial.constraints if name not in aliases))
        signs = np.array([-1.0 if direction == StudyDirection.MAXIMIZE else 1.0 for direction in directions])
        F = np.full((len(genomes), len(signs)), np.nan)
        F[: len(told)] = np.array([trial.values for trial in told], np.float64).reshape(len(told), len(signs)) * signs
        G = np.full((len(genomes), len(names)), np.nan)
        for row, trial in enumerate(told):
            G[row] = [trial.constraints.get(name, np.nan) for name in names]
        G = np.column_stack([*scores, G])
        return Observations(genomes, np.where(np.abs(F) < HUGE, F, np.inf), G, genes.read(running))

    def _columns_of(self, genes: StudyGenes) -> Columns:
        key = repr(genes.distributions)
        if key not in self._columns:
            self._columns = {key: genes.columns()}
        return self._columns[key]  # type: ignore[no-any-return]


class StudyGenes(ParameterGenes):
    """Encoding of a study's parameters: those of the search space, if all are present, and any others."""

    @property
    def own(self) -> Any:
        """Encoding of the search space; ``None`` if not all of its parameters are present."""
        return self._encoding

    @property
    def _n_own(self) -> int:
        return 0 if self._encoding is None else len(self._encoding.names)

    def columns(self) -> Columns:
        """Features of genomes."""
        ordered = [
            not isinstance(own, CategoricalDistribution)
            or all(isinstance(value, int | float) and not isinstance(value, bool) for value in own.choices)
            for own in self.distributions.values()
        ]
        others = list(zip(self.n_choices.tolist(), ordered, strict=True))[self._n_own :]
        return Columns.of(self._encoding, others)

    def candidates(self, genomes: Genomes) -> Genomes:
        """Genes of the search space, as cost models expect them."""
        own = genomes[:, : self._n_own]
        return self._encoding.widen(own) if isinstance(self._encoding, NarrowedEncoding) else own

    def read(self, trials: Sequence[FrozenTrial]) -> Genomes:
        """Canonical genomes of trials, shape ``(n, n_genes)``; missing parameters are at mid-range."""
        if not trials:
            return np.zeros((0, len(self.n_choices)), np.int16)
        genomes, lacking = self.encode(trials)
        return self.canonicalise(np.where(lacking, self.n_choices // 2, genomes).astype(np.int16))

    def canonicalise(self, genomes: Genomes) -> Genomes:
        """Map genomes of equal candidates to the same genome."""
        if self._encoding is None:
            return genomes
        own = self._encoding.canonicalise(genomes[:, : self._n_own])
        return np.concatenate([own, genomes[:, self._n_own :]], axis=1)

    def fill_inert(self, genomes: Genomes, rng: np.random.Generator) -> Genomes:
        """Draw random values for inactive genes."""
        if self._encoding is None:
            return genomes
        own = self._encoding.fill_inert(genomes[:, : self._n_own], rng)
        return np.concatenate([own, genomes[:, self._n_own :]], axis=1)

    def sample(self, n: int, rng: np.random.Generator) -> Genomes:
        """Sample ``n`` canonical genomes."""
        return self.canonicalise(super().sample(n, rng))

    def size(self) -> int:
        """Upper bound of the number of candidates."""
        return int(np.prod(self.n_choices, dtype=object))

    def enumerate(self) -> Genomes:
        """All allowed genomes."""
        every = np.indices(self.n_choices.tolist()).reshape(len(self.n_choices), -1).T.astype(np.int16)
        kept = (self.repair(every, np.random.default_rng(0)) == every).all(axis=1)
        return np.unique(self.canonicalise(every[kept]), axis=0)

    def uniform_policies(self) -> Genomes:
        """Uniform policies of the search space; empty if the study has further parameters."""
        if self._encoding is None or self._n_own < len(self.n_choices):
            return np.zeros((0, len(self.n_choices)), np.int16)
        return np.asarray(self._encoding.uniform_policies(), np.int16)
