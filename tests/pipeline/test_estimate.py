"""Estimates against arithmetic done by hand, and settings that fit a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from apq_tune import NetworkEncoding, RunError, SearchSpace
from apq_tune.data import Data, Split, load_data
from apq_tune.pipeline.estimate import FLOORS, Rates, estimate, fitted, measure_rates, remaining, words
from apq_tune.pipeline.run import PipelineRun
from apq_tune.pipeline.settings import RunSettings
from apq_tune.report.progress import RichListener

RATES = Rates(fp32=0.003, quantized=0.006, qat=0.009)
FAST = Rates(*(rate / 10 for rate in RATES))


def data_of(train: int, search: int, test: int) -> Data:
    return Data(*(Split(np.zeros((n, 1, 8, 8), np.float32), np.zeros(n, np.int64)) for n in (train, search, test)))


def test_stages_cost_what_their_images_cost() -> None:
    changes = {"supernet.epochs": 2, "quantized.epochs": 3, "pair.epochs": 1, "final.epochs": 4}
    settings = RunSettings().updated(
        {**changes, "n_fp32": 10, "n_proxy": 20, "n_pairs": 10, "n_calibration": 50, "n_search": 100}
    )
    data, steps = data_of(100, 150, 200), 3 * 32  # three whole batches of 32 an epoch
    seconds = estimate(settings, data, RATES, 1)
    assert seconds["supernet"] == pytest.approx(2 * steps * 0.003)
    assert seconds["quantized_supernet"] == pytest.approx(3 * steps * 0.006)
    score = (50 + 100) * 0.003
    assert seconds["qat_pairs"] == pytest.approx(10 * (steps * 0.009 + score))
    one, two = (estimate(settings, data, RATES, n) for n in (1, 2))
    assert one["proxy_losses"] - two["proxy_losses"] == pytest.approx(20 * score / 2)
    final = 4 * steps * 0.009 + (50 + 150 + 200) * 0.003
    assert one["finalists"] - two["finalists"] == pytest.approx((8 - 4) * final)
    on_ray = estimate(settings, data, RATES, 1, "ray")
    assert 5 < sum(on_ray.values()) - sum(one.values()) < 20  # a cluster is started
    assert on_ray["qat_pairs"] == one["qat_pairs"]


@pytest.mark.parametrize("minutes", [2.5, 5, 8])
def test_settings_fit_the_time_and_use_most_of_it(minutes: float) -> None:
    data = data_of(2_000, 500, 500)
    before = RunSettings().updated({"n_pairs": 50})
    found = fitted(before, data, FAST, 2, minutes, keep=("n_pairs",))
    took = sum(estimate(found, data, FAST, 2).values()) / 60
    assert 0.75 * minutes < took <= minutes
    assert found.n_pairs == 50
    assert (found.supernet.epochs > before.supernet.epochs) == (minutes > 3.4)


def test_a_time_that_is_too_short_is_refused_with_one_that_is_not() -> None:
    data = data_of(20_000, 5_000, 5_000)
    with pytest.raises(RunError, match=r"--minutes 1: .* give at least (\d+)") as refused:
        fitted(RunSettings(), data, RATES, 2, 1)
    enough = int(str(refused.value).split("give at least ")[1].split(",")[0])
    found = fitted(RunSettings(), data, RATES, 2, enough)
    assert (found.supernet.epochs, found.n_pairs) == (FLOORS["supernet.epochs"], FLOORS["n_pairs"])


def test_what_is_left_is_corrected_by_what_was_seen() -> None:
    estimates = {"a": 600.0, "b": 300.0, "c": 100.0}
    assert remaining(estimates, {}, {}) == 1000
    assert remaining(estimates, {}, {"a": 0.5}) == 700
    assert remaining(estimates, {"a": 600.0}, {"b": 1.0}) == 100
    assert remaining(estimates, {"a": 1320.0}, {}) == pytest.approx(400 * 1440 / 720)  # half as fast as expected
    assert [words(seconds) for seconds in (0.2, 45, 600, 9000)] == ["1 s", "45 s", "10 min", "2.5 h"]


def test_the_plan_is_told_stage_by_stage_and_what_is_left_after_each(capsys: pytest.CaptureFixture[str]) -> None:
    with RichListener() as listener:
        listener.planned({"supernet": 600.0, "search": 3.0, "finalists": 300.0}, 2)
        listener.stage("supernet", 1, 9)
        listener.advance("supernet", 1, 2)
        listener.finished("supernet", 600.0, "")
    said = capsys.readouterr().out
    assert "about 15 min on 2 free processors: train the supernet 10 min, finetune finalists" in said
    assert "--minutes N" in said
    assert "[1/9] train the supernet: 600.0 s; about 5 min left in all" in said


@pytest.mark.slow
def test_rates_are_measured_without_a_trace(tiny: NetworkEncoding) -> None:
    import torch

    rng = np.random.default_rng(0)
    split = Split(rng.random((64, 3, 8, 8)).astype(np.float32), rng.integers(0, 4, 64))
    before = torch.random.get_rng_state()
    rates = measure_rates(tiny, RunSettings(), Data(split, split, split))
    assert all(0 < rate < 1 for rate in rates)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.slow
def test_a_run_that_was_fitted_goes_on_with_the_settings_that_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = SearchSpace.load("digits")
    monkeypatch.setattr("apq_tune.pipeline.run.measure_rates", lambda *_: FAST)
    first = PipelineRun(space, None, tmp_path / "run", changes={"minutes": 3.0}, num_cpus=1).settings
    monkeypatch.setattr("apq_tune.pipeline.run.measure_rates", lambda *_: Rates(1e-7, 1e-7, 1e-7))
    assert PipelineRun(space, None, tmp_path / "run", changes={"minutes": 3.0}, num_cpus=1).settings == first
    other = PipelineRun(space, None, tmp_path / "run", changes={"minutes": 4.0}, num_cpus=1).settings
    assert other.supernet.epochs > first.supernet.epochs
    assert len(load_data(space).train.labels) == 898
