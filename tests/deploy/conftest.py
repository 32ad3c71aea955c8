"""A finished run on the digits, as short as a run can be, and a device on which every file takes a known time."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from apq_tune import SearchSpace
from apq_tune.deploy import measure
from apq_tune.deploy.op_models import has_model
from apq_tune.deploy.profile_folder import write_folder
from apq_tune.deploy.profile_ops import RUN, ProfileOp
from apq_tune.deploy.profile_plan import ProfiledNetwork, ProfileItem, plan
from apq_tune.hosts import executor as executors
from apq_tune.pipeline.run import PipelineRun

N_NETWORKS = 24
"""Number of networks of the ``measured`` folder."""

QUICK = {
    "supernet.epochs": 2,
    "quantized.epochs": 2,
    "n_fp32": 12,
    "n_proxy": 12,
    "n_pairs": 12,
    "pair.epochs": 1,
    "pair.images": 64,
    "final.epochs": 1,
    "folds": 2,
    "n_evaluations": 300,
    "n_front": 1,
    "n_search": 60,
    "n_calibration": 32,
    "constraints": ["bit_ops<=25%"],
}


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a finished run; tests that change it copy it first."""
    path = tmp_path_factory.mktemp("finished") / "digits"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(executors, "start_executor", lambda *_: contextlib.nullcontext(executors.SerialExecutor()))
        PipelineRun(SearchSpace.load("digits"), None, path, changes=QUICK).run()
    return path


OVERHEAD = 3e-6
FACTORS = {"pointwise": 1.3, "depthwise": 0.8, "add": 2.0}
OFFSETS = {"pointwise": 0.4e-6, "depthwise": 0.0, "clip": 0.2e-6}


def alone(op: ProfileOp, precision: str) -> float:
    """Seconds of an operation by itself."""
    if op == RUN:
        return OVERHEAD
    work = 1e-6 + 2e-11 * op.macs * (1.5 if op.groups > 1 else 1.0) + 3e-10 * op.n_values
    return work * (1.0 if precision == "int8" else 1.7)


def within(op: ProfileOp, precision: str) -> float:
    """Seconds of an operation in a network."""
    return FACTORS.get(op.family, 1.0) * alone(op, precision) + OFFSETS.get(op.family, 0.0)


class FakeDevice:
    """Device whose clock only moves when a file runs."""

    def __init__(self, space: SearchSpace, networks: int, seed: int = 0, noise: float = 0.0) -> None:
        self.now, self.noise, self.loaded = 0.0, noise, []
        self.rng = np.random.default_rng(0)
        self.items = {item.key: item for item in plan(space, networks, seed)}
        self.slow: Callable[[], float] = lambda: 1.0

    alone, within = staticmethod(alone), staticmethod(within)

    def clock(self) -> float:
        return self.now

    def seconds(self, item: ProfileItem) -> float:
        """True seconds of one run of an item."""
        if isinstance(item.target, ProfiledNetwork):
            ops = [op for op in item.target.ops if has_model(op, item.precision)]
            return sum(within(op, item.precision) for op in ops)
        if item.target == RUN:
            return OVERHEAD
        return OVERHEAD + item.n_instances * alone(item.target, item.precision)

    def load(self, path: Path, threads: int) -> Callable[[], None]:
        assert path.exists() and threads == 1
        self.loaded.append(path.stem)
        seconds = self.seconds(self.items[path.stem])

        def run() -> None:
            self.now += seconds * self.slow() * (1 + self.noise * abs(self.rng.standard_normal()))

        return run


@pytest.fixture(scope="session")
def fake_device() -> type[FakeDevice]:
    """Class of devices whose clock only moves when a file runs."""
    return FakeDevice


@pytest.fixture(scope="module")
def gated_space(tiny_space: SearchSpace) -> SearchSpace:
    """A space with shortcuts, squeeze-excite and hard swish, none of whose layers differ in their function alone."""
    data = tiny_space.model_dump(mode="json", exclude_none=True)
    data["stem"]["channels"] = 16
    data["stages"][0]["depth"] = [1]
    data["stages"][1] |= {"squeeze_excite": True, "activation": "h_swish", "depth": [1, 2]}
    data["choices"] |= {"pw_a_bits": [4, 8], "expand_ratio": [2, 3]}
    return SearchSpace.from_dict(data)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, gated_space: SearchSpace, fake_device: type[FakeDevice]) -> Path:
    """Folder in which everything was measured, on a device without noise."""
    folder = tmp_path_factory.mktemp("profile") / "ops"
    write_folder(folder, gated_space, threads=1, networks=N_NETWORKS, seed=0)
    device = fake_device(gated_space, N_NETWORKS)
    list(measure.measure(folder, load=device.load, clock=device.clock, runtime="1.0"))
    return folder


@pytest.fixture
def folder(measured: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(measured, tmp_path / "ops"))


@pytest.fixture(scope="session")
def uncommented() -> Callable[[Path], list[str]]:
    """Function that reads the lines of a table without its comments."""

    def read(path: Path) -> list[str]:
        return [line for line in path.read_text("utf-8").splitlines() if not line.startswith("#")]

    return read
