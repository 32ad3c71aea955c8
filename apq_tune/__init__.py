"""Find a network's architecture, channel pruning and per-layer bit-widths together (APQ, Wang 2020)."""

from apq_tune.candidate import Block, Candidate, Choice
from apq_tune.cost import cost_models, load_cost_table
from apq_tune.encoding import Encoding
from apq_tune.errors import ApqError, CandidateError, ProblemError, RunError, SpaceError, TableError
from apq_tune.front import Front
from apq_tune.predict.files import load_predictor
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
    "parse_constraint",
    "search",
]
