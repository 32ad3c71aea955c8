"""What trials do: functions of one item and of what all items share, free of Ray and of files."""

from __future__ import annotations

import io
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from apq_tune.data import AnySplit, Data
from apq_tune.errors import ProblemError
from apq_tune.hosts.ray import Result, Work
from apq_tune.methods.rivals import RIVALS, Rivals
from apq_tune.pipeline.settings import RunSettings
from apq_tune.predict import Predictor
from apq_tune.problem.costs import Costs
from apq_tune.problem.front import Axis, Front
from apq_tune.problem.problem import Constraint, Metric, Objective, Problem
from apq_tune.searchers import RandomSearch, search
from apq_tune.space.candidate import Candidate
from apq_tune.space.search_space import SearchSpace
from apq_tune.store.files import to_json
from apq_tune.supernet.batches import first_images
from apq_tune.supernet.evaluate import score, score_candidate, subnet_from
from apq_tune.supernet.finite import finite
from apq_tune.supernet.metrics import Device
from apq_tune.supernet.network import Supernet
from apq_tune.supernet.subnet import Subnet
from apq_tune.supernet.train import finetune

PAIRS, FINALISTS = 3, 4
"""Second words of the seeds of these stages; supernet training has 1 and 2."""


class RunNetworks(NamedTuple):
    """What trials that run networks share."""

    space: SearchSpace
    weights: dict[str, Tensor]  # of the supernet
    quantize: bool
    data: Data
    settings: RunSettings
    device: Device = "cpu"

    def supernet(self) -> tuple[Supernet, Tensor]:
        """The supernet and the images that recalibrate its batch norm."""
        torch.set_num_threads(1)
        supernet = Supernet(self.space)
        supernet.load_state_dict(self.weights)
        calibration = first_images(self.data.train, self.settings.n_calibration)
        return supernet.to(self.device), calibration.to(self.device)

    @property
    def search(self) -> AnySplit:
        """The images that candidates are compared on, before the finalists."""
        n = self.settings.n_search
        return self.data.search if n is None else self.data.search.first(n)

    def subnet(self, supernet: Supernet, candidate: dict[str, Any], calibration: Tensor) -> Subnet:
        """The stand-alone network of one candidate, where its QAT begins."""
        return subnet_from(supernet, Candidate.from_dict(candidate), calibration, quantize=True)


def score_batch(item: dict[str, Any], shared: RunNetworks) -> Generator[int, None, Result]:
    """Score candidates of the supernet on the search split; yields how many are done."""
    supernet, calibration = shared.supernet()
    training, name = (
        (shared.settings.quantized, "quantized") if shared.quantize else (shared.settings.supernet, "supernet")
    )
    scores = []
    for candidate in map(Candidate.from_dict, item["candidates"]):
        own = score_candidate(supernet, candidate, calibration, shared.search, quantize=shared.quantize)
        scores.append(finite(own, candidate, name, training.learning_rate))
        yield len(scores)
    return Result({"scores": [s._asdict() for s in scores]})


def pair_batch(item: dict[str, Any], shared: RunNetworks) -> Generator[int, None, Result]:
    """Finetune candidates briefly (QAT), each from the supernet's weights, and score them on the search split.

    Yields:
        How many are done.
    """
    supernet, calibration = shared.supernet()
    scores = []
    for number, data in enumerate(item["candidates"], start=item["first"]):
        subnet = shared.subnet(supernet, data, calibration)
        finetune(subnet, shared.data.train, shared.settings.pair, (shared.settings.seed, PAIRS, number))
        own = score(subnet, shared.search, shared.device)
        finite(own, Candidate.from_dict(data), "pair", shared.settings.pair.learning_rate)
        scores.append(own._asdict())
        yield len(scores)
    return Result({"scores": scores})


