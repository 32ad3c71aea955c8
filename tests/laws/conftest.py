"""Whole commands in this process, on a data set that a test can exchange: a law needs the same run several times.

Trials run one after the other without Ray, which would take longer to start than all of them; what they are handed is
pickled, as Ray does. Every image says in its first rows which split it is from.
"""

from __future__ import annotations

import contextlib
import functools
import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner

from apq_tune.cli import cli
from apq_tune.data import Data, Split, named
from apq_tune.data.named import Shape
from apq_tune.hosts import executor as executors
from apq_tune.hosts.executor import SerialExecutor
from apq_tune.hosts.work import Result
from apq_tune.pipeline.run import PipelineRun
from apq_tune.pipeline.settings import RunSettings
from apq_tune.pipeline.stage import RunStage
from apq_tune.pipeline.stages import STAGES
from apq_tune.pipeline.work import of_its_stage
from apq_tune.studies import versus
from apq_tune.supernet.network import Supernet
from apq_tune.supernet.subnet import Subnet

NAME, CLASSES, SIZES = "laws", 3, {"train": 96, "search": 60, "test": 60}
MARKS = {"train": 0.25, "search": 0.5, "test": 0.75}
"""The two upper rows of the images of each split, still there when one is shifted or mirrored; exact in binary."""

SPACE = {
    "format": 1,
    "name": NAME,
    "data": NAME,
    "input": {"channels": 1, "size": 8},
    "classes": CLASSES,
    "stem": {"channels": 8, "kernel_size": 3, "stride": 1},
    "stages": [
        {"channels": 8, "stride": 1, "depth": [1, 2]},
        {"channels": 12, "stride": 2, "depth": [1, 2]},
    ],
    "head": {"channels": 16},
    "choices": {
        "kernel_size": [3],
        "expand_ratio": [1, 2],
        "pw_w_bits": [2, 4, 8],
        "pw_a_bits": [2, 4, 8],
        "dw_w_bits": [2, 4, 8],
        "dw_a_bits": [2, 4, 8],
    },
}

N_SEARCH = 40
"""Search images before the finalists."""

RUN = {
    "supernet.epochs": 3,
    "quantized.epochs": 3,
    "supernet.batch_size": 16,
    "quantized.batch_size": 16,
    "pair.batch_size": 16,
    "final.batch_size": 16,
    "n_fp32": 12,
    "n_proxy": 12,
    "n_pairs": 12,
    "batch": 6,
    "folds": 2,
    "final.epochs": 2,
    "n_evaluations": 200,
    "n_front": 2,
    "n_calibration": 32,
    "n_search": N_SEARCH,
    "constraints": ["bit_ops<=50%"],
}
REFINE = ["--rounds=2", "--batch=4", "--epochs=1", "--final-epochs=2", "--survivors=4"]
SPEND = ["--proxy=60", "--short=6", "--short-steps=2", "--final-steps=9", "--repeats=2", "--images=60"]


