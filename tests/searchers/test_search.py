"""The inner search against the enumeration of a tiny space, and against random search on a large one."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apq_tune import (
    NSGA2,
    Constraint,
    Evolution,
    FunctionMetric,
    NetworkEncoding,
    Objective,
    Problem,
    ProblemError,
    RandomSearch,
    SearchSpace,
    search,
)
from apq_tune.cost import bit_ops, macs, weight_bytes
from apq_tune.problem.problem import Evaluation
from apq_tune.searchers import State, select, vary
from apq_tune.searchers.select import duel
from apq_tune.searchers.vary import spread
from apq_tune.space.encodings import encoding_of

SEEDS = range(10)


def synthetic_loss(encoding: NetworkEncoding) -> FunctionMetric:
    """More channels, depth and bits help, each by its own amount, and some choices depend on others."""
    rng = np.random.default_rng(42)
    n_features = encoding.n_arch_features + encoding.n_bit_features
    worth = np.concatenate([np.sort(rng.random(n)) for n in encoding.n_choices[len(encoding.space.stages) :]])
    mixed = rng.normal(size=n_features)

    def loss(genomes: np.ndarray) -> np.ndarray:
        features = encoding.features(genomes).astype(float)
        return np.exp(-0.2 * features @ worth + 0.2 * np.sin(features @ mixed))

    return FunctionMetric("loss", "nats", loss)


def area(loss: np.ndarray, cost: np.ndarray, reference: tuple[float, float]) -> float:
    """Hypervolume of two minimised objectives: a staircase, summed step by step."""
    total, best = 0.0, reference[0]
    for value, at in sorted(zip(loss, cost, strict=True), key=lambda row: row[1]):
        if value < best and at < reference[1]:
            total += (best - value) * (reference[1] - at)
            best = value
    return total


class Recorder:
    """A metric's function that remembers every genome it was given."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []

    def __call__(self, genomes: np.ndarray) -> np.ndarray:
        self.seen += [genome.tobytes() for genome in genomes]
        return genomes.sum(axis=1).astype(float)


def recorded_problem(encoding: NetworkEncoding, *constraints: Constraint) -> tuple[Problem, Recorder]:
    recorder = Recorder()
    return Problem(encoding, [Objective(FunctionMetric("recorded", "", recorder))], constraints), recorder


@pytest.mark.parametrize("seed", SEEDS)
def test_evolution_finds_the_constrained_optimum_of_the_enumeration(
    tiny: NetworkEncoding, everything: np.ndarray, seed: int
) -> None:
    loss, cost = synthetic_loss(tiny), bit_ops(tiny)
    bound = float(np.median(cost(everything)))
    optimum = loss(everything)[cost(everything) <= bound].min()
    assert optimum > loss(everything).min()
    front = search(Problem(tiny, [Objective(loss)], [Constraint(cost, bound)]), n_evaluations=1500, seed=seed)
    assert front.metrics["loss"].tolist() == [optimum]
    assert front.metrics["bit_ops"].tolist()[0] <= bound


@pytest.mark.parametrize("seed", SEEDS)
def test_nsga2_reaches_99_percent_of_the_true_hypervolume_with_a_sixth_of_the_space(
    tiny: NetworkEncoding, everything: np.ndarray, seed: int
) -> None:
    loss, cost = synthetic_loss(tiny), bit_ops(tiny)
    reference = loss(everything).max(), cost(everything).max()
    true = area(loss(everything), cost(everything), reference)
    front = search(Problem(tiny, [Objective(loss), Objective(cost)]), NSGA2(), n_evaluations=1600, seed=seed)
    assert area(front.metrics["loss"], front.metrics["bit_ops"], reference) >= 0.99 * true


