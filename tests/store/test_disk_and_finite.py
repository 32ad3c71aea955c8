"""What is asked before work: room on the disk; and what is asked after it: finite numbers."""

from __future__ import annotations

import dataclasses
import math
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from apq_tune import NetworkEncoding, RunError, SearchSpace
from apq_tune.data import load_data
from apq_tune.pipeline.run import PipelineRun
from apq_tune.pipeline.settings import RunSettings
from apq_tune.store import disk
from apq_tune.store.disk import RAY_BYTES, check_space, run_bytes, supernet_bytes
from apq_tune.supernet.evaluate import Score
from apq_tune.supernet.finite import check_supernet, check_weights, finite
from apq_tune.supernet.network import Supernet

Usage = namedtuple("Usage", "total used free")


def free(monkeypatch: pytest.MonkeyPatch, folder: Path, here: int, elsewhere: int = 10**12) -> None:
    def usage(path: Path) -> Usage:
        return Usage(0, 0, here if folder in (path, *path.parents) else elsewhere)

    monkeypatch.setattr(disk.shutil, "disk_usage", usage)


def test_the_size_of_a_supernet_is_that_of_its_weights() -> None:
    space = SearchSpace.load("digits")
    state = Supernet(space).state_dict()
    assert supernet_bytes(space) == sum(value.numel() * 4 for value in state.values())
    few, many = run_bytes(space, ("finalists",), 5), run_bytes(space, ("supernet", "finalists"), 5)
    assert many - few >= 3 * supernet_bytes(space)


def test_a_full_disk_is_refused_before_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/")
    free(monkeypatch, tmp_path, here=999)
    with pytest.raises(RunError, match=r"out/run: has 0 MB free, about 5 MB will be written; make room, or choose"):
        check_space(tmp_path / "out" / "run", 5_000_000, ray=False)
    run = PipelineRun(SearchSpace.load("digits"), None, tmp_path / "run")
    with pytest.raises(RunError, match=r"MB free, about 2\d MB will be written"):
        run.run_until("supernet")
    free(monkeypatch, tmp_path, here=10**12, elsewhere=RAY_BYTES - 1)
    with pytest.raises(RunError, match=r"^/: has 50 MB free.*, or set RAY_TMPDIR to a folder with more"):
        check_space(tmp_path, 1, ray=True)
    check_space(tmp_path, 1, ray=False)  # without Ray nothing is written there


def test_losses_that_are_not_finite_name_network_and_setting() -> None:
    candidate = NetworkEncoding(SearchSpace.load("digits")).extremes()[0]
    for loss in (math.nan, math.inf):
        with pytest.raises(RunError, match=r"the loss of .* is (nan|inf): .*; lower pair\.learning_rate, which is 0.5"):
            finite(Score(loss, 1.0, 1.0, 0.5, 0.9), candidate, "pair", 0.5)
    fine = Score(1.0, 1.0, 1.0, 0.5, 0.9)
    assert finite(fine, candidate, "pair", 0.5) is fine


def test_a_supernet_that_is_not_finite_is_refused_in_its_own_stage() -> None:
    space = SearchSpace.load("digits")
    encoding, data, training = NetworkEncoding(space), load_data(space), dataclasses.replace(RunSettings().supernet)
    torch.manual_seed(0)
    supernet = Supernet(space)
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    check_weights(supernet, "supernet", training, 1)
    check_supernet(supernet, encoding, data, "supernet", training, quantize=False)
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())
    with torch.no_grad():
        supernet.classifier.weight.fill_(3e38)  # finite, but no sum of it is
    with pytest.raises(RunError, match=r"its training diverged; lower supernet\.learning_rate"):
        check_supernet(supernet, encoding, data, "supernet", training, quantize=False)
    with torch.no_grad():
        supernet.stem.weight[0, 0, 0, 0] = math.nan
    with pytest.raises(RunError, match=r"diverged in epoch 3: weights are not finite any more; lower supernet\.learn"):
        check_weights(supernet, "supernet", training, 3)
