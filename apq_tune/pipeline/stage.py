"""What a stage is: it either works in this process, or hands out parts that are measured by trials."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

from apq_tune.data import Data
from apq_tune.hosts.work import Result, Work
from apq_tune.pipeline.settings import RunSettings
from apq_tune.problem.costs import Costs
from apq_tune.space.gene_encoding import GeneEncoding
from apq_tune.store.stage import StageDirectory
from apq_tune.supernet.device import Device
from apq_tune.supernet.trained import TrainedSupernet
from apq_tune.supernet.user_model import UserModel


class Run(Protocol):
    """Context of a stage."""

    encoding: GeneEncoding
    costs: Costs
    settings: RunSettings
    data: Data
    device: Device  # where networks run
    model: UserModel | None  # what the supernet starts from, in spaces of models

    def directory(self, stage: str) -> StageDirectory:
        """Directory of a stage that is done or running."""
        ...

    def advance(self, stage: str, done: int, total: int) -> None:
        """Report the progress of a stage."""
        ...


class Parts(NamedTuple):
    """Remaining parts of a stage.

    Attributes:
        work: Function that an executor applies to a part.
        shared: Second argument of ``work``.
        items: Parts that are not done, by key.
        on_result: Callback that stores the result of a part.
        finish: Callback that writes the products of the stage after the last part.
        on_progress: Callback with the key and the progress of a part, for functions that yield it.
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
        name: Name of the stage and of its directory.
        needs: Stages whose products it reads.
        settings: Names of the settings that it depends on.
        run: Function that does the stage in this process; alternatively ``measure``.
        measure: Function that returns the parts of the stage, which an executor does.
    """

    name: str
    needs: tuple[str, ...]
    settings: tuple[str, ...]
    run: Callable[[Run], None] | None = None
    measure: Callable[[Run], Parts] | None = None


def torch_bytes(state: Mapping[str, Any]) -> bytes:
    """Serialize a checkpoint of tensors and plain values."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getvalue()


def torch_load(path: Path) -> dict[str, Any]:
    """Read a checkpoint, tensors and plain values only.

    Its digest has been checked before.
    """
    loaded: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return loaded


def weights(run: Run, stage: str) -> dict[str, Any]:
    """The supernet's weights after a training stage."""
    return torch_load(run.directory(stage).checked("weights.pt"))


def trained_supernet(run: Run, stage: str) -> TrainedSupernet:
    """The supernet after a training stage."""
    return TrainedSupernet(run.encoding.space, weights(run, stage), run.data, run.settings.n_calibration, run.device)
