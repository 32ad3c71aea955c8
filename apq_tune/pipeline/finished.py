"""Finished runs, whose predictors and supernets can be used for new problems."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from apq_tune.data import data_digest, load_data
from apq_tune.errors import RunError
from apq_tune.inputs.ranges import validated
from apq_tune.pipeline.learning import PREDICTOR
from apq_tune.pipeline.networks import CHOSEN, KeptNetwork, Networks, chosen_of, classes_of
from apq_tune.pipeline.outcome import read_trained
from apq_tune.pipeline.own_model import BEGIN_WITH_MODEL, model_basis
from apq_tune.pipeline.settings import RunSettings
from apq_tune.pipeline.stage import RunStage, torch_load
from apq_tune.pipeline.stages import STAGES
from apq_tune.pipeline.training import WEIGHTS, calibrate
from apq_tune.pipeline.upgrade import RAISED
from apq_tune.predict import Predictor
from apq_tune.predict.files import load_predictor
from apq_tune.problem.costs import Costs
from apq_tune.space.encodings import encoding_of
from apq_tune.space.files import load_network_space
from apq_tune.space.network_space import NetworkSpace
from apq_tune.store.digests import check, read_record
from apq_tune.store.directory import FORMAT, kept_digests, kept_tables
from apq_tune.store.stage import StageFiles
from apq_tune.supernet.defaults import plain_torch
from apq_tune.supernet.device import Device
from apq_tune.supernet.found_network import FoundNetwork
from apq_tune.supernet.trained import TrainedSupernet


@dataclass(frozen=True)
class FinishedRun:
    """Products of a finished run; what needs the images is read on first use.

    Attributes:
        path: Directory of the run.
        space: Search space.
        predictor: Predictor of the loss after QAT.
        settings: Settings of the run.
    """

    path: Path
    space: NetworkSpace
    predictor: Predictor
    settings: RunSettings

    @functools.cached_property
    def supernets(self) -> Supernets:
        """Both supernets of the run, with its images.

        Raises:
            RunError: If the images are missing or have changed since.
        """
        return load_supernets(self.path)

    @property
    def fp32_supernet(self) -> TrainedSupernet:
        """Supernet trained in full precision."""
        return self.supernets.fp32

    @property
    def supernet(self) -> TrainedSupernet:
        """Supernet trained on with random bits: the proxy of QAT, and where QAT begins."""
        return self.supernets.quantized

    def network(self, name: str = CHOSEN) -> FoundNetwork:
        """Load a trained network of the run; the images need not be there.

        Args:
            name: Name of the network in the table of the run, such as ``"best"`` or ``"uniform"``; ``"chosen"`` for
                the network that the run has chosen.

        Raises:
            RunError: If the networks are not trained, there is none of that name, which lists those that there are,
                or its weights are damaged.
        """
        return networks_of_run(self.path).load(name)


class OpenRun(NamedTuple):
    """Contents of a run directory."""

    space: NetworkSpace
    settings: RunSettings
    stages: dict[str, StageFiles]
    data_root: str | None  # where the files of its data set are
    classes: tuple[str, ...]  # class names in the order of the labels


@dataclass(frozen=True)
class Supernets:
    """Both supernets of a run."""

    space: NetworkSpace
    fp32: TrainedSupernet
    quantized: TrainedSupernet
    settings: RunSettings

    @functools.cached_property
    def calibrated(self) -> TrainedSupernet:
        """Full-precision weights with calibrated clip values, from which QAT starts in the protocol of the paper."""
        network = dataclasses.replace(self.fp32).network
        calibrate(network, encoding_of(self.space), self.fp32.calibration, self.settings.seed)
        weights = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        return dataclasses.replace(self.fp32, weights=weights)


def open_run(path: Path, stages: Iterable[str]) -> OpenRun:
    """Open the directory of a run whose given stages are done.

    Raises:
        RunError: If it is not a run, has not finished the stages, or their products are damaged or were made with other
            settings; the message names the command that repairs it.
    """
    try:
        if not (path / "run.json").exists() and (path / "refine.json").exists():
            raise RunError(f"{path}: is a refinement, not a run; give its run, or load its networks with load_network")
        if not (path / "run.json").exists():
            raise RunError(f"{path}: is not a run directory; make one with: apq-tune run SPACE --out {path}")
    except OSError as error:
        raise RunError(f"{path}: is not a run directory ({error.strerror})") from None
    remedy = f"delete it and repeat the command that made it: apq-tune run ... --out {path}"
    run = read_record(path / "run.json", remedy, current=FORMAT)
    command = run["command"] or "the program that began it"
    again = f"this makes it anew: {command}"
    settings = validated(RunSettings, run["settings"])
    if not check(path / "space.yaml", [run["digests"]["space.yaml"]], again):
        raise RunError(f"{path / 'space.yaml'}: is missing; {again}")
    if kept_digests(path) != run["digests"]["tables"]:
        raise RunError(f"{path}: the cost tables that it keeps are damaged or missing; {again}")
    space = load_network_space(path / "space.yaml")
    folders = {s.name: StageFiles(path / f"{number}_{s.name}", again) for number, s in enumerate(STAGES, start=1)}
    plain = space.to_record()
    for stage in _with_needs(stages):
        if not folders[stage.name].begun or not folders[stage.name].done:
            raise RunError(f"{path}: its stage {stage.name} is not done; go on with: {command}")
        basis = folders[stage.name].record()["basis"]
        own = settings.of_stage(stage.settings)
        needs = {name: folders[name].fingerprint for name in stage.needs}
        began = None
        if "model" in run and stage.name in BEGIN_WITH_MODEL:
            began = model_basis(run["model"]["weights"], settings)
        if (basis["settings"], basis["needs"], basis["space"], basis.get("model")) != (own, needs, plain, began):
            raise RunError(f"{path}: its stage {stage.name} was done with other settings; do it again with: {command}")
    return OpenRun(space, settings, folders, run.get("data_root"), classes_of(run, space))


def _with_needs(names: Iterable[str]) -> list[RunStage]:
    """The given stages and all stages that they depend on, in order."""
    wanted = set(names)
    for stage in reversed(STAGES):
        wanted |= set(stage.needs) if stage.name in wanted else set()
    return [stage for stage in STAGES if stage.name in wanted]


@plain_torch()
def load_supernets(path: str | Path, device: Device = "cpu") -> Supernets:
    """Load the supernets of a run onto a device.

    Raises:
        RunError: If it is not a run, has not trained its supernets, or the images have changed since.
    """
    space, settings, stages, data_root, _ = open_run(Path(path), ("supernet", "quantized_supernet"))
    if data_digest(space) != stages["supernet"].record()["basis"].get("data"):
        raise RunError(
            f"{space.data}: its images are not those that {path} was trained on; put those back, or repeat the command "
            "that made the run, which trains on these"
        )
    data = load_data(space, data_root)
    fp32, quantized = (
        TrainedSupernet(space, torch_load(stages[name].checked(WEIGHTS)), data, settings.n_calibration, device)
        for name in ("supernet", "quantized_supernet")
    )
    return Supernets(space, fp32, quantized, settings)


@plain_torch()
def load_run(path: str | Path) -> FinishedRun:
    """Load a run that has trained its supernets and fitted its predictors.

    Args:
        path: Directory of the run.

    Raises:
        RunError: If it is not a run, has not finished these stages, or their products are damaged.
    """
    path = Path(path)
    space, settings, stages, _, _ = open_run(path, ("supernet", "quantized_supernet", "predictors"))
    for name in ("supernet", "quantized_supernet"):
        stages[name].checked(WEIGHTS)
    predictor = load_predictor(stages["predictors"].checked(PREDICTOR), space)
    return FinishedRun(path, space, predictor, settings)


def networks_of_run(path: Path) -> Networks:
    """Trained networks of a run: its finalists and baselines.

    Raises:
        RunError: If it is not a run, its networks are not trained, or a file is damaged.
    """
    run = open_run(path, ("finalists",))
    finalists, raised, tables = run.stages["finalists"], run.stages[RAISED], kept_tables(path)
    records = read_trained(finalists, raised)
    kept = {
        name: KeptNetwork(
            record["candidate"],
            {split: record[split] for split in ("search", "test")},
            functools.partial((raised if name == RAISED else finalists).checked, f"{name}.pt"),
        )
        for name, record in records.items()
    }
    limits = run.settings.constraints
    chosen = chosen_of(kept, Costs.of(encoding_of(run.space), tables, limits), limits)
    return Networks(path, run.space, kept, chosen, tuple(tables), run.classes, run.data_root, limits)


def read_finalists(path: Path) -> dict[str, Any]:
    """Scores and candidates of the finalists of a run, by name.

    Returns:
        An empty dictionary if the finalists are not trained, or were trained with other settings: they only serve as
        a comparison.
    """
    try:
        stages = open_run(path, ("finalists",)).stages
        return read_trained(stages["finalists"], stages[RAISED])
    except RunError:
        return {}
