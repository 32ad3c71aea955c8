"""The mixer of statistics of layers: its pass against loops, what it learns, and its files."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import erf
from scipy.stats import kendalltau
from torch import nn

from apq_tune import (
    CandidateStatistics,
    LayerTable,
    MixerSettings,
    ModelSpace,
    Objective,
    Pairs,
    Problem,
    ProblemError,
    RunError,
    SearchSpace,
    fit_mixer,
    load_predictor,
    search,
)
from apq_tune.predict import MeanPredictor
from apq_tune.predict.expressions import scores_of, values_by_layer
from apq_tune.predict.files import predictor_bytes
from apq_tune.predict.losses import LOSSES, Loss
from apq_tune.predict.mixer import mixed, mixer_shapes
from apq_tune.space.encodings import encoding_of
from apq_tune.supernet.evaluate import subnet_from
from apq_tune.supernet.layer_tensors import candidate_tensors
from apq_tune.supernet.zero_cost import layer_statistics
from apq_tune.tracing.trace import trace

pytestmark = pytest.mark.usefixtures("one_thread")

N_LAYERS, N_COLUMNS, WIDTH = 5, 3, 4
QUICK = MixerSettings(width=8, blocks=1, steps=60)


class Residual(nn.Module):
    """Convolution, residual block that may be left out, linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = x + self.block(x)
        return self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def digits() -> CandidateStatistics:
    torch.manual_seed(2)
    return CandidateStatistics.untrained(SearchSpace.load("digits"), torch.rand(6, 1, 8, 8), torch.arange(6))


@pytest.fixture(scope="module")
def model() -> CandidateStatistics:
    torch.manual_seed(0)
    space = ModelSpace.of_graph(trace(Residual().eval(), torch.zeros(1, 1, 6, 6)), step=4, w_bits=[2, 8])
    return CandidateStatistics.untrained(space, torch.rand(6, 1, 6, 6), torch.arange(6) % 4)


@pytest.fixture(params=["digits", "model"])
def statistics(request: pytest.FixtureRequest) -> CandidateStatistics:
    return request.getfixturevalue(request.param)  # type: ignore[no-any-return]


@pytest.fixture
def weights(rng: np.random.Generator) -> dict[str, np.ndarray]:
    shapes = mixer_shapes(N_LAYERS, N_COLUMNS, WIDTH, 2)
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def by_loops(w: dict[str, np.ndarray], inputs: np.ndarray, present: np.ndarray) -> float:
    """The pass for one candidate of the layers that it has, and no others."""

    def gelu(x: np.ndarray) -> np.ndarray:
        return x * (1 + erf(x / np.sqrt(2))) / 2

    def normed(rows: list[np.ndarray]) -> list[np.ndarray]:
        return [(row - row.mean()) / np.sqrt(row.var() + 1e-5) for row in rows]

    there = np.flatnonzero(present)
    h = [inputs[layer] @ w["embed"] + w["bias"] + w["place"][layer] for layer in there]
    for block in range(2):
        before = normed(h)
        for feature in range(WIDTH):
            hidden = gelu(
                sum(row[feature] * w[f"{block}_layers_in"][layer] for row, layer in zip(before, there, strict=True))
            )
            for row, layer in zip(h, there, strict=True):
                row[feature] += hidden @ w[f"{block}_layers_out"][:, layer]
        for row, own in zip(h, normed(h), strict=True):
            row += gelu(own @ w[f"{block}_features_in"]) @ w[f"{block}_features_out"]
    h = normed(h)
    shares = np.exp([row @ w["attend"][:, 0] for row in h])
    return float(
        sum(s * row for s, row in zip(shares / shares.sum(), h, strict=True)) @ w["out"][:, 0] + w["out_bias"][0]
    )


def test_the_pass_is_that_of_loops_over_the_layers_that_there_are(weights, rng: np.random.Generator) -> None:
    inputs, present = rng.normal(size=(7, N_LAYERS, N_COLUMNS)), rng.random((7, N_LAYERS)) < 0.6
    present[:, 0], present[0] = True, True
    inputs = np.where(present[:, :, None], inputs, 0)
    w = {name: torch.tensor(value) for name, value in weights.items()}
    found = mixed(w, torch.tensor(inputs), torch.tensor(present))
    np.testing.assert_allclose(found, [by_loops(weights, *one) for one in zip(inputs, present, strict=True)])


