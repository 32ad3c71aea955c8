"""The HTML report: what it says, that it is one safe page, and that a browser shows it."""

from __future__ import annotations

import dataclasses
import io
import itertools
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

from apq_tune.hosts.evaluated import journal_of
from apq_tune.report import html
from apq_tune.report.html import add_page, page_of
from apq_tune.report.page.facts import Beside, OtherSeed, ReportFacts
from apq_tune.report.page.listing import listing_of
from apq_tune.report.page.picks import knee, picks
from apq_tune.report.page.plot import panels
from apq_tune.report.page.rules import rules_of
from apq_tune.report.page.studies import studies_of
from apq_tune.report.page.verdict import joint_statement

NAMES = ("largest_8bit", "best", "staged", "uniform", "front_1")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


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


def test_rules_of_comparisons_of_compressed_networks(facts: ReportFacts) -> None:
    def states(**changes: Any) -> dict[str, str]:
        return {rule.title.split(" ")[1]: rule.state for rule in rules_of(dataclasses.replace(facts, **changes))[-5:-1]}

    keys = ("and", "spread", "controls", "are")  # compression and speed-up; spread; controls; top-1 and top-5
    assert states() == dict(zip(keys, ("good", "open", "open", "open"), strict=True))
    seeds = tuple(OtherSeed(f"digits_{seed}", seed, 0.9) for seed in (8, 9))
    controls = tuple(
        Beside(name, f"run --method {name}", 0.9, True, {"bit_ops": 9.0}) for name in ("random", "magnitude")
    )
    networks = facts.networks.assign(test_top5=0.999)
    met = states(other_seeds=seeds, beside=controls, networks=networks)
    assert met == dict.fromkeys(keys, "good")
    assert states(other_seeds=seeds[:1], beside=controls[:1], networks=networks) == met | {
        "spread": "open",
        "controls": "open",
    }
    said = {rule.title: rule.facts for rule in rules_of(facts)}["Compression and theoretical speed-up are both given"]
    chosen, largest = facts.chosen, facts.networks.set_index("name").loc["largest_8bit"]
    assert f"{largest['weight_bytes'] / chosen['weight_bytes']:.1f} times fewer" in said
    assert f"{largest['macs'] / chosen['macs']:.1f} times fewer" in said
    page = Reader(page_of(dataclasses.replace(facts, beside=controls[:1]))).text
    assert "magnitude is not there; repeat the command of the run with --method magnitude" in page


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
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=60).filter(lambda name: name not in NAMES),
)
"""Names; none is that of another network of the run, since Hypothesis also tries words of the code that is loaded."""


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
            networks=networks,
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
