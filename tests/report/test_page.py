"""The HTML report: what it says, that it is one safe page, and that a browser shows it."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import numpy as np
import optuna
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from rich.console import Console
from scipy.stats import binomtest

from apq_tune import Constraint, NetworkEncoding
from apq_tune.hosts.evaluated import journal_of
from apq_tune.pipeline.choice import with_choice
from apq_tune.problem.costs import Costs
from apq_tune.report import html
from apq_tune.report.html import add_page, page_of
from apq_tune.report.page.facts import Beside, ReportFacts
from apq_tune.report.page.intervals import accuracy_interval, difference_interval, least_correlation
from apq_tune.report.page.listing import listing_of
from apq_tune.report.page.neighbours import other_seeds
from apq_tune.report.page.picks import knee, picks
from apq_tune.report.page.plot import panels
from apq_tune.report.page.read import _evaluated, _priced, _trained
from apq_tune.report.page.rules import rules_of
from apq_tune.report.page.studies import studies_of
from apq_tune.report.page.verdict import joint_statement, verdict_of

NAMES = ("largest_8bit", "best", "staged", "uniform", "front_1")
ROLES = ("largest", "joint", "staged", "uniform", "joint")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

SCORES = {"kendall_tau": 0.6, "pairwise_accuracy": 0.8, "rmse_log": 0.2, "n": 32}
PREDICTORS: dict[str, Any] = {
    "held_out": {"mean": SCORES},
    "proxy alone": SCORES,
    "split_half": {"qat pairs": SCORES},
    "used": "mean",
    "useless": False,
    "why": "",
    "n": 32,
    "support": {"macs": {"kendall_tau": 0.1, "low": -0.2, "high": 0.4}},
}


@pytest.fixture(scope="module")
def facts(encoding: NetworkEncoding) -> ReportFacts:
    """A made-up run of the digits: the largest network is over the limit, joint search is behind the baselines."""
    costs = Costs.of(encoding)
    largest = encoding.ends()[1:]
    genomes = np.concatenate([largest, encoding.at_bits(encoding.sample(4, np.random.default_rng(1)), 4)])
    texts = [candidate.to_json() for candidate in encoding.decode(genomes)]
    scores = {
        "name": NAMES,
        "search_loss": [0.02, 0.04, 0.03, 0.01, 0.06],
        "search_accuracy": [0.99, 0.97, 0.98, 0.99, 0.96],
        "test_loss": [0.02, 0.04, 0.03, 0.01, 0.06],
        "test_accuracy": [0.99, 0.96, 0.98, 0.985, 0.95],
        "predicted_loss": [0.03, 0.03, 0.04, 0.02, 0.05],
        "predicted_accuracy": [0.985, 0.98, 0.975, 0.99, 0.97],
    }
    limit = Constraint(costs.metrics["bit_ops"], 0.5 * float(costs.metrics["bit_ops"](largest)[0]))
    networks = with_choice(_priced(pd.DataFrame(scores), texts, encoding, costs.metrics), (limit,))
    networks = networks.assign(role=ROLES)
    drawn = [candidate.to_json() for candidate in encoding.decode(encoding.sample(30, np.random.default_rng(2)))]
    pairs = pd.DataFrame({"name": [f"qat {i}" for i in range(30)], "loss": np.linspace(0.1, 1, 30), "accuracy": 0.9})
    front = pd.DataFrame({"predicted_loss": np.linspace(0.02, 0.3, 30), "name": [f"front {i}" for i in range(30)]})
    front["predicted_accuracy"] = 1 - front["predicted_loss"] / 4
    parts = [
        _trained(networks, "trained in full (QAT, 6 epochs)"),
        _priced(pairs.assign(stage="short QAT"), drawn, encoding, costs.metrics),
        _priced(front.assign(stage="predicted front"), drawn, encoding, costs.metrics),
    ]
    return ReportFacts(
        kind="run",
        path="runs/digits",
        run="runs/digits",
        command="apq-tune run digits",
        data="digits",
        versions={"apq-tune": "0.1.0"},
        space=encoding.space,
        costs=costs,
        tables={},
        constraints=(limit,),
        cost=costs.metrics["bit_ops"],
        networks=networks,
        evaluated=_evaluated(parts, costs, (limit,)),
        fidelity="QAT, 6 epochs",
        images={"train": 898, "search": 449, "test": 450},
        seeds={"run": 7},
        seconds={"supernet": 60.0, "search": 20.0},
        predictors=PREDICTORS,
        evaluations={"best": 100, "front": 100, "random": 100},
        rivals={"uniform": None, "staged": None},
        training={"epochs": 6, "batch_size": 32},
    )


def having(facts: ReportFacts, n_test: int = 450, **accuracies: float) -> ReportFacts:
    """The same with other accuracies on test images, by name."""
    given = facts.networks.set_index("name")["test_accuracy"].to_dict() | accuracies
    networks = facts.networks.assign(test_accuracy=[given[name] for name in facts.networks["name"]])
    return dataclasses.replace(facts, networks=networks, images={**facts.images, "test": n_test})


class Reader(HTMLParser):
    """Elements with their attributes, and the text outside of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._within: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._within.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._within.remove(tag)

    def handle_data(self, data: str) -> None:
        if not self._within:
            self.text += data

    def n(self, tag: str, of: str = "") -> int:
        return sum(name == tag and of in [*(attrs.get("class") or "").split(), ""] for name, attrs in self.elements)