def test_statistics_are_those_of_each_candidates_own_network(statistics: CandidateStatistics) -> None:
    space = statistics.network.space
    encoding = encoding_of(space)
    genomes = encoding.sample(8, np.random.default_rng(1))
    values = statistics(genomes)
    assert np.isnan(values).any() and statistics.columns == ("snip", "grad_norm", "synflow", "w_bits", "a_bits")
    for candidate, own in zip(encoding.decode(genomes), values, strict=True):
        layers = {layer.name: layer.op for layer in space.network.at(space.values_of(candidate)) if layer.op}
        subnet = subnet_from(statistics.network, candidate, statistics.images, quantize=False).eval()
        expected = layer_statistics(subnet, statistics.images, statistics.labels)
        assert set(layers) == set(subnet.weighted())
        for name, row in zip(statistics.layers, own, strict=True):
            if name in layers:
                bits = [layers[name].w_bits, layers[name].a_bits]
                np.testing.assert_allclose(
                    row, [*(expected[c][name] for c in statistics.columns[:3]), *bits], rtol=1e-5
                )
            else:
                assert np.isnan(row).all()


def test_expressions_of_tensors_are_the_statistics_that_are_computed_otherwise(
    statistics: CandidateStatistics,
) -> None:
    network = statistics.network
    encoding = encoding_of(network.space)
    genomes = encoding.sample(4, np.random.default_rng(1))
    genomes = np.concatenate([encoding.encode([encoding.extremes()[1]]), genomes, encoding.at_bits(genomes, 2)])
    tensors = candidate_tensors(network, genomes, statistics.images, statistics.labels)
    values = statistics(genomes)
    different = np.unique(np.nan_to_num(values[..., 0], nan=-1), axis=0)
    assert tensors.layers == statistics.layers and len(tensors.starts["weights"]) == (different >= 0).sum()
    np.testing.assert_array_equal(tensors.bits, np.nan_to_num(values[..., 3:].sum(2)))
    expressions = {0: ("sum", ("abs", ("multiply", "weight", "gradient"))), 1: ("norm", "gradient")}
    for column, expression in expressions.items():
        of_candidates = np.nansum(values[..., column] * tensors.bits, axis=1)
        np.testing.assert_allclose(scores_of(expression, tensors), of_candidates, rtol=1e-4)
        table = LayerTable.times_bits("evolved", values_by_layer(expression, tensors), ("w_bits", "a_bits"))
        assert table.metric(encoding)(genomes[:1])[0] == pytest.approx(of_candidates[0], rel=1e-4)
    squares = values_by_layer(("mean", ("square", "activation")), tensors)
    first = statistics.layers[0]
    image = statistics.images.double().square().mean((0, 2, 3))
    assert squares[first] == pytest.approx(float(image.mean()), rel=1e-4)


def test_an_architecture_is_run_once_whatever_its_bits(digits: CandidateStatistics, monkeypatch) -> None:
    encoding, asked = encoding_of(digits.network.space), []
    own = CandidateStatistics(digits.network, digits.images, digits.labels, ("snip",))
    run = CandidateStatistics._of
    monkeypatch.setattr(CandidateStatistics, "_of", lambda self, c: asked.append(c) or run(self, c))
    genomes = encoding.sample(2, np.random.default_rng(0))
    two, eight = (own(encoding.at_bits(genomes, bits)) for bits in (2, 8))
    assert len(asked) == 2
    np.testing.assert_array_equal(two[..., 0], eight[..., 0])
    assert set(two[..., 1].flat) - {8.0} == {2.0} or np.isnan(two).any()
    assert np.nanmin(two[..., 1]) == 2 and np.nanmin(eight[..., 1]) == 8
    with pytest.raises(ProblemError, match="'jacob_cov' is no statistic of layers; give one of snip, "):
        CandidateStatistics(digits.network, digits.images, digits.labels, ("jacob_cov",))


@pytest.mark.parametrize("loss", LOSSES)
def test_it_learns_from_pairs_what_bits_do_to_layers(digits: CandidateStatistics, loss: Loss) -> None:
    encoding = encoding_of(digits.network.space)
    base = encoding.at_largest(encoding.sample(160, np.random.default_rng(0)), ("depth", "kernel", "width"))
    values = digits(base)
    worth = np.random.default_rng(3).uniform(0, 1, values.shape[1])
    target = np.exp((worth * 4.0 ** (2 - values[..., 3])).sum(1) + 0.3 * worth[::-1] @ (values[..., 4] < 4).T)
    fitted = fit_mixer(
        encoding, Pairs(base[:120], target[:120]), statistics=digits, settings=MixerSettings(steps=120, loss=loss)
    )
    predicted = fitted(base)
    assert kendalltau(predicted[120:], target[120:]).statistic > 0.4
    assert np.log(predicted[:120]).mean() == pytest.approx(np.log(target[:120]).mean(), abs=0.1)


