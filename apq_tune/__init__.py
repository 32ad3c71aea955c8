"""Find a network's architecture, channel pruning and per-layer bit-widths together (APQ, Wang 2020)."""

from typing import TYPE_CHECKING, Any

from apq_tune.candidate import Block, Candidate, Choice
from apq_tune.cost import cost_models, load_cost_table
from apq_tune.encoding import Encoding
from apq_tune.errors import ApqError, CandidateError, ProblemError, RunError, SpaceError, TableError
from apq_tune.front import Front
from apq_tune.predict.files import load_predictor
from apq_tune.problem import Constraint, Evaluation, FunctionMetric, Metric, Objective, Problem, parse_constraint
from apq_tune.search import NSGA2, Evolution, RandomSearch, search
from apq_tune.space import SearchSpace, known_spaces

if TYPE_CHECKING:
    from apq_tune.supernet.published import load_supernet

__version__ = "0.1.0"

__all__ = [
    "NSGA2",
    "ApqError",
    "Block",
    "Candidate",
    "CandidateError",
    "Choice",
    "Constraint",
    "Encoding",
    "Evaluation",
    "Evolution",
    "Front",
    "FunctionMetric",
    "Metric",
    "Objective",
    "Problem",
    "ProblemError",
    "RandomSearch",
    "RunError",
    "SearchSpace",
    "SpaceError",
    "TableError",
    "cost_models",
    "known_spaces",
    "load_cost_table",
    "load_predictor",
    "load_supernet",
    "parse_constraint",
    "search",
]


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first asked for."""
    if name == "load_supernet":
        from apq_tune.supernet.published import load_supernet

        return load_supernet
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
