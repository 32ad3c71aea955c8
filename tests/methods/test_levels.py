"""Levels of weight bits, in a space where the supernet favours few bits and training the middle ones."""

from __future__ import annotations

import numpy as np
import pytest

from apq_tune import NetworkEncoding, SearchSpace
from apq_tune.methods import METHODS, Bench, Question
from apq_tune.methods.bench import Counts
from apq_tune.methods.levels import Level, has_mixed_weights, in_turn, kinds, levels_of, mean_weight_bits, promising
from apq_tune.predict import Pairs
from apq_tune.problem.costs import Costs

ALLOWED = Counts.of(60, 6)


@pytest.fixture(scope="module")
def encoding() -> NetworkEncoding:
    return NetworkEncoding(SearchSpace.load("digits"))


def bits_of(encoding: NetworkEncoding, genomes: np.ndarray) -> np.ndarray:
    """Mean weight bits, candidate by candidate."""
    return np.array([np.mean([[b.pw_w_bits, b.dw_w_bits] for b in c.blocks]) for c in encoding.decode(genomes)])


def favouring(encoding: NetworkEncoding, bits: float, slope: float):
    """Losses that are lowest near a number of weight bits, and with many channels."""

    def measure(genomes: np.ndarray) -> np.ndarray:
        channels = np.array([sum(b.channels for b in c.blocks) for c in encoding.decode(genomes)])
        return 0.3 + slope * np.abs(bits_of(encoding, genomes) - bits) - 1e-4 * channels

    return measure


def test_mean_weight_bits_are_those_of_active_blocks(encoding: NetworkEncoding) -> None:
    genomes = encoding.sample(50, np.random.default_rng(0))
    np.testing.assert_allclose(mean_weight_bits(encoding, genomes), bits_of(encoding, genomes))


def test_training_decides_between_levels(encoding: NetworkEncoding) -> None:
    """The supernet favours 2 bits, training 4: joint search trains only what the supernet favours."""
    limits = Costs.of(encoding).budget("memory")
    supernet, training = favouring(encoding, 2.0, 0.006), favouring(encoding, 4.0, 0.02)
    found, trained = {}, {}
    for name in ("joint", "joint-levels"):
        measures = {"fp32": supernet, "proxy": supernet, "fine": supernet, "short": training}
        asked = Question(encoding, tuple(limits), Bench(encoding, measures, ALLOWED), 0)
        found[name] = METHODS[name].propose(asked)
        trained[name] = asked.bench.measured("short")
        assert asked.bench.left == Counts(0, 0, 0)
    assert bits_of(encoding, trained["joint"].genomes).max() < 3
    assert bits_of(encoding, trained["joint-levels"].genomes).min() < 3
    best = {name: float(training(genomes[:1])[0]) for name, genomes in found.items()}
    assert best["joint-levels"] < best["joint"] - 0.02


def test_hopeless_levels_are_given_up_and_the_best_comes_first(encoding: NetworkEncoding) -> None:
    networks = encoding.sample(8, np.random.default_rng(1))
    widths = encoding.uniform_bits()
    genomes = np.concatenate([encoding.at_bits(networks, bits) for bits in widths])
    losses = {2: 0.30, 4: 0.29, 8: 0.33}
    known = Pairs(genomes, np.repeat([losses[bits] for bits in widths], len(networks)))
    levels = promising(encoding, known, levels_of(encoding))
    assert [bits for bits in widths if any(level.low <= bits <= level.high for level in levels)] == [2, 4]
    assert levels[0].low <= 4 <= levels[0].high


def test_kinds_of_networks_take_turns(encoding: NetworkEncoding) -> None:
    networks = encoding.sample(4, np.random.default_rng(2))
    few, many = encoding.at_bits(networks, 2), encoding.at_bits(networks, 8)
    pairs = Pairs(np.concatenate([many, few]), np.array([5.0, 6, 7, 8, 1, 2, 3, 4]))
    kind = kinds(encoding, pairs.genomes, [Level(0, 3), Level(7, np.inf)])
    np.testing.assert_array_equal(kind, [2] * 4 + [0] * 4)
    np.testing.assert_array_equal(in_turn(pairs, kind, 5), np.stack([few[0], many[0], few[1], many[1], few[2]]))
    kind = kinds(encoding, pairs.genomes, [Level(7, np.inf)])
    np.testing.assert_array_equal(kind, [0] * 4 + [-1] * 4)
    np.testing.assert_array_equal(in_turn(pairs, kind, 6), np.concatenate([many, few[:2]]))


def test_mixed_weights_are_told_from_uniform_ones(encoding: NetworkEncoding) -> None:
    genomes = np.concatenate([encoding.sample(40, np.random.default_rng(3)), encoding.uniform_policies()])
    expected = [len({w for b in c.blocks for w in (b.pw_w_bits, b.dw_w_bits)}) > 1 for c in encoding.decode(genomes)]
    assert 0 < sum(expected) < len(genomes)
    np.testing.assert_array_equal(has_mixed_weights(encoding, genomes), expected)
    kind = kinds(encoding, genomes, [Level(0, np.inf)])
    np.testing.assert_array_equal(kind, np.array(expected).astype(int))
