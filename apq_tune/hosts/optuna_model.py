"""The model-based searcher as an Optuna sampler: everything it knows is read off the study."""

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
from apq_tune.hosts.optuna import HUGE, Past, PopulationSampler, Space
from apq_tune.hosts.optuna_genes import ParameterGenes
from apq_tune.problem.problem import Problem, constraint_name
from apq_tune.searchers.algorithms import NSGA2
from apq_tune.searchers.model.columns import Columns
from apq_tune.searchers.model.exact import Exact
from apq_tune.searchers.model.propose import Observations, ProposalSettings, propose
from apq_tune.searchers.model_based import MODELLED
from apq_tune.space.encoding import Genomes


class ModelSampler(PopulationSampler):
    """Gaussian processes and expected hypervolume improvement, for trials that cost minutes: ``apq_tune.ModelBased``.

    Any number of objectives; constraints are those of ``trial.set_constraint``, each modelled by itself; trials that
    run count as what they are believed to become. After ``modelled`` trials it is ``NSGA2Sampler``. It keeps nothing:
    on a resumed study it goes on as if it had never stopped.
    """

    def __init__(
        self,
        *,
        space: Space | None = None,
        problem: Problem | None = None,
        initial: int = ProposalSettings.initial,
        modelled: int = MODELLED,
        pool: int = ProposalSettings.pool,
        seed: int | None = None,
    ) -> None:
        """Check the settings.

        Args:
            space: whose parameters the study has, each a categorical one over the values of a gene: then no candidate
                comes twice. Other parameters may stand beside them. ``None``: any parameters.
            problem: of which the study is; its space is taken, and objectives and constraints that are cost models are
                computed instead of modelled.
            initial: trials before a model is asked.
            modelled: trials up to which the model is asked.
            pool: candidates that are scored for each trial.
            seed: same seed, same trials; ``None`` draws one.

        Raises:
            ProblemError: naming the setting that makes no sense.
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
        """All parameters that our space or any finished trial has; of several ranges of one, the latest."""
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
        """The candidate that is expected to add most to the front."""
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
        """What the study says; constraints that are computed come first, those that were told after them."""
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
    """Parameters of a study as a genotype: those of our space, if they are all there, and any others beside them."""

    @property
    def own(self) -> Any:
        """NetworkEncoding of our space; ``None`` if not all its parameters are there."""
        return self._encoding

    @property
    def _n_own(self) -> int:
        return 0 if self._encoding is None else len(self._encoding.names)

    def columns(self) -> Columns:
        """Features of a genome."""
        ordered = [
            not isinstance(own, CategoricalDistribution)
            or all(isinstance(value, int | float) and not isinstance(value, bool) for value in own.choices)
            for own in self.distributions.values()
        ]
        others = list(zip(self.n_choices.tolist(), ordered, strict=True))[self._n_own :]
        return Columns.of(self._encoding, others)

    def candidates(self, genomes: Genomes) -> Genomes:
        """The part of a genome that is a candidate of our space, as cost models take it."""
        own = genomes[:, : self._n_own]
        return self._encoding.widen(own) if isinstance(self._encoding, NarrowedEncoding) else own

    def read(self, trials: Sequence[FrozenTrial]) -> Genomes:
        """``n`` trials -> ``(n, n_genes)``, canonical; what a trial lacks is in the middle of its range."""
        if not trials:
            return np.zeros((0, len(self.n_choices)), np.int16)
        genomes, lacking = self.encode(trials)
        return self.canonicalise(np.where(lacking, self.n_choices // 2, genomes).astype(np.int16))

    def canonicalise(self, genomes: Genomes) -> Genomes:
        """Equal candidates get equal genomes."""
        if self._encoding is None:
            return genomes
        own = self._encoding.canonicalise(genomes[:, : self._n_own])
        return np.concatenate([own, genomes[:, self._n_own :]], axis=1)

    def fill_inert(self, genomes: Genomes, rng: np.random.Generator) -> Genomes:
        """Draw genes that do not matter."""
        if self._encoding is None:
            return genomes
        own = self._encoding.fill_inert(genomes[:, : self._n_own], rng)
        return np.concatenate([own, genomes[:, self._n_own :]], axis=1)

    def sample(self, n: int, rng: np.random.Generator) -> Genomes:
        """``n`` canonical genomes."""
        return self.canonicalise(super().sample(n, rng))

    def size(self) -> int:
        """Upper bound of the number of candidates."""
        return int(np.prod(self.n_choices, dtype=object))

    def enumerate(self) -> Genomes:
        """Every genome, the forbidden ones left out."""
        every = np.indices(self.n_choices.tolist()).reshape(len(self.n_choices), -1).T.astype(np.int16)
        kept = (self.repair(every, np.random.default_rng(0)) == every).all(axis=1)
        return np.unique(self.canonicalise(every[kept]), axis=0)

    def uniform_policies(self) -> Genomes:
        """None: what anyone would try first is a matter of other parameters, too."""
        if self._encoding is None or self._n_own < len(self.n_choices):
            return np.zeros((0, len(self.n_choices)), np.int16)
        return np.asarray(self._encoding.uniform_policies(), np.int16)
