"""Reinforcement learning as a search algorithm: each candidate is an episode of AMC's and HAQ's agents."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from apq_tune.cost.additive import HasTerms
from apq_tune.problem.metric import Floats, Indexed, Metric
from apq_tune.problem.problem import Constraint, Evaluation, Problem
from apq_tune.searchers.algorithms import State, appended
from apq_tune.searchers.layerwise.episode import Course, Policy, draw_unordered
from apq_tune.searchers.layerwise.rewards import rewards_of, shown, weights_of
from apq_tune.searchers.layerwise.settings import AMC, HAQ, PassSettings, explored
from apq_tune.searchers.layerwise.walk import Walk
from apq_tune.searchers.layerwise.wall import Wall
from apq_tune.space.encoding import Encoding, Genomes

if TYPE_CHECKING:
    from apq_tune.searchers.layerwise.learner import Learner

TRIES = 10
"""Number of episodes for a new candidate, each with more exploration; after that a known one is repeated."""

ISLANDS = 8
"""Number of histories whose agents are remembered, as each island of a search has its own."""

_ONE_AT_A_TIME = threading.Lock()  # agents are remembered between calls, and trials of a study may run in threads


@dataclass(frozen=True)
class LayerwiseDDPG:
    """DDPG (Lillicrap 2016) that decides genes layer by layer: channels as AMC (He 2018), bits as HAQ (Wang 2019).

    In the first pass each layer's channels are decided from what the layer is and what the network has cost so far;
    depths, sizes, kernels and other numbers are decided there, too. A decision is limited so that the limits can still
    be kept with all later genes at their least. The second pass decides the bits of the weights, then those of the
    input of each layer, and lowers them from the last layer backwards until the limits are kept. What has no order is
    drawn.

    Nothing but its history decides what an agent has learned: the state has all candidates that were evaluated.

    Attributes:
        channels: Settings of the first pass.
        bits: Settings of the second pass.
        seed: Seed of the agents; exploration has the generator of the search.
        batch: Number of candidates that are proposed before their rewards are known.
        constraints: Limits that every proposed candidate keeps; a search gives those of its problem that are computed.
    """

    channels: PassSettings = AMC
    bits: PassSettings = HAQ
    seed: int = 0
    batch: int = 1
    constraints: tuple[Constraint, ...] = field(default=(), repr=False)
    _made: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_made": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)

    def prepared(self, problem: Problem, seed: int) -> LayerwiseDDPG:
        """Copy with the limits of a problem that cost models or tables compute, and with the seed of a search."""
        return self.within([one for one in problem.constraints if _is_computed(one.metric)], seed)

    def within(self, constraints: Sequence[Constraint], seed: int) -> LayerwiseDDPG:
        """Copy with given limits.

        Args:
            constraints: Limits on metrics that need not be measured.
            seed: Seed of the agents.
        """
        return replace(self, constraints=tuple(constraints), seed=seed)

    def ask(self, state: State | None, n: int, encoding: Encoding, rng: np.random.Generator) -> Genomes:
        """Propose the outcome of ``n`` episodes, random ones in the warm-up."""
        with _ONE_AT_A_TIME:
            if self._made.get("encoding") is not encoding:
                walk = Walk.of(encoding)
                self._made.update(encoding=encoding, course=self.course(walk, np.zeros(len(walk.encoding.n_choices))))
            return self.propose(state, n, self._made["course"], rng)

    def course(self, walk: Walk, start: Any, candidates: Callable[[Genomes], Genomes] | None = None) -> Course:
        """Walk under the wall of the limits.

        Args:
            walk: Order of the genes.
            start: Values of the genes that are not decided, shape ``(n_genes,)``.
            candidates: Function from genomes of the walk to those that metrics take; ``None`` if they are the same.

        Raises:
            ProblemError: If no candidate keeps the limits.
        """
        wall = Wall(walk.encoding, self.constraints, candidates)
        base = wall.cheapest(walk, np.asarray(start, np.int16), np.random.default_rng(self.seed))
        return Course(walk, wall, base)

    def propose(self, state: State | None, n: int, course: Course, rng: np.random.Generator) -> Genomes:
        """Propose candidates within the limits that are not known yet, if there are any, shape ``(n, n_genes)``."""
        walk, learner = course.walk, None
        genomes, rewards, n_objectives, episode = np.zeros((0, len(course.base)), np.int16), np.zeros(0), 1, 0
        if state is not None:
            genomes = np.asarray(walk.encoding.canonicalise(state.genomes), np.int16)
            n_objectives, episode = state.F.shape[1], len(genomes)
            learner = self._learner(course, genomes, state.F, state.G)
            rewards = rewards_of(state.F, state.G, np.full(state.F.shape, 1 / n_objectives), episode)
        known = {genome.tobytes() for genome in genomes}
        found = []
        for number in range(n):
            weights = shown(weights_of(self.seed, episode + number, n_objectives))
            for attempt in range(TRIES):
                policies = self._policies(learner, episode, attempt, rng)
                genome = course.run(*policies, draw_unordered(walk, genomes, rewards, rng), weights)
                key = np.asarray(walk.encoding.canonicalise(genome[None])[0], np.int16).tobytes()
                if key not in known:
                    break
            known.add(key)
            found.append(genome)
        return np.stack(found) if found else genomes[:0]

    def tell(self, state: State | None, genomes: Genomes, evaluation: Evaluation) -> State:
        """Append the batch to all previous evaluations."""
        return appended(state, genomes, evaluation)

    def _learner(self, course: Course, genomes: Genomes, F: Floats, G: Floats) -> Learner | None:
        """Agents that have learned from all candidates; ``None`` during the warm-up of both passes."""
        if len(genomes) < min(self.channels.warm_up, self.bits.warm_up):
            return None
        from apq_tune.searchers.layerwise.learner import Learner

        known: list[Learner] = self._made.setdefault("learners", [])
        for place, one in enumerate(known):
            if one.course is course and one.has_learned(genomes, F, G):
                learner = known.pop(place)
                break
        else:
            learner = Learner(course, self.channels, self.bits, self.seed, F.shape[1])
        learner.learn(genomes, F, G)
        self._made["learners"] = [learner, *known][:ISLANDS]
        return learner

    def _policies(
        self, learner: Learner | None, episode: int, attempt: int, rng: np.random.Generator
    ) -> tuple[Policy, Policy]:
        """Policies of both passes: random in the warm-up, then the agent's actions with exploration."""

        def policy(number: int, settings: PassSettings) -> Policy:
            agent = None if learner is None or episode < settings.warm_up else learner.agent(number)
            if agent is None:
                return lambda _: float(rng.random())
            deviation = max(settings.deviation_at(episode), settings.deviation * attempt / (TRIES - 1))
            return lambda state: explored(agent.act(state), deviation, rng)

        return policy(0, self.channels), policy(1, self.bits)


def _is_computed(metric: Metric) -> bool:
    """Whether a metric is a cost model, a table or a sum of terms, and nothing has to run for it."""
    return isinstance(metric, Indexed | HasTerms) and not getattr(metric, "costly", False)
