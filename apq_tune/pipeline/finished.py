"""A run that is done, as the parts of new problems."""

from __future__ import annotations

from collections.abc import Iterable
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
from apq_tune.supernet.metrics import Device, TrainedSupernet


class FinishedRun(NamedTuple):
    """What ``apq-tune run`` has made."""

    space: SearchSpace
    predictor: Predictor  # of the loss after QAT
    fp32_supernet: TrainedSupernet  # trained in full precision
    supernet: TrainedSupernet  # trained on with random bits: the proxy of QAT, and where QAT begins
    settings: Settings


class OpenRun(NamedTuple):
    """A run whose directory can be read."""

    space: SearchSpace
    settings: Settings
    folders: dict[str, Path]  # of each stage
    data_root: str | None  # where the files of its data set are


class Supernets(NamedTuple):
    """What a run has trained before it measures or predicts anything."""

    space: SearchSpace
    fp32: TrainedSupernet
    quantized: TrainedSupernet
    settings: Settings


def open_run(path: Path, stages: Iterable[str]) -> OpenRun:
    """Find the parts of a run that has done some stages.

    Raises:
        RunError: if it is no run, or has not come so far.
    """
    if not (path / "run.json").exists():
        raise RunError(f"{path}: is no run directory; make one with: apq-tune run SPACE --out {path}")
    run = read_json(path / "run.json")
    settings = Settings.model_validate(run["settings"])
    space = SearchSpace.load(path / "space.yaml")
    folders = {stage.name: path / f"{number}_{stage.name}" for number, stage in enumerate(STAGES, start=1)}
    for name in stages:
        record = folders[name] / "stage.json"
        if not record.exists() or read_json(record)["status"] != "done":
            raise RunError(f"{path}: its stage {name} is not done; go on with: apq-tune run {space.name} --out {path}")
    return OpenRun(space, settings, folders, run.get("data_root"))


def load_supernets(path: str | Path, device: Device = "cpu") -> Supernets:
    """Read the directory of a run that has trained its supernets, to run them on a device.

    Raises:
        RunError: if it is none, or has not come so far.
    """
    space, settings, folders, data_root = open_run(Path(path), ("supernet", "quantized_supernet"))
    data = load_data(space, data_root)
    fp32, quantized = (
        TrainedSupernet(space, torch_load(folders[name] / "weights.pt"), data, settings.n_calibration, device)
        for name in ("supernet", "quantized_supernet")
    )
    return Supernets(space, fp32, quantized, settings)


def load_run(path: str | Path) -> FinishedRun:
    """Read the directory of a run that has trained its supernets and fitted its predictors.

    Raises:
        RunError: if it is none, or has not come so far.
    """
    folders = open_run(Path(path), ("supernet", "quantized_supernet", "predictors")).folders
    space, fp32, quantized, settings = load_supernets(path)
    predictor = load_predictor(folders["predictors"] / "predictor.npz", space)
    return FinishedRun(space, predictor, fp32, quantized, settings)