# intervals


@pytest.mark.parametrize(("right", "n"), [(0, 10), (448, 450), (450, 450), (5, 9)])
def test_the_interval_of_an_accuracy_is_that_of_scipy(right: int, n: int) -> None:
    known = binomtest(right, n).proportion_ci(method="wilson")
    assert accuracy_interval(right / n, n) == pytest.approx((known.low, known.high), abs=1e-9)


def test_the_interval_of_a_difference_is_newcombes_example() -> None:
    """Newcombe 1998, table II: 36 + 12 + 2 + 0 pairs, the difference is 0.2; no pair fails twice."""
    assert difference_interval(48 / 50, 38 / 50, 50) == pytest.approx((0.0569, 0.3404), abs=1e-4)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 60), st.integers(1, 60))
def test_whatever_images_are_missed_by_both_the_interval_is_no_narrower(a: int, b: int, c: int, d: int) -> None:
    """Of all tables of pairs with the same margins, ours has the least correlation."""
    n = a + b + c + d
    one, other = (a + b) / n, (a + c) / n
    spread = math.sqrt(one * (1 - one) * other * (1 - other))
    if spread > 0:
        assert least_correlation(one, other) <= (a * d - b * c) / n**2 / spread + 1e-9
    low, high = difference_interval(one, other, n)
    assert low <= one - other + 1e-12
    assert one - other <= high + 1e-12
    mirrored = difference_interval(other, one, n)
    assert (-mirrored.high, -mirrored.low) == pytest.approx((low, high))


@pytest.mark.parametrize("shared", [0.0, 0.5, 1.0])
def test_intervals_of_differences_hold_the_truth_often_enough(shared: float) -> None:
    """Two networks with 3% and 5% errors, of which a share is common; 2000 draws of 450 images."""
    rng, n = np.random.default_rng(0), 450
    both, held = 0.03 * shared, 0
    for _ in range(2000):
        kinds = rng.multinomial(n, [both, 0.03 - both, 0.05 - both, 1 - 0.08 + both])
        low, high = difference_interval(1 - (kinds[0] + kinds[1]) / n, 1 - (kinds[0] + kinds[2]) / n, n)
        held += low <= 0.02 <= high
    assert held / 2000 >= 0.945


# what it says