def test_nsga2_finds_most_of_the_exact_front_of_a_maximised_objective_under_a_constraint(
    tiny: NetworkEncoding, everything: np.ndarray
) -> None:
    cost, size = bit_ops(tiny), weight_bytes(tiny)
    bound = float(np.quantile(cost(everything), 0.3))
    values = size(everything), cost(everything)
    kept = [
        (s, c)
        for s, c in zip(*values, strict=True)
        if c <= bound and not ((values[0] >= s) & (values[1] <= c) & ((values[0] > s) | (values[1] < c))).any()
    ]
    problem = Problem(tiny, [Objective(cost), Objective(size, "maximize")], [Constraint(cost, bound)])
    front = search(problem, n_evaluations=3000)
    found = set(zip(front.metrics["weight_bytes"], front.metrics["bit_ops"], strict=True))
    assert found <= set(kept)
    assert len(found) >= 0.8 * len(set(kept))


def test_nsga2_beats_random_search_on_digits_at_equal_evaluations(encoding: NetworkEncoding) -> None:
    loss, cost = synthetic_loss(encoding), bit_ops(encoding)
    sample = encoding.sample(2000, np.random.default_rng(1))
    reference = loss(sample).max(), cost(sample).max()
    areas: dict[str, list[float]] = {"NSGA2": [], "RandomSearch": []}
    for algorithm in (NSGA2(), RandomSearch()):
        for seed in SEEDS:
            front = search(
                Problem(encoding, [Objective(loss), Objective(cost)]), algorithm, n_evaluations=1000, seed=seed
            )
            assert front.provenance["n_evaluations"] == 1000
            areas[type(algorithm).__name__].append(area(front.metrics["loss"], front.metrics["bit_ops"], reference))
    assert np.mean(areas["NSGA2"]) > 1.02 * np.mean(areas["RandomSearch"])
    assert min(areas["NSGA2"]) > max(areas["RandomSearch"])


def test_evolution_beats_random_search_on_digits_at_equal_evaluations(encoding: NetworkEncoding) -> None:
    loss, cost = synthetic_loss(encoding), bit_ops(encoding)
    low, high = cost.reachable()
    problem = Problem(encoding, [Objective(loss)], [Constraint(cost, low + 0.2 * (high - low))])
    best = {
        algorithm: [search(problem, algorithm, n_evaluations=2000, seed=seed).metrics["loss"].min() for seed in SEEDS]
        for algorithm in (Evolution(), RandomSearch())
    }
    assert np.mean(best[Evolution()]) < np.mean(best[RandomSearch()])
    assert all(ours < random for ours, random in zip(best[Evolution()], best[RandomSearch()], strict=True))


@pytest.mark.parametrize("algorithm", [NSGA2(), Evolution(), RandomSearch()])
def test_the_same_seed_gives_the_same_front_and_another_seed_another_path(
    encoding: NetworkEncoding, algorithm: NSGA2 | Evolution | RandomSearch
) -> None:
    paths = []
    for seed in (3, 3, 4):
        problem, recorder = recorded_problem(encoding)
        front = search(problem, algorithm, n_evaluations=450, seed=seed)
        paths.append((recorder.seen, front.to_json()))
    assert paths[0] == paths[1]
    assert paths[0][0] != paths[2][0]


@pytest.mark.parametrize("algorithm", [NSGA2(), Evolution(mutation=(0.1, 0.5)), RandomSearch(batch=37)])
def test_no_candidate_is_evaluated_twice_and_the_budget_is_spent_exactly(
    tiny: NetworkEncoding, algorithm: NSGA2 | Evolution | RandomSearch
) -> None:
    problem, recorder = recorded_problem(tiny)
    search(problem, algorithm, n_evaluations=1234)
    assert len(recorder.seen) == len(set(recorder.seen)) == 1234


@pytest.mark.parametrize("algorithm", [NSGA2(), Evolution(), RandomSearch()])
def test_a_budget_larger_than_the_space_ends_when_each_candidate_was_evaluated_once(
    tiny_space: SearchSpace, algorithm: NSGA2 | Evolution | RandomSearch
) -> None:
    data = tiny_space.model_dump(mode="json", exclude_none=True)
    data["choices"] |= {"dw_w_bits": [8], "pw_w_bits": [8]}
    small = NetworkEncoding(SearchSpace.from_dict(data))
    problem, recorder = recorded_problem(small)
    front = search(problem, algorithm, n_evaluations=10**6)
    assert sorted(recorder.seen) == sorted(genome.tobytes() for genome in small.enumerate())
    assert front.provenance["n_evaluations"] == len(recorder.seen) == (6 + 6 * 6) * 4


