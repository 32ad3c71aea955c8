"""Deep deterministic policy gradient (DDPG, Lillicrap 2016) with one action from 0 to 1, as AMC and HAQ use it.

It knows nothing of search spaces. Networks, rates and the baseline are those that the authors of AMC (He 2018) and HAQ
(Wang 2019) published; the last layers start near zero, as Lillicrap recommends, so that the first actions are not at
the ends of their range, where the sigmoid has no gradient.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from apq_tune.searchers.layerwise.settings import AgentSettings

Floats = NDArray[np.float64]

LAST_LAYER = 3e-3
"""Largest absolute initial weight of the last layers (Lillicrap 2016)."""


class Transition(NamedTuple):
    """One decision of an episode."""

    state: Floats  # (n_state,)
    action: float  # from 0 to 1
    reward: float
    following: Floats  # (n_state,), the next state; not used if this is the last one
    last: bool


class Agent:
    """Actor and critic, a slowly following copy of each, and the transitions that they learn from.

    The same seed and the same calls give the same agent.

    Attributes:
        settings: Settings of the networks and of their training.
        baseline: Moving average of rewards; ``None`` before the first update.
    """

    def __init__(self, n_state: int, settings: AgentSettings, seed: int) -> None:
        """Initialise the networks.

        Args:
            n_state: Length of a state.
            settings: Settings.
            seed: Seed of the first weights.
        """
        self.settings = settings
        self.baseline: float | None = None
        generator = torch.Generator().manual_seed(seed)
        self.actor = nn.Sequential(*_layers(n_state, settings.hidden, generator), nn.Sigmoid())
        self.critic = nn.Sequential(*_layers(n_state + 1, settings.hidden, generator))
        self.following_actor, self.following_critic = copy.deepcopy(self.actor), copy.deepcopy(self.critic)
        self._steps_actor = torch.optim.Adam(self.actor.parameters(), settings.actor_rate, fused=True)
        self._steps_critic = torch.optim.Adam(self.critic.parameters(), settings.critic_rate, fused=True)
        pairs = ((self.following_actor, self.actor), (self.following_critic, self.critic))
        self._targets = [
            ([own.data for own in one.parameters()], [own.data for own in to.parameters()]) for one, to in pairs
        ]
        self._states = np.zeros((settings.replay, 2, n_state), np.float32)  # a state and the next one
        self._numbers = np.zeros((settings.replay, 3), np.float32)  # action, reward, whether a state follows
        self._known = 0

    def act(self, state: Floats) -> float:
        """Action of the actor in a state of shape ``(n_state,)``, from 0 to 1."""
        with torch.no_grad():
            return float(self.actor(torch.from_numpy(state.astype(np.float32))))

    def remember(self, transitions: Sequence[Transition]) -> None:
        """Add transitions to those that are learned from."""
        for one in transitions:
            place = self._known % self.settings.replay
            self._states[place] = one.state, one.following
            self._numbers[place] = one.action, one.reward, not one.last
            self._known += 1

    def update(self, rng: np.random.Generator) -> None:
        """Learn from one batch of remembered transitions, drawn with replacement; from all if there are fewer.

        The critic moves towards the reward above the baseline plus the discounted value of the next state according to
        the following networks, the actor towards actions of higher value.
        """
        n = min(self._known, self.settings.replay)
        rows = np.arange(n) if n <= self.settings.batch else rng.integers(n, size=self.settings.batch)
        action, reward, goes_on = torch.from_numpy(self._numbers[rows][:, :, None]).unbind(dim=1)
        mean, share = float(reward.mean()), self.settings.baseline
        self.baseline = mean if self.baseline is None else self.baseline + share * (mean - self.baseline)
        state, following = torch.from_numpy(self._states[rows]).unbind(dim=1)
        with torch.no_grad():
            value = self.following_critic(torch.cat([following, self.following_actor(following)], dim=1))
            goal = reward - self.baseline + self.settings.discount * goes_on * value
        _step(self._steps_critic, nn.functional.mse_loss(self.critic(torch.cat([state, action], dim=1)), goal))
        _step(self._steps_actor, -self.critic(torch.cat([state, self.actor(state)], dim=1)).mean())
        for target, trained in self._targets:
            torch._foreach_lerp_(target, trained, self.settings.follow)


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Move the weights of an optimizer, and no others, against the gradient of a loss."""
    weights = optimizer.param_groups[0]["params"]
    for own, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
        own.grad = gradient
    optimizer.step()


def _layers(n: int, hidden: int, generator: torch.Generator) -> list[nn.Module]:
    """Two hidden layers with ReLU and a linear one, with uniform weights as of Lillicrap (2016)."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((n, hidden), (hidden, hidden), (hidden, 1)):
        layer: nn.Module = nn.utils.skip_init(nn.Linear, inputs, outputs)  # type: ignore[no-untyped-call]
        most = inputs**-0.5 if outputs > 1 else LAST_LAYER
        for weights in layer.parameters():
            nn.init.uniform_(weights, -most, most, generator=generator)
        layers += [layer, nn.ReLU()]
    return layers[:-1]
