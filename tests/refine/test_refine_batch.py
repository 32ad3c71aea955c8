"""What is trained next and what survives: laws, closed forms, and the enumeration of a tiny space."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apq_tune import Constraint, FunctionMetric, NetworkEncoding
from apq_tune.cost import bit_ops, macs
from apq_tune.methods.propose import Proposals
from apq_tune.predict.ensemble import Ensemble
from apq_tune.refine.batch import is_uniform
from apq_tune.refine.halving import survivors
from apq_tune.searchers.batch import choose_batch, similarity
from apq_tune.space.gene import BIT_KINDS


def random_pool(seed: int, p: int = 30) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = (rng.random((p, 12)) < 0.4).astype(np.float32)
    features[:, 0] = 1
    return rng.normal(size=p), rng.random(p), similarity(features, features)


def test_similarity_is_that_of_the_sets_of_features() -> None:
    rng = np.random.default_rng(0)
    features = (rng.random((20, 9)) < 0.5).astype(np.float32)
    features[:, 0] = 1
    sets = [set(np.flatnonzero(row)) for row in features]
    expected = [[len(a & b) / len(a | b) for b in sets] for a in sets]
    assert similarity(features, features) == pytest.approx(np.array(expected))


@given(st.integers(0, 1000), st.integers(1, 40), st.lists(st.integers(0, 29), max_size=5, unique=True))
def test_rows_are_distinct_the_first_come_first_and_units_do_not_matter(seed: int, n: int, first: list[int]) -> None:
    mean, std, alike = random_pool(seed)
    rows = choose_batch(mean, std, alike, n, first=first)
    assert len(rows) == len(set(rows)) == min(n, 30)
    assert rows[: len(first)] == first[:n]
    assert choose_batch(2 * mean + 4, 2 * std, alike, n, first=first) == rows
    assert choose_batch(mean, std, alike, min(n, 7), first=first) == rows[:7]  # greedy: a prefix


@given(st.integers(0, 1000))
def test_without_doubt_or_likeness_it_is_a_plain_ranking(seed: int) -> None:
    mean, std, alike = random_pool(seed)
    assert choose_batch(mean, 0 * std, alike, 10) == np.argsort(mean)[:10].tolist()
    assert choose_batch(mean, std, 0 * alike, 10) == np.argsort(mean - 2 * std)[:10].tolist()


def test_two_alike_teach_what_one_does_and_doubt_attracts() -> None:
    mean, std = np.array([0.0, 0.0, 0.1, 0.1]), np.full(4, 0.5)
    alike = np.kron(np.eye(2), np.ones((2, 2)))  # 0 like 1, 2 like 3
    assert choose_batch(mean, std, alike, 2) == [0, 2]
    assert choose_batch(mean, std / 100, alike, 2) == [0, 1]  # what is known well is not explored
    assert choose_batch(np.zeros(3), np.array([0.1, 0.3, 0.2]), np.zeros((3, 3)), 3) == [1, 2, 0]


@given(st.integers(0, 1000))
def test_batches_are_less_alike_than_the_ranking(seed: int) -> None:
    mean, std, alike = random_pool(seed, p=60)
    np.fill_diagonal(alike, 0)
    rows, ranked = choose_batch(0.1 * mean, std * 0 + 1, alike, 6), np.argsort(mean)[:6]
    assert alike[np.ix_(rows, rows)].max() <= alike[np.ix_(ranked, ranked)].max()


@given(st.integers(0, 1000), st.integers(1, 12), st.floats(0, 1), st.floats(0, 1))
def test_the_best_half_and_the_best_of_each_kind_survive(seed: int, n: int, share: float, other: float) -> None:
    rng = np.random.default_rng(seed)
    losses, kinds = rng.random(12), [rng.random(12) < share, rng.random(12) < other]
    rows = survivors(losses, kinds, n)
    assert rows[0] == losses.argmin()
    assert len(rows) == len(set(rows))
    assert n <= len(rows) <= max(n, 3)
    assert (np.diff(losses[rows]) > 0).all()
    bests = {int(np.flatnonzero(kind)[losses[kind].argmin()]) for kind in kinds if kind.any()}
    assert bests <= set(rows)
    assert set(rows) - bests <= set(np.argsort(losses)[:n].tolist())
    assert survivors(losses, [], n) == np.argsort(losses)[:n].tolist()
    of_one = survivors(losses, kinds[:1], n)
    assert len(of_one) == n or (n == 1 and len(of_one) == 2)
    assert set(of_one) - set(np.flatnonzero(kinds[0]).tolist()) <= set(np.argsort(losses)[:n].tolist())


def made_up(encoding: NetworkEncoding) -> Ensemble:
    """Members that like different blocks; loss falls with the cost, so that constraints matter."""
    ops = bit_ops(encoding)

    def member(weight: float) -> FunctionMetric:
        def loss(genomes: np.ndarray) -> np.ndarray:
            likes = encoding.features(genomes) @ np.linspace(0, weight, encoding.features(genomes[:1]).shape[1])
            return np.exp(-ops(genomes) / 1e6 + 0.01 * likes)

        return FunctionMetric("predicted_loss", "nats", loss)

    return Ensemble(tuple(member(w) for w in (-3.0, 3.0)), 0.2)


def likes_the_smallest(encoding: NetworkEncoding) -> FunctionMetric:
    """A full-precision loss that is least for a network which no bits would choose."""
    return FunctionMetric("predicted_loss", "nats", lambda genomes: macs(encoding)(genomes) / 1e6)


def test_the_first_batch_has_the_obvious_rivals_and_nothing_known(
    tiny: NetworkEncoding, everything: np.ndarray
) -> None:
    ops, ensemble, fp32 = bit_ops(tiny), made_up(tiny), likes_the_smallest(tiny)
    limit = Constraint(ops, float(np.quantile(ops(everything), 0.6)))
    keeps = limit.violation(ops(everything)) <= 0
    uniform = is_uniform(tiny, everything)
    policies = everything[keeps & uniform]
    best = policies[ensemble(policies).argmin()]
    feasible = everything[keeps]
    known = feasible[np.argsort(ensemble(feasible))[:50]]
    known = known[~is_uniform(tiny, known)]
    proposals = Proposals(tiny, ensemble, fp32, (limit,), ops, known, len(everything), 0)
    batch, found = proposals.batch(6, first=True)
    assert found == ["uniform", "staged", "joint", "joint", "joint", "joint"]
    assert batch[0].tolist() == best.tolist()
    network = tiny.at_bits(policies[fp32(policies).argmin()][None], 8)  # 8 bits are the only uniform width
    alike = (tiny.at_largest(feasible, BIT_KINDS) == tiny.at_largest(network, BIT_KINDS)).all(axis=1)
    new = alike & [genome.tobytes() not in {k.tobytes() for k in known} for genome in feasible]
    assert batch[1].tolist() == feasible[new][ensemble(feasible[new]).argmin()].tolist()
    assert batch[1].tolist() != best.tolist()
    rows = {genome.tobytes() for genome in batch}
    assert len(rows) == 6
    assert not rows & {genome.tobytes() for genome in known}
    assert (ops(batch) <= limit.bound).all()
    assert tiny.is_allowed(batch).all()
    assert (batch == tiny.canonicalise(batch)).all()
    new = np.array([genome for genome in feasible if genome.tobytes() not in {k.tobytes() for k in known}])
    later = proposals.batch(1, first=False)[0]
    assert later[0].tolist() == new[ensemble.lower_bound(new).argmin()].tolist()
    with_uniform_known = Proposals(tiny, ensemble, fp32, (limit,), ops, policies, len(everything), 0)
    assert [name for _, name in with_uniform_known.rivals()] == ["staged"]
