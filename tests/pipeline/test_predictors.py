"""Predictors of a run: the report on its own pairs, the bound that its search uses, and predictors of pairs alone."""

from __future__ import annotations

import json
import re
import types
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from scipy.stats import kendalltau

from apq_tune import ApqError, NetworkEncoding, load_predictor
from apq_tune.cli import cli
from apq_tune.cli.predictor import PLAIN
from apq_tune.cost import bit_ops
from apq_tune.pipeline.learning import fit_predictors
from apq_tune.pipeline.measuring import measure_searches
from apq_tune.pipeline.predictor_report import interval, report_predictors
from apq_tune.pipeline.settings import RunSettings
from apq_tune.pipeline.stages import STAGES
from apq_tune.predict import Pairs, PlainForm, fit_gp, fit_ridge
from apq_tune.predict.ensemble import BoundPredictor, fit_parts
from apq_tune.predict.files import predictor_bytes
from apq_tune.predict.forms import forms
from apq_tune.problem.costs import Costs
from apq_tune.store.directory import RunDirectory
from apq_tune.store.files import write_atomically
from apq_tune.store.stage import StageDirectory

QUICK = {"ridge", "linear_ladder", "ladder", "mean"}


def made_up_run(encoding: NetworkEncoding, path: Path, n_pairs: int) -> Path:
    """The directory of a run whose losses are a power of BitOps, with noise."""
    settings, fingerprints = RunSettings(), dict[str, str]()
    RunDirectory(path, encoding.space, settings.model_dump(mode="json"), f"apq-tune run digits --out {path}")
    for number, stage in enumerate(STAGES[:5], start=1):
        basis = {
            "settings": settings.model_dump(mode="json", include=set(stage.settings)),
            "needs": {name: fingerprints[name] for name in stage.needs},
            "space": encoding.space.to_record(),
        }
        directory = StageDirectory(path / f"{number}_{stage.name}", basis)
        n = n_pairs if stage.name == "qat_pairs" else 60
        rng = np.random.default_rng(number)
        genomes = encoding.sample(n, rng)
        loss = (bit_ops(encoding)(genomes) / bit_ops(encoding).reachable()[0]) ** -0.5
        even, odd = (loss * np.exp(0.05 * rng.standard_normal(n)) for _ in range(2))
        columns: dict[str, Any] = {
            "loss": (even + odd) / 2,
            "accuracy": 1 - loss / 5,
            "loss_even": even,
            "loss_odd": odd,
        }
        table = pd.DataFrame(columns | {"candidate": [c.to_json() for c in encoding.decode(genomes)]})
        directory.write("losses.csv", table.to_csv(index=False))
        directory.add_seconds(1.0, done=True)
        fingerprints[stage.name] = directory.fingerprint
    return path


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of the forms: networks take most of the time and are compared elsewhere."""

    def some(fp32: Any, proxy: Any, **settings: Any) -> dict[str, Any]:
        return {name: fit for name, fit in forms(fp32, proxy, **settings).items() if name in QUICK}

    monkeypatch.setattr("apq_tune.predict.curve.fit_parts", partial(fit_parts, n_members=2))
    for module in ("pipeline.predictor_report", "predict.chosen"):
        monkeypatch.setattr(f"apq_tune.{module}.forms", some)


def call(*arguments: object) -> Any:
    return CliRunner().invoke(cli, list(map(str, arguments)))


def refusal(*arguments: object) -> str:
    result = call(*arguments)
    assert isinstance(result.exception, ApqError), result.output
    return str(result.exception)


@pytest.mark.usefixtures("quick")
def test_report_prints_and_writes_all_forms_and_repeats_itself(encoding: NetworkEncoding, tmp_path: Path) -> None:
    run = made_up_run(encoding, tmp_path / "run", 36)
    result = call("predictor", "report", run, "--splits", 3)
    assert result.exit_code == 0, result.output
    assert "The run has 36 quantized pairs. In each of 3 random splits 12 of them are held out" in result.output
    assert "mean (used)" in result.output
    assert "split-half agreement" in result.output
    summary = pd.read_csv(run / "predictor_report.csv")
    assert set(summary["form"]) == QUICK
    assert sorted(set(summary["n"])) == [10, 24]
    splits = pd.read_csv(run / "predictor_splits.csv")
    one = splits[(splits["form"] == "ladder") & (splits["n"] == 24)]["kendall_tau"]
    row = summary[(summary["form"] == "ladder") & (summary["n"] == 24)].iloc[0]
    assert row["kendall_tau"] == pytest.approx(one.mean())
    # two degrees of freedom, three splits, 12 of 36 pairs held out
    z = np.arctanh(one.clip(upper=1 - 4 / (12 * 11)))
    half = 4.30265 * z.std() * np.sqrt(1 / 3 + 12 / 24)
    ends = np.tanh([z.mean() - half, z.mean() + half])
    assert row["kendall_tau_low"] == pytest.approx(ends[0], rel=1e-4)
    assert row["kendall_tau_high"] == pytest.approx(max(ends[1], one.mean()), rel=1e-4)
    assert row["kendall_tau"] > 0.8  # nearly noiseless
    assert (run / "predictor_report.png").read_bytes().startswith(b"\x89PNG")
    again = report_predictors(run, n_splits=3, coverage_at=()).splits.drop(columns="coverage")
    pd.testing.assert_frame_equal(again, splits.drop(columns="coverage"))


@pytest.mark.parametrize("score", ["kendall_tau", "pairwise_accuracy", "rmse_log", "coverage"])
def test_intervals_stay_inside_what_a_score_can_be_and_are_absent_where_they_say_nothing(score: str) -> None:
    for values in ([1.0, 1.0], [0.1, 1.0], [0.02, 0.9], [0.56, 0.33, 0.9]):
        low, high = interval(np.array(values), score, 32, 10)
        assert low <= np.mean(values) <= high
        assert low >= (-1 if score == "kendall_tau" else 0)
        assert high <= 1 or score == "rmse_log"
        assert np.isnan(interval(np.array(values), score, 12, 4)).all()
    assert np.isnan(interval(np.array([0.5, np.nan]), score, 32, 10)).all()


def test_report_says_what_is_missing(encoding: NetworkEncoding, tmp_path: Path) -> None:
    assert "is not a run directory" in refusal("predictor", "report", tmp_path / "absent")
    run = made_up_run(encoding, tmp_path / "few", 9)
    assert "has 9 quantized pairs, 10 are needed" in refusal("predictor", "report", run)
    losses = run / "5_qat_pairs" / "losses.csv"
    losses.write_text(losses.read_text()[:-100])
    assert "losses.csv: is damaged (its content is not" in refusal("predictor", "report", run)
    assert f"delete it, this makes it anew: apq-tune run digits --out {run}" in refusal("predictor", "report", run)
    (run / "5_qat_pairs" / "stage.json").unlink()
    assert "its stage qat_pairs is not done; go on with: apq-tune run digits" in refusal("predictor", "report", run)


class Folder:
    """As much of a stage's directory as they see, without digests."""

    def __init__(self, path: Path) -> None:
        self.path, self.checked = path, path.joinpath

    def has(self, name: str) -> bool:
        return (self.path / name).exists()

    def write(self, name: str, content: Any) -> None:
        write_atomically(self.path / name, content)


