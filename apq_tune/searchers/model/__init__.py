"""The model-based searcher: Gaussian processes say what is likely, expected improvement what is worth measuring."""

from apq_tune.searchers.model.columns import Columns
from apq_tune.searchers.model.exact import Exact
from apq_tune.searchers.model.propose import Observations, ProposalSettings, propose

__all__ = ["Columns", "Exact", "Observations", "ProposalSettings", "propose"]
