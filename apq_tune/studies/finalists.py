"""Networks that ``run --method`` reports: those that the method trained at full length, and the baselines of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from apq_tune.pipeline.measuring import baselines
from apq_tune.pipeline.outcome import networks_table
from apq_tune.pipeline.raising import upgrade_of
from apq_tune.pipeline.upgrade import RAISED, Upgrade
from apq_tune.problem.costs import Costs
from apq_tune.problem.problem import Constraint
from apq_tune.space.gene_encoding import GeneEncoding
from apq_tune.studies.halving import Halving, TrainingResult


def finalists(
    method: str, trained: Sequence[TrainingResult], halving: Halving, encoding: GeneEncoding
) -> dict[str, TrainingResult]:
    """Trainings at full length by the name of the network: those of a method, best first, and those of the baselines.

    Args:
        method: Name of the method.
        trained: Trainings of the method.
        halving: Halving that trained them, which trains the baselines in the same way.
        encoding: Encoding of the search space.
    """
    length = halving.steps[1]
    own = sorted((t for t in trained if t.steps == length and t.repeat == 0), key=lambda t: t.loss)
    found = {f"{method}_{number}": t for number, t in enumerate(own, start=1)}
    return found | {name: halving.train(candidate, length) for name, candidate in baselines(encoding).items()}


def with_raised(
    trained: Mapping[str, TrainingResult], halving: Halving, costs: Costs, limits: Sequence[Constraint]
) -> tuple[dict[str, TrainingResult], Upgrade | None]:
    """Trainings at full length, with that of the best network with more bits where they cost nothing.

    Args:
        trained: Trainings at full length by name.
        halving: Halving that trained them.
        costs: Costs of the search space.
        limits: Constraints on candidates.

    Returns:
        The trainings, and what was raised; ``None`` if nothing could be.
    """
    records = {name: {"candidate": one.candidate.to_dict(), **one.scores} for name, one in trained.items()}
    best = decided(records, costs, limits)
    upgrade = upgrade_of(best, trained[best].candidate, costs, limits, halving.supernet)
    if upgrade is None or not upgrade.promising:
        return dict(trained), upgrade
    return {RAISED: halving.train(upgrade.candidate, halving.steps[1]), **trained}, upgrade


def decided(records: Mapping[str, Mapping[str, Any]], costs: Costs, limits: Sequence[Constraint]) -> str:
    """Name of the network that a run would choose or, if no network keeps the limits, of the one with the least loss.

    Args:
        records: Candidate and scores of each network by name.
        costs: Costs of the search space.
        limits: Constraints on candidates.
    """
    table = networks_table(records, costs, limits)
    chosen = table[table["chosen"]] if table["chosen"].any() else table.nsmallest(1, "search_loss")
    return str(chosen["name"].iloc[0])
