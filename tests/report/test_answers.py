"""What is said at the end: the network to take, its costs beside the limits, on wide and on narrow terminals."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from apq_tune import Candidate, Constraint, FunctionMetric, NetworkEncoding
from apq_tune.cost import bit_ops
from apq_tune.methods.searches import front_cost
from apq_tune.pipeline.choice import choose, described, keep, kept, with_choice
from apq_tune.pipeline.outcome import Outcome
from apq_tune.pipeline.settings import RunSettings
from apq_tune.pipeline.work import InnerSearches
from apq_tune.predict.trust import COSTS, PROXY, judge
from apq_tune.problem.costs import Costs
from apq_tune.problem.front import Axis, Front
from apq_tune.refine.outcome import Refined
from apq_tune.report.answer import level_line, print_chosen
from apq_tune.report.limits import amount, breaks, broken, engineering, limit_lines, share
from apq_tune.report.refined import against_run, refined_picture, write_refined
from apq_tune.report.results import results_table, search_hypervolumes, write_report
from apq_tune.report.trust import agreement_line, predictor_table, trust_lines


def metric(name: str, unit: str = "bytes") -> FunctionMetric:
    return FunctionMetric(name, unit, lambda genomes: genomes.sum(axis=1).astype(float))


FLASH, RAM = Constraint(metric("weight_bytes"), 200_000), Constraint(metric("peak_activation_bytes"), 80_000)
NAMES = ("largest_8bit", "uniform", "best", "front_1", "front_2")


@pytest.fixture(autouse=True)
def quick(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take most of the time; only some tests need them."""
    if "picture" not in request.node.name and "left_with" not in request.node.name:
        for name in ("results.run_picture", "refined.refined_picture"):
            monkeypatch.setattr(f"apq_tune.report.{name}", lambda _: b"")


@pytest.fixture
def candidates(encoding: NetworkEncoding) -> list[Candidate]:
    return encoding.decode(encoding.sample(len(NAMES), np.random.default_rng(0)))


@pytest.fixture
def networks(candidates: list[Candidate]) -> pd.DataFrame:
    """The largest has the best accuracy and is over both limits; ``uniform`` is over one; the front beats ``best``."""
    columns: dict[str, Any] = {
        "name": NAMES,
        "predicted_accuracy": [0.9, 0.85, 0.87, 0.7, 0.6],
        "search_accuracy": [0.6, 0.58, 0.348, 0.4, 0.54],
        "search_loss": [0.9, 1.0, 1.9, 1.8, 1.2],
        "test_accuracy": [0.59, 0.57, 0.348, 0.41, 0.538],
        "test_loss": [0.9, 1.0, 1.9, 1.8, 1.2],
        "weight_bytes": [800_000.0, 199_000.0, 190_000.0, 60_000.0, 120_000.0],
        "peak_activation_bytes": [160_000.0, 80_001.0, 70_000.0, 40_000.0, 80_000.0],
        "bit_ops": [9e8, 5e8, 4e8, 1e8, 2e8],
        "candidate": list(map(str, candidates)),
        "candidate_json": [c.to_json() for c in candidates],
    }
    return pd.DataFrame(columns)


def shown(renderable: Any, width: int) -> str:
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_best_within_all_limits_is_chosen_not_the_best_of_all_nor_the_predicted_one(networks) -> None:
    table = with_choice(networks, (FLASH, RAM))
    assert table["feasible"].tolist() == [False, False, True, True, True]
    assert table.loc[table["chosen"], "name"].tolist() == ["front_2"]
    assert with_choice(networks, ()).loc[0, "chosen"]
    assert with_choice(networks, (FLASH,)).loc[1, "chosen"]
    at_least = Constraint(metric("weight_bytes"), 150_000, ">=")
    assert with_choice(networks, (FLASH, RAM, at_least)).query("chosen")["name"].tolist() == ["best"]


