"""Sweeps against enumeration, against searches run by hand, and interrupted in every way."""

from __future__ import annotations

import gc
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from rich.console import Console

from apq_tune import ApqError, FunctionMetric, Metric, NetworkEncoding, ProblemError, SearchSpace
from apq_tune.cli import cli
from apq_tune.cost import bit_ops, macs, weight_bytes
from apq_tune.problem.limits import read_combinations
from apq_tune.report.sweep import attained, picture, summary, summary_table
from apq_tune.studies.sweep import (
    Sweep,
    SweepTask,
    bounds_of,
    device_metrics,
    read_tables,
    results_frame,
    run_task,
    shares,
    tasks_of,
)


def sweep_of(encoding: NetworkEncoding, folder: Path, *objectives: str, n: int = 2000) -> Sweep:
    return Sweep(encoding, device_metrics(encoding, None, {}), objectives, n, folder / "checkpoints")


def limits_of(texts: list[str], metrics: Mapping[str, Metric]) -> list[tuple[tuple[str, float], ...]]:
    return [bounds_of(limits) for limits in read_combinations(metrics, texts)]


def done(sweep: Sweep, tasks: list[SweepTask]) -> pd.DataFrame:
    return results_frame(sweep, tasks, {task.key: run_task(task, sweep).metrics for task in tasks})


