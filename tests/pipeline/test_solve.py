"""Answers of a finished run to new limits: the best of the whole space, monotone, honest, and trained on demand."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from apq_tune import ApqError, ProblemError, RunError, load_network, load_run, solve
from apq_tune.cli import cli
from apq_tune.pipeline.finished import load_supernets
from apq_tune.pipeline.learning import read_losses
from apq_tune.pipeline.reading import read_run
from apq_tune.pipeline.run import PipelineRun
from apq_tune.pipeline.settings import RunSettings
from apq_tune.pipeline.solve import CHECK
from apq_tune.pipeline.solved import SolvedFolder
from apq_tune.pipeline.work import final_task
from apq_tune.space.device import load_preset
from apq_tune.space.device_rules import check_network
from apq_tune.space.search_space import SearchSpace
from apq_tune.supernet.qat import train_candidate
from tests.pipeline.quick import QUICK

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("serial")]

SETTINGS = QUICK | {"constraints": ["weight_bytes<=60%"]}

ALL = 20_000
"""More candidates than the space has, so that a search is exhaustive."""


@pytest.fixture(scope="module")
def run(tiny_digits: SearchSpace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("apq_tune.pipeline.estimate.PROBE_SECONDS", 0.0)
        PipelineRun(tiny_digits, RunSettings().updated(SETTINGS), path, executor="serial").run()
    return path


@pytest.fixture(scope="module")
def known(run: Path) -> Any:
    """Encoding, every genome, its predicted loss and its costs."""
    finished, read = load_run(run), read_run(run)
    genomes = read.encoding.enumerate()
    costs = {name: metric(genomes) for name, metric in read.costs.metrics.items()}
    return read.encoding, genomes, finished.predictor(genomes), costs


def test_an_exhaustive_search_finds_what_enumeration_finds_under_every_combination(run: Path, known: Any) -> None:
    encoding, genomes, losses, costs = known
    sizes, peaks = (ends_and_middle(costs[name]) for name in ("weight_bytes", "peak_activation_bytes"))
    texts = [",".join(map(repr, values)) for values in (sizes, peaks)]
    found = solve(run, budgets=[f"flash={texts[0]}", f"ram={texts[1]}"], n_evaluations=ALL)
    assert len(found.answers) == len(sizes) * len(peaks) >= 4
    for one, (size, peak) in zip(found.answers, itertools.product(sizes, peaks), strict=True):
        inside = (costs["weight_bytes"] <= size) & (costs["peak_activation_bytes"] <= peak)
        if not inside.any():
            assert one.candidate is None
            assert one.why
            continue
        assert one.predicted_loss == pytest.approx(losses[inside].min(), rel=1e-9)
        (row,) = np.flatnonzero((genomes == encoding.encode([one.candidate])[0]).all(axis=1))
        assert inside[row]
        assert losses[row] == pytest.approx(one.predicted_loss, rel=1e-9)
        assert {name: values[row] for name, values in costs.items()} == pytest.approx(one.costs, rel=1e-12)


def ends_and_middle(values: Any) -> list[float]:
    """Least, middle and largest of the different values, as far as they differ."""
    different = np.unique(values)
    return np.unique(different[[0, len(different) // 2, -1]]).tolist()


def test_short_searches_are_monotone_and_repeatable(run: Path, known: Any) -> None:
    costs = known[3]["weight_bytes"]
    bounds = np.ceil(np.linspace(costs.min(), costs.max(), 8)).tolist()
    text = "flash=" + ",".join(map(repr, reversed(bounds)))  # the loosest first
    found = solve(run, budgets=[text], n_evaluations=40, seed=5)
    losses = [one.predicted_loss for one in found.answers]
    assert losses == sorted(losses)
    assert [one.constraints[0].bound for one in found.answers] == bounds[::-1]
    again = solve(run, budgets=[text], n_evaluations=40, seed=5)
    pd.testing.assert_frame_equal(found.table, again.table)


def test_limits_are_those_of_the_run_unless_others_are_given(run: Path, known: Any) -> None:
    losses, sizes = known[2], known[3]["weight_bytes"]
    (own,) = solve(run, n_evaluations=ALL).answers
    assert own.predicted_loss == pytest.approx(losses[sizes <= 0.6 * sizes.max()].min(), rel=1e-9)
    (free,) = solve(run, ["bit_ops<=100%"], n_evaluations=ALL).answers
    assert free.predicted_loss == pytest.approx(losses.min(), rel=1e-9)
    (both,) = solve(run, ["bit_ops<=100%"], budgets=["weight_bytes=60%"], n_evaluations=ALL).answers
    assert both.predicted_loss == own.predicted_loss


def test_impossible_budgets_are_named_with_the_least_reachable_cost_and_the_others_answered(
    run: Path, known: Any
) -> None:
    least = known[3]["weight_bytes"].min()
    found = solve(run, budgets=[f"flash={least - 1},{least}"], n_evaluations=100)
    impossible, possible = found.answers
    assert impossible.candidate is None
    assert f"goes from {least:g} to" in impossible.why
    assert possible.costs["weight_bytes"] == least
    assert not possible.why
    with pytest.raises(ProblemError, match=f"weight_bytes goes from {least:g} to"):
        solve(run, budgets=[f"flash={least - 1}"])
    with pytest.raises(ProblemError, match=f"none of|any of the 2 budgets.*goes from {least:g} to"):
        solve(run, budgets=[f"flash={least - 2},{least - 1}"])


def test_limits_that_are_possible_one_by_one_but_not_together_are_refused_with_what_is_possible(
    run: Path, known: Any
) -> None:
    sizes, macs = known[3]["weight_bytes"], known[3]["macs"]
    most = macs.max()
    least = sizes[macs >= most].min()
    with pytest.raises(
        ProblemError, match=rf"no candidate found that keeps weight_bytes <= \S+ and macs >= .*{least:g}"
    ):
        solve(run, [f"macs>={most}", f"weight_bytes<={least - 1}"], n_evaluations=CHECK * ALL)
    (one,) = solve(run, [f"macs>={most}", f"weight_bytes<={least}"], n_evaluations=ALL).answers
    assert one.costs["weight_bytes"] == least


def test_it_is_told_where_the_predictor_is_asked_outside_of_what_it_learned(run: Path, known: Any) -> None:
    encoding, _, _, costs = known
    pairs, _ = read_losses(read_run(run).directory("qat_pairs"), encoding)
    sizes = read_run(run).costs.metrics["weight_bytes"](pairs.genomes)
    bounds = [float(costs["weight_bytes"].min()), float(np.median(sizes)), float(sizes.max())]
    found = solve(run, budgets=["flash=" + ",".join(map(repr, bounds))], n_evaluations=ALL)
    assert [one.pairs_kept for one in found.answers] == [int((sizes <= bound).sum()) for bound in bounds]
    assert found.n_pairs == len(sizes)
    measured = encoding.decode(pairs.genomes)
    for one in found.answers:
        assert (one.distance < 1e-6) == (one.candidate in measured)
        if not one.pairs_kept:
            assert one.outside
    assert found.predictors["held_out"]


def test_answers_for_a_device_are_networks_that_it_runs(run: Path, known: Any) -> None:
    preset = load_preset("cortex_m_1mb").model_copy(update={"flash": None, "ram": None})
    (one,) = solve(run, ["bit_ops<=100%"], device_preset=preset, n_evaluations=ALL).answers
    space = known[0].space
    check_network(preset, space.network.at(space.values_of(one.candidate)))
    some = np.random.default_rng(0).permutation(len(known[1]))[:1000]
    encoding, genomes, losses = known[0], known[1][some], known[2][some]

    def runs(candidate: Any) -> bool:
        with contextlib.suppress(ApqError):
            check_network(preset, space.network.at(space.values_of(candidate)))
            return True
        return False

    allowed = np.flatnonzero(list(map(runs, encoding.decode(genomes))))
    assert 0 < len(allowed) < len(genomes)
    assert one.predicted_loss <= losses[allowed].min() * (1 + 1e-9)


def test_finetuned_answers_are_the_finalists_that_the_run_would_have_trained(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = solve(run, n_evaluations=500)
    assert found.answers[0].trained
    supernet, settings = load_supernets(run).quantized, read_run(run).settings
    sweep = solve(run, budgets=["flash=60%,100%"], n_evaluations=500)
    scored = SolvedFolder(tmp_path / "sweep", sweep).finetune(executor="serial", device="cpu")
    for one in scored.answers:
        again = train_candidate(supernet, final_task(one.candidate, settings)).scores
        assert one.scores == {split: own._asdict() for split, own in again.items()}
        least = min(own.scores["search"]["loss"] for own in scored.answers if _keeps(one, own))
        assert one.trained_scores["loss"] <= least
        network = load_network(tmp_path / "sweep", one.name)
        assert network.candidate == one.candidate
        assert network.scores["test"]["accuracy"] == one.scores["test"]["accuracy"]
    with pytest.raises(
        RunError, match="has an answer to each of several limits, so name one; known: answer_1, answer_2"
    ):
        load_network(tmp_path / "sweep")

    def never(*_: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("apq_tune.pipeline.solved.train_network", never)
    known = SolvedFolder(tmp_path / "sweep", sweep).finetune(executor="serial", device="cpu")
    assert [one.scores for one in known.answers] == [one.scores for one in scored.answers]


def _keeps(one: Any, other: Any) -> bool:
    return all(c.violation(np.array([other.costs[c.metric.name]]))[0] <= 0 for c in one.constraints)


def command(*arguments: object) -> Any:
    return CliRunner().invoke(cli, ["solve", *map(str, arguments)])


def test_the_command_leaves_a_table_a_picture_and_the_trained_network(run: Path, known: Any, tmp_path: Path) -> None:
    least = known[3]["weight_bytes"].min()
    result = command(run, "--budgets", f"flash={least - 1},{least},80%", "--evaluations", 300, "--out", tmp_path / "a")
    assert result.exit_code == 0, result.output
    assert "predictions" in result.output
    assert f"answer_1: no candidate reaches weight_bytes <= {least - 1:g}" in result.output
    table = pd.read_csv(tmp_path / "a" / "answers.csv")
    assert table["name"].tolist() == ["answer_1", "answer_2", "answer_3"]
    assert table["predicted_loss"].isna().tolist() == [True, False, False]
    assert not [column for column in table if column.startswith(("search_", "test_"))]  # nothing of it is measured
    assert (tmp_path / "a" / "answers.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(RunError, match="its answers are not trained; train them with"):
        load_network(tmp_path / "a")
    arguments = (run, "--constraint", "flash<=80%", "--finetune", "--device", "cpu", "--evaluations", 300)
    result = command(*arguments, "--out", tmp_path / "b")
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "b" / "best.json").read_text())
    table = pd.read_csv(tmp_path / "b" / "answers.csv")
    assert record["scores"]["search"]["loss"] == pytest.approx(table["search_loss"].item(), rel=1e-12)
    assert load_network(tmp_path / "b").candidate.to_dict() == record["candidate"]
    result = command(*(a for a in arguments if a != "--finetune"), "--out", tmp_path / "b")
    assert result.exit_code == 0
    assert not (tmp_path / "b" / "best.json").exists()  # the answer is a prediction again


def test_folders_that_are_no_runs_and_damaged_runs_are_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run directory; make one with"):
        solve(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "7_predictors" / "predictor.npz").write_bytes(b"no predictor")
    with pytest.raises(RunError, match=r"predictor\.npz: is damaged"):
        solve(copy)
    shutil.copy(run / "7_predictors" / "predictor.npz", copy / "7_predictors")
    (copy / "8_search" / "front.json").write_text("{}")
    with pytest.raises(RunError, match=r"front\.json: is damaged"):
        solve(copy)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").touch()
    refused = command(run, "--evaluations", 50, "--out", tmp_path / "other")
    assert "exists and is not a folder of answers; choose another --out" in str(refused.exception)
    for text, said in (
        ("flash=1,1", "comes twice"),
        ("flash<=x", "cannot read"),
        ("power=3", "unknown metric 'power'"),
    ):
        with pytest.raises(ProblemError, match=said):
            solve(run, budgets=[text])
