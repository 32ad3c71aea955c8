"""A run that is done, as the parts of new problems."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from apq_tune.data import load_data
from apq_tune.errors import RunError
from apq_tune.pipeline.directory import read_json
from apq_tune.pipeline.settings import Settings
from apq_tune.pipeline.stage import torch_load
from apq_tune.pipeline.stages import STAGES
from apq_tune.predict import Predictor
from apq_tune.predict.files import load_predictor
from apq_tune.space import SearchSpace
from apq_tune.supernet.metrics import TrainedSupernet


class FinishedRun(NamedTuple):
    """What ``apq-tune run`` has made."""

    space: SearchSpace
    predictor: Predictor  # of the loss after QAT
    fp32_supernet: TrainedSupernet  # trained in full precision
    supernet: TrainedSupernet  # trained on with random bits: the proxy of QAT, and where QAT begins
    settings: Settings


class Supernets(NamedTuple):
    """What a run has trained before it measures or predicts anything."""

    space: SearchSpace
    fp32: TrainedSupernet
    quantized: TrainedSupernet
    settings: Settings


def load_run(path: str | Path) -> FinishedRun:
    """Read the directory of a run that has trained its supernets and fitted its predictors.

    Raises:
        RunError: if it is none, or has not come so far.
    """
    path = Path(path)
    space, fp32, quantized, settings = load_supernets(path, ("predictors",))
    predictor = load_predictor(_folder(path, "predictors") / "predictor.npz", space)
    return FinishedRun(space, predictor, fp32, quantized, settings)


def load_supernets(path: str | Path, also: Sequence[str] = ()) -> Supernets:
    """Read the directory of a run that has trained its supernets.

    Args:
        path: of the run.
        also: other stages that must be done.

    Raises:
        RunError: if it is none, or has not come so far.
    """
    path = Path(path)
    if not (path / "run.json").exists():
        raise RunError(f"{path}: is no run directory; make one with: apq-tune run SPACE --out {path}")
    record = read_json(path / "run.json")
    settings = Settings.model_validate(record["settings"])
    space = SearchSpace.load(path / "space.yaml")
    for name in ("supernet", "quantized_supernet", *also):
        stage = _folder(path, name) / "stage.json"
        if not stage.exists() or read_json(stage)["status"] != "done":
            raise RunError(f"{path}: its stage {name} is not done; go on with: apq-tune run {space.name} --out {path}")
    data = load_data(space, record.get("data_root"))
    fp32, quantized = (
        TrainedSupernet(space, torch_load(_folder(path, name) / "weights.pt"), data, settings.n_calibration)
        for name in ("supernet", "quantized_supernet")
    )
    return Supernets(space, fp32, quantized, settings)


def _folder(path: Path, stage: str) -> Path:
    number = next(n for n, known in enumerate(STAGES, start=1) if known.name == stage)
    return path / f"{number}_{stage}"
