"""Which predictor a search may rely on: intervals against simulation, verdicts by hand, the law that is left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

from apq_tune import NetworkEncoding, load_predictor
from apq_tune.cost import macs, weight_bytes
from apq_tune.predict import Pairs, fit_ridge
from apq_tune.predict.ensemble import fit_parts
from apq_tune.predict.files import predictor_bytes
from apq_tune.predict.law import fit_law
from apq_tune.predict.trust import PROXY, judge, short, tau_interval


@pytest.mark.parametrize("n", [10, 32, 100])
@pytest.mark.parametrize("r", [0.0, 0.5, 0.9])
def test_intervals_hold_the_true_tau_as_often_as_they_promise(n: int, r: float) -> None:
    """Of normal pairs tau is ``2 / pi * arcsin(r)``."""
    rng, true = np.random.default_rng(n), 2 / np.pi * np.arcsin(r)
    x = rng.standard_normal((400, n))
    y = r * x + np.sqrt(1 - r**2) * rng.standard_normal((400, n))
    ends = [tau_interval(kendalltau(a, b).statistic, n) for a, b in zip(x, y, strict=True)]
    held = np.mean([low <= true <= high for low, high in ends])
    assert 0.9 <= held <= 0.99


@pytest.mark.parametrize("n", [2, 4, 5, 10, 1000])
@pytest.mark.parametrize("tau", [-1.0, -0.38, 0.0, 0.56, 1.0])
def test_intervals_stay_between_minus_one_and_one_and_hold_their_tau(tau: float, n: int) -> None:
    low, high = tau_interval(tau, n)
    assert -1 <= low < high <= 1
    assert low - 0.5 / n < tau < high + 0.5 / n or abs(tau) == 1


def test_fewer_networks_make_wider_intervals() -> None:
    widths = [high - low for low, high in (tau_interval(0.5, n) for n in (5, 10, 20, 50, 200))]
    assert widths == sorted(widths, reverse=True)
    assert tau_interval(0.56, 10) == pytest.approx((0.103, 0.822), abs=2e-3)  # by hand: tanh(.633 -+ 1.96 sqrt(.437/6))


GOOD = {"mean": 0.7, "ladder": 0.72, PROXY: 0.6, "macs": 0.3, "bit_ops": 0.4, "weight_bytes": 0.2}


def test_a_form_that_ranks_is_kept_even_if_another_ranks_a_little_better() -> None:
    trust = judge("mean", GOOD, 32)
    assert (trust.used, trust.useless, trust.why) == ("mean", False, "")


def test_a_form_of_negative_tau_gives_way_to_the_best_supported() -> None:
    trust = judge("mean", GOOD | {"mean": -0.38, "ladder": -0.2}, 32)
    assert (trust.used, trust.useless) == (PROXY, True)
    assert "no better than chance (Kendall tau -.38, 95% interval" in trust.why


def test_where_no_form_ranks_the_cost_that_does_is_used() -> None:
    taus = dict.fromkeys(GOOD, -0.1) | {"bit_ops": 0.5, "macs": 0.3, "mean": -0.38}
    assert judge("mean", taus, 32).used == "bit_ops"
    nothing = judge("mean", dict.fromkeys(GOOD, -0.2) | {"macs": 0.05}, 10)
    assert (nothing.used, nothing.useless) == ("macs", True)


def test_a_form_no_better_than_a_cost_is_called_so_but_kept_if_the_cost_is_hardly_better() -> None:
    trust = judge("mean", GOOD | {"mean": 0.5, "ladder": 0.5, PROXY: 0.5, "macs": 0.52}, 32)
    assert trust.useless
    assert trust.why == "no better than macs alone (Kendall tau .50, macs .52)"
    assert trust.used == "mean"
    assert judge("mean", GOOD | {"mean": 0.3, "ladder": 0.3, PROXY: 0.3, "macs": 0.8}, 32).used == "macs"


def test_what_ranks_nothing_counts_as_zero_and_who_wants_it_keeps_the_form() -> None:
    constant = judge("mean", GOOD | {"mean": float("nan")}, 32)
    assert constant.useless
    assert constant.support["mean"].kendall_tau == 0
    assert judge("mean", GOOD | {"mean": -0.5}, 32, fall_back=False).used == "mean"
    assert judge("mean", GOOD | {"mean": -0.5}, 32, fall_back=False).useless


def test_numbers_are_written_as_correlations_are() -> None:
    assert [short(x) for x in (0.561, -0.381, 1.0, 0.0)] == [".56", "-.38", "1.00", ".00"]


def test_a_law_ranks_as_its_metric_does_in_its_direction_and_is_saved(
    encoding: NetworkEncoding, tmp_path: Path
) -> None:
    genomes = encoding.sample(40, np.random.default_rng(0))
    cost = macs(encoding)
    law = fit_law(encoding, Pairs(genomes, 3 * cost(genomes) ** -0.25), 0, metric=cost)
    np.testing.assert_allclose([law.slope, law.intercept], [-0.25, np.log(3)], rtol=1e-6)
    upwards = fit_law(encoding, Pairs(genomes, cost(genomes) ** 0.5), 0, metric=cost)  # the pairs say the contrary
    assert upwards.slope < 0
    base = fit_ridge(encoding, Pairs(genomes, weight_bytes(encoding)(genomes) ** -0.5), 0)
    of_predictor = fit_law(encoding, Pairs(genomes, 2 * base(genomes) ** 1.5), 0, metric=base)
    np.testing.assert_allclose(of_predictor(genomes), 2 * base(genomes) ** 1.5)
    for made in (law, of_predictor):
        (tmp_path / "law.npz").write_bytes(predictor_bytes(made))
        np.testing.assert_array_equal(load_predictor(tmp_path / "law.npz", encoding)(genomes), made(genomes))
    noisy = Pairs(genomes, cost(genomes) ** -0.25 * np.exp(0.1 * np.random.default_rng(1).standard_normal(40)))
    parts = fit_parts(lambda e, p, s: fit_law(e, p, s, metric=cost), encoding, noisy, 0)
    assert kendalltau(parts(genomes), cost(genomes)).statistic == pytest.approx(-1)