def test_test_images_choose_nothing(networks) -> None:
    changed = networks.assign(test_accuracy=[0.0, 0.0, 1.0, 0.0, 0.0], test_loss=[9.0, 9.0, 0.1, 9.0, 9.0])
    assert with_choice(changed, (FLASH, RAM)).query("chosen")["name"].tolist() == ["front_2"]


def test_without_a_network_within_the_limits_none_is_chosen(networks, tmp_path: Path) -> None:
    tiny = Constraint(metric("weight_bytes"), 10)
    table = with_choice(networks, (tiny,))
    assert choose(table) is None
    assert not table["chosen"].any()
    console = Console(width=60, file=io.StringIO())
    print_chosen(None, (tiny,), 0, 5, console)
    assert "None of the 5 trained networks keeps weight_bytes <= 10" in console.file.getvalue()  # type: ignore[attr-defined]
    for name in ("best.pt", "best.json"):
        (tmp_path / name).write_text("of an earlier choice")
    keep(tmp_path, None, None)
    assert not list(tmp_path.iterdir())


def test_networks_that_diverged_are_not_chosen(networks) -> None:
    table = with_choice(networks.assign(search_loss=[np.nan, np.nan, np.nan, 1.8, np.nan]), (FLASH, RAM))
    assert table.query("chosen")["name"].tolist() == ["front_1"]
    assert choose(with_choice(networks.assign(search_loss=np.nan), (FLASH,))) is None


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_every_limited_cost_stands_beside_its_limit_and_no_figure_is_cut(networks, encoding, tmp_path, width) -> None:
    said = end_of_run(networks, encoding, tmp_path, width)
    for figures in ("800 kB", "199 kB", "190 kB", "60 kB", "120 kB", "80 kB", "160 kB", "400% OVER", "200% OVER"):
        assert figures in said, figures
    for share_of_limit in ("95%", "30%", "60%", "88%", "50%", "100% OVER", "100%"):
        assert share_of_limit in said
    for accuracy in ("34.8", "53.8", "59.0", "54.0"):
        assert accuracy in said
    assert "…" not in said
    assert "* front_2" in said
    assert "Chosen: front_2, with the least loss on search images of the 3 of 5 trained networks" in said
    assert "weight_bytes 120 kB: 60% of the limit <= 200 kB" in said


def test_the_table_of_two_limits(networks) -> None:
    text = shown(results_table(with_choice(networks, (FLASH, RAM)), (FLASH, RAM), frozenset({"blocks"})), 80)
    lines = [line.split() for line in text.splitlines()]
    assert ["largest_8bit", "800", "kB", "160", "kB", "60.0", "59.0", "90.0"] in lines
    assert ["400%", "OVER", "200%", "OVER"] in lines
    assert ["uniform", "199", "kB", "80", "kB", "58.0", "57.0", "85.0"] in lines
    assert ["100%", "100%", "OVER"] in lines  # 80,001 of 80,000: told by the word, not by a rounded figure
    assert ["*", "front_2", "120", "kB", "80", "kB", "54.0", "53.8", "60.0"] in lines
    assert "<= 200 kB" in text
    assert "* chosen; OVER: over the limit, cannot be chosen" in text


def report(form: str = "mean", n: int = 32, **taus: float) -> dict[str, Any]:
    known = {"mean": 0.6, "ladder": 0.55, PROXY: 0.5, **dict.fromkeys(COSTS, 0.1)} | taus
    trust = judge(form, known, n)
    scores = {"kendall_tau": 0.6, "pairwise_accuracy": 0.8, "rmse_log": 0.1, "n": n}
    return {
        "held_out": {name: scores | {"kendall_tau": known[name]} for name in ("mean", "ladder")},
        "proxy alone": scores,
        "split_half": {"qat pairs": scores},
        "chosen": form,
        "used": trust.used,
        "useless": trust.useless,
        "why": trust.why,
        "n": n,
        "support": {name: support._asdict() for name, support in trust.support.items()},
    }


