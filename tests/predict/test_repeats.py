"""What was measured of one network several times is never on both sides of a fold or a random split."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from apq_tune import NetworkEncoding
from apq_tune.errors import RunError
from apq_tune.predict import Fit, Pairs, Predictor, agreement, fit_gp, fit_ordinal, fit_ridge, held_out
from apq_tune.predict.curve import learning_curve, shuffled
from apq_tune.predict.ensemble import fit_parts
from apq_tune.predict.pairs import n_networks, networks_of, rows_of


def noisy(encoding: NetworkEncoding, n: int, repeats: int, noise: float = 0.1) -> Pairs:
    """Losses: mostly a line over the features, then what is a network's own, and noise of each measurement."""
    rng = np.random.default_rng(0)
    genomes = np.unique(encoding.sample(3 * n, rng), axis=0)
    genomes = genomes[rng.permutation(len(genomes))[:n]]
    features = encoding.features(genomes)
    true = features @ rng.standard_normal(features.shape[1])
    true = true / true.std() + 0.5 * rng.standard_normal(n)
    order = rng.permutation(n * repeats)
    return Pairs(
        np.repeat(genomes, repeats, axis=0)[order],
        np.exp(np.repeat(true, repeats) + noise * rng.standard_normal(n * repeats))[order],
    )


def tau(fit: Fit, encoding: NetworkEncoding, pairs: Pairs) -> float:
    return agreement(held_out(fit, encoding, pairs, 0), pairs.target).kendall_tau


def spy(learned: list[set[bytes]], asked: list[set[bytes]]) -> Fit:
    def fit(encoding: NetworkEncoding, known: Pairs, seed: int) -> Predictor:
        learned.append({genome.tobytes() for genome in known.genomes})

        def predict(genomes: np.ndarray) -> np.ndarray:
            asked.append({genome.tobytes() for genome in genomes})
            return np.ones(len(genomes))

        return predict  # type: ignore[return-value]

    return fit


def test_networks_are_numbered_as_they_appear() -> None:
    networks = networks_of(np.array([[3, 1], [0, 0], [3, 1], [9, 9], [0, 0]]))
    assert networks.tolist() == [0, 1, 0, 2, 1]
    assert rows_of(networks, [1, 0]).tolist() == [1, 4, 0, 2]
    assert networks_of(np.array([[5], [1], [7]])).tolist() == [0, 1, 2]


@pytest.mark.parametrize("fit", [fit_ridge, fit_ordinal, fit_gp])
def test_rows_that_come_twice_change_no_score(fit: Fit, encoding: NetworkEncoding) -> None:
    once = noisy(encoding, 60, 1)
    twice = once.rows(np.tile(np.arange(60), 2))
    assert tau(fit, encoding, twice) == pytest.approx(tau(fit, encoding, once), abs=0.03)


def test_repeated_measurements_do_not_tell_what_a_network_is_known_to_be(encoding: NetworkEncoding) -> None:
    pairs = noisy(encoding, 40, 5)
    means = np.bincount(networks_of(pairs.genomes), np.log(pairs.target)) / 5
    _, first = np.unique(networks_of(pairs.genomes), return_index=True)
    true = tau(fit_ridge, encoding, Pairs(pairs.genomes[first], np.exp(means)))
    leaking = np.arange(len(pairs.target))
    leaked = agreement(held_out(fit_ridge, encoding, pairs, 0, networks=leaking), pairs.target).kendall_tau
    assert leaked > true + 0.3
    assert tau(fit_ridge, encoding, pairs) == pytest.approx(true, abs=0.07)


def test_no_network_is_on_both_sides(encoding: NetworkEncoding) -> None:
    pairs = noisy(encoding, 20, 3)
    calls: list[Callable[[Fit], object]] = [
        lambda fit: held_out(fit, encoding, pairs, 0),
        lambda fit: fit_parts(fit, encoding, pairs, 0),
        lambda fit: list(learning_curve({"gp": fit}, (), encoding, pairs, [9, 40], n_test=20, n_splits=3, seed=0)),
    ]
    for call in calls:
        learned: list[set[bytes]] = []
        asked: list[set[bytes]] = []
        call(spy(learned, asked))
        assert learned
        assert not any(known & unseen for known, unseen in zip(learned, asked, strict=True))


def test_the_border_of_a_split_is_moved_to_the_border_of_a_network(rng: np.random.Generator) -> None:
    networks = np.repeat(np.arange(5), 4)
    order, first = shuffled(networks, 6, rng)
    assert (sorted(order), first) == (list(range(20)), 12)
    with pytest.raises(RunError, match="8 pairs are of too few networks to hold 2 of them out"):
        shuffled(np.zeros(8, int), 2, rng)


def test_one_network_alone_is_refused_and_few_are_a_fold_each(encoding: NetworkEncoding) -> None:
    pairs = noisy(encoding, 3, 4)
    learned: list[set[bytes]] = []
    held_out(spy(learned, []), encoding, pairs, 0)
    assert [len(known) for known in learned] == [2, 2, 2]
    one = pairs.rows(np.flatnonzero(networks_of(pairs.genomes) == 0))
    assert n_networks(one) == 1
    for call in (partial(held_out, fit_ridge), partial(fit_parts, fit_ridge)):
        with pytest.raises(RunError, match="all 4 pairs are of one network"):
            call(encoding, one, 0)


def test_a_form_that_sees_fewer_features_has_folds_of_those(encoding: NetworkEncoding) -> None:
    pairs = noisy(encoding, 30, 1)
    bits = encoding.at_bits(pairs.genomes, encoding.uniform_bits()[0])
    both = Pairs(np.concatenate([pairs.genomes, bits]), np.tile(pairs.target, 2))
    seen = encoding.features(both.genomes)[:, : encoding.n_arch_features]
    networks = networks_of(seen)
    assert networks.max() == 29

    def fit(encoding: NetworkEncoding, known: Pairs, seed: int) -> Predictor:
        rows = {row.tobytes() for row in encoding.features(known.genomes)[:, : encoding.n_arch_features]}

        def predict(genomes: np.ndarray) -> np.ndarray:
            unseen = encoding.features(genomes)[:, : encoding.n_arch_features]
            assert not rows & {row.tobytes() for row in unseen}
            return np.ones(len(genomes))

        return predict  # type: ignore[return-value]

    held_out(fit, encoding, both, 0, networks=networks)