def test_it_is_a_predictor_of_any_space_with_a_file(statistics: CandidateStatistics, tmp_path: Path) -> None:
    space = statistics.network.space
    encoding, path = encoding_of(space), tmp_path / "p.npz"
    genomes = encoding.sample(12, np.random.default_rng(0))
    pairs = Pairs(genomes, np.linspace(0.5, 0.9, 12))
    first, again = (fit_mixer(encoding, pairs, 3, statistics=statistics, settings=QUICK) for _ in range(2))
    np.testing.assert_array_equal(first(genomes), again(genomes))
    np.testing.assert_array_equal(first(genomes), first(genomes))
    np.testing.assert_allclose(first(genomes[::-1])[::-1], first(genomes), rtol=1e-5)
    assert (first.name, first.unit, first(genomes[:0]).shape) == ("predicted_loss", "nats", (0,))
    assert fit_mixer(encoding, pairs, statistics=statistics, log=False, settings=QUICK).name == "accuracy"
    front = search(Problem(space, [Objective(first)]), n_evaluations=4)
    assert len(front) == 1
    path.write_bytes(predictor_bytes(MeanPredictor((first, again))))
    loaded = load_predictor(path, space, statistics=statistics)
    np.testing.assert_array_equal(loaded(genomes), MeanPredictor((first, again))(genomes))
    with pytest.raises(RunError, match=r"p\.npz: reads statistics of layers; give load_predictor those that it was"):
        load_predictor(path, space)


def test_a_file_is_refused_with_other_statistics_or_damage(digits: CandidateStatistics, tmp_path: Path) -> None:
    space = digits.network.space
    encoding, path = encoding_of(space), tmp_path / "p.npz"
    genomes = encoding.sample(6, np.random.default_rng(0))
    fitted = fit_mixer(encoding, Pairs(genomes, np.linspace(0.5, 0.9, 6)), statistics=digits, settings=QUICK)
    path.write_bytes(content := predictor_bytes(fitted))
    other = CandidateStatistics.untrained(space, digits.images, digits.labels, seed=1)
    with pytest.raises(RunError, match=r"p\.npz: was fitted to statistics of another network or of other images"):
        load_predictor(path, space, statistics=other)
    few = CandidateStatistics(digits.network, digits.images, digits.labels, ("snip",))
    with pytest.raises(
        RunError, match=r"p\.npz: was fitted to columns .*'synflow'.* have \('snip', 'w_bits', 'a_bits'\)"
    ):
        load_predictor(path, space, statistics=few)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(RunError, match=r"p\.npz"):
        load_predictor(path, space, statistics=digits)
    for name, wrong in (("out", np.zeros((3, 1), np.float32)), ("embed", np.full((5, 8), np.nan, np.float32))):
        damaged = dataclasses.replace(fitted, weights=fitted.weights | {name: wrong})
        path.write_bytes(predictor_bytes(damaged))
        with pytest.raises(RunError, match=r"p\.npz: is not a readable predictor"):
            load_predictor(path, space, statistics=digits)


def test_statistics_that_are_infinite_or_missing_altogether_are_refused(digits: CandidateStatistics) -> None:
    encoding = encoding_of(digits.network.space)
    genomes = encoding.sample(3, np.random.default_rng(0))
    pairs = Pairs(genomes, np.array([0.5, 0.6, 0.7]))

    class Wrong:
        layers, columns = ("a", "b"), ("snip",)

        def __init__(self, value: float) -> None:
            self.value = value

        def __call__(self, genomes: np.ndarray) -> np.ndarray:
            return np.full((len(genomes), 2, 1), self.value)

    with pytest.raises(ProblemError, match="snip of layer a is inf; statistics must be finite"):
        fit_mixer(encoding, pairs, statistics=Wrong(np.inf))
    with pytest.raises(ProblemError, match="snip of layer a is -1"):
        fit_mixer(encoding, pairs, statistics=Wrong(-1.0))
    with pytest.raises(ProblemError, match="a candidate has no layer with statistics"):
        fit_mixer(encoding, pairs, statistics=Wrong(np.nan))
    flat = fit_mixer(encoding, pairs, statistics=Wrong(0.0), settings=QUICK)
    assert np.isfinite(flat(genomes)).all()