def final_training(item: dict[str, Any], shared: RunNetworks) -> Result:
    """Finetune one finalist at full length; hands back its scores and its weights."""
    supernet, calibration = shared.supernet()
    subnet = shared.subnet(supernet, item["candidate"], calibration)
    finetune(subnet, shared.data.train, shared.settings.final, (shared.settings.seed, FINALISTS))
    scores = {name: score(subnet, getattr(shared.data, name), shared.device) for name in ("search", "test")}
    for own in scores.values():
        finite(own, Candidate.from_dict(item["candidate"]), "final", shared.settings.final.learning_rate)
    buffer = io.BytesIO()
    torch.save(subnet.cpu().state_dict(), buffer)
    return Result({name: own._asdict() for name, own in scores.items()}, {"weights.pt": buffer.getvalue()})


def front_cost(constraints: Sequence[Constraint], costs: Costs) -> Metric:
    """What a front trades loss against: the metric of the first upper limit, BitOps where there is none."""
    limited = [constraint.metric for constraint in constraints if constraint.sense == "<="]
    return limited[0] if limited else costs.metrics["bit_ops"]


class InnerSearches(NamedTuple):
    """What the searches share."""

    space: SearchSpace
    predictor: Predictor
    fp32: Predictor
    settings: RunSettings
    costs: Costs

    def problems(self) -> dict[str, Problem]:
        """``best``: least predicted loss under all constraints; ``front``: the same against the first limited cost.

        The front keeps every constraint, too: its points are trained in full, and a network over a limit could not be
        chosen however good it is.
        """
        encoding, costs = self.costs.encoding, list(self.costs.metrics.values())
        constraints = self.costs.limits(self.settings.constraints)
        loss = Objective(self.predictor)
        return {
            "best": Problem(encoding, [loss], constraints, costs),
            "front": Problem(encoding, [loss, Objective(front_cost(constraints, self.costs))], constraints, costs),
        }

    def rivals(self) -> dict[str, Candidate | None]:
        """``uniform``, ``staged``: the predicted best of each; ``None`` if nothing fits at any uniform width."""
        settings, encoding = self.settings, self.costs.encoding
        constraints = self.costs.limits(settings.constraints)
        rivals = Rivals(encoding, self.predictor, self.fp32, constraints, settings.n_evaluations, settings.seed)
        found = dict(zip(RIVALS, (rivals.uniform(), rivals.staged()), strict=True))
        return {name: encoding.decode(best[0][None])[0] if best else None for name, best in found.items()}


def run_search(item: str, shared: InnerSearches) -> Result:
    """One whole inner search, or several small ones, and the content of its file.

    ``best``, ``front``, or ``random``, which answers the front's question at random; ``rivals``: what a uniform policy
    and separate stages come to under the constraints of ``best``. Random search may meet nothing that keeps tight
    limits; its front then is empty.
    """
    torch.set_num_threads(1)
    settings = shared.settings
    if item == "rivals":
        return Result({"file": to_json({name: c and c.to_dict() for name, c in shared.rivals().items()})})
    problem = shared.problems()["front" if item == "random" else item]
    algorithm = RandomSearch() if item == "random" else None
    try:
        front = search(problem, algorithm, n_evaluations=settings.n_evaluations, seed=settings.seed)
    except ProblemError:
        if item != "random":
            raise
        front = _empty(problem, settings.n_evaluations)
    return Result({"file": front.to_json()})


def _empty(problem: Problem, n_evaluations: int) -> Front:
    """The front of a search that met nothing feasible."""
    axes = tuple(Axis(o.metric.name, o.metric.unit, o.direction) for o in problem.objectives)
    table = pd.DataFrame(columns=[metric.name for metric in problem.metrics], dtype=float)
    return Front((), table, axes, {"n_evaluations": n_evaluations})


def of_its_stage(item: tuple[str, Any], shared: dict[str, tuple[Work, Any]]) -> Result | Generator[int, None, Result]:
    """Do a part of any of the stages that are measured together."""
    stage, part = item
    work, own = shared[stage]
    return work(part, own)