def end_of_run(networks: pd.DataFrame, encoding: NetworkEncoding, path: Path, width: int, **changes: Any) -> str:
    """Write a made-up run's report and hand back what is printed."""
    constraints = changes.pop("constraints", (FLASH, RAM))
    axes = (Axis("predicted_loss", "nats", "minimize"), Axis("weight_bytes", "bytes", "minimize"))
    points = pd.DataFrame({"predicted_loss": [0.5, 0.9], "weight_bytes": [190_000.0, 60_000.0]})
    found = Front(tuple(map(Candidate.from_json, networks["candidate_json"][:2])), points, axes, {"n_evaluations": 7})
    nothing = Front((), points[:0], axes, {"n_evaluations": 7})
    weights = path / "weights.pt"
    table = with_choice(networks, constraints)
    torch.save({"of": torch.tensor(NAMES.index("".join(table.loc[table["chosen"], "name"]) or "best"))}, weights)
    outcome = Outcome(
        table,
        constraints,
        {"best": found, "front": found, "random": changes.pop("random", nothing)},
        report(**changes),
        2,
        RunSettings(),
        weights if table["chosen"].any() else None,
        {"supernet": 1.0},
    )
    console = Console(width=width, file=io.StringIO(), highlight=False)
    write_report(outcome, path, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_chosen_network_is_left_with_its_weights_and_its_limits(networks, encoding, tmp_path) -> None:
    said = end_of_run(networks, encoding, tmp_path, 100)
    assert "best.pt and best.json (the chosen network)" in said
    assert int(torch.load(tmp_path / "best.pt", weights_only=True)["of"]) == NAMES.index("front_2")
    record = json.loads((tmp_path / "best.json").read_text())
    assert record["name"] == "front_2"
    assert Candidate.from_dict(record["candidate"]).to_json() == networks["candidate_json"][4]
    assert record["fidelity"] == "QAT, 6 epochs"
    assert record["scores"]["test"]["accuracy"] == 0.538
    assert record["limits"][0] == {
        "metric": "weight_bytes",
        "unit": "bytes",
        "sense": "<=",
        "bound": 200_000,
        "value": 120_000.0,
    }
    table = pd.read_csv(tmp_path / "results.csv")
    assert table.query("chosen")["name"].item() == "front_2"
    assert table["feasible"].sum() == 3
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["chosen"]["name"] == "front_2"
    assert [n["feasible"] for n in summary["networks"]] == [False, False, True, True, True]
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    assert summary["hypervolume"]["random"] == 0


@pytest.mark.parametrize(
    "constraints",
    [
        (),
        (FLASH,),
        (FLASH, RAM, Constraint(metric("bit_ops", "BitOps"), 3e8)),
        (FLASH, RAM, Constraint(metric("bit_ops", "BitOps"), 3e8), Constraint(metric("weight_bytes"), 100.0, ">=")),
        (Constraint(metric("weight_bytes"), 10),),
    ],
)
def test_pictures_and_tables_of_any_number_of_limits(networks, encoding, tmp_path, constraints) -> None:
    said = end_of_run(networks, encoding, tmp_path, 100, constraints=constraints)
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    assert said.count("Chosen: ") + said.count("None of the 5") == 1
    for constraint in constraints:
        assert f"{constraint.sense} {engineering(constraint.bound)}" in said


def test_a_useless_predictor_is_told_in_one_line_with_the_remedy(networks, encoding, tmp_path) -> None:
    said = end_of_run(networks, encoding, tmp_path, 60, mean=-0.38)
    told = [line for line in said.splitlines() if "is of no use here" in line]
    assert len(told) == 1
    assert "The predictor (mean)" in told[0]
    assert "no better than chance (Kendall tau -.38" in told[0]
    assert "ranked by the form ladder instead" in said
    assert "--set n_pairs=128" in said
    assert f"apq-tune refine {tmp_path}" in said
    assert "of no use" not in end_of_run(networks, encoding, tmp_path, 60)
    assert "Only 2 of the 32 pairs" in said


def test_what_is_said_of_a_predictor_that_nothing_can_replace() -> None:
    lines = trust_lines(report(mean=0.35, ladder=0.3, proxy=0.3, macs=0.36), RunSettings(), "runs/x")
    assert "no better than macs alone (Kendall tau .35, macs .36)" in lines[0]
    assert "nothing else ranks them better" in lines[1]
    cost = trust_lines(
        report(**dict.fromkeys(("mean", "ladder", PROXY), -0.5), macs=0.1, n=10), RunSettings(), "runs/x"
    )
    assert "ranked by macs (more is better) instead" in cost[1]
    assert "no better than chance either" in cost[1]


@pytest.mark.parametrize(("n", "shows"), [(9, False), (10, True), (32, True)])
def test_intervals_are_shown_from_ten_pairs_and_stay_inside_one(n: int, shows: bool) -> None:
    text = shown(predictor_table(report(n=n, mean=0.99)), 100)
    assert ("interval" in text) == shows
    assert "±" not in text
    if shows:
        ends = [float(end) for pair in re.findall(r"(\S+) to (\S+)", text) for end in pair]
        assert len(ends) == 2 * (2 + 1 + 3)
        assert all(-1 <= end <= 1 for end in ends)


def test_how_far_predictions_were_off(networks) -> None:
    line = agreement_line(with_choice(networks, (FLASH, RAM)))
    assert "best 87.0% and 34.8%, front_2 60.0% and 54.0%" in line
    assert "Mean absolute error of 5 networks: 29.0 points; 6 of 10 pairs are in the right order" in line


def test_the_front_keeps_all_limits_and_trades_the_first_of_them(encoding: NetworkEncoding) -> None:
    settings = RunSettings(constraints=("weight_bytes<=20000", "bit_ops<=25%"))
    shared = InnerSearches(encoding.space, metric("predicted_loss"), metric("l"), settings, Costs.of(encoding))  # type: ignore[arg-type]
    problem = shared.front()
    assert [o.metric.name for o in problem.objectives] == ["predicted_loss", "weight_bytes"]
    assert [c.metric.name for c in problem.constraints] == ["weight_bytes", "bit_ops"]
    costs = Costs.of(encoding)
    assert front_cost((Constraint(costs.metrics["macs"], 5, ">="),), costs.metrics["bit_ops"]).name == "bit_ops"
    latency = metric("latency_ms", "ms")
    assert front_cost((Constraint(latency, 5),), costs.metrics["bit_ops"]) is latency


def test_kept_agrees_with_the_problem_at_the_very_bound(encoding: NetworkEncoding) -> None:
    genomes = encoding.sample(20, np.random.default_rng(0))
    values = bit_ops(encoding)(genomes)
    limit = Constraint(bit_ops(encoding), float(np.median(values)))
    at = Constraint(bit_ops(encoding), float(values[3]))
    for constraint in (limit, at):
        found = kept(pd.DataFrame({"bit_ops": values}), (constraint,))
        assert found.tolist() == (values <= constraint.bound).tolist()
        assert found.tolist() == [not breaks(constraint, value) for value in values]


def test_numbers_beside_limits() -> None:
    assert [engineering(x) for x in (0.0269, 999.9, 1000, 14_656_000, 2e9)] == [
        "0.0269", "999.9", "1 k", "14.66 M", "2 G",
    ]  # fmt: skip
    assert [amount(20_000, "bytes"), amount(512, "bytes"), amount(0.27, "ms")] == ["20 kB", "512 B", "0.27 ms"]
    assert broken("peak_activation_bytes") == "peak_\nactivation_\nbytes"
    assert broken("bit_ops") == "bit_ops"
    assert share(Constraint(metric("a"), 0), 5) == "OVER"
    assert share(Constraint(metric("a"), 10, ">="), 5) == "50% UNDER"
    assert limit_lines({"a": 5}, [Constraint(metric("a", "ms"), 10)]) == ["a 5 ms: 50% of the limit <= 10 ms"]


def test_a_random_search_that_met_nothing_covers_nothing(networks) -> None:
    axes = (Axis("predicted_loss", "nats", "minimize"), Axis("bit_ops", "BitOps", "minimize"))
    points = pd.DataFrame({"predicted_loss": [0.5, 0.7, 1.0], "bit_ops": [4.0, 3.0, 2.0]})
    front = Front(tuple(map(Candidate.from_json, networks["candidate_json"][:3])), points, axes)
    empty = Front((), points[:0], axes)
    assert search_hypervolumes({"front": front, "random": empty}) == {"front": pytest.approx(0.3 / 4), "random": 0.0}


def test_a_record_names_everything_to_rebuild_the_network(networks) -> None:
    row = with_choice(networks, (RAM,)).iloc[3]
    record = described(row, (RAM,), "QAT, 2 epochs")
    assert set(record) == {"name", "candidate", "words", "fidelity", "scores", "limits"}
    assert record["limits"][0]["value"] == 40_000


def test_a_refinement_shows_every_limit_and_what_it_gained(networks, tmp_path: Path) -> None:
    trained = with_choice(networks.iloc[2:].reset_index(drop=True), (FLASH, RAM)).assign(
        stage=["round 1", "rung 6", "rung 6"],
        epochs=[1, 6, 6],
        fidelity=["QAT, 1 epochs", "QAT, 6 epochs", "QAT, 6 epochs"],
        found="joint",
        uniform=[False, True, False],
        predicted_loss=1.0,
    )
    axes = (Axis("search_loss", "nats", "minimize"), Axis("weight_bytes", "bytes", "minimize"))
    front = Front(tuple(map(Candidate.from_json, trained["candidate_json"][1:])), trained.iloc[1:], axes)
    torch.save({}, tmp_path / "weights.pt")
    of_run = with_choice(networks, (FLASH, RAM)).iloc[3].copy()
    of_run["fidelity"] = "QAT, 6 epochs"
    for run_choice, gain in ((of_run, "better than the run's own choice"), (None, "Chosen: front_2")):
        refined = Refined(trained, (FLASH, RAM), front, 2, 1, run_choice, tmp_path / "weights.pt")
        for width in (40, 70, 120):
            console = Console(width=width, file=io.StringIO(), highlight=False)
            write_refined(refined, tmp_path, console)
            said = console.file.getvalue()  # type: ignore[attr-defined]
            assert gain in said
            for figures in ("120 kB 60%", "80 kB 100%", "190 kB 95%", "1.2000"):
                assert figures in said
            assert "…" not in said
            assert "of the 2 of 2 trained networks that keep" in said
    assert "(front_1, loss 1.8000 after QAT, 6 epochs): loss -33.3%, accuracy +14.0 points" in against_run(
        trained.loc[2], of_run
    )
    worse = against_run(trained.loc[1], trained.loc[2])
    assert worse.startswith("no better than")
    assert worse.endswith("keep the network of the run")
    assert json.loads((tmp_path / "best.json").read_text())["name"] == "front_2"
    assert refined_picture(refined).startswith(b"\x89PNG")


def test_networks_with_all_but_the_least_loss_are_named_if_they_keep_the_limits(networks: pd.DataFrame) -> None:
    networks["search_loss"] = [1.0, 1.005, 1.021, 1.0, 1.02]
    chosen = with_choice(networks, (FLASH, RAM))
    assert chosen.loc[chosen["chosen"], "name"].tolist() == ["front_1"]
    said = level_line(chosen)
    assert said is not None
    assert "front_2 (1.0200, 54.0%)" in said  # at the edge; largest and uniform break a limit, best is beyond it
    assert not any(name in said for name in ("largest_8bit", "uniform", "best"))
    assert level_line(chosen[chosen["chosen"]]) is None
    assert level_line(with_choice(networks, (Constraint(metric("weight_bytes"), 1.0),))) is None
