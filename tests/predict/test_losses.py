"""Losses of predictors against SciPy, finite differences and loops, and what they do to a predictor."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau

from apq_tune import NetworkEncoding, Pairs, ProblemError, fit_predictor
from apq_tune.cli.predictor import LOSSES as OFFERED
from apq_tune.pipeline.settings import RunSettings
from apq_tune.predict import MLPSettings, fit_mlp, forms
from apq_tune.predict.losses import LOSSES, Loss, calibration, pairwise_loss, soft_tau, training_loss

RANKING = ("pairwise", "diffkendall")


@pytest.fixture
def values(rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores and targets that agree somewhat, in double precision."""
    x = rng.normal(size=40)
    return torch.tensor(x, requires_grad=True), torch.tensor(0.6 * x + rng.normal(size=40))


def test_a_sharp_soft_tau_is_kendalls_tau(values) -> None:
    x, y = values
    expected = kendalltau(x.detach(), y).statistic
    assert soft_tau(x, y, 1e6).item() == pytest.approx(expected, abs=1e-9)
    assert soft_tau(-x, y, 1e6).item() == pytest.approx(-expected, abs=1e-9)
    assert float(-training_loss("diffkendall", x, y, 1e6)) == pytest.approx(expected, abs=1e-4)


def test_ties_count_nothing_in_a_sharp_soft_tau() -> None:
    x, y = torch.tensor([0.0, 0, 1, 2, 3]), torch.tensor([1.0, 2, 2, 1, 4])
    untied = [((x != x[:, None]).sum() / 20).item(), ((y != y[:, None]).sum() / 20).item()]
    expected = kendalltau(x, y).statistic * np.sqrt(np.prod(untied))  # SciPy's tau-b leaves ties out of the count
    assert float(soft_tau(x, y, 1e6)) == pytest.approx(expected)


def test_the_published_sharpness_on_fractions_is_a_covariance_and_standardising_makes_it_a_correlation(values) -> None:
    x, y = (0.9 + 0.01 * v.detach() for v in values)
    covariance = np.cov(x, y)[0, 1]
    assert float(soft_tau(x, y, 0.5)) == pytest.approx(0.5**2 / 4 * 2 * covariance, rel=1e-3)
    assert float(-training_loss("diffkendall", x, y)) == pytest.approx(kendalltau(x, y).statistic, abs=0.1)
    assert float(training_loss("diffkendall", 50 * x - 7, 0.01 * y)) == pytest.approx(
        float(training_loss("diffkendall", x, y)), rel=1e-2
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_are_finite_differences(values, loss: Loss) -> None:
    x, y = values
    (found,) = torch.autograd.grad(training_loss(loss, x, y), x)
    step = 1e-5
    for place in (0, 7, 39):
        ends = []
        for sign in (1, -1):
            moved = x.detach().clone()
            moved[place] += sign * step
            ends.append(float(training_loss(loss, moved, y)))
        assert float(found[place]) == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-5, abs=1e-10)


def test_the_pairwise_loss_is_that_of_a_loop_and_leaves_out_ties(values) -> None:
    x, y = values[0].detach(), values[1].round()
    a, b = x.numpy(), y.numpy()
    losses = [np.log1p(np.exp(-(a[i] - a[j]))) for i in range(40) for j in range(40) if b[i] > b[j]]
    assert float(pairwise_loss(x, y)) == pytest.approx(np.mean(losses))
    assert float(pairwise_loss(x, torch.zeros(40))) == 0


def test_calibration_is_a_least_squares_line_that_never_turns_the_order(rng: np.random.Generator) -> None:
    scores = rng.normal(3, 5, 50)
    target = 0.1 * scores + rng.normal(size=50)
    target = (target - target.mean()) / target.std()
    assert calibration(scores, target) == pytest.approx(tuple(np.polyfit(scores, target, 1)))
    slope, intercept = calibration(scores, -target)
    assert 0 < slope < 1e-3 and intercept == pytest.approx(-slope * scores.mean())
    assert np.isfinite(calibration(np.ones(5), np.array([-1.0, 0, 0, 0, 1]))).all()


@pytest.mark.parametrize("loss", RANKING)
def test_predictors_of_the_order_rank_unseen_candidates_and_predict_in_nats(
    encoding: NetworkEncoding, loss: Loss
) -> None:
    genomes = encoding.sample(150, np.random.default_rng(0))
    worth = np.random.default_rng(1).normal(size=encoding.features(genomes).shape[1])
    target = np.exp(0.1 * encoding.features(genomes) @ worth - 1)
    settings = MLPSettings(steps=100, loss=loss)
    known = Pairs(genomes[:100], target[:100])
    fitted, again = (fit_mlp(encoding, known, 0, bits=True, settings=settings) for _ in range(2))
    predicted = fitted(genomes)
    assert kendalltau(predicted[100:], target[100:]).statistic > 0.4
    assert np.log(predicted[:100]).mean() == pytest.approx(np.log(target[:100]).mean(), abs=0.02)
    assert np.abs(np.log(predicted[:100] / target[:100])).mean() < 0.25 * np.log(target).std()
    np.testing.assert_array_equal(again(genomes), predicted)
    constant = fit_mlp(encoding, Pairs(genomes[:9], np.full(9, 0.7)), 0, bits=True, settings=settings)
    np.testing.assert_allclose(constant(genomes[:9]), 0.7, rtol=0.01)


def test_the_loss_reaches_the_forms_that_are_trained(encoding: NetworkEncoding) -> None:
    genomes = encoding.sample(12, np.random.default_rng(0))
    pairs = Pairs(genomes, np.linspace(0.1, 0.9, 12))
    fp32 = fit_mlp(encoding, pairs, 0, bits=False, settings=MLPSettings(steps=5))
    for form in ("scratch", "transferred"):
        assert forms(fp32, fp32, loss="diffkendall")[form].keywords["settings"].loss == "diffkendall"  # type: ignore[attr-defined]
    one, other = (fit_predictor(encoding, pairs, "scratch", loss=loss)(genomes) for loss in ("mse", "pairwise"))
    assert (one != other).any()
    with pytest.raises(ProblemError, match="unknown loss 'hinge'; known: mse, pairwise, diffkendall"):
        fit_predictor(encoding, pairs, "scratch", loss="hinge")  # type: ignore[arg-type]
    with pytest.raises(ProblemError, match="form 'gp' has a closed solution and takes no loss 'pairwise'"):
        fit_predictor(encoding, pairs, loss="pairwise")
    with pytest.raises(ProblemError, match="sharpness is 0; give a positive number, 2 or more"):
        training_loss("diffkendall", torch.ones(3), torch.ones(3), 0)
    assert get_args(Loss) == LOSSES == OFFERED


def test_stages_of_runs_without_the_setting_are_those_of_its_default() -> None:
    names = ("seed", "predictor", "predictor_loss")
    assert RunSettings().of_stage(names) == {"seed": 0, "predictor": "mean"}
    assert RunSettings(predictor_loss="pairwise").of_stage(names)["predictor_loss"] == "pairwise"