def test_a_budget_of_the_whole_tiny_space_evaluates_all_of_it(tiny: NetworkEncoding, everything: np.ndarray) -> None:
    problem, recorder = recorded_problem(tiny)
    search(problem, n_evaluations=len(everything))
    assert sorted(recorder.seen) == sorted(genome.tobytes() for genome in everything)


def test_constraints_that_nothing_meets_together_are_refused_saying_how_close_the_search_came(
    tiny: NetworkEncoding,
) -> None:
    few, many = macs(tiny), weight_bytes(tiny)
    recorder = Recorder()
    tried = Constraint(FunctionMetric("tried", "", recorder), 1e9)  # metrics of constraints are asked for all
    limits = [Constraint(few, few.reachable()[0] * 1.1), Constraint(many, many.reachable()[1] * 0.9, ">=")]
    problem, _ = recorded_problem(tiny, *limits, tried)
    with pytest.raises(ProblemError) as error:
        search(problem, n_evaluations=400)
    seen = np.array([np.frombuffer(key, np.int16) for key in recorder.seen])
    missed = np.maximum(few(seen) / limits[0].bound - 1, 0) + np.maximum(1 - many(seen) / limits[1].bound, 0)
    closest = seen[[missed.argmin()]]
    message = str(error.value)
    assert f"no candidate with {limits[0]} and {limits[1]} and tried <= 1e+09 in 400 tries" in message
    assert re.search(rf"\bmacs {few(closest)[0]:.6g}\b", message)
    assert re.search(rf"\bweight_bytes {many(closest)[0]:.6g}\b", message)
    assert message.endswith("relax a bound")


@pytest.mark.parametrize("n_evaluations", [0, -5])
def test_no_evaluations_are_refused(tiny: NetworkEncoding, n_evaluations: int) -> None:
    with pytest.raises(ProblemError, match=f"n_evaluations: give a whole number from 1 to .*, got {n_evaluations}"):
        search(recorded_problem(tiny)[0], n_evaluations=n_evaluations)


def test_one_evaluation_is_enough_for_a_front(tiny: NetworkEncoding) -> None:
    problem, recorder = recorded_problem(tiny)
    assert len(search(problem, n_evaluations=1)) == len(recorder.seen) == 1


def test_initial_genomes_are_evaluated_first_each_once_in_their_canonical_form(
    encoding: NetworkEncoding, rng: np.random.Generator
) -> None:
    genomes = encoding.sample(150, rng)
    initial = encoding.fill_inert(np.concatenate([genomes, genomes[:50]]), rng)
    problem, recorder = recorded_problem(encoding)
    search(problem, n_evaluations=400, initial=initial)
    assert recorder.seen[:150] == [genome.tobytes() for genome in genomes]
    assert len(set(recorder.seen)) == 400


def test_without_initial_genomes_the_uniform_policies_come_first(encoding: NetworkEncoding) -> None:
    problem, recorder = recorded_problem(encoding)
    search(problem, n_evaluations=100)
    networks = [network.with_bits(b) for network in encoding.extremes() for b in (2, 4, 8)]
    assert set(recorder.seen[:6]) == {genome.tobytes() for genome in encoding.encode(networks)}


def test_progress_is_told_the_evaluations_so_far_after_each_batch(encoding: NetworkEncoding) -> None:
    told: list[int] = []
    search(recorded_problem(encoding)[0], RandomSearch(batch=40), n_evaluations=100, progress=told.append)
    assert told == [40, 80, 100]


def test_a_batch_may_lack_a_twentieth_and_not_more_and_the_budget_none(tiny: NetworkEncoding) -> None:
    told: list[int] = []
    search(recorded_problem(tiny)[0], RandomSearch(batch=1000), n_evaluations=4000, progress=told.append)
    batches = np.diff([0, *told])
    assert told[-1] == 4000
    assert (batches[:3] >= 950).all()
    assert (batches[:3] < 1000).any()  # of 9,600 candidates, 1,000 random ones are never all new