def costing(facts: ReportFacts, **shares: float) -> ReportFacts:
    """The same with other shares of the limit, by name."""
    bound = facts.constraints[0].bound
    costs = facts.networks.set_index("name")["bit_ops"].to_dict() | {name: s * bound for name, s in shares.items()}
    return dataclasses.replace(
        facts, networks=facts.networks.assign(bit_ops=[costs[n] for n in facts.networks["name"]])
    )


def test_a_baseline_that_is_as_accurate_and_costs_no_more_means_that_it_was_not_worth_it(facts: ReportFacts) -> None:
    dear = costing(facts, best=0.9, uniform=0.9, staged=0.5)
    said = joint_statement(having(dear, best=0.98))
    assert said.state == "bad"
    assert "Searching jointly was not worth it here: best is less accurate than uniform" in said.text
    assert said.text.endswith("points, 95% interval \N{MINUS SIGN}2.4 to +1.4), and costs no less.")
    equal = joint_statement(having(dear, best=0.985))
    assert equal.state == "bad"
    assert "as accurate as uniform" in equal.text


def test_a_cheaper_network_that_is_not_shown_to_be_worse_leaves_it_open(facts: ReportFacts) -> None:
    cheap = costing(facts, best=0.4, uniform=0.9, staged=0.9)
    said = joint_statement(having(cheap, best=0.98))
    assert said.state == "open"
    assert "best is less accurate than uniform" in said.text
    assert re.search(r", but costs less \(bit_ops [\d.]+ M BitOps against [\d.]+ M BitOps\)\.$", said.text)
    worse = joint_statement(having(cheap, best=0.9))
    assert worse.state == "bad"
    assert "costs" not in worse.text


def test_joint_search_was_worth_it_only_if_the_interval_excludes_no_difference(facts: ReportFacts) -> None:
    few = joint_statement(having(facts, best=0.995))
    assert few.state == "open"
    assert "undecided" in few.text
    many = joint_statement(having(facts, 10_000, best=0.995))
    assert many.state == "good"
    assert "Searching jointly was worth it here: best is more accurate than uniform" in many.text
    assert joint_statement(having(facts, 10_000, best=0.995, staged=0.9949)).state == "open"  # both must be beaten


def test_the_joint_network_is_not_picked_by_test_images(facts: ReportFacts) -> None:
    assert "best is less" in joint_statement(having(facts, 10_000, front_1=0.999)).text


def test_without_baselines_joint_search_is_judged_by_why_there_are_none(facts: ReportFacts) -> None:
    alone = dataclasses.replace(facts, networks=facts.networks[~facts.networks["role"].isin(["uniform", "staged"])])
    assert joint_statement(alone).text == "Searching jointly was worth it here: no uniform or staged network fits."
    best = alone.networks.set_index("name").loc["best", "candidate_json"]
    same = joint_statement(dataclasses.replace(alone, rivals={"staged": best}))
    assert same.text == "Searching jointly was not worth it here: the staged search found the same network."
    assert joint_statement(dataclasses.replace(alone, rivals={})).state == "open"
    unknown = dataclasses.replace(facts, images={})
    assert "the number of test images is unknown" in joint_statement(unknown).text
    assert "95%" not in page_of(unknown).partition('id="limits"')[0].partition("<table")[0].partition("</style>")[2]


def test_the_first_line_says_whether_every_limit_is_kept(facts: ReportFacts) -> None:
    assert re.fullmatch(r"uniform fits: bit_ops [\d.]+ M BitOps, \d+% of the limit\.", verdict_of(facts).fits.text)
    tiny = Constraint(facts.cost, 10.0)
    none = with_choice(facts.networks.drop(columns=["feasible", "chosen"]), (tiny,))
    over = dataclasses.replace(facts, constraints=(tiny,), networks=none)
    said = verdict_of(over)
    assert said.fits.text == "Does not fit: none of the 5 trained networks keeps bit_ops <= 10. Relax a limit."
    assert said.accuracy is None
    page = page_of(over)
    for text in ("No network was chosen.", "No trained network keeps the limits, so there is none to take."):
        assert text in page


