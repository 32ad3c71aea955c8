"""The inner search: select, vary, and the loop that holds them together."""

from apq_tune.search.algorithms import NSGA2, Algorithm, Evolution, RandomSearch, State
from apq_tune.search.loop import search
from apq_tune.search.model_based import ModelBased
from apq_tune.search.registry import ALGORITHMS
from apq_tune.search.searching import Searching
from apq_tune.search.select import select
from apq_tune.search.vary import vary

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
