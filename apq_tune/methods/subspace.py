"""Parts of a search space, each the image of a projection of genomes, and samples from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import ProblemError
from apq_tune.methods.projections import Project
from apq_tune.problem.metric import Floats, FunctionMetric, Metric
from apq_tune.problem.problem import Constraint, Objective, Problem
from apq_tune.searchers.vary import spread, vary
from apq_tune.space.encoding import Encoding, Genomes
from apq_tune.space.gene import Gene

BAND = 0.75
"""Preferred minimum share of the tightest limit that samples use, as much smaller networks are uninformative."""

DRAWS, ROUNDS, PARENTS = 1000, 60, 200
"""Number of genomes per draw, number of draws, and number of the best genomes that later draws are varied from."""

IDLE = 6
"""Number of consecutive draws without a new genome after which sampling ends."""


@dataclass(frozen=True)
class Subspace:
    """The genomes that a projection maps to themselves; an ``Encoding``, so that any search works on it.

    Attributes:
        encoding: Encoding of the whole space.
        project: Projection onto the subspace.
    """

    encoding: Encoding
    project: Project

    @property
    def n_choices(self) -> NDArray[np.int16]:
        """Number of values of each gene in the whole space; ``canonicalise`` overrules genes that follow others."""
        return self.encoding.n_choices

    @property
    def name(self) -> str:
        """Name of the search space."""
        return self.encoding.name

    @property
    def genes(self) -> tuple[Gene, ...]:
        """Genes of the whole space, shape ``(n_genes,)``."""
        return self.encoding.genes

    @property
    def space(self) -> object:
        """The whole search space."""
        return self.encoding.space

    def size(self) -> int:
        """Number of distinct candidates of the whole space, an upper bound for the subspace."""
        return self.encoding.size()

    def active_genes(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Whether genes affect the candidate, shape ``(n, n_genes)``."""
        return self.encoding.active_genes(genomes)

    @property
    def forbids(self) -> bool:
        """Whether combinations of values are forbidden."""
        return self.encoding.forbids

    def is_allowed(self, genomes: Genomes) -> NDArray[np.bool_]:
        """Whether genomes contain no forbidden combination, shape ``(n,)``."""
        return self.encoding.is_allowed(genomes)

    def features(self, genomes: Genomes) -> NDArray[np.float32]:
        """Features as in the whole space, shape ``(n, n_features)``."""
        return self.encoding.features(genomes)

    def repair(self, genomes: Genomes, rng: np.random.Generator) -> Genomes:
        """Repair as in the whole space; projections can break rules again, which the constraint ``allowed`` detects."""
        return self.encoding.repair(genomes, rng)

    def canonicalise(self, genomes: Genomes) -> Genomes:
        """Project; equal networks get equal genomes."""
        return np.asarray(self.encoding.canonicalise(self.project(genomes)), np.int16)

    def sample(self, n: int, rng: np.random.Generator) -> Genomes:
        """Sample ``n`` canonical genomes."""
        return self.canonicalise(self.encoding.sample(n, rng))

    def fill_inert(self, genomes: Genomes, rng: np.random.Generator) -> Genomes:
        """Draw random values for inactive genes."""
        return self.encoding.fill_inert(genomes, rng)

    def uniform_policies(self) -> Genomes:
        """The smallest and the largest network at each uniform bit-width, projected."""
        return self.canonicalise(self.encoding.uniform_policies())

    def enumerate(self, limit: int = 1_000_000) -> Genomes:
        """All genomes of the subspace, provided that the whole space is small."""
        return np.unique(self.canonicalise(self.encoding.enumerate(limit)), axis=0)

    def decode(self, genomes: Genomes) -> list[Any]:
        """Candidates of genomes of shape ``(n, n_genes)``."""
        return self.encoding.decode(genomes)

    def encode(self, candidates: Sequence[Any]) -> Genomes:
        """Inverse of ``decode``."""
        return self.encoding.encode(candidates)

    def problem(self, metric: Metric, limits: Sequence[Constraint]) -> Problem:
        """Problem of minimising a metric in this subspace."""
        return Problem(self, [Objective(metric)], [*limits, *self.allowed])

    @property
    def allowed(self) -> tuple[Constraint, ...]:
        """Forbidden combinations of the space as a constraint; empty if nothing is forbidden."""
        if not self.encoding.forbids:
            return ()

        def forbidden(genomes: Genomes) -> Floats:
            return (~self.encoding.is_allowed(genomes)).astype(np.float64)

        return (Constraint(FunctionMetric("forbidden", "", forbidden), 0.0),)

    def violations(self, genomes: Genomes, limits: Sequence[Constraint]) -> Floats:
        """Largest relative violation of the limits, feasible where ``<= 0``, shape ``(n,)``; -0.0 without limits."""
        parts = [limit.violation(limit.metric(genomes)) for limit in limits] or [np.zeros(len(genomes))]
        worst = np.max(parts, axis=0)
        for rule in self.allowed:
            worst = np.where(rule.violation(rule.metric(genomes)) > 0, np.inf, worst)
        return np.asarray(worst)

    def sample_band(
        self, limits: Sequence[Constraint], n: int, rng: np.random.Generator, known: Genomes | None = None
    ) -> Genomes:
        """Sample feasible genomes near the limits.

        Genomes of all sizes are sampled, and variants of those closest to the limits. Feasible genomes that use at
        least the share ``BAND`` of their tightest limit are preferred.

        Args:
            limits: Constraints.
            n: Number of genomes; fewer are returned if no more are found.
            rng: Random number generator.
            known: Genomes to exclude, shape ``(k, n_genes)``.

        Raises:
            ProblemError: If no feasible genome is found; the message has the smallest violation.
        """
        seen = set() if known is None else {genome.tobytes() for genome in known.astype(np.int16)}
        found, inside = dict[bytes, Genomes](), list[Genomes]()
        parents, miss, idle = np.zeros((0, len(self.genes)), np.int16), np.zeros(0), 0
        for round_ in range(ROUNDS):
            drawn = self.canonicalise(spread(DRAWS, self, rng))
            if len(parents) and round_ % 2:
                first, second = self.fill_inert(parents, rng)[rng.integers(len(parents), size=(2, DRAWS))]
                drawn = self.canonicalise(vary(first, second, self, rng))
            parents, place = np.unique(np.concatenate([parents, drawn]), axis=0, return_index=True)
            fresh = self.violations(drawn, limits)
            miss = np.concatenate([miss, fresh])[place]
            before = len(seen)
            for genome, own in zip(drawn, fresh, strict=True):
                if own <= 0 and (key := genome.tobytes()) not in seen:
                    seen.add(key)
                    (inside.append(genome) if own >= BAND - 1 else found.update({key: genome}))
            if len(inside) >= 4 * n or (round_ > ROUNDS // 4 and len(inside) + len(found) >= 4 * n):
                break
            idle = idle + 1 if len(seen) == before else 0
            if seen and idle == IDLE:  # a small part of the space, all of which is known
                break
            best = np.argsort(np.abs(miss + (1 - BAND) / 2), kind="stable")[:PARENTS]
            parents, miss = parents[best], miss[best]
        rest = list(found.values())
        if not inside and not rest:
            if len(seen):  # all that is feasible is known
                return np.zeros((0, len(self.genes)), np.int16)
            words = " and ".join(map(str, limits))
            raise ProblemError(
                f"no candidate with {words} in {DRAWS * ROUNDS} tries; the closest misses one by "
                f"{100 * float(miss.min()):.3g}%; relax a bound"
            )
        order = [rng.permutation(len(part)) for part in (inside, rest)]
        chosen = [part[i] for part, own in zip((inside, rest), order, strict=True) for i in own][:n]
        return np.array(chosen, np.int16)