def test_runs_beside_that_differ_by_the_seed_alone_give_the_spread(facts: ReportFacts, tmp_path: Path) -> None:
    def made(name: str, seed: int, accuracy: float | None, **changes: Any) -> dict[str, Any]:
        record = {"space": "digits", "data": "digits", "digests": {}, "settings": {"seed": seed, "n": 3}} | changes
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps(record))
        if accuracy is not None:
            (tmp_path / name / "best.json").write_text(json.dumps({"scores": {"test": {"accuracy": accuracy}}}))
        return record

    own = made("own", 1, 0.98)
    made("second", 2, 0.96)
    made("third", 3, 0.97)
    made("again", 1, 0.1)
    made("other_data", 4, 0.2, data="cifar10")
    made("other_settings", 5, 0.3, settings={"seed": 5, "n": 4})
    made("unfinished", 6, None)
    (tmp_path / "damaged").mkdir()
    for name in ("run.json", "best.json"):
        (tmp_path / "damaged" / name).write_text("[]")
    found = other_seeds(tmp_path / "own", own)
    assert [tuple(other) for other in found] == [("second", 2, 0.96), ("third", 3, 0.97)]
    said = verdict_of(dataclasses.replace(having(facts, uniform=0.98), other_seeds=found)).accuracy
    assert said is not None
    assert "Over 3 seeds, with second (seed 2), third (seed 3): 96.0% to 98.0%, mean 97.0%" in said.text
    assert "standard deviation 1.0 points" in said.text


def test_the_limit_is_drawn_and_what_breaks_it_is_crossed(facts: ReportFacts) -> None:
    (first, *others) = panels(facts)
    assert first.cost == "bit_ops"
    assert {panel.cost for panel in others} == set(facts.costs.metrics) - {"bit_ops"}
    for drawing in first.drawings:
        (limit,) = drawing.limits
        marks = {mark.name: mark for mark in drawing.marks}
        assert marks["largest_8bit"].x > limit.x
        assert [name for name, mark in marks.items() if not mark.fits] == ["largest_8bit"]
        assert all(mark.x < limit.x for name, mark in marks.items() if name != "largest_8bit")
        for mark in marks.values():
            assert mark.low > mark.y > mark.high  # pixels grow downwards
            assert drawing.left <= mark.x <= drawing.right
            assert drawing.top <= mark.high <= mark.low <= drawing.bottom
        assert drawing.marks[-1].chosen  # on top
        order = sorted(facts.networks.to_dict("records"), key=lambda row: row["test_accuracy"])
        assert [marks[row["name"]].y for row in order] == sorted((m.y for m in drawing.marks), reverse=True)
    assert not others[0].drawings[0].limits


def test_a_formula_is_an_estimate_and_a_table_is_named(facts: ReportFacts) -> None:
    assert facts.source("bit_ops").label == "estimate"
    assert "not a measurement of your device" in facts.source("latency_ms").text

    class Table:
        metrics = ("latency_ms",)

    own = dataclasses.replace(facts, tables={"phone.csv": Table()})  # type: ignore[dict-item]
    words = "values of single ops or blocks, added up"
    assert own.source("latency_ms") == ("from a table", f"table phone.csv: {words}")
    told = dataclasses.replace(own, table_sources={"phone.csv": "7 rows measured, 2 rows predicted"})
    says = "7 rows measured, 2 rows predicted"
    assert told.source("latency_ms") == ("measured op by op", f"table phone.csv ({says}): {words}")
    assert own.source("bit_ops").label == "estimate"


def test_the_knee_is_the_corner() -> None:
    assert knee([1, 2, 4, 8, 16], [1.0, 0.2, 0.1, 0.09, 0.085]) == 2
    assert knee([1, 10], [1.0, 0.1]) is None
    assert knee([1, 10, 100], [1.0, 0.1, 0.01]) is None  # a straight line
    assert knee([1, 10, 100], [1.0, 0.9, 0.01]) is None  # bent the other way


