"""Every method on made-up losses: what it spends, what it keeps, and that its stages keep what earlier ones decided."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from apq_tune import Candidate, Constraint, NetworkEncoding, ProblemError, RunError, SearchSpace
from apq_tune.cost import bit_ops
from apq_tune.methods import METHODS, Bench, Question, Subspace, differentiable, paper, predicted, rounds, sensitive
from apq_tune.methods import staged as stages
from apq_tune.methods.amc_haq import AMC_HAQ
from apq_tune.methods.bench import Counts, Curvature, GateSearch
from apq_tune.methods.bit_program import best_bits, one_gene_lower, open_bits, sensitivities, without_noise
from apq_tune.methods.explore import best_of, explore
from apq_tune.methods.projections import everything, fixed, most_bits, tied_bits, uniform_bits, uniform_wa_bits
from apq_tune.methods.proxyless_amc_haq import by_gates
from apq_tune.methods.registry import why_impossible
from apq_tune.problem.costs import BUDGETS, Costs
from apq_tune.problem.limits import as_texts
from apq_tune.searchers.gates.distribution import GeneDistribution
from apq_tune.searchers.gates.training import GateTraining, train_gates
from apq_tune.space.gene import ARCHITECTURE_KINDS
from apq_tune.space.gene_encoding import GeneEncoding
from apq_tune.space.geometry import out_size

ALLOWED = Counts.of(72, 9)


@pytest.fixture(scope="module")
def deep() -> NetworkEncoding:
    """Large enough for no stage to be exhausted."""
    data = SearchSpace.load("digits").model_dump(mode="json", exclude_none=True)
    data["stages"][1]["depth"] = [2, 3, 4]
    return NetworkEncoding(SearchSpace.from_dict(data))


def made_up(encoding: NetworkEncoding, kind: str, seen: list[Candidate] | None = None):
    """Losses that fall with size and bits, each layer by a weight of its own; in full precision bits do not matter."""
    rng = np.random.default_rng(6 if kind == "fine" else 5)  # a closer look says something else
    weights = rng.uniform(0.5, 1.5, encoding.n_slots)

    def measure(genomes: np.ndarray) -> np.ndarray:
        losses = []
        for candidate in encoding.decode(genomes):
            if seen is not None:
                seen.append(candidate)
            gain = 0.0
            for weight, block in zip(weights, candidate.blocks, strict=False):
                bits = 1.0 if kind == "fp32" else 1 - sum(0.8 * 2.0**-b for b in block[2:]) / 2
                gain += weight * np.log2(block.channels) * bits * (1 + block.kernel_size / 50)
            losses.append(float(np.exp(-gain / 20)))
        return np.array(losses)

    return measure


def question(encoding: NetworkEncoding, limits: Sequence[Constraint], seen=None, allowed: Counts = ALLOWED) -> Question:
    measures = {kind: made_up(encoding, kind, seen) for kind in ("fp32", "proxy", "fine", "short")}
    return Question(
        encoding,
        tuple(limits),
        Bench(encoding, measures, allowed, hessian=curvature(encoding), gates=gates(encoding)),
        3,
    )


def curvature(encoding: GeneEncoding, price: int = 5) -> Curvature:
    """Sensitivities that fall by four with each bit, of each gene by a factor of its own."""

    def measure(genome: np.ndarray) -> dict[int, np.ndarray]:
        factors = np.random.default_rng(8).uniform(0.1, 1, encoding.n_genes)
        return {int(g): factors[g] * 4.0 ** -np.array(encoding.choices[g]) for g in open_bits(encoding, genome)}

    return Curvature(price, measure)


def gates(encoding: GeneEncoding, price: float = 0.25) -> GateSearch:
    """Differentiable search with a loss that falls with each gene."""
    share = torch.from_numpy(np.arange(int(encoding.n_choices.max())) / encoding.n_choices[:, None])

    def train(distribution: GeneDistribution, limits: Any, training: GateTraining, seed: int, quantize: bool) -> None:
        assert quantize == (len(distribution.open_genes) > len(encoding.places_of(ARCHITECTURE_KINDS)))
        train_gates(distribution, lambda own, _: 1 - (own.values * share).mean(), limits, training, seed)

    return GateSearch({"binary": price, "gumbel": price}, train)


def flash(space: SearchSpace, candidate: Candidate) -> float:
    """Packed weights and 8 bytes for each output channel, counted block by block without the cost models."""
    bits, channels, total = 0.0, 0, space.stem.channels
    bits += space.input.channels * total * space.stem.kernel_size**2 * space.fixed_bits
    channels += total
    for stage, blocks in zip(space.stages, candidate.stages, strict=True):
        for block in blocks:
            bits += (total + stage.channels) * block.channels * block.pw_w_bits
            bits += block.channels * block.kernel_size**2 * block.dw_w_bits
            channels += 2 * block.channels + stage.channels
            total = stage.channels
    bits += (total * space.head.channels + space.head.channels * space.classes) * space.fixed_bits
    return bits / 8 + 8 * (channels + space.head.channels + space.classes)


def ram(space: SearchSpace, candidate: Candidate) -> float:
    """The largest of all working sets, op by op."""
    size, total = out_size(space.input.size, space.stem.stride), space.stem.channels
    sets = [space.input.channels * space.input.size**2 * 8 + total * size**2 * 8]
    for stage, blocks in zip(space.stages, candidate.stages, strict=True):
        for place, block in enumerate(blocks):
            after = out_size(size, stage.stride if place == 0 else 1)
            before, middle = total * size**2 * 8, block.channels * size**2 * block.dw_a_bits
            filtered, out = block.channels * after**2 * block.pw_a_bits, stage.channels * after**2 * 8
            kept = before if size == after and total == stage.channels else 0
            sets += [before + middle, kept + middle + filtered, kept + filtered + out]
            size, total = after, stage.channels
    sets += [total * size**2 * 8 + space.head.channels * size**2 * 8, space.head.channels * 8 + space.classes * 8]
    return max(sets) / 8


@pytest.fixture(scope="module", params=METHODS)
def proposed(request: pytest.FixtureRequest, deep: NetworkEncoding) -> tuple[str, Question, np.ndarray]:
    budget = "memory" if request.param == "uniform-8" else "memory-tight"  # which no network of 8 bits keeps
    asked = question(deep, Costs.of(deep).budget(budget))
    with pytest.MonkeyPatch.context() as patch:  # inner searches that are long enough to keep limits
        for module in (differentiable, paper, predicted, rounds):
            patch.setattr(module, "EVALUATIONS", 1000)
        return request.param, asked, METHODS[request.param].propose(asked)


def test_every_method_spends_the_budget_exactly_and_keeps_both_limits(deep: NetworkEncoding, proposed) -> None:
    method, asked, found = proposed
    limits = asked.limits
    if method == "magnitude":  # there are few such networks
        assert 0 < asked.bench.count("proxy") < ALLOWED.proxy
        assert 0 < len(found) <= ALLOWED.short
        return
    assert asked.bench.count("fp32", "proxy") + asked.bench.charged == ALLOWED.proxy
    assert asked.bench.charged_hessians == (5 * len(asked.bench._tables) if method == "hawq" else 0)
    gates = {"proxyless": 43, "fbnet": 43, "proxyless-amc-haq": 6}  # 60%, and of the first stage's share at each width
    assert asked.bench.charged_gates == gates.get(method, 0)
    assert asked.bench.count("short") == ALLOWED.short
    assert len(found) == ALLOWED.short == len(np.unique(found, axis=0))
    for candidate in deep.decode(found):
        assert flash(deep.space, candidate) <= limits[0].bound
        assert ram(deep.space, candidate) <= limits[1].bound
    if method == "paper":  # no network is run quantized but in training
        assert asked.bench.count("proxy", "fine") == 0
        return
    assert asked.bench.count("fine") == ALLOWED.fine
    short, fine = asked.bench.measured("short"), asked.bench.measured("fine")
    if method in ("predictor", "refined"):
        assert set(map(bytes, found)) <= set(map(bytes, fine.genomes))
    if method == "predictor":  # its pairs are random, what they teach decides
        assert not set(map(bytes, found)) & set(map(bytes, short.genomes))
        return
    np.testing.assert_array_equal(found, best_of(short, len(found)).genomes)
    if method == "refined":
        return
    measured = asked.bench.measured("proxy")
    if method in ("staged-bits-first", "sensitivity"):  # networks at policies of which most keep no limit
        measured = measured.rows(np.flatnonzero(Subspace(deep, everything).violations(measured.genomes, limits) <= 0))
    if method == "joint-levels":  # each level has its own finalists
        return
    assert set(map(bytes, found)) == set(map(bytes, best_of(fine, ALLOWED.short).genomes))
    assert set(map(bytes, fine.genomes)) == set(map(bytes, best_of(measured, ALLOWED.fine).genomes))
    if method in ("uniform", "joint"):
        np.testing.assert_array_equal(METHODS[method].propose(question(deep, limits)), found)


def test_a_method_gives_bits_as_its_name_says(deep: NetworkEncoding, proposed) -> None:
    method, asked, _ = proposed
    networks = [c.blocks for c in deep.decode(asked.bench.measured("proxy").genomes)]
    uniform = [len({bits for block in blocks for bits in block[2:]}) == 1 for blocks in networks]
    of_all = [len({b[2:4] for b in blocks} | {b[4:6] for b in blocks}) == 1 for blocks in networks]
    tied = [all(b.pw_w_bits == b.pw_a_bits and b.dw_w_bits == b.dw_a_bits for b in blocks) for blocks in networks]
    expected = {"uniform": uniform, "uniform-wa": of_all, "staged": tied}
    if method in expected:
        assert all(expected[method])
    if method == "uniform-8":
        assert {bits for blocks in networks for block in blocks for bits in block[2:]} == {8}
    elif method == "magnitude":
        assert all(uniform)
        for candidate in deep.decode(asked.bench.measured("proxy").genomes):
            slots = [s for s in deep.space.slots if s.position < candidate.depths[s.stage]]
            assert len(slots) == len(deep.space.slots)
            pairs = list(zip(candidate.blocks, slots, strict=True))
            assert all(block.kernel_size == max(slot.kernel_sizes) for block, slot in pairs)
            shares = [s.channels.index(b.channels) / (len(s.channels) - 1) for b, s in pairs]
            assert max(shares) - min(shares) <= 1 / min(len(s.channels) - 1 for s in deep.space.slots)
    elif method == "uniform-4":
        assert {bits for blocks in networks for block in blocks for bits in block[2:]} == {4}
    elif method != "uniform":
        assert not all(uniform) or method == "paper"
    mixed = ("staged-haq", "amc-haq", "proxyless-amc-haq", "staged-bits-first", "sensitivity", "hawq", "size-rank")
    mixed += ("random", "joint", "joint-levels")
    if method in mixed:
        assert not all(tied)
        assert not all(of_all)


@pytest.mark.parametrize("values", [[0, 0.5], [0.5]], ids=["open", "fixed"])
def test_methods_with_gates_cannot_search_sparse_weights(values: list[float]) -> None:
    plain = SearchSpace.load("digits").to_dict()
    plain["choices"]["pw_sparsity"] = values
    encoding = NetworkEncoding(SearchSpace.from_dict(plain))
    reasons = {name: why_impossible(name, encoding, []) for name in METHODS}
    assert {name for name, why in reasons.items() if why} == {"proxyless", "fbnet", "proxyless-amc-haq"}
    assert "search with another method, or leave sparsity out" in str(reasons["fbnet"])


def test_only_a_method_whose_part_keeps_the_limits_can_search(deep: NetworkEncoding) -> None:
    tight = Costs.of(deep).budget("memory-tight")
    assert [name for name in METHODS if why_impossible(name, deep, tight) is not None] == ["uniform-8"]
    assert "the closest misses one by" in str(why_impossible("uniform-8", deep, tight))
    smallest = deep.ends()[:1]  # at the most bits
    for name in ("weight_bytes", "bit_ops"):
        cost = Costs.of(deep).metrics[name]
        at_least = float(cost(smallest)[0])
        assert why_impossible("uniform-8", deep, [Constraint(cost, at_least)]) is None
        assert why_impossible("uniform-8", deep, [Constraint(cost, 0.999 * at_least)]) is not None


@pytest.mark.parametrize(
    ("method", "searches"),
    [
        ("staged-haq", stages.Stages()),
        ("amc-haq", AMC_HAQ),
        ("proxyless-amc-haq", AMC_HAQ._replace(architecture=by_gates)),
    ],
)
def test_stages_keep_what_earlier_stages_decided(deep: NetworkEncoding, method: str, searches: stages.Stages) -> None:
    limits = Costs.of(deep).budget("memory")
    for pruned in stages.prune(question(deep, limits), searches):
        (architecture,) = deep.decode(pruned.architecture[None])
        slots = iter(s for s in deep.space.slots if s.position < architecture.depths[s.stage])
        assert all(block.channels == slot.channels[-1] for block, slot in zip(architecture.blocks, slots, strict=True))
        for network in deep.decode(pruned.networks.genomes):
            assert network.depths == architecture.depths
            assert [b.kernel_size for b in network.blocks] == [b.kernel_size for b in architecture.blocks]
            assert {bits for block in network.blocks for bits in block[2:]} == {pruned.bits}
            assert flash(deep.space, network) <= limits[0].bound
    seen: list[Candidate] = []
    asked = question(deep, limits, seen)
    METHODS[method].propose(asked)
    proxies = asked.bench.measured("proxy").genomes
    assert (Subspace(deep, everything).violations(proxies, limits) <= 0).all()
    tried = len(stages.prune(question(deep, limits), searches)) * stages.TRIED
    networks = {str(c.with_bits(8)) for c in deep.decode(proxies[tried:])}
    assert len(networks) == 1  # one network, many policies
    assert networks <= {str(c.with_bits(8)) for c in deep.decode(proxies[:tried])}
    assert asked.bench.count("fp32") > 0


def test_bits_first_prunes_the_largest_network_at_policies_that_cost_no_more_than_uniform_ones(
    deep: NetworkEncoding,
) -> None:
    limits = Costs.of(deep).budget("memory-tight")
    asked = question(deep, limits)
    METHODS["staged-bits-first"].propose(asked)
    measured = asked.bench.measured("proxy").genomes
    largest = deep.at_largest(measured, ("depth", "kernel", "width"))
    n = int((measured == largest).all(axis=1).argmin())  # the policies of the largest network come first
    assert round(0.4 * ALLOWED.proxy) <= n <= round(0.5 * ALLOWED.proxy)
    costs = [limit.metric(measured[:n]) for limit in limits]
    uniform = deep.at_bits(largest[:1], 8)
    assert all((cost <= limit.metric(uniform)[0]).all() for cost, limit in zip(costs, limits, strict=True))
    bits = {tuple(sorted(set(map(tuple, (block[2:] for block in c.blocks))))) for c in deep.decode(measured[n:])}
    tried = {tuple(sorted(set(map(tuple, (block[2:] for block in c.blocks))))) for c in deep.decode(measured[:n])}
    assert all(any(set(own) <= set(policy) for policy in tried) for own in bits)  # depth may leave blocks out


def test_sensitivity_pays_for_its_tables_and_measures_what_the_exact_program_chooses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoding = NetworkEncoding(SearchSpace.load("digits"))
    limits, allowed = Costs.of(encoding).budget("memory-tight"), Counts.of(120, 3)
    asked = question(encoding, limits, allowed=allowed)
    tables: list[tuple[np.ndarray, dict[int, np.ndarray]]] = []

    def kept(own: NetworkEncoding, network: np.ndarray, measure: Callable[[np.ndarray], np.ndarray]):
        tables.append((network, sensitivities(own, network, measure)))
        return tables[-1][1]

    monkeypatch.setattr(sensitive, "sensitivities", kept)
    METHODS["sensitivity"].propose(asked)
    assert asked.bench.count("fp32", "proxy") == allowed.proxy
    measured = asked.bench.measured("proxy").genomes.tolist()
    network, table = tables[0]
    genomes, cells = one_gene_lower(encoding, network)
    assert len(cells) == 2 * len(open_bits(encoding, network))  # two of three bit-widths each
    assert all(genome in measured for genome in genomes.tolist())
    last = max(measured.index(genome) for genome in genomes.tolist())
    table = {gene: without_noise(encoding.choices[gene], row) for gene, row in table.items()}
    assert measured[last + 1] == best_bits(encoding, network, table, limits)[0].tolist()


def test_measurements_are_counted_once_refused_beyond_the_budget_and_replayed(encoding: NetworkEncoding) -> None:
    genomes = encoding.sample(30, np.random.default_rng(0))
    seen: list[Candidate] = []
    bench = question(encoding, [], seen, Counts.of(20, 2)).bench
    first = bench.proxy(genomes[[0, 1, 1, 0]])
    assert first.tolist() == first[[0, 1, 1, 0]].tolist()
    assert len(seen) == 2 == bench.count("proxy")
    bench.fp32(encoding.at_bits(genomes[:5], 2))
    bench.fp32(encoding.at_bits(genomes[:5], 4))
    assert bench.count("fp32") == 5  # bits make no difference
    assert bench.left == Counts(13, 2, 6)
    with pytest.raises(RunError, match="14 measurements of kind proxy are asked for, 13 are left; ask for fewer"):
        bench.proxy(genomes[2:16])
    known = {
        (kind, g.tobytes()): loss for kind in ("fp32", "proxy") for g, loss in zip(*bench.measured(kind), strict=True)
    }
    again: list[Candidate] = []
    replayed = Bench(encoding, question(encoding, [], again).bench.measures, Counts.of(20, 2), known)
    np.testing.assert_array_equal(replayed.proxy(genomes[[0, 1, 1, 0]]), first)
    replayed.proxy(genomes[5:7])
    assert len(again) == 2
    assert replayed.count("proxy") == 4


@pytest.mark.parametrize("policy", [uniform_bits, most_bits, uniform_wa_bits, tied_bits])
def test_projections_keep_what_is_in_their_part(either: NetworkEncoding, policy) -> None:
    genomes = either.sample(200, np.random.default_rng(1))
    if policy in (uniform_bits, most_bits) and not either.uniform_bits():
        with pytest.raises(ProblemError, match="there is no uniform policy"):
            policy(either)
        return
    part = Subspace(either, policy(either))
    projected = part.canonicalise(genomes)
    np.testing.assert_array_equal(part.canonicalise(projected), projected)
    np.testing.assert_array_equal(either.canonicalise(projected), projected)
    assert [c.depths for c in either.decode(projected)] == [c.depths for c in either.decode(genomes)]
    frozen = Subspace(either, fixed(either, genomes[0], ("depth", "kernel", "width")))
    for candidate in either.decode(frozen.sample(50, np.random.default_rng(2))):
        assert [b[:2] for b in candidate.blocks] == [b[:2] for b in either.decode(genomes[:1])[0].blocks]


def test_the_band_is_near_the_limit_and_complete_in_a_small_part(tiny: NetworkEncoding, everything_tiny) -> None:
    cost = bit_ops(tiny)
    limit = Constraint(cost, float(np.quantile(cost(everything_tiny), 0.3)))
    part = Subspace(tiny, everything)
    drawn = part.sample_band([limit], 40, np.random.default_rng(0))
    assert len(np.unique(drawn, axis=0)) == 40
    assert tiny.is_allowed(drawn).all()
    assert ((cost(drawn) <= limit.bound) & (cost(drawn) >= 0.75 * limit.bound)).all()
    uniform = Subspace(tiny, uniform_bits(tiny))
    whole = uniform.enumerate()
    found = uniform.sample_band([limit], 10**6, np.random.default_rng(0))
    feasible = whole[(cost(whole) <= limit.bound) & tiny.is_allowed(whole)]
    np.testing.assert_array_equal(np.unique(found, axis=0), np.unique(feasible, axis=0))
    assert len(uniform.sample_band([limit], 5, np.random.default_rng(0), found)) == 0
    with pytest.raises(ProblemError, match=r"no candidate with bit_ops <= .* closest misses one by .*%; relax a bound"):
        part.sample_band([Constraint(cost, 0.9 * cost.reachable()[0])], 1, np.random.default_rng(0))


@pytest.fixture(scope="module")
def everything_tiny(tiny: NetworkEncoding) -> np.ndarray:
    return tiny.enumerate()


def test_exploring_beats_the_same_number_of_samples(deep: NetworkEncoding) -> None:
    limits = Costs.of(deep).budget("memory")
    gains = []
    for seed in range(6):
        asked = question(deep, limits)
        part = Subspace(deep, everything)
        own = explore(asked, part, limits, asked.bench.proxy, 60, np.random.default_rng(seed))
        drawn = part.sample_band(limits, 60, np.random.default_rng(seed))
        gains.append(made_up(deep, "proxy")(drawn).min() - own.target.min())
    assert min(gains) > 0


def test_named_limits_follow_their_rules_and_read_back_exactly(encoding: NetworkEncoding) -> None:
    drawn = encoding.decode(encoding.at_bits(encoding.sample(2001, np.random.default_rng(0)), 4))
    memory, tight = Costs.of(encoding).budget("memory"), Costs.of(encoding).budget("memory-tight")
    assert memory[0].bound == np.median([flash(encoding.space, c) for c in drawn])
    assert memory[1].bound == np.median([ram(encoding.space, c) for c in drawn])
    assert [t.bound for t in tight] == [0.7 * m.bound for m in memory]
    (share,) = Costs.of(encoding).budget("bit_ops")
    assert share.bound == pytest.approx(0.25 * bit_ops(encoding).reachable()[1])
    for name in BUDGETS:
        limits = Costs.of(encoding).budget(name)
        again = Costs.of(encoding).limits(as_texts(limits))
        assert [(a.metric.name, a.bound, a.sense) for a in again] == [(b.metric.name, b.bound, b.sense) for b in limits]
    with pytest.raises(ProblemError, match="unknown budget 'watts'; known: memory, memory-tight, latency, bit_ops"):
        Costs.of(encoding).budget("watts")


def test_staged_search_says_when_it_cannot_begin(encoding: NetworkEncoding) -> None:
    limit = Constraint(bit_ops(encoding), 1.0001 * bit_ops(encoding).reachable()[0])
    asked = question(encoding, [limit])
    asked = Question(encoding, (Constraint(bit_ops(encoding), limit.bound / 2),), asked.bench, 0)
    with pytest.raises(ProblemError, match="at any uniform bit-width; staged search cannot begin, relax one"):
        stages.prune(asked)
