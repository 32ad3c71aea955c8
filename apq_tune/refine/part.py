"""Part of the space of a run in which a refinement proposes candidates, where these are for a device."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from apq_tune.methods.propose import Proposals
from apq_tune.problem.costs import Costs
from apq_tune.problem.metric import Metric, WidenedMetric
from apq_tune.problem.problem import Constraint
from apq_tune.space.narrowing import Narrowing


class ProposedPart(NamedTuple):
    """Part of the space of a run in which candidates for a device are proposed.

    Attributes:
        narrowing: The space and its part.
        constraints: Constraints on candidates of the part.
        cost: Cost of them that is traded off against the loss.
        costs: All costs of them.
    """

    narrowing: Narrowing
    constraints: tuple[Constraint, ...]
    cost: Metric
    costs: Costs

    def of(self, searches: Proposals) -> Proposals:
        """The same searches in the part, by the same predictors."""
        known, inside = self.narrowing.narrow(searches.known)
        members = tuple(WidenedMetric(member, self.narrowing) for member in searches.ensemble.members)
        return dataclasses.replace(
            searches,
            encoding=self.narrowing.part,
            ensemble=dataclasses.replace(searches.ensemble, members=members),
            fp32=WidenedMetric(searches.fp32, self.narrowing),
            constraints=self.constraints,
            cost=self.cost,
            known=known[inside],
        )