def test_picks_are_the_best_and_the_smallest_with_commands_as_they_are(facts: ReportFacts) -> None:
    from apq_tune.cli import cli

    found, _ = picks(facts)
    titles = {title: pick for pick in found for title in pick.titles}
    assert titles["most accurate that fits"].name == "uniform"
    cheapest = facts.networks[facts.networks["feasible"]].nsmallest(1, "bit_ops")["name"].item()
    assert titles["smallest"].name == cheapest
    for pick in found:
        words = pick.refine.split()
        assert words[:3] == ["apq-tune", "refine", "runs/digits"]
        known = {option for p in cli.commands["refine"].params for option in p.opts}
        assert {word for word in words if word.startswith("--")} <= known
        assert pick.export.startswith(f"apq-tune export runs/digits --candidate {pick.name} --format onnx --out ")
        known = {option for p in cli.commands["export"].params for option in p.opts}
        assert {word for word in pick.export.split() if word.startswith("--")} <= known
    assert "--constraint" not in titles["most accurate that fits"].refine  # refine keeps the limits of the run


def test_a_method_has_no_weights_but_of_the_chosen_network(facts: ReportFacts) -> None:
    method = dataclasses.replace(facts, kind="method")
    found, _ = picks(method)
    assert [bool(pick.export) for pick in found] == [pick.name == "uniform" for pick in found]
    assert "a method keeps the weights of the chosen network only" in page_of(method)
    assert "not a question of one method alone" in joint_statement(method).text


def test_rules_are_read_off_the_records(facts: ReportFacts) -> None:
    rules = {rule.title: rule for rule in rules_of(facts)}
    assert rules["Test images were used once, at the end"].state == "good"
    assert rules["Equally many trained networks for each way of searching"].state == "open"
    peeking = facts.evaluated.assign(test_accuracy=0.9)
    assert rules_of(dataclasses.replace(facts, evaluated=peeking))[0].state == "bad"
    unfair = dataclasses.replace(facts, evaluations={"best": 100, "random": 10})
    assert {r.title: r.state for r in rules_of(unfair)}["Searches scored equally many candidates"] == "open"
    other = facts.networks.assign(chosen=facts.networks["name"] == "front_1")
    by_test = {r.title: r.state for r in rules_of(dataclasses.replace(facts, networks=other))}
    assert by_test["Search images alone decided"] == "bad"


def test_missing_parts_are_named_and_not_drawn(facts: ReportFacts) -> None:
    bare = dataclasses.replace(
        facts,
        predictors=None,
        images={},
        seconds={},
        constraints=(),
        evaluated=facts.evaluated[facts.evaluated["stage"] == "short QAT"],
        networks=facts.networks.assign(predicted_accuracy=np.nan, predicted_loss=np.nan),
    )
    page = page_of(bare)
    for text in ("There is no predicted front here.", "There are no limits", "numbers of images: the run was made by"):
        assert text in page
    assert "square" not in page.partition("</style>")[2]
    nothing = dataclasses.replace(bare, networks=facts.networks[:0])
    assert "No network was trained in full, so there is nothing to draw." in page_of(nothing)


# the file


