"""The DDPG agent: an update against NumPy, exploration against SciPy, and a control problem whose optimum is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kstest, truncnorm

from apq_tune.searchers.layerwise.agent import Agent, Transition
from apq_tune.searchers.layerwise.settings import AMC, AgentSettings, PassSettings, explored

SMALL = AgentSettings(hidden=5, batch=8, replay=16, discount=0.9, follow=0.25)


def transitions(n: int, rng: np.random.Generator) -> list[Transition]:
    return [
        Transition(rng.random(3), float(rng.random()), float(rng.normal()), rng.random(3), last=bool(row % 3 == 2))
        for row in range(n)
    ]


def weights(module: torch.nn.Module) -> list[np.ndarray]:
    return [own.detach().numpy().astype(np.float64).copy() for own in module.parameters()]


def forward(w: list[np.ndarray], x: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Output of the last layer, before any sigmoid, and the input of each layer."""
    seen = [x]
    for layer in range(2):
        seen.append(np.maximum(seen[-1] @ w[2 * layer].T + w[2 * layer + 1], 0))
    return seen[-1] @ w[4].T + w[5], seen


def backward(w: list[np.ndarray], seen: list[np.ndarray], out: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Gradients of the weights and of the input, given those of the output."""
    found: list[np.ndarray] = []
    for layer in (2, 1, 0):
        found = [out.T @ seen[layer], out.sum(axis=0), *found]
        out = out @ w[2 * layer]
        if layer:
            out = out * (seen[layer] > 0)
    return found, out


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def first_adam(w: list[np.ndarray], gradients: list[np.ndarray], rate: float) -> list[np.ndarray]:
    """In Adam's first step both moments are those of one gradient."""
    return [own - rate * g / (np.abs(g) + 1e-8) for own, g in zip(w, gradients, strict=True)]


def spread_out(agent: Agent, rng: np.random.Generator) -> None:
    """Weights of the last layers large enough for gradients that do not vanish in rounding."""
    for module in (agent.actor, agent.critic, agent.following_actor, agent.following_critic):
        for own in module.parameters():
            own.data.copy_(torch.from_numpy(rng.normal(0, 0.7, own.shape).astype(np.float32)))


def test_one_update_is_that_of_the_equations(rng: np.random.Generator) -> None:
    agent, told = Agent(3, SMALL, seed=0), transitions(8, rng)
    spread_out(agent, rng)
    actor, critic, old_actor, old_critic = map(
        weights, (agent.actor, agent.critic, agent.following_actor, agent.following_critic)
    )
    agent.remember(told)
    agent.update(np.random.default_rng(0))

    s, following = np.array([t.state for t in told]), np.array([t.following for t in told])
    a, r = np.array([[t.action] for t in told]), np.array([[t.reward] for t in told])
    ahead = sigmoid(forward(old_actor, following)[0])
    value = forward(old_critic, np.hstack([following, ahead]))[0]
    goal = r - r.mean() + 0.9 * value * np.array([[not t.last] for t in told])
    q, seen = forward(critic, np.hstack([s, a]))
    critic = first_adam(critic, backward(critic, seen, 2 * (q - goal) / 8)[0], 1e-3)
    raw, seen_actor = forward(actor, s)
    _, seen = forward(critic, np.hstack([s, sigmoid(raw)]))
    by_action = backward(critic, seen, np.full((8, 1), -1 / 8))[1][:, -1:]
    actor = first_adam(actor, backward(actor, seen_actor, by_action * sigmoid(raw) * (1 - sigmoid(raw)))[0], 1e-4)

    assert agent.baseline == pytest.approx(r.mean(), rel=1e-5)
    for module, expected in (
        (agent.critic, critic),
        (agent.actor, actor),
        (agent.following_critic, [0.75 * o + 0.25 * n for o, n in zip(old_critic, critic, strict=True)]),
        (agent.following_actor, [0.75 * o + 0.25 * n for o, n in zip(old_actor, actor, strict=True)]),
    ):
        for own, other in zip(weights(module), expected, strict=True):
            np.testing.assert_allclose(own, other, atol=2e-6)
    agent.remember(transitions(20, rng))
    before = agent.baseline
    agent.update(np.random.default_rng(1))
    rewards = agent._numbers[np.random.default_rng(1).integers(16, size=8), 1]
    assert agent.baseline == pytest.approx((before + rewards.mean()) / 2, rel=1e-5)


def test_the_oldest_transitions_are_forgotten_and_equal_calls_give_equal_agents(rng: np.random.Generator) -> None:
    told = transitions(20, rng)
    agent = Agent(3, SMALL, seed=4)
    agent.remember(told)
    assert sorted(agent._numbers[:, 0].tolist()) == sorted(np.float32(t.action) for t in told[4:])
    acts = []
    for seed in (4, 4, 5):
        one, own = Agent(3, SMALL, seed=seed), np.random.default_rng(7)
        one.remember(told)
        for _ in range(5):
            one.update(own)
        acts.append(one.act(told[0].state))
    assert acts[0] == acts[1] != acts[2]
    assert Agent(3, AgentSettings(), seed=0).act(told[0].state) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(("mean", "deviation"), [(0.5, 0.5), (0.97, 0.2), (0.0, 0.05)])
def test_exploration_is_a_truncated_normal(mean: float, deviation: float, rng: np.random.Generator) -> None:
    drawn = [explored(mean, deviation, rng) for _ in range(2000)]
    expected = truncnorm(-mean / deviation, (1 - mean) / deviation, mean, deviation)
    assert 0 <= min(drawn) <= max(drawn) <= 1
    assert kstest(drawn, expected.cdf).pvalue > 0.001
    assert explored(mean, 0.0, rng) == mean


def test_exploration_decays_after_the_warm_up() -> None:
    assert [AMC.deviation_at(episode) for episode in (0, 100, 101)] == [0.5, 0.5, 0.5 * 0.95]
    assert AMC.deviation_at(400) < 1e-6
    short = AMC.shortened(80)
    assert (short.warm_up, AMC.shortened(4).warm_up, AMC.shortened(1000).warm_up) == (20, 8, 100)
    assert short.deviation_at(80) == pytest.approx(AMC.deviation_at(400))


def test_it_learns_a_control_problem_whose_optimum_is_known() -> None:
    """Three decisions, all rewarded by the final result: each is best at .8, .2 and .5, where the reward is 0."""
    best, states = np.array([0.8, 0.2, 0.5]), np.eye(3)
    noise = PassSettings(warm_up=40, decay=0.98, remembered=200, episodes=200)
    settings = AgentSettings(hidden=64, actor_rate=3e-4, critic_rate=5e-3, replay=600, follow=0.1)
    agent, rng = Agent(3, settings, seed=0), np.random.default_rng(0)
    rewards = []
    for episode in range(200):
        sigma = noise.deviation_at(episode)
        acts = [float(rng.random()) if episode < 40 else explored(agent.act(s), sigma, rng) for s in states]
        rewards.append(-float(np.square(acts - best).sum()))
        agent.remember(
            [Transition(states[i], acts[i], rewards[-1], states[min(i + 1, 2)], last=i == 2) for i in range(3)]
        )
        for _ in range(3 if episode >= 40 else 0):
            agent.update(rng)
    found = np.array([agent.act(s) for s in states])
    assert -np.square(found - best).sum() > -0.1
    assert found.argsort().tolist() == best.argsort().tolist()
    assert np.mean(rewards[:40]) < -0.3 < -0.15 < np.mean(rewards[-40:])
