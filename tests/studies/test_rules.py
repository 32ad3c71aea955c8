"""Rules of fair comparisons: each is met by a good table, and missed where one thing of it is taken away."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest

from apq_tune.studies.rules import ComparisonRule, add_ratios, check_comparison

LARGEST = {"weight_bytes": 4000.0, "macs": 9e6}


def good_table() -> pd.DataFrame:
    rows = [
        {"budget": f"b{budget}", "method": method, "seed": seed, "test_top5": 0.99}
        | {"weight_bytes": 1000.0 + 10 * budget, "macs": 3e6}
        | {"n fp32": 20 if method == "joint" else 0, "n proxy": 40 if method == "joint" else 60}
        | {"n fine": budget, "n short": 6, "n 180 steps": 4}
        for budget in range(5)
        for method in ("joint", "random", "magnitude")
        for seed in range(3)
    ]
    return add_ratios(pd.DataFrame(rows), LARGEST)


def missed(frame: pd.DataFrame, n_classes: int = 10) -> list[ComparisonRule]:
    return [rule for rule in check_comparison(frame, n_classes) if not rule.met]


def test_ratios_are_those_of_the_largest_network() -> None:
    frame = good_table()
    first = frame.iloc[0]
    assert (first["compression"], first["speed_up"]) == (4.0, 3.0)
    assert "compression" not in add_ratios(frame.drop(columns=["compression"]), {"macs": 1.0})


def test_a_table_that_keeps_all_rules_misses_none() -> None:
    assert not missed(good_table())
    assert len(check_comparison(good_table(), 10)) == len(check_comparison(good_table(), 9)) + 1


@pytest.mark.parametrize(
    ("change", "title", "facts"),
    [
        (lambda t: t.drop(columns="speed_up"), "Compression and theoretical speed-up", "no values of speed_up"),
        (lambda t: t.drop(columns="macs"), "Compression and theoretical speed-up", "no values of macs"),
        (lambda t: t.drop(index=4), "The spread over seeds", "random has 2 under b0, 3 are needed; raise --seeds"),
        (lambda t: t[t["budget"] != "b3"], "Methods are compared at several sizes", "4 limits, 5 are needed"),
        (
            lambda t: t.assign(**{"n proxy": t["n proxy"] + (t.index == 0)}),
            "All methods spent the same",
            "under b0 joint has 60 evaluations, joint 61",
        ),
        (
            lambda t: t.assign(**{"n 180 steps": t["n 180 steps"] - (t["method"] == "random")}),
            "All methods spent the same",
            "under b0 random has 3 180 steps, joint 4",
        ),
        (
            lambda t: t[(t["method"] != "magnitude") | (t["budget"] != "b2")],
            "The control magnitude",
            "is not under b2; add --method magnitude",
        ),
        (lambda t: t[t["method"] != "random"], "The control random", "is not under b0, b1, b2, b3, b4; add"),
        (lambda t: t.assign(test_top5=float("nan")), "Accuracies are given", "older than test_top5"),
    ],
)
def test_each_rule_is_missed_by_a_table_without_what_it_asks_for(
    change: Callable[[pd.DataFrame], pd.DataFrame], title: str, facts: str
) -> None:
    (rule,) = missed(change(good_table()))
    assert rule.title.startswith(title)
    assert facts in rule.facts


def test_evaluations_on_all_images_and_with_few_classes_are_no_fault() -> None:
    frame = good_table()
    frame.loc[0, "n fine"] += 5
    assert not missed(frame)
    assert not missed(frame.drop(columns="test_top5"), n_classes=9)