class Stages:
    """As much of a run as the stages of predictors and search see."""

    def __init__(self, path: Path, encoding: NetworkEncoding, settings: RunSettings) -> None:
        self.path, self.encoding, self.settings = path, encoding, settings
        self.costs = Costs.of(encoding)
        self.data = types.SimpleNamespace(search=types.SimpleNamespace(labels=np.zeros(450)))

    def directory(self, stage: str) -> Any:
        number = next(n for n, known in enumerate(STAGES, start=1) if known.name == stage)
        return Folder(self.path / f"{number}_{stage}")

    def advance(self, stage: str, done: int, total: int) -> None:
        pass


@pytest.mark.usefixtures("quick")
def test_a_search_uses_the_bound_if_kappa_asks_for_it(
    encoding: NetworkEncoding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made_up_run(encoding, tmp_path / "run", 20)
    monkeypatch.setattr("apq_tune.pipeline.learning.MLPPredictor", object)
    fp32 = fit_ridge(encoding, _losses(encoding, 30), 0)
    (path / "6_fp32_predictor").mkdir()
    (path / "6_fp32_predictor" / "predictor.npz").write_bytes(predictor_bytes(fp32))
    genomes = encoding.sample(50, np.random.default_rng(9))
    used = {}
    for kappa in (0.0, 1.0):
        run: Any = Stages(path, encoding, RunSettings(predictor="linear_ladder", kappa=kappa, folds=2))
        fit_predictors(run)
        used[kappa] = measure_searches(run).shared.predictor
    own = load_predictor(path / "7_predictors" / "predictor.npz", encoding)
    np.testing.assert_array_equal(used[0.0](genomes), own(genomes))
    assert isinstance(used[1.0], BoundPredictor)
    assert used[1.0].kappa == 1.0
    assert (used[1.0](genomes) > used[1.0].ensemble(genomes)).all()
    held = json.loads((path / "7_predictors" / "report.json").read_text())["held_out"]
    assert set(held) == QUICK
    assert (
        held["mean"]["rmse_log"] ** 2 <= (held["ladder"]["rmse_log"] ** 2 + held["linear_ladder"]["rmse_log"] ** 2) / 2
    )


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("fallback", [True, False])
def test_a_predictor_that_ranks_the_wrong_way_round_is_given_up(
    encoding: NetworkEncoding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fallback: bool
) -> None:
    path = made_up_run(encoding, tmp_path / "run", 20)
    monkeypatch.setattr("apq_tune.pipeline.learning.MLPPredictor", object)
    (path / "6_fp32_predictor").mkdir()
    good = fit_ridge(encoding, _losses(encoding, 30), 0)
    (path / "6_fp32_predictor" / "predictor.npz").write_bytes(predictor_bytes(good))
    upside_down = fit_ridge(encoding, Pairs(good.encoding.sample(30, np.random.default_rng(0)), np.ones(30)), 0)
    upside_down = replace(upside_down, weights=-good.weights)

    def planted(fp32: Any, proxy: Any, **settings: Any) -> dict[str, Any]:
        own = {name: fit for name, fit in forms(fp32, proxy, **settings).items() if name in QUICK}
        return own | {"ridge": lambda *_: upside_down}

    monkeypatch.setattr("apq_tune.predict.chosen.forms", planted)
    run: Any = Stages(path, encoding, RunSettings(predictor="ridge", folds=2, fallback=fallback))
    fit_predictors(run)
    report = json.loads((path / "7_predictors" / "report.json").read_text())
    assert report["held_out"]["ridge"]["kendall_tau"] < -0.3
    assert report["useless"]
    assert "no better than chance" in report["why"]
    assert report["chosen"] == "ridge"
    genomes = encoding.sample(50, np.random.default_rng(9))
    used = measure_searches(run).shared.predictor(genomes)
    tau = kendalltau(used, bit_ops(encoding)(genomes)).statistic  # more of it, less loss
    if fallback:
        assert report["used"] != "ridge"
        assert report["support"][report["used"]]["low"] == max(s["low"] for s in report["support"].values())
        assert tau < -0.5
    else:
        assert report["used"] == "ridge"
        assert tau > 0


def _losses(encoding: NetworkEncoding, n: int) -> Any:
    genomes = encoding.sample(n, np.random.default_rng(0))
    return Pairs(genomes, bit_ops(encoding)(genomes) ** -0.5)


def test_fit_saves_a_process_that_knows_all_pairs(encoding: NetworkEncoding, tmp_path: Path) -> None:
    pairs = _losses(encoding, 30)
    frame = pd.DataFrame(
        {"candidate_json": [c.to_json() for c in encoding.decode(pairs.genomes)], "loss": pairs.target}
    )
    frame.to_csv(tmp_path / "pairs.csv", index=False)
    arguments = ("predictor", "fit", "digits", "--pairs", tmp_path / "pairs.csv", "--out")
    unseen = encoding.sample(20, np.random.default_rng(1))
    result = call(*arguments, tmp_path / "new.npz")
    assert result.exit_code == 0, result.output
    assert result.output.count("(saved)") == 1
    taus = dict(re.findall(r"(\w+): Kendall tau (-?[\d.]+)", result.output))
    assert float(taus["gp"]) > float(taus["ridge"]) + 0.3  # the loss is a column of ordinal features
    np.testing.assert_array_equal(load_predictor(tmp_path / "new.npz")(unseen), fit_gp(encoding, pairs, 0)(unseen))
    assert "ends in .npz" in call(*arguments, tmp_path / "out.txt").output


def test_the_forms_on_the_command_line_are_all_there_are() -> None:
    assert sorted(PLAIN) == sorted(get_args(PlainForm))
