"""Tables of layers and of genes against plain loops over the layers of candidates, and faulty files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from apq_tune import (
    ChoiceSpace,
    Constraint,
    FunctionMetric,
    ModelSpace,
    Objective,
    Problem,
    SearchSpace,
    TableError,
    search,
)
from apq_tune.cost import cost_models
from apq_tune.cost.additive import AdditiveMetric, HasTerms, OpenTerm, switches_of
from apq_tune.cost.additive_file import is_additive_table, load_additive_tables
from apq_tune.cost.layer_table import LayerTable
from apq_tune.methods.one_at_a_time import measure_one_at_a_time
from apq_tune.problem.costs import Costs
from apq_tune.space.encodings import encoding_of
from apq_tune.space.gene_encoding import GeneEncoding
from apq_tune.tracing.trace import trace
from tests.tracing.zoo import ResNet


@pytest.fixture(scope="module", params=["blocks", "graph"])
def encoding(request: pytest.FixtureRequest) -> GeneEncoding:
    if request.param == "graph":
        graph = trace(ResNet(1, widths=(4, 4, 8)), torch.zeros(1, 3, 6, 6))
        return encoding_of(ModelSpace.of_graph(graph, w_bits=[2, 4, 8], a_bits=[4, 8], step=4))
    return encoding_of(SearchSpace.load("digits"))


def rows_of(encoding: GeneEncoding, *, pairs: bool = False) -> dict[str, dict[tuple[int | None, int | None], float]]:
    """A random value for each layer that has open bits, and for each of its bits."""
    rng, rows = np.random.default_rng(0), {}
    genomes = encoding.sample(300, rng)
    for candidate in encoding.decode(genomes):
        for layer in encoding.space.network.at(encoding.space.values_of(candidate)):
            if layer.op is not None:
                w, a = layer.op.w_bits, layer.op.a_bits
                for key in [(w, a)] if pairs else [(w, None), (None, a)]:
                    rows.setdefault(layer.name, {}).setdefault(key, float(rng.normal()))
    return rows


@pytest.mark.parametrize("pairs", [False, True])
def test_the_metric_of_a_table_of_layers_adds_up_those_that_a_candidate_has(
    encoding: GeneEncoding, pairs: bool, tmp_path: Path
) -> None:
    rows = rows_of(encoding, pairs=pairs)
    table = LayerTable("loss", rows)
    table.save(tmp_path / "t.csv")
    assert is_additive_table(tmp_path / "t.csv")
    (again,) = load_additive_tables(tmp_path / "t.csv")
    assert again == LayerTable("loss", rows, source=str(tmp_path / "t.csv"))
    genomes = encoding.sample(40, np.random.default_rng(1))
    expected = []
    for candidate in encoding.decode(genomes):
        ops = [(x.name, x.op) for x in encoding.space.network.at(encoding.space.values_of(candidate)) if x.op]
        alone = [(n, k) for n, o in ops for k in ((o.w_bits, None), (None, o.a_bits))]
        keys = [(n, (o.w_bits, o.a_bits)) for n, o in ops] if pairs else alone
        expected.append(sum(rows[name][key] for name, key in keys))
    metric = again.metric(encoding)
    np.testing.assert_allclose(metric(genomes), expected, atol=1e-12)
    low, high = metric.reachable()
    assert (low <= np.array(expected)).all() and (np.array(expected) <= high).all()


def test_a_table_is_an_objective_of_any_search_and_a_metric_of_the_commands(encoding: GeneEncoding, tmp_path) -> None:
    LayerTable("loss", rows_of(encoding)).save(tmp_path / "t.csv")
    metrics = Costs.of(encoding, [tmp_path / "t.csv"]).metrics
    assert next(iter(metrics)) == "loss"
    problem = Problem(encoding, [Objective(metrics["loss"]), Objective(metrics["weight_bytes"])])
    assert len(search(problem, "nsga2", n_evaluations=100)) > 0


def test_costs_are_the_sums_of_their_terms(encoding: GeneEncoding) -> None:
    genomes = encoding.sample(50, np.random.default_rng(2))
    for model in cost_models(encoding):
        assert isinstance(model, HasTerms)
        sums = model.additive()
        if isinstance(encoding.space, ModelSpace) and model.name == "peak_activation_bytes":
            assert sums is None  # which tensors are alive together depends on the blocks
            continue
        assert sums is not None
        np.testing.assert_allclose(np.max([one.at(genomes) for one in sums], axis=0), model(genomes), rtol=1e-12)


def test_genes_of_left_out_blocks_add_nothing(encoding: GeneEncoding) -> None:
    gene = next(g for g in range(encoding.n_genes) if len(switches_of(encoding, g)[0]))
    metric = AdditiveMetric.of_genes("x", "", encoding, {gene: np.arange(1.0, 1 + encoding.n_choices[gene])}, 10)
    genomes = encoding.sample(60, np.random.default_rng(3))
    active = encoding.active_genes(genomes)[:, gene]
    assert 0 < active.sum() < 60
    np.testing.assert_array_equal(metric(genomes), 10 + active * (1.0 + genomes[:, gene]))


def test_one_at_a_time_restores_a_metric_whose_genes_do_not_interact(encoding: GeneEncoding, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    truth = {int(g): rng.normal(size=encoding.n_choices[g]) for g in encoding.places_of(["w_bits", "a_bits"])}
    exact = AdditiveMetric.of_genes("loss", "nats", encoding, truth)
    table = measure_one_at_a_time(exact, encoding)
    table.save(tmp_path / "t.csv")
    (again,) = load_additive_tables(tmp_path / "t.csv")
    largest = encoding.ends()[1:]
    genomes = encoding.at_largest(encoding.sample(20, rng), ["depth", "width", "kernel"])
    np.testing.assert_allclose(again.metric(encoding)(genomes), exact(genomes) - exact(largest), atol=1e-9)


CHOICES = ChoiceSpace("two", {"one": (4, 8), "other": (4, 8)})
GOOD = "gene,value,loss\none,4,0.5\none,8,0\nother,4,.25\nother,8,0\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD.replace("other,8,0\n", ""), "1 rows of two are missing: other 8; add them"),
        (GOOD.replace("other,4,.25\nother,8,0\n", ""), "2 rows of two are missing: other 4; other 8"),
        (GOOD + "one,4,2\n", "row 5 repeats one 4 of row 1; keep one"),
        (GOOD.replace(".25", "nan"), "row 3: loss is 'nan'; give a finite number"),
        (GOOD.replace(".25", ""), "row 3: loss is empty"),
        (GOOD.replace("other", "othr"), r"row 3: two has no gene 'othr' \(did you mean 'other'\?\)"),
        (GOOD.replace("one,8", "one,6"), "row 1: one has no value '6' in two; it offers 4, 8"),
        (GOOD.replace("value,", "width,"), "a column 'gene' needs value beside it"),
        (GOOD.replace("gene", "layer").replace("value", "w_bits"), "two holds named choices; give columns gene"),
        ("gene,value\none,4\n", "has no column of values"),
    ],
)
def test_faulty_tables_of_genes_are_refused_with_row_and_remedy(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(TableError, match=said):
        load_additive_tables(tmp_path / "t.csv")[0].metric(encoding_of(CHOICES))


def test_faulty_tables_of_layers_are_refused_with_row_and_remedy(tmp_path: Path) -> None:
    encoding, path = encoding_of(SearchSpace.load("digits")), tmp_path / "t.csv"
    LayerTable("loss", rows_of(encoding)).save(path)
    good = path.read_text()
    for text, said in (
        (good.replace("1.1.expand,4,,", "1.1.expand,5,,"), "1 rows of digits are missing: 1.1.expand w_bits=4; add"),
        (good.replace("1.1.expand", "1.1.expnd"), "digits has no layer '1.1.expnd' .*did you mean '1.1.expand'"),
        (good + good.splitlines()[1] + "\n", "repeats stem 8 of row 1"),
        (good + "1.1.expand,4,4,1\n", "1.1.expand has rows of pairs of bits and of w_bits or a_bits alone"),
        (good + "1.1.expand,,,1\n", "gives no bits of 1.1.expand; give w_bits, a_bits or both"),
        (good + "1.1.expand,four,,1\n", "w_bits is 'four'; give a number of bits"),
        ("a,b\n1,2\n", "is no table of layers or genes, it has a, b"),
    ):
        path.write_text(text)
        with pytest.raises(TableError, match=said):
            load_additive_tables(path)[0].metric(encoding)


def test_terms_over_several_genes_and_bounds_of_the_metric() -> None:
    encoding = encoding_of(CHOICES)
    metric = AdditiveMetric("x", "ms", encoding, [OpenTerm((0, 1), np.array([[1.0, 2.0], [3.0, 5.0]]))], 1.0)
    every = encoding.enumerate()
    assert metric(every).tolist() == [2, 3, 4, 6] and metric.reachable() == (2, 6)
    problem = Problem(encoding, [Objective(FunctionMetric("y", "", lambda g: -g.sum(1)))], [Constraint(metric, 3)])
    assert search(problem).candidates[0].values == (("one", 4), ("other", 8))
