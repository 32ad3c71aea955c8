"""Search algorithms: selection, variation, model-based proposals and the ask-and-tell loop."""

from apq_tune.searchers.algorithms import NSGA2, Algorithm, Evolution, RandomSearch, State
from apq_tune.searchers.exactly import is_additive, solve_exactly
from apq_tune.searchers.loop import search
from apq_tune.searchers.model_based import ModelBased
from apq_tune.searchers.registry import ALGORITHMS, MILP
from apq_tune.searchers.searching import Searching
from apq_tune.searchers.select import select
from apq_tune.searchers.vary import vary

__all__ = [
    "ALGORITHMS",
    "MILP",
    "NSGA2",
    "Algorithm",
    "Evolution",
    "ModelBased",
    "RandomSearch",
    "Searching",
    "State",
    "is_additive",
    "search",
    "select",
    "solve_exactly",
    "vary",
]
