"""Find a network's architecture, channel pruning and per-layer bit-widths together (APQ, Wang 2020)."""

from apq_tune.candidate import Block, Candidate
from apq_tune.cost import cost_models
from apq_tune.encoding import Encoding
from apq_tune.errors import ApqError, CandidateError, ProblemError, RunError, SpaceError
from apq_tune.front import Front
from apq_tune.problem import Constraint, Evaluation, FunctionMetric, Metric, Objective, Problem, parse_constraint
from apq_tune.search import NSGA2, Evolution, RandomSearch, search
from apq_tune.space import SearchSpace, known_spaces

__version__ = "0.1.0"

__all__ = [
    "NSGA2",
    "ApqError",
    "Block",
    "Candidate",
    "CandidateError",
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
    "cost_models",
    "known_spaces",
    "parse_constraint",
    "search",
]