def test_a_front_remembers_where_it_came_from(tiny: NetworkEncoding) -> None:
    problem, _ = recorded_problem(tiny, Constraint(macs(tiny), 50_000))
    provenance = search(problem, RandomSearch(7), n_evaluations=70, seed=5).provenance
    assert provenance["space"] == "tiny"
    assert provenance["constraints"] == ["macs <= 50000"]
    assert (provenance["n_evaluations"], provenance["seed"]) == (70, 5)
    assert "RandomSearch" in provenance["algorithm"]


NONE = (1e-12, 1e-12)
"""No mutation to speak of."""


def test_mutation_of_the_smallest_network_reaches_every_choice_of_every_gene_depths_included(
    either: NetworkEncoding, rng: np.random.Generator
) -> None:
    parents = np.repeat(either.encode([either.extremes()[0]]), 20_000, axis=0)
    children = vary(parents, parents, either, rng, crossover=0.0, mutation=(20, 20))
    assert either.is_allowed(children).all()
    for gene, name in enumerate(either.names):
        assert set(children[:, gene]) == set(range(either.n_choices[gene])), name


def test_a_child_changes_as_many_genes_as_asked_in_the_mean(rng: np.random.Generator) -> None:
    many = encoding_of(SearchSpace.from_choices({str(i): range(100) for i in range(300)}))
    parents = many.sample(5000, rng)
    for low, high in ((2, 2), (1, 8)):
        changed = (vary(parents, parents, many, rng, mutation=(low, high)) != parents).sum(axis=1)
        expected = low if low == high else (high - low) / np.log(high / low)
        assert changed.mean() == pytest.approx(expected, rel=0.05)  # a few redraw what was there
        assert changed.min() == 0
        assert changed.max() > high


def test_half_of_the_changes_are_steps_to_either_side_that_stay_in_range(rng: np.random.Generator) -> None:
    one = encoding_of(SearchSpace.from_choices({"a": range(101), "b": [0, 1]}))
    parents = np.repeat(np.array([[50, 0]], np.int16), 20_000, axis=0)
    moved = vary(parents, parents, one, rng, mutation=(0.2, 0.2))[:, 0] - 50.0
    moved = moved[moved != 0]
    assert (np.abs(moved) <= 50).all()
    assert (moved > 0).mean() == pytest.approx(0.5, abs=0.05)
    near = (np.abs(moved) <= 10).mean()
    assert near == pytest.approx((0.36 + 21 / 101) / 2, abs=0.03)


def test_a_block_that_is_switched_on_again_comes_back_as_it_was(
    encoding: NetworkEncoding, rng: np.random.Generator
) -> None:
    deep = encoding.encode([encoding.extremes()[1]])
    shallow = deep.copy()
    shallow[:, 0] = 0
    parents = np.repeat(shallow, 5000, axis=0)
    children = vary(parents, parents, encoding, rng, crossover=0.0, mutation=(1, 1))
    assert (encoding.canonicalise(children) == deep).all(axis=1).any()


def test_without_mutation_children_that_do_not_mix_are_their_first_parents(
    either: NetworkEncoding, rng: np.random.Generator
) -> None:
    first, second = either.sample(100, rng), either.sample(100, rng)
    np.testing.assert_array_equal(vary(first, second, either, rng, crossover=0.0, mutation=NONE), first)


def test_crossover_takes_each_gene_from_either_parent_in_the_asked_share_of_children(
    encoding: NetworkEncoding, rng: np.random.Generator
) -> None:
    smallest, largest = encoding.at_largest(encoding.encode(list(encoding.extremes())), ["depth"])
    smallest = encoding.encode([encoding.decode(smallest[None])[0].with_bits(2)])[0]
    first, second = np.repeat(smallest[None], 4000, axis=0), np.repeat(largest[None], 4000, axis=0)
    children = vary(first, second, encoding, rng, crossover=0.6, mutation=NONE)
    assert ((children == smallest) | (children == largest)).all()
    differ = smallest != largest
    from_largest = (children == largest)[:, differ]
    mixed = from_largest.any(axis=1)
    assert mixed.mean() == pytest.approx(0.6, abs=0.03)
    assert np.abs(from_largest[mixed].mean(axis=0) - 0.5).max() < 0.07


