"""Settings of the agents and of their exploration, as the authors of AMC and HAQ published them; free of torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from apq_tune.errors import ProblemError


@dataclass(frozen=True)
class AgentSettings:
    """Settings of an agent.

    Attributes:
        hidden: Width of the two hidden layers of the actor and of the critic.
        actor_rate: Learning rate of the actor (Adam).
        critic_rate: Learning rate of the critic (Adam).
        discount: Factor of the value of the next state.
        follow: Share by which the target networks move to the trained ones in each update.
        batch: Number of transitions of an update.
        replay: Number of transitions that are remembered; the oldest ones are forgotten.
        baseline: Share by which the moving average of rewards moves to the mean of each batch; it is subtracted from
            rewards.
    """

    hidden: int = 300
    actor_rate: float = 1e-4
    critic_rate: float = 1e-3
    discount: float = 1.0
    follow: float = 0.01
    batch: int = 64
    replay: int = 2000
    baseline: float = 0.5


FEWEST = 8
"""Number of episodes of the shortest warm-up."""


@dataclass(frozen=True)
class PassSettings:
    """Settings of one pass over the genes of an episode: that of channels or that of bits.

    Attributes:
        warm_up: Number of first episodes with random actions, after which the agent learns.
        decay: Factor of the exploration's standard deviation, from episode to episode after the warm-up.
        deviation: Standard deviation of the exploration at first.
        remembered: Number of episodes whose decisions are remembered.
        episodes: Number of episodes that the warm-up and the decay are for.
        agent: Settings of the agent; its ``replay`` follows from ``remembered``.
    """

    warm_up: int
    decay: float
    remembered: int
    episodes: int
    deviation: float = 0.5
    agent: AgentSettings = field(default_factory=AgentSettings)

    def __post_init__(self) -> None:
        for name, count in (("warm_up", self.warm_up), ("remembered", self.remembered), ("episodes", self.episodes)):
            if count < 1:
                raise ProblemError(f"{name} is {count}; give at least 1")
        if not 0 < self.decay <= 1:
            raise ProblemError(f"decay is {self.decay}; give a factor above 0, at most 1")

    def shortened(self, episodes: int) -> PassSettings:
        """The same schedule for fewer episodes: the warm-up's share is kept, and exploration ends as narrow.

        The warm-up has ``FEWEST`` episodes at least, as rewards are scaled by their spread in it.
        """
        share = min(1.0, max(1, episodes) / self.episodes)
        warm_up = max(min(FEWEST, self.warm_up), round(self.warm_up * share))
        return replace(self, warm_up=warm_up, decay=self.decay ** (1 / share), episodes=max(1, episodes))

    def deviation_at(self, episode: int) -> float:
        """Standard deviation of the exploration of an episode, which falls after the warm-up."""
        return float(self.deviation * self.decay ** max(0, episode - self.warm_up))


AMC = PassSettings(warm_up=100, decay=0.95, remembered=100, episodes=400)
"""Settings of AMC (He 2018), for channels."""

HAQ = PassSettings(warm_up=20, decay=0.99, remembered=128, episodes=600)
"""Settings of HAQ (Wang 2019), for bits."""


def explored(mean: float, deviation: float, rng: np.random.Generator) -> float:
    """Draw an action from a normal distribution that is cut off at 0 and 1.

    Args:
        mean: Action of the actor.
        deviation: Standard deviation before the ends are cut off; 0 for the action itself.
        rng: Random number generator.
    """
    from scipy.special import ndtr, ndtri

    if deviation <= 0:
        return mean
    low, high = ndtr((0 - mean) / deviation), ndtr((1 - mean) / deviation)
    return float(np.clip(mean + deviation * ndtri(rng.uniform(low, high)), 0, 1))
