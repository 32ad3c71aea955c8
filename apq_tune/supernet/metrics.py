"""Metrics that run networks: loss or accuracy of candidates in the supernet, or after quantization-aware training.

All of them score the search split; the test split is never used for selection.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apq_tune.data import Data
from apq_tune.errors import RunError
from apq_tune.problem.problem import Report
from apq_tune.space.candidate import Candidate
from apq_tune.space.encoding import Genomes
from apq_tune.space.network_encoding import NetworkEncoding
from apq_tune.space.search_space import SearchSpace
from apq_tune.supernet.batches import first_images
from apq_tune.supernet.defaults import plain_torch
from apq_tune.supernet.evaluate import Score, score, score_candidate, subnet_from
from apq_tune.supernet.network import Supernet
from apq_tune.supernet.subnet import Subnet
from apq_tune.supernet.train import Training, average_for, finetune, optimizer_for

QAT = 5
"""Second word of the seed of these trainings; those of a run have 1 to 4."""

Measure = Literal["loss", "accuracy"]
Device = Literal["cpu", "cuda"]
UNITS = {"loss": "nats", "accuracy": "fraction"}


def device_of(name: str) -> Device:
    """Resolve a device name; ``"auto"`` is the GPU if torch sees one, otherwise the CPU.

    Raises:
        RunError: If the name is unknown, or is ``"cuda"`` and torch sees no GPU.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise RunError("device is 'cuda', but torch sees no GPU here; choose 'cpu' or 'auto', or install CUDA's torch")
    if name not in ("cpu", "cuda"):
        raise RunError(f"device is {name!r}; choose 'auto', 'cpu' or 'cuda'")
    return "cpu" if name == "cpu" else "cuda"


@dataclass(frozen=True)
class TrainedSupernet:
    """Weights of a trained supernet and the data to run it on.

    Attributes:
        space: Search space of the supernet.
        weights: State of the supernet.
        data: Data to calibrate, train and score with.
        n_calibration: Number of training images for batch norm statistics.
        device: Device on which networks run, ``"cpu"`` or ``"cuda"``. Its availability is checked on first use, so
            that a process without a GPU can pass the object to a trial that has one.
    """

    space: SearchSpace
    weights: Mapping[str, Tensor]
    data: Data
    n_calibration: int = 256
    device: Device = "cpu"

    def __post_init__(self) -> None:
        if self.device not in ("cpu", "cuda"):
            raise RunError(f"device is {self.device!r}; give 'cpu' or 'cuda'")

    @functools.cached_property
    @plain_torch()
    def network(self) -> Supernet:
        """Supernet with these weights on the device.

        Raises:
            RunError: If the device is not available.
        """
        device_of(self.device)
        torch.set_num_threads(1)
        supernet = Supernet(self.space)
        supernet.load_state_dict(dict(self.weights))
        return supernet.to(self.device)

    @property
    @plain_torch()
    def calibration(self) -> Tensor:
        """Images for batch norm statistics, shape ``(n_calibration, channels, size, size)``."""
        return first_images(self.data.train, self.n_calibration).to(self.device)

    @plain_torch()
    def subnet(self, candidate: Candidate) -> Subnet:
        """Subnet of one candidate on the device, the starting point of its quantization-aware training."""
        return subnet_from(self.network, candidate, self.calibration, quantize=True)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "network"}


@dataclass(frozen=True)
class SupernetLoss:
    """Loss or accuracy of candidates in a supernet, with batch norm recalibrated for each.

    Attributes:
        supernet: Trained weights and data.
        quantize: Whether candidates run at their bits (PTQ, and a proxy of QAT if the supernet was trained with random
            bits) or in full precision.
        measure: ``"loss"``, the cross-entropy in nats, or ``"accuracy"``, a fraction that is noisy on a small split.
    """

    supernet: TrainedSupernet
    quantize: bool = True
    measure: Measure = "loss"
    costly = True  # not evaluated for infeasible candidates

    @property
    def name(self) -> str:
        """``loss`` or ``accuracy``."""
        return self.measure

    @property
    def unit(self) -> str:
        """Nats, or fraction."""
        return UNITS[self.measure]

    @property
    def fidelity(self) -> str:
        """What was done to get the value."""
        return "quantized supernet" if self.quantize else "full-precision supernet"

    @plain_torch()
    def __call__(self, genomes: Genomes) -> NDArray[np.float64]:
        """Loss in nats, or accuracy as a fraction, shape ``(n,)``."""
        torch.set_num_threads(1)
        supernet, calibration, data = self.supernet.network, self.supernet.calibration, self.supernet.data
        candidates = NetworkEncoding(self.supernet.space).decode(genomes)
        scores = [score_candidate(supernet, c, calibration, data.search, quantize=self.quantize) for c in candidates]
        return np.array([getattr(own, self.measure) for own in scores], np.float64)


@dataclass(frozen=True)
class QATLoss:
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
    costly = True

    @property
    def name(self) -> str:
        """``loss`` or ``accuracy``."""
        return self.measure

    @property
    def unit(self) -> str:
        """Nats, or fraction."""
        return UNITS[self.measure]

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

    @plain_torch()
    def train(self, candidate: Candidate, report: Report, checkpoint: bytes | None = None) -> None:
        """Train one candidate and report loss and accuracy after each epoch.

        A resumed training gives the same result as an uninterrupted one.

        Args:
            candidate: Candidate to train.
            report: Callback after each epoch.
            checkpoint: Checkpoint to resume from, if any.

        Raises:
            RunError: If the checkpoint is damaged or the training diverges.
        """
        torch.set_num_threads(1)
        data = self.supernet.data
        subnet = self.supernet.subnet(candidate)
        optimizer, average = optimizer_for(subnet, self.training), average_for(subnet, self.training)
        first_epoch = 0
        if checkpoint is not None:
            try:
                state = torch.load(io.BytesIO(checkpoint), map_location="cpu", weights_only=True)
                subnet.load_state_dict(state["subnet"])
                optimizer.load_state_dict(state["optimizer"])
                if average is not None:
                    average.load_state_dict(state["average"])
                first_epoch = state["epoch"]
            except (RuntimeError, KeyError, IndexError, ValueError, EOFError, pickle.UnpicklingError) as error:
                raise RunError(f"checkpoint of {candidate} cannot be read ({error}); restart the trial") from None

        def after_epoch(epoch: int) -> None:
            subnet.eval()
            own: Score = score(subnet, data.search, self.supernet.device)
            subnet.train()

            def state() -> bytes:
                buffer = io.BytesIO()
                content = {"subnet": subnet.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
                torch.save(content | ({} if average is None else {"average": average.state_dict()}), buffer)
                return buffer.getvalue()

            report(epoch, {"loss": own.loss, "accuracy": own.accuracy}, state)

        if first_epoch >= self.training.epochs:  # killed between the last checkpoint and the end
            after_epoch(first_epoch)
        finetune(
            subnet,
            data.train,
            self.training,
            (self.seed, QAT),
            optimizer=optimizer,
            average=average,
            first_epoch=first_epoch,
            after_epoch=after_epoch,
        )

    @plain_torch()
    def __call__(self, genomes: Genomes) -> NDArray[np.float64]:
        """Train every candidate to the end and return the final values, shape ``(n,)``."""
        values: list[float] = []

        def keep(epoch: int, scores: Mapping[str, float], _: Any) -> None:
            if epoch == self.training.epochs:
                values.append(scores[self.measure])

        for candidate in NetworkEncoding(self.supernet.space).decode(genomes):
            self.train(candidate, keep)
        return np.array(values, np.float64)