def test_vary_leaves_its_parents_alone(encoding: NetworkEncoding, rng: np.random.Generator) -> None:
    first, second = encoding.sample(100, rng), encoding.sample(100, rng)
    before = first.copy(), second.copy()
    vary(first, second, encoding, rng)
    np.testing.assert_array_equal((first, second), before)


def test_first_genomes_go_from_nearly_the_smallest_to_nearly_the_largest(
    either: NetworkEncoding, rng: np.random.Generator
) -> None:
    genomes = spread(2000, either, rng)
    assert either.is_allowed(genomes).all()
    cost = bit_ops(either)
    low, high = cost.reachable()
    shares = (cost(either.canonicalise(genomes)) - low) / (high - low)
    assert shares.min() < 0.02
    assert shares.max() > 0.9
    assert shares.std() > 1.3 * ((cost(either.sample(2000, rng)) - low) / (high - low)).std()
    assert (genomes < either.n_choices).all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"population": 0}, "population is 0; give at least 1"),
        ({"parents": -1}, "parents is -1; give at least 1"),
        ({"max_age": 0}, "max_age is 0; give at least 1"),
        ({"crossover": 1.5}, "crossover is 1.5; give a share between 0 and 1"),
        ({"mutation": (0, 1)}, "mutation is (0, 1); give two positive numbers of genes, the smaller first"),
        ({"mutation": (3, 2)}, "mutation is (3, 2); give two positive numbers"),
    ],
)
@pytest.mark.parametrize("algorithm", [Evolution, NSGA2])
def test_settings_without_sense_are_refused_by_name(
    algorithm: type[Evolution], settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ProblemError, match=re.escape(said)):
        algorithm(**settings)


def test_even_the_best_leaves_the_population_at_its_age_but_stays_on_the_front(tiny: NetworkEncoding) -> None:
    algorithm, rng = Evolution(population=4, parents=4, max_age=3), np.random.default_rng(0)
    genomes = tiny.sample(4, rng)

    def scored(values: list[float]) -> Evaluation:
        return Evaluation(np.array(values)[:, None], np.zeros((4, 0)), np.array(values)[:, None])

    state = algorithm.tell(None, genomes, scored([0, 7, 8, 9]))
    best = []
    for _ in range(4):
        best.append(state.F[0, 0])
        state = algorithm.tell(state, tiny.sample(4, rng), scored([5, 6, 7, 8]))
    assert best == [0, 0, 0, 0]
    assert state.F[0, 0] == 5


def test_a_duel_is_won_by_dominance_else_by_the_lonelier(rng: np.random.Generator) -> None:
    F = np.array([[0.0, 10], [1, 9], [2, 8], [10, 0], [11, 1], [3, 9]])  # 4 is behind 3, and 5 behind 2
    G = np.zeros((6, 1))
    winners = duel(F, G, 20_000, rng)
    shares = np.bincount(winners, minlength=6) / len(winners)
    assert shares[0] > shares[1] > 0  # the end of the front is lonelier than its inside
    assert shares[3] > shares[4]
    assert shares[4] > shares[1]  # alone on the second front, though dominated by 3
    broken = np.array([[0.0], [0.0], [0.0], [0.0], [0.0], [1.0]])
    F[5] = np.inf
    with np.errstate(all="raise"):
        shares = np.bincount(duel(F, broken, 20_000, rng), minlength=6) / 20_000
    assert shares[5] == pytest.approx(1 / 36, abs=0.01)  # wins against itself only


