"""The inner search: select, vary, and the loop that holds them together."""

from collections.abc import Callable, Mapping

from apq_tune.search.algorithms import NSGA2, Algorithm, Evolution, RandomSearch, State
from apq_tune.search.loop import search
from apq_tune.search.model_based import ModelBased
from apq_tune.search.searching import Searching
from apq_tune.search.select import select
from apq_tune.search.vary import vary

ALGORITHMS: Mapping[str, Callable[[], Algorithm]] = {
    "evolution": Evolution,
    "nsga2": NSGA2,
    "random": RandomSearch,
    "model": ModelBased,
}
"""By name, with their defaults."""

__all__ = [
    "ALGORITHMS",
    "NSGA2",
    "Algorithm",
    "Evolution",
    "ModelBased",
    "RandomSearch",
    "Searching",
    "State",
    "search",
    "select",
    "vary",
]
