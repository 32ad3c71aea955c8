"""Functions that executors apply to items, independent of executors and of files."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

import pandas as pd
import torch

from apq_tune.errors import ProblemError
from apq_tune.hosts.work import Result, Work
from apq_tune.methods.rivals import RIVALS, Rivals
from apq_tune.methods.searches import front_cost, search_best
from apq_tune.pipeline.settings import RunSettings
from apq_tune.predict import Predictor
from apq_tune.problem.costs import Costs
from apq_tune.problem.front import Axis, Front
from apq_tune.problem.problem import Objective, Problem
from apq_tune.searchers import RandomSearch, search
from apq_tune.space.network_space import NetworkCandidate, NetworkSpace
from apq_tune.store.files import to_json
from apq_tune.supernet.finite import finite
from apq_tune.supernet.qat import QATTask, train_candidate
from apq_tune.supernet.seeds import SeedWord
from apq_tune.supernet.trained import TrainedSupernet


class Scoring(NamedTuple):
    """Arguments shared by the parts that score candidates in a supernet."""

    supernet: TrainedSupernet
    quantize: bool  # whether candidates run quantized
    setting: str  # name of the supernet training, for messages about losses that are not finite
    learning_rate: float  # learning rate of that training


def score_batch(item: Sequence[NetworkCandidate], shared: Scoring) -> Generator[int, None, Result]:
    """Score candidates in the supernet, on the search split.

    Yields:
        Number of candidates that are done.
    """
    scores = []
    for candidate in item:
        own = shared.supernet.score(candidate, quantize=shared.quantize)
        scores.append(finite(own, candidate, shared.setting, shared.learning_rate)._asdict())
        yield len(scores)
    return Result({"scores": scores})


def pair_task(candidate: NetworkCandidate, number: int, settings: RunSettings) -> QATTask:
    """Short QAT of the candidate of a pair.

    Args:
        candidate: Candidate to train.
        number: Number of the pair, which determines the order of its batches.
        settings: Settings of the run.
    """
    return QATTask(candidate, settings.pair, (settings.seed, SeedWord.PAIRS, number), setting="pair")


def final_task(candidate: NetworkCandidate, settings: RunSettings) -> QATTask:
    """QAT of a finalist at full length, scored on test images too; all finalists use the same batches."""
    return QATTask(candidate, settings.final, (settings.seed, SeedWord.FINALISTS), ("search", "test"))


def train_batch(item: Sequence[QATTask], shared: TrainedSupernet) -> Generator[int, None, Result]:
    """Train candidates from the weights of the supernet, and score them on the search split.

    Yields:
        Number of candidates that are done.
    """
    scores = []
    for task in item:
        scores.append(train_candidate(shared, task).scores["search"]._asdict())
        yield len(scores)
    return Result({"scores": scores})


def train_network(item: QATTask, shared: TrainedSupernet) -> Result:
    """Train one candidate and return its score on each split and, for finalists, its weights."""
    trained = train_candidate(shared, item)
    files = {"weights.pt": trained.weights()} if "test" in item.splits else {}
    return Result({name: own._asdict() for name, own in trained.scores.items()}, files)


class InnerSearches(NamedTuple):
    """Arguments shared by the inner searches of a run."""

    space: NetworkSpace
    predictor: Predictor
    fp32: Predictor
    settings: RunSettings
    costs: Costs

    def best(self) -> Front:
        """Search for the candidate with the lowest predicted loss under all constraints."""
        settings, costs = self.settings, list(self.costs.metrics.values())
        return search_best(
            self.costs.encoding,
            self.predictor,
            self.costs.limits(settings.constraints),
            costs,
            n_evaluations=settings.n_evaluations,
            seed=settings.seed,
        )

    def front(self) -> Problem:
        """Problem of the predicted loss and the first constrained cost.

        It has the constraints of ``best``, since only feasible points of the front can be chosen after training.
        """
        constraints, costs = self.costs.limits(self.settings.constraints), self.costs.metrics
        objectives = [Objective(self.predictor), Objective(front_cost(constraints, costs["bit_ops"]))]
        return Problem(self.costs.encoding, objectives, constraints, list(costs.values()))

    def rivals(self) -> dict[str, NetworkCandidate | None]:
        """Predicted best candidates of the baselines ``uniform`` and ``staged``; ``None`` if none is feasible."""
        settings, encoding = self.settings, self.costs.encoding
        constraints = self.costs.limits(settings.constraints)
        rivals = Rivals(encoding, self.predictor, self.fp32, constraints, settings.n_evaluations, settings.seed)
        found = dict(zip(RIVALS, (rivals.uniform(), rivals.staged()), strict=True))
        return {name: encoding.decode(best[0][None])[0] if best else None for name, best in found.items()}


def run_search(item: str, shared: InnerSearches) -> Result:
    """Run one inner search, or the baselines, and return the content of its file.

    ``random`` solves the problem of ``front`` at random; ``rivals`` are the baselines under the same constraints. If
    random search finds no feasible candidate its front is empty.
    """
    torch.set_num_threads(1)
    settings = shared.settings
    if item == "rivals":
        return Result({"file": to_json({name: c and c.to_dict() for name, c in shared.rivals().items()})})
    if item == "best":
        return Result({"file": shared.best().to_json()})
    problem = shared.front()
    algorithm = RandomSearch() if item == "random" else None
    try:
        front = search(problem, algorithm, n_evaluations=settings.n_evaluations, seed=settings.seed)
    except ProblemError:
        if item != "random":
            raise
        front = _empty(problem, settings.n_evaluations)
    return Result({"file": front.to_json()})


def _empty(problem: Problem, n_evaluations: int) -> Front:
    """Front of a search that found no feasible candidate."""
    axes = tuple(Axis(o.metric.name, o.metric.unit, o.direction) for o in problem.objectives)
    table = pd.DataFrame(columns=[metric.name for metric in problem.metrics], dtype=float)
    return Front((), table, axes, {"n_evaluations": n_evaluations})


def of_its_stage(item: tuple[str, Any], shared: dict[str, tuple[Work, Any]]) -> Result | Generator[int, None, Result]:
    """Do a part of one of several stages whose parts run at the same time."""
    stage, part = item
    work, own = shared[stage]
    return work(part, own)