def pictures(seed: int) -> Data:
    """Three classes of noisy stripes and checks, hard enough that networks differ."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:8, :8]
    patterns = np.stack([x % 2, y % 2, (x + y) % 2]).astype(np.float32)
    parts = {}
    for name, n in SIZES.items():
        labels = np.arange(n) % CLASSES
        rng.shuffle(labels)
        images = 0.3 + 0.2 * patterns[labels] + 0.15 * rng.standard_normal((n, 8, 8))
        images[:, :2] = MARKS[name]
        parts[name] = Split(images.clip(0, 1).astype(np.float32)[:, None], labels.astype(np.int64))
    return Data(**parts)


def wrong(split: Split, seed: int = 7) -> Split:
    """Other images with labels that are all wrong: who is best here is worst on the true ones."""
    rng = np.random.default_rng(seed)
    images = np.clip(split.images + 0.05 * rng.standard_normal(split.images.shape), 0, 1).astype(np.float32)
    images[:, :, :2] = split.images[:, :, :2]
    return Split(images, (split.labels + 1) % CLASSES)


class Seen(NamedTuple):
    """Images in front of a network."""

    doing: str  # the folder and the part that a trial belongs to; nothing in this process
    network: str  # Supernet or Subnet
    trained: bool  # whether gradients were recorded
    images: np.ndarray  # (n, 1, 8, 8)

    @property
    def splits(self) -> set[str]:
        """Where they are from, by their marks."""
        marks = np.unique(self.images[:, 0, 0])
        assert set(marks) <= set(MARKS.values())
        return {name for name, mark in MARKS.items() if mark in marks}


class World(NamedTuple):
    """A place where commands run on any data; it remembers what networks saw."""

    space: Path
    use: Callable[[Data], None]
    seen: list[Seen]
    read: set[tuple[str, str]]  # stage, and a setting or the name of a stage whose directory it opened
    watch: Callable[[pytest.MonkeyPatch], None]  # puts all this in place

    def call(self, data: Data, *arguments: object) -> str:
        """What a command prints."""
        self.use(data)
        self.seen.clear()
        result = CliRunner().invoke(cli, list(map(str, arguments)), catch_exceptions=False, env={"COLUMNS": "250"})
        assert result.exit_code == 0, result.output
        return result.output

    def run(self, data: Data, out: Path, seed: int = 0, **changes: Any) -> Path:
        """``apq-tune run``."""
        settings = {name.replace("__", "."): value for name, value in changes.items()}
        options = [f"--set={name}={json.dumps(value)}" for name, value in (RUN | settings).items()]
        (out.parent / f"{out.name}.txt").write_text(
            self.call(data, "run", self.space, f"--out={out}", f"--seed={seed}", "--device=cpu", *options)
        )
        return out

    def refine(self, data: Data, run: Path, out: Path, seed: int = 0) -> Path:
        """``apq-tune refine``, on a run that may have been made from other data."""
        (out.parent / f"{out.name}.txt").write_text(
            self.call(data, "refine", run, f"--out={out}", f"--seed={seed}", *REFINE)
        )
        return out

    def versus(self, data: Data, run: Path, out: Path) -> Path:
        """``apq-tune joint-vs-staged``."""
        options = ["--method=uniform", "--method=random", "--constraint=bit_ops<=50%", "--device=cpu"]
        (out.parent / f"{out.name}.txt").write_text(
            self.call(data, "joint-vs-staged", run, f"--out={out}", *options, *SPEND)
        )
        return out


class _Watched(SerialExecutor):
    """An executor in this process that says what is being computed; items are pickled as on their way to workers."""

    doing = ""
    stage = ""

    def inside(self, stage: RunStage) -> RunStage:
        """The stage, which says meanwhile that it is the one at work."""

        def of(work: Any) -> Any:
            def doing(run: Any) -> Any:
                self.stage = stage.name
                try:
                    return work(run)
                finally:
                    self.stage = ""

            return None if work is None else doing

        return stage._replace(run=of(stage.run), measure=of(stage.measure))

    def map(
        self, work: Any, shared: Any, items: Mapping[str, Any], *, directory: Path, **options: Any
    ) -> Iterator[tuple[str, Result]]:
        for key, item in items.items():
            self.doing = f"{directory.parent.name}/{key}"
            self.stage = item[0] if work is of_its_stage else ""
            sent, common = pickle.loads(pickle.dumps((item, shared)))
            yield from super().map(work, common, {key: sent}, directory=directory, **options)
        self.doing = self.stage = ""


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    space = tmp_path_factory.mktemp("laws") / f"{NAME}.yaml"
    space.write_text(yaml.safe_dump(SPACE))
    threads, trials, seen = torch.get_num_threads(), _Watched(), list[Seen]()
    current: list[Data] = []
    read: set[tuple[str, str]] = set()

    def use(data: Data) -> None:
        versus.supernets.cache_clear()  # it keeps the data that it was loaded with
        current[:] = [data]

    def watched(kind: type[Any]) -> Callable[..., Any]:
        forward = kind.forward

        def watching(network: Any, x: torch.Tensor, *arguments: Any, **options: Any) -> Any:
            seen.append(Seen(trials.doing, kind.__name__, torch.is_grad_enabled(), x.detach().numpy().copy()))
            return forward(network, x, *arguments, **options)

        return watching

    def calibrating(network: Supernet, x: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        seen.append(Seen(trials.doing, "Supernet", False, x.numpy().copy()))
        return recalibrate(network, x, *arguments, **options)

    def reading(settings: RunSettings, name: str) -> Any:
        if trials.stage and name in type(settings).model_fields:
            read.add((trials.stage, name))
        return object.__getattribute__(settings, name)

    def opening(run: PipelineRun, stage: str) -> Any:
        if trials.stage:
            read.add((trials.stage, stage))
        return directory(run, stage)

    recalibrate, directory = Supernet.recalibrate, PipelineRun.directory

    def watch(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(executors, "start_executor", lambda *_: contextlib.nullcontext(trials))
        patch.setattr("apq_tune.pipeline.estimate.PROBE_SECONDS", 0.0)
        patch.setattr("apq_tune.methods.explore.EVALUATIONS", 200)
        patch.setitem(named.SHAPES, NAME, Shape(1, 8, CLASSES))
        patch.setitem(named.DATA, NAME, lambda _: current[0])
        patch.setattr(Supernet, "forward", watched(Supernet))
        patch.setattr(Supernet, "recalibrate", calibrating)
        patch.setattr(Subnet, "forward", watched(Subnet))
        patch.setattr(RunSettings, "__getattribute__", reading)
        patch.setattr(PipelineRun, "directory", opening)
        patch.setattr("apq_tune.pipeline.run.STAGES", tuple(map(trials.inside, STAGES)))

    yield World(space, use, seen, read, watch)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", autouse=True)
def _watched(world: World) -> Iterator[None]:
    """Not for longer than these modules, since others in this process need the package as it is."""
    with pytest.MonkeyPatch.context() as patch:
        world.watch(patch)
        yield


@pytest.fixture(scope="session")
def data() -> Data:
    return pictures(0)


class Base:
    """A run, its refinement and a comparison of methods on it, each made when a test first asks for it."""

    def __init__(self, world: World, data: Data, folder: Path) -> None:
        self._world, self._data, self._folder = world, data, folder
        self._seen: dict[str, list[Seen]] = {}
        self.read: set[tuple[str, str]] = set()  # by the run; see ``World.read``

    def seen(self, command: str) -> list[Seen]:
        """What networks saw during ``run``, ``refine`` or ``versus``."""
        getattr(self, command)
        return self._seen[command]

    @functools.cached_property
    def run(self) -> Path:
        """Directory of the run."""
        self._world.read.clear()
        made = self._world.run(self._data, self._folder / "run")
        self.read |= self._world.read
        return self._kept("run", made)

    @functools.cached_property
    def refine(self) -> Path:
        """Of its refinement."""
        return self._kept("refine", self._world.refine(self._data, self.run, self._folder / "refine"))

    @functools.cached_property
    def versus(self) -> Path:
        """Of the comparison."""
        return self._kept("versus", self._world.versus(self._data, self.run, self._folder / "versus"))

    def _kept(self, command: str, made: Path) -> Path:
        self._seen[command] = list(self._world.seen)
        return made


@pytest.fixture(scope="session")
def base(world: World, data: Data, tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base(world, data, tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session", name="wrong")
def _wrong() -> Callable[[Split], Split]:
    return wrong


@pytest.fixture(scope="session")
def n_search() -> int:
    return N_SEARCH
