"""Search methods that turn a budget of measurements into finalists: joint search and its baselines."""

from apq_tune.methods.bench import Bench, Question
from apq_tune.methods.registry import METHODS, Method
from apq_tune.methods.subspace import Subspace

__all__ = ["METHODS", "Bench", "Method", "Question", "Subspace"]