def test_parents_of_nsga2_mate_with_neighbours_along_an_objective(
    tiny: NetworkEncoding, rng: np.random.Generator
) -> None:
    loss = rng.permutation(40).astype(float)
    state = State(tiny.sample(40, rng), np.stack([loss, -loss], axis=1), np.zeros((40, 0)), np.zeros(40, int))
    first, second = NSGA2()._mates(state, 20_000, rng)
    apart = np.abs(loss[first] - loss[second])
    assert set(apart) == {0, 1, 2, 3}
    assert (apart == 0).mean() < 0.2  # at the ends only
    assert set(first) == set(range(40))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(-1, 2)), min_size=1, max_size=20), st.integers(1, 25))
def test_select_on_one_objective_is_truncation(rows: list[tuple[int, int]], n: int) -> None:
    F, G = np.array(rows, float)[:, :1], np.array(rows, float)[:, 1:]
    merit = [(max(g, 0), f if g <= 0 else 0) for f, g in rows]
    chosen = select(F, G, n)
    assert [merit[i] for i in chosen] == sorted(merit)[:n]
    assert len(set(chosen)) == len(chosen)


def test_select_prefers_rank_and_within_a_rank_the_least_crowded() -> None:
    front = np.array([[0.0, 10], [1, 9], [2, 8], [8, 1], [10, 0]])  # row 3 is lonelier than row 2, that one than row 1
    worse = front + 20
    F = np.concatenate([worse, front])
    chosen = select(F, np.zeros((10, 0)), 4).tolist()
    assert set(chosen[:2]) == {5, 9}
    assert chosen[2:] == [8, 7]
    assert set(select(F, np.zeros((10, 0)), 7)) == {*range(5, 10), 0, 4}


def test_select_returns_all_rows_if_there_are_fewer() -> None:
    assert sorted(select(np.array([[2.0], [1.0]]), np.zeros((2, 0)), 5)) == [0, 1]


def test_of_equals_by_one_objective_the_one_farthest_below_the_limit_is_found(
    tiny: NetworkEncoding, everything: np.ndarray
) -> None:
    cost = bit_ops(tiny)
    equal = FunctionMetric("equal", "", lambda genomes: np.zeros(len(genomes)))
    front = search(Problem(tiny, [Objective(equal)], [Constraint(cost, 8e6)]), n_evaluations=len(everything))
    assert front.metrics["bit_ops"].tolist() == [cost.reachable()[0]]


def test_islands_share_the_budget_and_never_evaluate_a_candidate_twice(tiny: NetworkEncoding) -> None:
    problem, recorder = recorded_problem(tiny)
    search(problem, islands=3, n_evaluations=1000)
    assert len(recorder.seen) == len(set(recorder.seen)) == 1000


def test_patience_ends_a_search_whose_front_is_stable_and_not_before(
    tiny: NetworkEncoding, everything: np.ndarray
) -> None:
    loss = synthetic_loss(tiny)
    found = [
        search(Problem(tiny, [Objective(loss)]), n_evaluations=5000, patience=patience, seed=1)
        for patience in (1000, None)
    ]
    assert found[0].provenance["n_evaluations"] < found[1].provenance["n_evaluations"] == 5000
    assert found[0].provenance["n_evaluations"] >= 1000
    assert found[0].metrics["loss"].tolist() == [loss(everything).min()]


@pytest.mark.parametrize("name", ["islands", "patience"])
def test_counts_below_one_are_refused_by_name(tiny: NetworkEncoding, name: str) -> None:
    with pytest.raises(ProblemError, match=f"{name}.* a whole number from 1 to .*got -1"):
        search(recorded_problem(tiny)[0], n_evaluations=10, **{name: -1})


def test_children_of_crossover_enter_the_population(encoding: NetworkEncoding) -> None:
    """The published search scores them and then drops them."""
    smallest, largest = encoding.encode(list(encoding.extremes()))
    loss = synthetic_loss(encoding)
    problem = Problem(encoding, [Objective(loss)])
    algorithm = Evolution(population=40, parents=10, crossover=1.0, mutation=NONE)
    front = search(problem, algorithm, n_evaluations=200, initial=np.stack([smallest, largest]), seed=0)
    (best,) = encoding.encode(list(front.candidates))
    assert (best != smallest).any()
    assert (best != largest).any()
    assert front.metrics["loss"][0] < loss(np.stack([smallest, largest])).min()
