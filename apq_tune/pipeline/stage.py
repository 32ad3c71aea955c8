"""What a stage is: it either works in this process, or hands out parts that are measured by trials."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from apq_tune.data import Data
from apq_tune.hosts.executor import Result, Work
from apq_tune.pipeline.settings import RunSettings
from apq_tune.problem.costs import Costs
from apq_tune.space.network_encoding import NetworkEncoding
from apq_tune.store.stage import StageDirectory
from apq_tune.supernet.device import Device
from apq_tune.supernet.trained import TrainedSupernet


class Run(Protocol):
    """What a stage may use."""

    encoding: NetworkEncoding
    costs: Costs
    settings: RunSettings
    data: Data
    device: Device  # where networks run

    def directory(self, stage: str) -> StageDirectory:
        """Of any stage that is done, or of the one that runs."""
        ...

    def advance(self, stage: str, done: int, total: int) -> None:
        """Tell the user how far a stage is."""
        ...


class Parts(NamedTuple):
    """What is left to measure in a stage.

    Attributes:
        work: What a trial does with a part.
        shared: Second argument of ``work``.
        items: Key -> part, of the parts that are not done.
        on_result: Keeps a part's result, at once.
        finish: Makes the stage's product when all parts are done.
        on_progress: Told how much of a part is done, of parts that say so.
    """

    work: Work
    shared: Any
    items: Mapping[str, Any]
    on_result: Callable[[str, Result], None]
    finish: Callable[[], None]
    on_progress: Callable[[str, int], None] | None = None


class RunStage(NamedTuple):
    """One step of a run.

    Attributes:
        name: Of the stage and of its directory.
        needs: Stages whose products it reads.
        settings: Names of the settings it depends on.
        run: Does it in this process, or ...
        measure: ... says what trials have to do.
    """

    name: str
    needs: tuple[str, ...]
    settings: tuple[str, ...]
    run: Callable[[Run], None] | None = None
    measure: Callable[[Run], Parts] | None = None


def torch_bytes(state: Mapping[str, Any]) -> bytes:
    """A checkpoint of tensors and plain values."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getvalue()


def torch_load(path: Path) -> dict[str, Any]:
    """Read a checkpoint, tensors and plain values only.

    Its digest has been compared before, so that it is what was written.
    """
    loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return loaded


def weights(run: Run, stage: str) -> dict[str, Any]:
    """The supernet's weights after a training stage."""
    return torch_load(run.directory(stage).checked("weights.pt"))


def trained_supernet(run: Run, stage: str) -> TrainedSupernet:
    """The supernet after a training stage."""
    return TrainedSupernet(run.encoding.space, weights(run, stage), run.data, run.settings.n_calibration, run.device)
