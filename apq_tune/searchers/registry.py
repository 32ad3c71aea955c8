"""Algorithms by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from apq_tune.searchers.algorithms import NSGA2, Algorithm, Evolution, RandomSearch
from apq_tune.searchers.layerwise.algorithm import LayerwiseDDPG
from apq_tune.searchers.model_based import ModelBased

MILP = "milp"
"""Name of ``solve_exactly`` among the algorithms: it solves additive problems, and proposes nothing for others."""

ALGORITHMS: Mapping[str, Callable[[], Algorithm]] = {
    "evolution": Evolution,
    "nsga2": NSGA2,
    "random": RandomSearch,
    "model": ModelBased,
    "ddpg": LayerwiseDDPG,
}
"""Algorithms with default settings, by name."""