def test_the_page_is_small_whole_and_asks_nobody_for_anything(facts: ReportFacts) -> None:
    page = page_of(facts)
    read = Reader(page)
    for tag, attributes in read.elements:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#")), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
    assert "http://" not in page
    assert "https://" not in page
    assert "url(" not in page
    assert "@import" not in page
    levels = [int(tag[1]) for tag, _ in read.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    order = ["verdict", "limits", "front", "picks", "layers", "trust", "rules", "candidates"]
    assert [a["id"] for t, a in read.elements if t in ("h1", "h2")] == order
    ids = [a["id"] for _, a in read.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert len(page.encode()) < 300_000


def test_the_embedded_csv_is_the_table(facts: ReportFacts) -> None:
    import base64

    listing = listing_of(facts)
    table = pd.read_csv(io.BytesIO(base64.b64decode(listing.csv)))
    assert len(table) == len(facts.evaluated) == len(listing.rows) == 65
    assert table["name"].tolist() == facts.evaluated["name"].tolist()
    assert np.allclose(table["bit_ops"], facts.evaluated["bit_ops"])


def test_thousands_of_long_candidates_stay_under_two_megabytes(facts: ReportFacts) -> None:
    many = pd.concat([facts.evaluated] * 100, ignore_index=True)
    many["candidate"] = many["candidate"].str.slice(0, 30) * 40
    page = page_of(dataclasses.replace(facts, evaluated=many))
    assert 200_000 < len(page.encode()) < 2_000_000
    assert "the first " in page


HOSTILE = st.one_of(
    st.sampled_from(
        [
            "<script>alert(1)</script>",
            '"><img src=x onerror=alert(1)>',
            "' onmouseover='alert(1)",
            "</title></style></script><script>boom()</script>",
            "{{ 7*7 }}{% raw %}",
            "&lt;b&gt; & \N{SNOWMAN} \N{RIGHT-TO-LEFT OVERRIDE} \u0000",
            "]]><svg onload=alert(1)>",
            "x" * 5000,
            "; rm -rf / #",
        ]
    ),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=60),
)


@examples(max_examples=12)
@given(HOSTILE, HOSTILE)
def test_hostile_names_stay_text(facts: ReportFacts, tame: Reader, one: str, other: str) -> None:
    page = hostile(facts, one, other)
    read = Reader(page)
    labels = ("text",)  # of drawings, which are hidden where they would overlap
    assert [t for t, _ in read.elements if t not in labels] == [t for t, _ in tame.elements if t not in labels]
    assert {name for _, a in read.elements for name in a} == {name for _, a in tame.elements for name in a}
    assert "49{% raw" not in page
    assert len(page.encode()) < 2_000_000


@pytest.fixture(scope="module")
def tame(facts: ReportFacts) -> Reader:
    return Reader(hostile(facts, "tame", "tamer"))


def hostile(facts: ReportFacts, one: str, other: str) -> str:
    """The page of a run whose user chose all names that a user can choose, and some that nobody can."""
    networks = facts.networks.assign(name=[one if name == "uniform" else name for name in facts.networks["name"]])
    space = facts.space.model_copy(update={"name": one, "data": other})
    beside = (Beside(other, one, 0.9, False, {"bit_ops": 1e6}),)
    return page_of(
        dataclasses.replace(
            facts,
            networks=networks.assign(role=ROLES),
            space=space,
            data=other,
            path=one,
            run=other,
            command=one,
            lines=(one, other),
            beside=beside,
            versions={one: other},
            evaluated=facts.evaluated.assign(name=other).head(8),
        )
    )


def test_commands_of_hostile_names_are_quoted(facts: ReportFacts) -> None:
    import shlex

    name = "a'; rm -rf / #"
    networks = facts.networks.assign(name=[name if own == "uniform" else own for own in facts.networks["name"]])
    found, _ = picks(dataclasses.replace(facts, networks=networks, path=name, run=name))
    (pick,) = [pick for pick in found if pick.name == name]
    assert shlex.split(pick.export)[:5] == ["apq-tune", "export", name, "--candidate", name]
    assert shlex.split(pick.refine)[2] == name


def test_a_failure_to_draw_is_one_line_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), width=200)
    (tmp_path / "results.csv").write_text("kept")

    def fail(_: Path) -> tuple[str, ...]:
        raise ZeroDivisionError("a\nbug")

    monkeypatch.setattr(html, "write_report", fail)
    add_page(tmp_path, console)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert said.count("\n") == 1
    assert "could not be written (a bug); the results are complete" in said
    assert (tmp_path / "results.csv").read_text() == "kept"


# studies


