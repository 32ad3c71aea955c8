"""The verdict of the HTML report: intervals, what joint search was worth, and the spread over seeds."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from apq_tune import Constraint
from apq_tune.pipeline.choice import with_choice
from apq_tune.report.html import page_of
from apq_tune.report.page.facts import ReportFacts
from apq_tune.report.page.intervals import accuracy_interval, difference_interval, least_correlation
from apq_tune.report.page.neighbours import other_seeds
from apq_tune.report.page.verdict import joint_statement, verdict_of


def having(facts: ReportFacts, n_test: int = 450, **accuracies: float) -> ReportFacts:
    """The same with other accuracies on test images, by name."""
    given = facts.networks.set_index("name")["test_accuracy"].to_dict() | accuracies
    networks = facts.networks.assign(test_accuracy=[given[name] for name in facts.networks["name"]])
    return dataclasses.replace(facts, networks=networks, images={**facts.images, "test": n_test})


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
