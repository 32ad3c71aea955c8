"""Scores by number of pairs: fair splits, honest intervals."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from apq_tune import NetworkEncoding
from apq_tune.predict import Pairs, Predictor, fit_ridge
from apq_tune.predict.curve import counts_for, fit_each, half_width, learning_curve
from apq_tune.predict.mean import MeanPredictor


def losses(encoding: NetworkEncoding, n: int) -> Pairs:
    genomes = np.unique(encoding.sample(2 * n, np.random.default_rng(0)), axis=0)[:n]
    return Pairs(genomes, np.exp(np.random.default_rng(1).standard_normal(n)))


def test_forms_learn_from_the_same_growing_pairs_and_never_from_what_they_predict(tiny: NetworkEncoding) -> None:
    pairs, learned, asked = losses(tiny, 40), [], []

    def spy(encoding: NetworkEncoding, known: Pairs, seed: int) -> Predictor:
        assert seed == 5
        learned.append([genome.tobytes() for genome in known.genomes])

        def predict(genomes: np.ndarray) -> np.ndarray:
            asked.append([genome.tobytes() for genome in genomes])
            return np.ones(len(genomes))

        return predict  # type: ignore[return-value]

    fits = {"ridge": spy, "gp": spy}
    rows = list(learning_curve(fits, (), tiny, pairs, [5, 12], n_test=10, n_splits=3, seed=5))  # type: ignore[arg-type]
    assert [(r["split"], r["n"], r["form"]) for r in rows] == [
        (split, n, form) for split in range(3) for n in (5, 12) for form in ("ridge", "gp")
    ]
    for split in range(3):
        a, b, c, d = learned[4 * split : 4 * split + 4]
        assert a == b
        assert c == d
        assert c[:5] == a
        unseen = asked[4 * split]
        assert all(other == unseen for other in asked[4 * split : 4 * split + 4])
        assert len(unseen) == 10
        assert not set(c) & set(unseen)
    assert len({tuple(asked[4 * split]) for split in range(3)}) == 3


def test_the_mean_is_made_of_members_that_are_fitted_once(tiny: NetworkEncoding) -> None:
    fitted = []

    def spy(encoding: NetworkEncoding, known: Pairs, seed: int) -> Predictor:
        fitted.append(known)
        return fit_ridge(encoding, known, seed)

    found = fit_each({"ridge": spy, "gp": spy, "mean": spy}, ("ridge", "gp"), tiny, losses(tiny, 20), 0)
    assert len(fitted) == 2
    assert found["mean"] == MeanPredictor((found["ridge"], found["gp"]))


def test_coverage_is_tried_only_where_asked_and_progress_is_told_to_the_end(tiny: NetworkEncoding) -> None:
    told = []
    rows = learning_curve(
        {"ridge": fit_ridge},
        (),
        tiny,
        losses(tiny, 30),
        [6, 12],
        n_test=8,
        n_splits=2,
        seed=0,
        coverage_at=[12],
        advance=lambda *how_far: told.append(how_far),
    )
    table = pd.DataFrame(rows)
    assert table.groupby("n")["coverage"].count().to_dict() == {6: 0, 12: 2}
    assert table["coverage"].dropna().between(0, 1).all()
    assert told[-1] == (6, 6)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


@pytest.mark.parametrize(
    ("n", "n_test", "expected"),
    [(240, 40, [10, 20, 50, 100, 200]), (32, 10, [10, 22]), (10, 3, [7]), (160, 40, [10, 20, 50, 120])],
)
def test_counts_are_those_that_the_pairs_allow(n: int, n_test: int, expected: list[int]) -> None:
    assert counts_for(n, (10, 20, 50, 100, 200), n_test) == expected


def test_an_interval_over_splits_is_wider_than_one_of_independent_ones_would_be() -> None:
    student = 2.7764451  # two-sided 95%, four degrees of freedom
    assert half_width(0.1, 5, 10**9, 1) == pytest.approx(student * 0.1 / np.sqrt(5))
    assert half_width(0.1, 5, 50, 10) == pytest.approx(student * 0.1 * np.sqrt(1 / 5 + 1 / 4))
