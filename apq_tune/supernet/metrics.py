"""Metrics that run networks: loss or accuracy of candidates in the supernet, or after quantization-aware training.

All of them score the search split; the test split is never used for selection.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from apq_tune.problem.metric import Report
from apq_tune.space.encoding import Genomes
from apq_tune.space.encodings import encoding_of
from apq_tune.space.network_space import NetworkCandidate
from apq_tune.supernet.defaults import plain_torch
from apq_tune.supernet.evaluate import RunsCandidates, score
from apq_tune.supernet.interfaces import AnySubnet
from apq_tune.supernet.qat import QATTask, train_candidate
from apq_tune.supernet.seeds import SeedWord
from apq_tune.supernet.train import Training
from apq_tune.supernet.trained import TrainedSupernet

Measure = Literal["loss", "accuracy"]
UNITS = {"loss": "nats", "accuracy": "fraction"}


class NetworkMetric:
    """Loss or accuracy of networks that are run."""

    measure: Measure
    costly = True  # not evaluated for infeasible candidates

    @property
    def name(self) -> str:
        """``loss`` or ``accuracy``."""
        return self.measure

    @property
    def unit(self) -> str:
        """Nats, or fraction."""
        return UNITS[self.measure]


@dataclass(frozen=True)
class SupernetLoss(NetworkMetric):
    """Loss or accuracy of candidates in a supernet, with batch norm recalibrated for each.

    Attributes:
        supernet: Trained weights and data.
        quantize: Whether candidates run at their bits (PTQ, and a proxy of QAT if the supernet was trained with random
            bits) or in full precision.
        measure: ``"loss"``, the cross-entropy in nats, or ``"accuracy"``, a fraction that is noisy on a small split.
    """

    supernet: RunsCandidates
    quantize: bool = True
    measure: Measure = "loss"

    @property
    def fidelity(self) -> str:
        """What was done to get the value."""
        return "quantized supernet" if self.quantize else "full-precision supernet"

    @plain_torch()
    def __call__(self, genomes: Genomes) -> NDArray[np.float64]:
        """Loss in nats, or accuracy as a fraction, shape ``(n,)``."""
        torch.set_num_threads(1)
        candidates = encoding_of(self.supernet.space).decode(genomes)
        scores = [self.supernet.score(candidate, quantize=self.quantize) for candidate in candidates]
        return np.array([getattr(own, self.measure) for own in scores], np.float64)


@dataclass(frozen=True)
class QATLoss(NetworkMetric):
    """Loss or accuracy of candidates after quantization-aware training (QAT) from a supernet's weights.

    Attributes:
        supernet: Supernet from which training starts, and the data.
        training: Training settings.
        seed: Seed of the shuffles.
        measure: ``"loss"``, the cross-entropy in nats, or ``"accuracy"``, a fraction.
    """

    supernet: TrainedSupernet
    training: Training = dataclasses.field(
        default_factory=lambda: Training(epochs=6, batch_size=32, learning_rate=5e-3)
    )
    seed: int = 0
    measure: Measure = "loss"

    @property
    def fidelity(self) -> str:
        """What was done to get the value."""
        return f"QAT, {self.training.epochs} epochs"

    @property
    def epochs(self) -> int:
        """Number of epochs of the training."""
        return self.training.epochs

    def adjusted(self, config: Mapping[str, Any]) -> QATLoss:
        """Copy with the training settings, such as ``epochs`` or ``learning_rate``, that a configuration contains."""
        own = {field.name: config[field.name] for field in dataclasses.fields(Training) if field.name in config}
        return dataclasses.replace(self, training=dataclasses.replace(self.training, **own)) if own else self

    def train(self, candidate: NetworkCandidate, report: Report, checkpoint: bytes | None = None) -> None:
        """Train one candidate and report loss and accuracy after each epoch.

        A resumed training gives the same result as an uninterrupted one.

        Args:
            candidate: Candidate to train.
            report: Callback after each epoch.
            checkpoint: Checkpoint to resume from, if any.

        Raises:
            RunError: If the checkpoint is damaged or the training diverges.
        """

        def after_epoch(epoch: int, subnet: AnySubnet, state: Callable[[], bytes]) -> None:
            own = score(subnet, self.supernet.data.search, self.supernet.device)
            report(epoch, {"loss": own.loss, "accuracy": own.accuracy}, state)

        task = QATTask(candidate, self.training, (self.seed, SeedWord.QAT_LOSS), splits=())
        train_candidate(self.supernet, task, checkpoint=checkpoint, after_epoch=after_epoch)

    @plain_torch()
    def __call__(self, genomes: Genomes) -> NDArray[np.float64]:
        """Train every candidate to the end and return the final values, shape ``(n,)``."""
        values: list[float] = []

        def keep(epoch: int, scores: Mapping[str, float], _: Any) -> None:
            if epoch == self.training.epochs:
                values.append(scores[self.measure])

        for candidate in encoding_of(self.supernet.space).decode(genomes):
            self.train(candidate, keep)
        return np.array(values, np.float64)
