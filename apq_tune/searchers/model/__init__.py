"""Bayesian optimization: Gaussian processes as surrogates, expected hypervolume improvement as acquisition function."""

from apq_tune.searchers.model.columns import Columns
from apq_tune.searchers.model.exact import Exact
from apq_tune.searchers.model.propose import ProposalSettings, propose
from apq_tune.searchers.model.surrogates import Observations

__all__ = ["Columns", "Exact", "Observations", "ProposalSettings", "propose"]
