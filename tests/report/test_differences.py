"""The picture of a comparison of methods: one axis for all budgets, with enough numbers on it to be read."""

from __future__ import annotations

import pandas as pd
import pytest

from apq_tune.report.versus import figure_of


def results(gains: dict[str, list[float]]) -> pd.DataFrame:
    """Results with the points that joint search gains on each seed, by budget."""
    rows = []
    for budget, points in gains.items():
        for seed, gain in enumerate(points):
            rows.append({"budget": budget, "method": "joint", "seed": seed, "test_accuracy": 0.87})
            rows.append({"budget": budget, "method": "hawq", "seed": seed, "test_accuracy": 0.87 - gain / 100})
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("gains", "scale"),
    [
        ({"memory": [0.3, 0.5, 0.4], "bit_ops": [-0.02, 0.01, 0.03]}, "linear"),
        ({"memory": [4.0, 5.0, 4.5], "bit_ops": [-0.02, 0.01, 0.03]}, "symlog"),
    ],
)
def test_all_budgets_share_an_axis_with_readable_numbers(gains: dict[str, list[float]], scale: str) -> None:
    figure = figure_of(results(gains))
    figure.canvas.draw()
    assert {ax.get_xscale() for ax in figure.axes} == {scale}
    assert len({ax.get_xlim() for ax in figure.axes}) == 1
    for ax in figure.axes:
        low, high = ax.get_xlim()
        assert len([tick for tick in ax.get_xticks() if low <= tick <= high]) >= 3


def test_a_method_without_a_common_seed_has_an_empty_row() -> None:
    frame = results({"memory": [0.3, 0.5]})
    alone = pd.DataFrame([{"budget": "memory", "method": "staged", "seed": 7, "test_accuracy": 0.8}])
    (ax,) = figure_of(pd.concat([frame, alone])).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["hawq", "staged"]
