"""What every test shares: two search spaces, a generator and the way to the published data."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # arrays are small here, and threads of two test processes would collide
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's own 15 would starve its workers beside another test process

import numpy as np
import pytest
from hypothesis import settings

from apq_tune import NetworkEncoding, SearchSpace
from apq_tune.hosts import executor as executors

settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("repeatable")

TINY = {
    "format": 1,
    "name": "tiny",
    "input": {"channels": 3, "size": 8},
    "classes": 4,
    "stem": {"channels": 8, "kernel_size": 3, "stride": 1},
    "stages": [
        {"channels": 8, "stride": 1, "depth": [1, 2], "kernel_size": [3, 5]},
        {"channels": 16, "stride": 2, "depth": [1]},
    ],
    "head": {"channels": 24},
    "choices": {
        "kernel_size": [3],
        "expand_ratio": [1, 3],
        "pw_w_bits": [2, 8],
        "pw_a_bits": [8],
        "dw_w_bits": [4, 8],
        "dw_a_bits": [2, 8],
    },
    "forbidden": [{"kernel_size": 5, "dw_a_bits": 2}],
}
"""A block of stage 1 has 2 * 2 * 8 combinations less the 8 that are forbidden, the one of stage 2 has 2 * 8."""

TINY_SIZE = (24 + 24 * 24) * 16

TINY_DIGITS = TINY | {"data": "digits", "input": {"channels": 1, "size": 8}, "classes": 10}
"""The same on the digits, for tests that train and for which any network will do."""


TOGETHER = {
    "laws": ("tests/laws/",),
    "finished_run": tuple(f"tests/deploy/test_{name}.py" for name in ("agreement", "export", "load")),
}
"""Files that share one run, by a name for them: a session has it once in each process."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests go to the two processes file by file, except that files that share one run stay together."""
    from xdist.scheduler import LoadFileScheduling

    class ByFileOrFolder(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = str(super()._split_scope(nodeid))
            return next((group for group, files in TOGETHER.items() if file.startswith(files)), file)

    return ByFileOrFolder(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that train or start Ray go first, so that none of them is left when the other process has finished."""
    long = {item.path for item in items if item.get_closest_marker("slow") or item.get_closest_marker("ray")}
    items.sort(key=lambda item: item.path not in long)


def in_this_process(patch: pytest.MonkeyPatch, executor: Any = None) -> None:
    """Compute everything in this process, where it can be watched and interrupted; by our executor, or another."""
    used = executors.SerialExecutor() if executor is None else executor
    patch.setattr(executors, "start_executor", lambda *_: contextlib.nullcontext(used))
    patch.setattr("apq_tune.pipeline.estimate.PROBE_SECONDS", 0.0)  # as few steps are timed as can be


@pytest.fixture(scope="module")
def serial() -> Iterator[None]:
    """Commands of this module compute everything in this process."""
    with pytest.MonkeyPatch.context() as patch:
        in_this_process(patch)
        yield


@pytest.fixture(scope="session")
def space() -> SearchSpace:
    return SearchSpace.load("digits")


@pytest.fixture(scope="session")
def tiny_space() -> SearchSpace:
    return SearchSpace.from_dict(TINY)


@pytest.fixture(scope="session")
def tiny_digits() -> SearchSpace:
    return SearchSpace.from_dict(TINY_DIGITS)


@pytest.fixture(scope="session")
def encoding(space: SearchSpace) -> NetworkEncoding:
    return NetworkEncoding(space)


@pytest.fixture(scope="session")
def tiny(tiny_space: SearchSpace) -> NetworkEncoding:
    return NetworkEncoding(tiny_space)


@pytest.fixture(scope="session")
def everything(tiny: NetworkEncoding) -> np.ndarray:
    """Every genome of the tiny space."""
    return tiny.enumerate()


@pytest.fixture(scope="session", params=["digits", "tiny"])
def either(request: pytest.FixtureRequest, encoding: NetworkEncoding, tiny: NetworkEncoding) -> NetworkEncoding:
    """One space without forbidden rules, then one with them."""
    return encoding if request.param == "digits" else tiny


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """Path of a published file by its name under shared/data; skips the test where it is absent."""

    def find(name: str) -> Path:
        path = Path(__file__).parents[2] / "shared" / "data" / name
        if not path.exists():
            pytest.skip(f"published data are not here: {path}")
        return path

    return find