def test_every_combination_finds_its_own_optimum(
    tiny: NetworkEncoding, everything: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size, cost, count = (model(tiny)(everything) for model in (weight_bytes, bit_ops, macs))
    bounds = {"bit_ops": np.quantile(cost, [0.2, 0.6]), "weight_bytes": np.quantile(size, [0.3, 0.7])}
    texts = [f"{name}={','.join(map(repr, map(float, values)))}" for name, values in bounds.items()]
    monkeypatch.setattr("apq_tune.problem.metrics.MAXIMISED", ("macs",))
    sweep = sweep_of(tiny, tmp_path, "macs", n=len(everything))
    tasks = tasks_of(sweep, limits_of(texts, sweep.metrics["analytic"]), ["evolution", "random"], 1)
    frame = done(sweep, tasks)
    assert len(frame) == len(tasks) == 2 * 2 * 2
    for row in frame.to_dict("records"):
        kept = (cost <= row["limit bit_ops"]) & (size <= row["limit weight_bytes"])
        assert row["macs"] == count[kept].max()
        assert row["bit_ops"] <= row["limit bit_ops"]
        assert row["n_evaluations"] == len(everything)
    rows = summary(frame, sweep.problem("analytic", ()).objectives)
    assert len(rows) == 8
    assert (rows["q25"] == rows["q75"]).all()


def test_limits_that_nothing_meets_together_are_a_row_and_no_failure(tiny: NetworkEncoding, tmp_path: Path) -> None:
    count, highest = macs(tiny), macs(tiny).reachable()[1]
    opposite = FunctionMetric("opposite", "", lambda genomes: highest - count(genomes))
    sweep = Sweep(tiny, {"d": {"macs": count, "opposite": opposite}}, ("macs",), 300, tmp_path)
    half = highest / 2
    met, unmet = (("macs", half), ("opposite", highest)), (("macs", half * 0.9), ("opposite", half * 0.9))
    tasks = [SweepTask("d", limits, "random", seed) for limits in (met, unmet) for seed in (0, 1)]
    for chosen, found in ((tasks, [False, False, True, True]), (tasks[2:], [True, True])):
        frame = done(sweep, chosen)
        assert frame["candidate"].isna().tolist() == found
        assert frame["n_evaluations"].tolist() == [300] * len(found)
        objectives = sweep.problem("d", ()).objectives
        assert summary(frame, objectives)["found"].tolist() == ([1, 0] if len(found) == 4 else [0])
        assert picture(frame, objectives).startswith(b"\x89PNG")
    assert "no candidate with macs <= " in run_task(tasks[3], sweep).metrics["note"]


def test_a_front_and_its_share_of_the_hypervolume(tmp_path: Path, encoding: NetworkEncoding) -> None:
    sweep = sweep_of(encoding, tmp_path, "weight_bytes", "macs", n=200)
    tasks = tasks_of(sweep, [()], ["nsga2", "random"], 2)
    frame = done(sweep, tasks)
    assert frame.columns[:5].tolist() == ["device", "sampler", "seed", "n_evaluations", "hypervolume"]
    assert frame.groupby(["sampler", "seed"])["hypervolume"].nunique().eq(1).all()
    assert frame["hypervolume"].between(0, 1 + 1e-9).all()
    assert picture(frame, sweep.problem("analytic", ()).objectives).startswith(b"\x89PNG")


@pytest.mark.parametrize("objectives", [["macs"], ["weight_bytes", "macs"]], ids=["one objective", "a front"])
def test_limits_on_different_metrics_are_targets_of_one_sweep(
    objectives: list[str], encoding: NetworkEncoding, tmp_path: Path
) -> None:
    """Each target has no limit on the metric of the other one, and none is lost for it."""
    sweep = sweep_of(encoding, tmp_path, *objectives, n=200)
    limits = [(("bit_ops", 1e9),), (("peak_activation_bytes", 1e6),)]
    tasks = [SweepTask("analytic", own, "random", seed) for own in limits for seed in (0, 1)]
    frame = done(sweep, tasks)
    rows = summary(frame, sweep.problem("analytic", ()).objectives)
    assert len(rows) == 2
    assert rows["found"].tolist() == [1, 1]
    assert (rows["q50"] > 0).all()
    assert picture(frame, sweep.problem("analytic", ()).objectives).startswith(b"\x89PNG")
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(summary_table(frame, sweep.problem("analytic", ()).objectives))
    assert "nan" not in console.export_text()


def test_shares_of_the_hypervolume_by_hand() -> None:
    rows = [("a", 1, 1, 3.0), ("a", 1, 2, 2.0), ("a", 2, 1, np.nan), ("b", 1, 0, 4.0), ("b", 1, 10, 0.0)]
    frame = pd.DataFrame(rows, columns=["sampler", "seed", "cost", "merit"]).assign(device="d")
    # minus merit, scaled: from 0 (4) to 1 (0) with the reference at 1.1; cost from 0 (0) to 1 (10), reference at 1.1
    unit = 1 / 1.1
    a = (1 - 0.1 * unit) * (1 - 0.25 * unit)  # the row of merit 2 is dominated
    b = 1 * 1 - 0  # cost 0 and merit 4 is the best of all
    expected = [a / b, a / b, 0, 1, 1]
    np.testing.assert_allclose(shares(frame, {"cost": 1.0, "merit": -1.0}), expected)


def test_what_seeds_attained_by_hand(tiny: NetworkEncoding, tmp_path: Path) -> None:
    y, x = sweep_of(tiny, tmp_path, "weight_bytes", "macs").problem("analytic", ()).objectives
    run = pd.DataFrame({"macs": [1.0, 3.0, 2.0], "weight_bytes": [9.0, 4.0, 6.0]})
    assert attained(run, x, y, np.array([0.0, 1.0, 2.5, 9.0])).tolist() == [np.inf, 9, 6, 4]


METRICS = {name: FunctionMetric(name, "", lambda genomes: 1.0 * genomes[:, 0]) for name in "ab"}


def test_limits_combine_and_numbers_are_kept_exactly() -> None:
    assert limits_of([], METRICS) == [()]
    assert limits_of(["a=1,2.5", "b<=1e-3"], METRICS) == [(("a", 1.0), ("b", 0.001)), (("a", 2.5), ("b", 0.001))]
    close = [SweepTask("d", (("a", value),), "random", 0).key for value in (1 / 3, 0.333333)]
    assert len(set(close)) == 2
    assert SweepTask("note10", (("a", 6.0),), "nsga2", 3).key == "note10-a=6-nsga2-3"


@pytest.mark.parametrize("text", ["a", "a=", "=3", "a>=3", "a=1,x", "a=inf", "a=1,,2", "a=5%"])
def test_limits_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(ProblemError, match=r"cannot read .*write|what 100% of a is"):
        limits_of([text], METRICS)


@pytest.mark.parametrize("texts", [["a=1,1.0"], ["a=1", "a=2"]])
def test_a_limit_given_twice_is_refused(texts: list[str]) -> None:
    with pytest.raises(ProblemError, match="a metric or a bound comes twice"):
        limits_of(texts, METRICS)


def test_tables_have_names() -> None:
    assert read_tables(["a=x.csv", "b=y=z", "a=w"]) == {"a": [Path("x.csv"), Path("w")], "b": [Path("y=z")]}
    for text in ("x.csv", "=x", "a=", "a/b=x", "a-b=x"):
        with pytest.raises(ProblemError, match=r"cannot read target .*; write NAME=PATH"):
            read_tables([text])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--constraint", "bit_ops=1000,2e7"), "bit_ops goes from 3.00339e+06 to 5.86301e+07"),
        (("--constraint", "speed=3"), "unknown metric 'speed'"),
        (("--target", "a=absent.csv"), "absent.csv: is not a readable CSV"),
        (("--objective", "speed"), "unknown metric 'speed'; known: "),
        (("--address", "127.0.0.1:1"), "cannot reach a Ray cluster at '127.0.0.1:1'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_made(arguments: tuple[str, str], said: str, tmp_path: Path) -> None:
    call = ["sweep", "digits", "--out", str(tmp_path / "out"), "--objective", "macs", *arguments]
    result = CliRunner().invoke(cli, call)
    assert isinstance(result.exception, ApqError)
    assert said in str(result.exception)
    assert "\n" not in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_samplers_are_named(tmp_path: Path) -> None:
    for given, said in ((["nsga3"], "'nsga3' is not one of 'evolution', 'nsga2', 'random'"), (["random"] * 2, "twice")):
        samplers = [f"--sampler={name}" for name in given]
        result = CliRunner().invoke(cli, ["sweep", "digits", "--out", str(tmp_path), *samplers])
        assert result.exit_code == 2
        assert said in result.output


@pytest.mark.ray
def test_interrupted_and_killed_a_sweep_goes_on_to_the_results_of_searches_run_by_hand(tmp_path: Path) -> None:
    out = tmp_path / "out"
    limits = "bit_ops=5e6,1e7"
    command = [str(Path(sys.executable).with_name("apq-tune")), "sweep", "digits", f"--constraint={limits}"]
    command += ["--objective=peak_activation_bytes", "--evaluations=4000", "--seeds=2", "--num-cpus=1", f"--out={out}"]

    def interrupted(how: signal.Signals, items: int) -> tuple[int, str]:
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test in the background ignores it
        )
        while process.poll() is None and len(list(out.glob("items/[!.]*.json"))) < items:
            time.sleep(0.005)
        os.kill(process.pid, how)
        said = process.communicate(timeout=60)[1]
        return process.returncode, said

    status, said = interrupted(signal.SIGINT, 1)
    assert status == 130
    assert said.splitlines()[-1] == "interrupted; the same command goes on where it stopped"
    assert "Traceback" not in said
    kept = {path.name: path.read_bytes() for path in out.glob("items/*.json")}
    assert interrupted(signal.SIGKILL, len(kept) + 1)[0] == -signal.SIGKILL
    assert not (out / "results.csv").exists()
    said = str(CliRunner().invoke(cli, [*command[1:], "--evaluations=5000"]).exception)
    gc.collect()  # its traceback keeps the lock
    assert "is a sweep whose evaluations is 4000, not 5000" in said
    assert "\n" not in said
    on_ray = [*command, "--executor=ray"]  # which comes to the same
    result = subprocess.run(on_ray, capture_output=True, text=True, check=False, timeout=240)
    assert (result.returncode, result.stderr) == (0, "")
    assert {name: (out / "items" / name).read_bytes() for name in kept} == kept

    digits = NetworkEncoding(SearchSpace.load("digits"))
    sweep = sweep_of(digits, tmp_path, "peak_activation_bytes", n=4000)
    tasks = tasks_of(sweep, limits_of([limits], sweep.metrics["analytic"]), ["evolution", "random"], 2)
    expected = done(sweep, tasks)
    assert (out / "results.csv").read_text() == expected.to_csv(index=False)
    pd.testing.assert_frame_equal(pd.read_parquet(out / "results.parquet"), expected)
    assert (out / "fronts.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in out.iterdir()) == [
        "digests.sha256",
        "fleet.json",
        "fronts.png",
        "items",
        "results.csv",
        "results.parquet",
    ]
