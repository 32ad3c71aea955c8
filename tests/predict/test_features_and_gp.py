"""Ordinal features, Gaussian processes on them and means of predictors, against plain loops and laws."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, DotProduct, WhiteKernel

from apq_tune import Candidate, FunctionMetric, NetworkEncoding, RunError
from apq_tune.cost import cost_models
from apq_tune.predict import (
    MeanPredictor,
    Pairs,
    Predictor,
    agreement,
    fit_gp,
    fit_mean,
    fit_ordinal,
    fit_residual,
    fit_ridge,
    plain_forms,
)
from apq_tune.predict.design import Design
from apq_tune.predict.ensemble import BoundPredictor, Ensemble, fit_parts
from apq_tune.predict.files import load_predictor, predictor_bytes
from apq_tune.predict.ordinal import OrdinalFeatures
from apq_tune.predict.pairs import Scale


def smooth_loss(encoding: NetworkEncoding, genomes: np.ndarray) -> np.ndarray:
    """A power of BitOps and one of the bytes of the weights: linear in what ordinal features know, not in one-hots."""
    _, bit_ops, weight_bytes, _ = cost_models(encoding)
    return 3e4 * bit_ops(genomes) ** -0.3 * weight_bytes(genomes) ** -0.5


def pairs_of(encoding: NetworkEncoding, n: int, seed: int) -> Pairs:
    genomes = encoding.sample(n, np.random.default_rng(seed))
    return Pairs(genomes, smooth_loss(encoding, genomes))


def columns(encoding: NetworkEncoding, candidate: Candidate) -> list[float]:
    """The same columns, slot by slot; a column for each choice of several, and each slot has one of being on."""
    slots, blocks = encoding.space.slots, {}
    for stage, own in enumerate(candidate.stages):
        blocks |= {(stage, position): block for position, block in enumerate(own)}
    at = [blocks.get((slot.stage, slot.position)) for slot in slots]
    choices = [tuple(encoding.space.fields(slot).values()) for slot in slots]
    found = [float(block is not None) for block in at]
    for number, value in ((0, math.log2), (1, math.log2), *((n, math.log2) for n in range(2, 6))):
        found += [
            0.0 if block is None else value(block[number])
            for block, of_slot in zip(at, choices, strict=True)
            if len(of_slot[number]) > 1
        ]
    for number in range(2, 6):
        found += [
            0.0 if block is None else 2.0 ** -block[number]
            for block, of_slot in zip(at, choices, strict=True)
            if len(of_slot[number]) > 1
        ]
    genome = encoding.encode([candidate], check=False)
    return found + [math.log(cost(genome)[0]) for cost in cost_models(encoding)]


def test_ordinal_features_are_those_of_a_plain_loop(either: NetworkEncoding) -> None:
    genomes = either.sample(30, np.random.default_rng(1))
    expected = np.array([columns(either, candidate) for candidate in either.decode(genomes)])
    features = OrdinalFeatures.of(either, np.random.default_rng(0))
    raw = OrdinalFeatures(either, np.zeros_like(features.mean), np.ones_like(features.factor))
    np.testing.assert_allclose(raw(genomes), expected, rtol=1e-12)
    np.testing.assert_allclose(features(genomes), (expected - features.mean) * features.factor, atol=1e-12)


def test_resolutions_are_a_column_and_single_choices_are_none() -> None:
    from apq_tune import SearchSpace

    encoding = NetworkEncoding(SearchSpace.load("ofa_mobilenetv3_w12"))  # has resolutions, and no bits to choose
    features = OrdinalFeatures.of(encoding, np.random.default_rng(0))
    n_slots = encoding.n_slots
    assert len(features.mean) == 3 * n_slots + 1 + 4
    genomes = np.repeat(encoding.sample(1, np.random.default_rng(0)), 5, axis=0)
    genomes[:, len(encoding.space.stages)] = range(5)
    column = features(genomes)[:, 3 * n_slots]
    assert np.allclose(np.diff(column) / np.diff(np.log2([160, 176, 192, 208, 224])), features.factor[3 * n_slots])


def test_every_kind_of_column_weighs_the_same_and_all_of_them_one(encoding: NetworkEncoding) -> None:
    squares = OrdinalFeatures.of(encoding, np.random.default_rng(0))(encoding.sample(4000, np.random.default_rng(5)))
    squares = (squares**2).mean(axis=0)
    assert squares.sum() == pytest.approx(1, rel=0.03)
    # on or off, kernels, channels, four kinds of bits (their own columns of log2, then of 2^-bits), costs
    assert squares[-4:].sum() == pytest.approx(1 / 8, rel=0.05)
    assert squares[: encoding.n_slots].sum() == pytest.approx(1 / 8, rel=0.05)


def test_order_is_worth_pairs_in_the_mean(encoding: NetworkEncoding) -> None:
    unseen, errors = pairs_of(encoding, 300, 99), {"one-hot": [], "ordinal": [], "process": []}
    for seed in range(10):
        known = pairs_of(encoding, 30, seed)
        for name, fit in (("one-hot", fit_ridge), ("ordinal", fit_ordinal), ("process", fit_gp)):
            errors[name].append(agreement(fit(encoding, known, seed)(unseen.genomes), unseen.target).rmse_log)
    one_hot, ordinal, process = (np.mean(errors[name]) for name in errors)
    assert ordinal < 0.35 * one_hot  # the loss is linear in two of its columns
    assert process < 0.5 * one_hot


def test_a_process_passes_through_pairs_without_noise(encoding: NetworkEncoding) -> None:
    known = pairs_of(encoding, 60, 0)
    for log, target in ((True, known.target), (False, known.target / known.target.max())):
        predictor = fit_gp(encoding, Pairs(known.genomes, target), 0, log=log)
        assert predictor(known.genomes) == pytest.approx(target, rel=0.01)
        assert (predictor.name, predictor.unit) == (("predicted_loss", "nats") if log else ("accuracy", "fraction"))


@pytest.mark.parametrize("log", [True, False])
def test_mean_and_spread_are_those_of_scikit_learns_process(encoding: NetworkEncoding, log: bool) -> None:
    rng = np.random.default_rng(0)
    genomes, unseen = encoding.sample(40, rng), encoding.sample(30, rng)
    pairs = Pairs(genomes, smooth_loss(encoding, genomes) * np.exp(0.3 * rng.standard_normal(40)))
    found = fit_gp(encoding, pairs, 0, log=log)
    smooth, length, linear, noise = found.kernel
    kernel = smooth * RBF(length) + linear * DotProduct(0) + WhiteKernel(noise)
    values = np.log(pairs.target) if log else pairs.target
    model = GaussianProcessRegressor(kernel, optimizer=None, normalize_y=True)
    model.fit(found.design(genomes)[0], values)
    mean, std = model.predict(found.design(unseen)[0], return_std=True)
    own_mean, own_std = found.moments(unseen)
    assert own_mean == pytest.approx(mean, rel=1e-6)
    assert np.square(own_std) + noise * values.var() == pytest.approx(np.square(std), rel=1e-6)
    restore = np.exp if log else np.asarray
    assert found(unseen) == pytest.approx(restore(mean), rel=1e-6)
    assert found.lower_bound(unseen, 2.0) == pytest.approx(restore(mean - 2 * own_std), rel=1e-6)


def test_a_given_kernel_is_kept(encoding: NetworkEncoding) -> None:
    known = pairs_of(encoding, 40, 0)
    first = fit_gp(encoding, known, 0)
    assert fit_gp(encoding, known.rows(np.arange(30)), 0, kernel=first.kernel).kernel == first.kernel
    assert fit_gp(encoding, known.rows(np.arange(30)), 0).kernel != first.kernel


def test_more_pairs_than_the_kernel_is_chosen_on_all_count(
    encoding: NetworkEncoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apq_tune.predict.gp.MOST_FOR_KERNEL", 40)
    known, unseen = pairs_of(encoding, 160, 0), pairs_of(encoding, 200, 1)
    predictor = fit_gp(encoding, known, 0)
    assert predictor.known.shape[0] == 160
    few = fit_gp(encoding, known.rows(np.arange(40)), 0)
    errors = [agreement(p(unseen.genomes), unseen.target).rmse_log for p in (predictor, few)]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("fit", [fit_gp, fit_residual])
def test_a_corrected_base_keeps_its_order_where_pairs_say_only_that_the_level_is_another(
    encoding: NetworkEncoding, fit: object
) -> None:
    base = FunctionMetric("predicted_loss", "nats", lambda genomes: smooth_loss(encoding, genomes))
    known, unseen = pairs_of(encoding, 12, 0), pairs_of(encoding, 200, 1)
    predictor = fit(encoding, Pairs(known.genomes, 3 * known.target), 0, base=base)  # type: ignore[operator]
    assert predictor(unseen.genomes) == pytest.approx(3 * unseen.target, rel=1e-3)


def test_a_hint_is_a_column_and_no_first_guess(encoding: NetworkEncoding) -> None:
    genomes, scale = encoding.sample(20, np.random.default_rng(0)), Scale(-1.0, 0.5)
    base = FunctionMetric("predicted_loss", "nats", lambda genomes: smooth_loss(encoding, genomes))
    said = (np.log(smooth_loss(encoding, genomes)) + 1) / 0.5
    for correct, start in ((False, np.zeros(20)), (True, said)):
        columns, begin = Design(encoding, scale, base, correct=correct)(genomes)
        assert columns[:, -1] == pytest.approx(said)
        assert begin == pytest.approx(start)


def test_a_hint_of_the_wrong_sign_is_unlearned(encoding: NetworkEncoding) -> None:
    upside_down = FunctionMetric("predicted_loss", "nats", lambda genomes: 1 / smooth_loss(encoding, genomes))
    known, unseen = pairs_of(encoding, 30, 0), pairs_of(encoding, 200, 1)
    for predictor in (
        fit_gp(encoding, known, 0, base=upside_down, correct=False),
        fit_ordinal(encoding, known, 0, base=upside_down),
    ):
        assert agreement(predictor(unseen.genomes), unseen.target).kendall_tau > 0.9


def constant(value: float) -> Predictor:
    return FunctionMetric("predicted_loss", "nats", lambda genomes: np.full(len(genomes), value))


def test_the_mean_of_losses_is_geometric_that_of_accuracies_arithmetic(encoding: NetworkEncoding) -> None:
    genomes = encoding.sample(3, np.random.default_rng(0))
    assert MeanPredictor((constant(0.1), constant(0.4)))(genomes) == pytest.approx([0.2] * 3)
    assert MeanPredictor((constant(0.1), constant(0.4)), log=False)(genomes) == pytest.approx([0.25] * 3)


def test_the_error_of_a_mean_is_at_most_the_mean_error(encoding: NetworkEncoding) -> None:
    """Jensen: squared error of logarithms is convex."""
    rng = np.random.default_rng(0)
    genomes = encoding.sample(40, rng)
    known = Pairs(genomes, smooth_loss(encoding, genomes) * np.exp(0.2 * rng.standard_normal(40)))
    unseen, fits = pairs_of(encoding, 200, 1), {"ridge": fit_ridge, "ordinal": fit_ordinal, "gp": fit_gp}
    mean = fit_mean(encoding, known, 0, fits=fits)
    squares = [agreement(p(unseen.genomes), unseen.target).rmse_log ** 2 for p in (mean, *mean.members)]
    assert squares[0] <= np.mean(squares[1:])
    assert len(mean.members) == 3


def test_intervals_hold_what_they_promise_in_the_mean(encoding: NetworkEncoding) -> None:
    from apq_tune.predict.curve import coverage

    shares = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        genomes = encoding.sample(200, rng)
        noisy = Pairs(genomes, smooth_loss(encoding, genomes) * np.exp(0.3 * rng.standard_normal(200)))
        shares.append(coverage(fit_parts(fit_ordinal, encoding, noisy.rows(np.arange(50)), seed), noisy))
    assert 0.85 < np.mean(shares) < 0.97


def test_coverage_counts_what_is_inside(encoding: NetworkEncoding) -> None:
    from apq_tune.predict.curve import coverage

    genomes = encoding.sample(4, np.random.default_rng(0))
    ensemble = Ensemble((constant(1.0), constant(1.0)), 0.5)
    assert coverage(ensemble, Pairs(genomes, np.exp([0.0, 0.9, -0.9, 1.1])), width=2) == 0.75


def test_a_bound_above_the_mean_doubts_what_the_members_doubt(encoding: NetworkEncoding) -> None:
    genomes = encoding.sample(5, np.random.default_rng(0))
    ensemble = Ensemble((constant(0.1), constant(0.4)), 0.0)
    std = math.log(2)  # of log 0.1 and log 0.4, whose mean is log 0.2
    for kappa in (-1.0, 0.0, 0.5, 2.0):
        assert BoundPredictor(ensemble, kappa)(genomes) == pytest.approx([0.2 * math.exp(kappa * std)] * 5)
    assert ensemble.lower_bound(genomes) == pytest.approx(ensemble.bound(genomes, -2))


@pytest.mark.parametrize("form", ["ridge", "ordinal", "gp"])
def test_an_ensemble_of_any_form_and_its_bound_survive_their_files(
    tiny: NetworkEncoding, tmp_path: Path, form: str
) -> None:
    genomes = tiny.sample(20, np.random.default_rng(0))
    ensemble = fit_parts(plain_forms(log=True)[form], tiny, Pairs(genomes, smooth_loss(tiny, genomes)), 3, n_members=2)  # type: ignore[index]
    again = fit_parts(plain_forms(log=True)[form], tiny, Pairs(genomes, smooth_loss(tiny, genomes)), 3, n_members=2)  # type: ignore[index]
    path = tmp_path / "predictor.npz"
    for predictor in (ensemble, BoundPredictor(ensemble, 1.5)):
        path.write_bytes(predictor_bytes(predictor))
        np.testing.assert_array_equal(load_predictor(path)(genomes), predictor(genomes))
    np.testing.assert_array_equal(again(genomes), ensemble(genomes))
    path.write_bytes(predictor_bytes(BoundPredictor(ensemble, 1.5))[:-200])
    with pytest.raises(RunError, match="is not a readable predictor"):
        load_predictor(path)


def test_accuracies_are_learned_as_they_are(encoding: NetworkEncoding) -> None:
    known = pairs_of(encoding, 40, 0)
    accuracy = Pairs(known.genomes, 0.9 - 0.1 * known.target / known.target.max())
    for form, fit in plain_forms(log=False).items():
        predictor = fit(encoding, accuracy, 0)
        assert (predictor.name, predictor.unit) == ("accuracy", "fraction"), form
        assert np.abs(predictor(known.genomes) - accuracy.target).max() < 0.1, form
