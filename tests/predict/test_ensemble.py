"""Several predictors: what they agree on, what they do not know, and fidelities that stay apart."""

from __future__ import annotations

import numpy as np
import pytest

from apq_tune import FunctionMetric, NetworkEncoding
from apq_tune.cost import bit_ops, weight_bytes
from apq_tune.predict import Pairs
from apq_tune.predict.ensemble import fit_ensemble


def truth(encoding: NetworkEncoding, genomes: np.ndarray) -> np.ndarray:
    return 0.05 * (bit_ops(encoding)(genomes) / bit_ops(encoding).reachable()[0]) ** -0.5


def base(encoding: NetworkEncoding) -> FunctionMetric:
    return FunctionMetric("predicted_loss", "nats", lambda genomes: truth(encoding, genomes))


def test_a_longer_training_is_a_rung_of_its_own_and_no_mixture(encoding: NetworkEncoding) -> None:
    short, long, new = (encoding.sample(n, np.random.default_rng(n)) for n in (32, 12, 200))
    rungs = [Pairs(short, truth(encoding, short)), Pairs(long, 0.4 * truth(encoding, long))]
    ensemble = fit_ensemble(encoding, rungs, base(encoding), (0,))
    assert ensemble(new) == pytest.approx(0.4 * truth(encoding, new), rel=0.05)
    few = fit_ensemble(encoding, [rungs[0], rungs[1].rows(np.arange(3))], base(encoding), (0,))
    assert few(new) == pytest.approx(truth(encoding, new), rel=0.05)  # three pairs teach nothing


def test_what_short_trainings_taught_is_kept_when_there_are_few_long_ones(encoding: NetworkEncoding) -> None:
    def short_loss(genomes: np.ndarray) -> np.ndarray:
        return truth(encoding, genomes) * 2.0 ** genomes[:, 0]  # what the base does not know: depth doubles it

    short, long, new = (encoding.sample(n, np.random.default_rng(n)) for n in (60, 6, 200))
    rungs = [Pairs(short, short_loss(short)), Pairs(long, 0.4 * short_loss(long))]
    wrong = np.log(fit_ensemble(encoding, rungs, base(encoding), (0,))(new) / (0.4 * short_loss(new)))
    alone = np.log(fit_ensemble(encoding, rungs[1:], base(encoding), (0,))(new) / (0.4 * short_loss(new)))
    assert np.abs(wrong).mean() < 0.5 * np.abs(alone).mean()


def test_the_error_is_that_of_the_labels_where_the_base_is_right(encoding: NetworkEncoding) -> None:
    errors = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        genomes = encoding.sample(60, rng)
        noisy = truth(encoding, genomes) * np.exp(0.3 * rng.standard_normal(60))
        errors.append(fit_ensemble(encoding, [Pairs(genomes, noisy)], base(encoding), (seed,)).error)
    assert 0.3 < np.mean(errors) < 0.36  # noise of 0.3, which no predictor can know, and a little more


def test_members_differ_most_where_no_pair_was(encoding: NetworkEncoding) -> None:
    inside, outside = [], []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        genomes = encoding.sample(2000, rng)
        order = np.argsort(weight_bytes(encoding)(genomes))
        known, far = genomes[order[:1000:25]], genomes[order[-40:]]
        loss = truth(encoding, known) * np.exp(0.2 * rng.standard_normal(len(known)))
        ensemble = fit_ensemble(encoding, [Pairs(known, loss)], base(encoding), (seed,))
        inside.append(ensemble.moments(known)[1].mean())
        outside.append(ensemble.moments(far)[1].mean())
    assert np.mean(outside) > np.mean(inside)


def test_the_lower_bound_is_below_and_the_same_seed_says_the_same(encoding: NetworkEncoding) -> None:
    genomes = encoding.sample(40, np.random.default_rng(1))
    loss = truth(encoding, genomes) * np.exp(0.2 * np.random.default_rng(2).standard_normal(40))
    first, again, other = (fit_ensemble(encoding, [Pairs(genomes, loss)], base(encoding), (s,)) for s in (0, 0, 1))
    assert (first.lower_bound(genomes) < first(genomes)).all()
    assert (first(genomes) == again(genomes)).all()
    assert (first(genomes) != other(genomes)).any()