def test_every_evaluation_is_a_trial_of_a_study_of_its_kind(facts: ReportFacts, tmp_path: Path) -> None:
    path = tmp_path / "study.log"
    path.write_text(journal_of(facts.space, studies_of(facts)))
    storage = JournalStorage(JournalFileBackend(str(path)))
    names = optuna.get_all_study_names(storage)
    assert sorted(names) == [
        f"digits: {s}" for s in ("predicted front", "short QAT", "trained in full (QAT, 6 epochs)")
    ]
    study = optuna.load_study(study_name="digits: trained in full (QAT, 6 epochs)", storage=storage)
    assert study.metric_names == ["loss", "bit_ops"]
    assert [trial.user_attrs["name"] for trial in study.trials] == list(NAMES)
    for trial, (_, row) in zip(study.trials, facts.networks.iterrows(), strict=True):
        assert trial.values == [row["search_loss"], row["bit_ops"]]
        assert facts.space.from_config(trial.params).to_json() == row["candidate_json"]
        assert (max(trial.constraints.values()) <= 0) == row["feasible"]
    assert "largest_8bit" not in {trial.user_attrs["name"] for trial in study.best_trials}
    predicted = optuna.load_study(study_name="digits: predicted front", storage=storage)
    assert predicted.metric_names == ["predicted_loss", "bit_ops"]


def test_optuna_dashboard_opens_the_studies(facts: ReportFacts, tmp_path: Path) -> None:
    dashboard = pytest.importorskip("optuna_dashboard")
    path = tmp_path / "study.log"
    path.write_text(journal_of(facts.space, studies_of(facts)))
    app = dashboard.wsgi(JournalStorage(JournalFileBackend(str(path))))
    answers: dict[str, bytes] = {}
    for place in ("/api/studies", "/api/studies/0"):
        environ: dict[str, Any] = {"PATH_INFO": place}
        setup_testing_defaults(environ)
        status: list[str] = []
        body = app(environ, lambda code, *_, said=status: said.append(code))
        answers[place] = b"".join(body)
        assert status == ["200 OK"], (place, status)
    assert b"digits: short QAT" in answers["/api/studies"]
    assert b"largest_8bit" in answers["/api/studies/0"]


# in a browser


@pytest.fixture(scope="module")
def browse(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[str, str]]:
    """A function from a page to what a browser makes of it: its elements, and what it says on its console."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here to look at the page with")
    folder = tmp_path_factory.mktemp("browser")

    def look(page: str) -> tuple[str, str]:
        path = folder / "report.html"
        path.write_text(page, "utf-8")
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
        options += [f"--user-data-dir={folder / 'profile'}", "--window-size=400,900", "--virtual-time-budget=3000"]
        command = [str(CHROMIUM), *options, "--dump-dom", path.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)

    return look


def test_a_browser_shows_verdict_front_and_table_and_complains_of_nothing(facts: ReportFacts, browse) -> None:
    dom, console = browse(page_of(facts))
    assert console == ""
    read = Reader(dom)
    assert 'data-ready="yes"' in dom  # the script ran to its end, under the policy of the page
    assert "uniform fits: bit_ops" in read.text
    assert "Searching jointly was not worth it here" in read.text
    drawn = [a for t, a in read.elements if t == "g" and "mark" in (a.get("class") or "").split()]
    chosen = [a for a in drawn if "chosen" in str(a["class"]).split()]
    assert len(chosen) >= 12  # six costs, two sizes
    assert all("test accuracy" in str(a.get("aria-label")) for a in chosen if "uniform\nt" in str(a.get("data-tip")))
    assert read.n("line", "limit") == 2
    table = dom.partition('id="all"')[2].partition("</table>")[0]
    assert table.count("<tr>") == 1 + 65
    assert "65 of 65" in read.text


def test_a_browser_runs_no_script_of_a_hostile_name(facts: ReportFacts, browse) -> None:
    bad = "<script>console.log('owned')</script><img src=x onerror=\"console.log('owned')\">"
    dom, console = browse(hostile(facts, bad, bad))
    assert console == ""
    assert 'data-ready="yes"' in dom
    assert "<img" not in dom
