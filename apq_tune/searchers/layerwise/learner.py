"""What agents learn from a history of candidates: a function of the history and a seed, whoever proposed them.

Every decision of an episode gets the reward of its end, as published. Unlike in the programs of the authors, an action
is the one that was carried out, after the wall, and not the one before it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from apq_tune.searchers.layerwise.agent import Agent, Transition
from apq_tune.searchers.layerwise.episode import Course
from apq_tune.searchers.layerwise.rewards import rewards_of, shown, weights_of
from apq_tune.searchers.layerwise.settings import PassSettings
from apq_tune.space.encoding import Genomes

Floats = NDArray[np.float64]


class Learner:
    """Agents of both passes, and the history that they have learned from.

    Attributes:
        course: Walk and wall.
        n: Number of episodes that were learned from.
    """

    def __init__(
        self, course: Course, channels: PassSettings, bits: PassSettings, seed: int, n_objectives: int
    ) -> None:
        walk = course.walk
        self.course, self.n, self._seed, self._n_objectives = course, 0, seed, n_objectives
        self._history: tuple[Genomes, Floats, Floats] | None = None
        self._passes: list[tuple[int, PassSettings, Agent]] = []
        for number, (genes, settings, facts) in enumerate(
            ((walk.channels, channels, walk.channel_facts.shape[1] + 3), (walk.bits, bits, walk.bit_facts.shape[1] + 1))
        ):
            if genes:
                agent = replace(settings.agent, replay=settings.remembered * len(genes))
                self._passes.append((number, settings, Agent(facts + n_objectives - 1, agent, seed + number)))

    def agent(self, number: int) -> Agent | None:
        """Agent of the first (0) or the second pass (1); ``None`` if it has no genes."""
        return next((agent for own, _, agent in self._passes if own == number), None)

    def has_learned(self, genomes: Genomes, F: Floats, G: Floats) -> bool:
        """Whether a history begins with what was learned."""
        if self._history is None:
            return True
        known_genomes, known_F, known_G = self._history
        n = self.n
        return bool(
            len(genomes) >= n
            and np.array_equal(known_genomes, genomes[:n])
            and np.array_equal(known_F, F[:n])
            and np.array_equal(known_G, G[:n])
        )

    def learn(self, genomes: Genomes, F: Floats, G: Floats) -> None:
        """Learn from the episodes that are new, one update for each decision after the warm-up.

        Args:
            genomes: Canonical candidates of all episodes, shape ``(n, n_genes)``.
            F: Their objectives, minimised, infinite over a limit, shape ``(n, n_objectives)``.
            G: Their violations, shape ``(n, n_limits)``.
        """
        weights = np.stack([weights_of(self._seed, i, self._n_objectives) for i in range(len(F))])
        for number, settings, agent in self._passes:
            rewards = rewards_of(F, G, weights, settings.warm_up)
            if len(F) < settings.warm_up:
                continue
            for episode in range(self.n if self.n >= settings.warm_up else 0, len(F)):
                steps = self.course.steps(genomes[episode], shown(weights[episode]))[number]
                agent.remember(_transitions(*steps, float(rewards[episode])))
                rng = np.random.default_rng((self._seed, episode, 2 + number))
                for _ in range(len(steps[1]) if episode >= settings.warm_up else 0):
                    agent.update(rng)
        self.n, self._history = len(F), (genomes, F, G)


def _transitions(states: Floats, actions: Floats, reward: float) -> list[Transition]:
    last = len(actions) - 1
    return [
        Transition(states[i], float(actions[i]), reward, states[min(i + 1, last)], last=i == last)
        for i in range(len(actions))
    ]
