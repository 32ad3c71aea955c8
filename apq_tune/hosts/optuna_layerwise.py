"""Reinforcement learning as an Optuna sampler without a state of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution

from apq_tune.errors import ProblemError
from apq_tune.hosts.optuna_model import StudyGenes
from apq_tune.hosts.optuna_population import Parents, PopulationSampler, SpaceOrEncoding
from apq_tune.problem.problem import Constraint, Problem
from apq_tune.searchers.layerwise.algorithm import LayerwiseDDPG
from apq_tune.searchers.layerwise.episode import Course
from apq_tune.searchers.layerwise.settings import AMC, HAQ, PassSettings
from apq_tune.searchers.layerwise.walk import Walk
from apq_tune.space.encoding import Genomes
from apq_tune.space.gene import Gene


class LayerwiseDDPGSampler(PopulationSampler):
    """Sampler by DDPG that decides channels as AMC and bits as HAQ, layer by layer; see ``apq_tune.LayerwiseDDPG``.

    Each trial is an episode. The agents are learned anew from the trials of the study when a study is resumed, so that
    it continues as if there had been no interruption; between trials they are remembered. It supports any number of
    objectives. Parameters that are numbers or have two values are decided, others are drawn.
    """

    children = 1

    def __init__(
        self,
        *,
        space: SpaceOrEncoding | None = None,
        problem: Problem | None = None,
        constraints: Sequence[Constraint] | None = None,
        channels: PassSettings = AMC,
        bits: PassSettings = HAQ,
        seed: int | None = 0,
    ) -> None:
        """Create the sampler.

        Args:
            space: Search space whose genes are categorical parameters of the study, possibly beside others. ``None``
                for arbitrary parameters, which are decided without a wall.
            problem: Problem of the study. It provides the search space by default, and the limits.
            constraints: Limits that every trial keeps, on metrics that are computed and not measured; by default those
                of the problem on cost models, tables and sums of terms.
            channels: Settings of the pass over channels and all that is no bit-width; by default those of AMC.
            bits: Settings of the pass over bits; by default those of HAQ.
            seed: Random seed; ``None`` to draw one.

        Raises:
            ProblemError: If a setting is invalid; the message names it. The first trial raises it if no candidate keeps
                the limits.
        """
        if problem is not None and space is None:
            space = problem.encoding.space
        super().__init__(LayerwiseDDPG(channels, bits), space, seed)
        own = LayerwiseDDPG(channels, bits, seed=self._seed)
        if constraints is not None:
            if constraints and space is None:
                words = ", ".join(map(str, constraints))
                raise ProblemError(f"constraints are {words}; give the space whose costs they limit")
            own = own.within(constraints, self._seed)
        elif problem is not None:
            own = own.prepared(problem, self._seed)
        self._algorithm: LayerwiseDDPG = own

    def _forget(self) -> None:
        super()._forget()
        self._course: tuple[WalkedGenes, Course] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_course"}

    def _genes(self, search_space: Mapping[str, BaseDistribution]) -> WalkedGenes:
        return WalkedGenes(search_space, self._encoding)

    def _ask(self, parents: Parents, n: int, rng: np.random.Generator) -> Genomes:
        genes, state = parents.genes, parents.state
        assert isinstance(genes, WalkedGenes)
        if self._course is None or self._course[0] is not genes:
            start = np.zeros(len(genes.n_choices), np.int16)
            self._course = genes, self._algorithm.course(Walk.of(genes), start, genes.candidates)
        if state is not None:
            genomes = parents.genomes
            if parents.lacking is not None:
                genomes = np.where(parents.lacking, genes.n_choices // 2, genomes)
            state = state._replace(genomes=genomes)
        return self._algorithm.propose(state, n, self._course[1], rng)

    def _drawn(self, parents: Parents, n: int, rng: np.random.Generator) -> Genomes:
        return self._ask(parents, n, rng)  # none may be over the limits


class WalkedGenes(StudyGenes):
    """Genes of a study's parameters as a walk needs them."""

    @property
    def space(self) -> object:
        """Search space; ``None`` if not all of its parameters are present."""
        return None if self.own is None else self.own.space

    @property
    def genes(self) -> Sequence[Gene]:
        """Genes of the search space, then those of all other parameters."""
        found = [] if self.own is None else list(self.own.genes)
        for name, own in list(self.distributions.items())[len(found) :]:
            numbers = tuple(range(int(self.n_choices[len(found)])))
            values = tuple(own.choices) if isinstance(own, CategoricalDistribution) else numbers
            found.append(Gene(name, "choice", values))
        return found

    def active_genes(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Whether genes affect the candidate, shape ``(n, n_genes)``."""
        active = np.ones(genomes.shape, bool)
        if self.own is not None:
            n = len(self.own.names)
            active[:, :n] = self.own.active_genes(genomes[:, :n])
        return active

    def is_allowed(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Whether genomes contain no forbidden combination, shape ``(n,)``."""
        if self.own is None:
            return np.ones(len(genomes), bool)
        return np.asarray(self.own.is_allowed(genomes[:, : len(self.own.names)]))
