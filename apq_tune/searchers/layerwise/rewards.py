"""Rewards of episodes.

Those of AMC and HAQ are accuracies in fixed units. Objectives here may be anything, so they are scaled by their spread
in the warm-up. The reward of several objectives is a weighted sum, with weights of its own in each episode.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FAR = 5.0
"""Largest absolute reward, in spreads of the warm-up."""

INFEASIBLE = 3.0
"""Reward that a candidate over a limit lacks at least, in spreads of the warm-up."""


def weights_of(seed: int, episode: int, n_objectives: int) -> Floats:
    """Weights of the objectives in an episode; each combination is as likely as any other."""
    if n_objectives == 1:
        return np.ones(1)
    return np.random.default_rng((seed, episode, 1)).dirichlet(np.ones(n_objectives))


def shown(weights: Floats) -> Floats:
    """What a state has of the weights: nothing if there is one objective."""
    return weights[:-1]


def rewards_of(F: Floats, G: Floats, weights: Floats, warm_up: int) -> Floats:
    """Rewards of episodes.

    Args:
        F: Objectives, minimised, infinite over a limit, shape ``(n, n_objectives)``.
        G: Violations, shape ``(n, n_limits)``.
        weights: Weights of the objectives in each episode, shape ``(n, n_objectives)``.
        warm_up: Number of first episodes whose median and spread scale the objectives.

    Returns:
        Array of shape ``(n,)``.
    """
    known = F[:warm_up][np.isfinite(F[:warm_up]).all(axis=1)]
    center, spread = np.zeros(F.shape[1]), np.ones(F.shape[1])
    if len(known):
        center = np.median(known, axis=0)
        quarters = np.ptp(np.quantile(known, [0.25, 0.75], axis=0), axis=0)
        spread = np.where(quarters > 0, quarters, np.maximum(np.ptp(known, axis=0), 1e-12))
    kept = np.asarray(np.isfinite(F).all(axis=1))
    scaled = np.where(kept[:, None], F, center)
    with np.errstate(over="ignore"):
        shares = np.clip((scaled - center) / spread, -1e9, 1e9)
    rewards = -np.clip((weights * shares).sum(axis=1), -FAR, FAR)
    missed = np.clip(G, 0, None).sum(axis=1) if G.shape[1] else np.zeros(len(F))
    return np.asarray(np.where(kept, rewards, -INFEASIBLE - np.clip(missed, 0, FAR - INFEASIBLE)))
