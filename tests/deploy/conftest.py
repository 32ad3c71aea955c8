"""A finished run on the digits, as short as a run can be."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from apq_tune import SearchSpace
from apq_tune.hosts import executor as executors
from apq_tune.pipeline.run import PipelineRun

QUICK = {
    "supernet.epochs": 2,
    "quantized.epochs": 2,
    "n_fp32": 12,
    "n_proxy": 12,
    "n_pairs": 12,
    "pair.epochs": 1,
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
