"""Methods that turn one budget of measurements into finalists: joint search, and what it has to be better than."""

from apq_tune.methods.bench import Bench, Question
from apq_tune.methods.registry import METHODS, Method
from apq_tune.methods.subspace import Subspace

__all__ = ["METHODS", "Bench", "Method", "Question", "Subspace"]
