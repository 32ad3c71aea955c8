"""What the trials of a refinement do."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import torch

from apq_tune.hosts.ray import Result
from apq_tune.pipeline.settings import RunSettings
from apq_tune.refine.settings import training_of
from apq_tune.space.candidate import Candidate
from apq_tune.supernet.evaluate import score
from apq_tune.supernet.finite import finite
from apq_tune.supernet.metrics import TrainedSupernet
from apq_tune.supernet.train import finetune

REFINE = 6
"""Second word of the seed of these trainings; others have 1 to 5."""


class RefineShared(NamedTuple):
    """What the trials share."""

    supernet: TrainedSupernet
    settings: RunSettings  # of the run
    seed: int


def train_candidate(item: dict[str, Any], shared: RefineShared) -> Result:
    """QAT of one candidate from the supernet's weights; at full length test scores and weights, too.

    All trainings of one length see the same batches: candidates are compared on equal terms.
    """
    subnet = shared.supernet.subnet(Candidate.from_dict(item["candidate"]))
    data, device = shared.supernet.data, shared.supernet.device
    training = training_of(item["epochs"], shared.settings)
    finetune(subnet, data.train, training, (shared.seed, REFINE, item["epochs"]))
    splits = ("search", "test") if item["final"] else ("search",)
    found = {name: score(subnet, getattr(data, name), device) for name in splits}
    for own in found.values():
        finite(own, Candidate.from_dict(item["candidate"]), "final", training.learning_rate)
    scores: dict[str, Any] = {name: own._asdict() for name, own in found.items()}
    if not item["final"]:
        return Result(scores)
    buffer = io.BytesIO()
    torch.save(subnet.cpu().state_dict(), buffer)
    return Result(scores, {"weights.pt": buffer.getvalue()})
