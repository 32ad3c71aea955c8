"""Learned metrics on synthetic losses whose cause is known."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

from apq_tune import NetworkEncoding, RunError, SearchSpace
from apq_tune.predict import (
    MeanPredictor,
    MLPPredictor,
    MLPSettings,
    Pairs,
    Predictor,
    agreement,
    fit_fp32,
    fit_gp,
    fit_mlp,
    fit_ordinal,
    fit_residual,
    fit_ridge,
    forms,
    held_out,
    plain_forms,
)
from apq_tune.predict.files import load_predictor, predictor_bytes
from apq_tune.space.encodings import encoding_of

pytestmark = pytest.mark.usefixtures("one_thread")

SEEDS = range(10)
FORMS = ("scratch", "transferred", "ridge", "ordinal", "gp", "residual", "linear_ladder", "ladder", "mean")


def fp32_loss(encoding: NetworkEncoding, genomes: np.ndarray, seed: int = 0) -> np.ndarray:
    """Falls with every feature of the architecture, by an amount of its own."""
    worth = np.random.default_rng(seed).normal(size=encoding.n_arch_features)
    return np.exp(0.15 * encoding.features(genomes)[:, : encoding.n_arch_features] @ worth - 1)


def quantized_loss(
    encoding: NetworkEncoding, genomes: np.ndarray, seed: int = 0, bit_effect: float = 0.03
) -> np.ndarray:
    """A monotone function of the full-precision loss, and a little for each bit-width."""
    bits = encoding.features(genomes)[:, encoding.n_arch_features :]
    worth = np.random.default_rng(seed + 1000).normal(size=bits.shape[1])
    return 1.5 * fp32_loss(encoding, genomes, seed) ** 1.2 * np.exp(bit_effect * bits @ worth)


def fp32_pairs(encoding: NetworkEncoding, n: int, seed: int = 0) -> Pairs:
    genomes = encoding.sample(n, np.random.default_rng(seed + 1))
    return Pairs(genomes, fp32_loss(encoding, genomes, seed))


def quantized_pairs(encoding: NetworkEncoding, n: int, seed: int = 0, **how: float) -> Pairs:
    genomes = encoding.sample(n, np.random.default_rng(seed + 2))
    return Pairs(genomes, quantized_loss(encoding, genomes, seed, **how))


def tau(predicted: np.ndarray, measured: np.ndarray) -> float:
    return float(kendalltau(predicted, measured).statistic)


@pytest.fixture(scope="module")
def fp32(encoding: NetworkEncoding) -> MLPPredictor:
    return fit_fp32(encoding, fp32_pairs(encoding, 200), 0)


@pytest.fixture(scope="module")
def fitted(encoding: NetworkEncoding, fp32: MLPPredictor) -> dict[str, Predictor]:
    """All forms, fitted to the same pairs."""
    proxy = fit_mlp(encoding, quantized_pairs(encoding, 200, bit_effect=0.05), 0, bits=True, start=fp32)
    pairs = quantized_pairs(encoding, 60, bit_effect=0.1)
    return {name: fit(encoding, pairs, 0) for name, fit in forms(fp32, proxy).items()}


def test_ridge_recovers_the_rank_of_a_loss_that_is_log_linear_in_the_features(encoding: NetworkEncoding) -> None:
    rng = np.random.default_rng(5)
    genomes = encoding.sample(800, rng)
    clean = np.exp(0.1 * encoding.features(genomes) @ rng.normal(size=encoding.features(genomes).shape[1]))
    noisy = clean * np.exp(rng.normal(scale=0.01, size=800))
    predictor = fit_ridge(encoding, Pairs(genomes[:300], noisy[:300]), 0)
    predicted = predictor(genomes[300:])
    assert tau(predicted, clean[300:]) > 0.9
    assert np.abs(np.log(predicted / clean[300:])).mean() < 0.05


def test_fp32_predictor_learns_the_rank_of_architectures(encoding: NetworkEncoding, fp32: MLPPredictor) -> None:
    genomes = encoding.sample(300, np.random.default_rng(9))
    assert tau(fp32(genomes), fp32_loss(encoding, genomes)) > 0.7


@pytest.mark.parametrize("form", FORMS)
def test_every_form_predicts_positive_losses_that_rank_like_the_truth(
    encoding: NetworkEncoding, fitted: dict[str, Predictor], form: str
) -> None:
    genomes = encoding.sample(300, np.random.default_rng(9))
    predicted = fitted[form](genomes)
    assert predicted.shape == (300,)
    assert (predicted > 0).all()
    assert tau(predicted, quantized_loss(encoding, genomes, bit_effect=0.1)) > 0.25
    assert (fitted[form].name, fitted[form].unit) == ("predicted_loss", "nats")


@pytest.mark.parametrize("form", FORMS)
def test_changing_only_the_bits_changes_the_prediction(
    encoding: NetworkEncoding, fitted: dict[str, Predictor], form: str
) -> None:
    networks = encoding.decode(encoding.sample(20, np.random.default_rng(9)))
    two, four, eight = (fitted[form](encoding.encode([n.with_bits(b) for n in networks])) for b in (2, 4, 8))
    for a, b in ((two, four), (four, eight), (two, eight)):
        assert (np.abs(a / b - 1) > 1e-6).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("field", ["pw_w_bits", "pw_a_bits", "dw_w_bits", "dw_a_bits"])
def test_each_kind_of_bits_of_each_block_changes_the_prediction(
    encoding: NetworkEncoding, fitted: dict[str, Predictor], form: str, field: str
) -> None:
    largest = encoding.encode([encoding.extremes()[1]])[0]
    for gene, name in enumerate(encoding.names):
        if name.endswith(field):
            changed = largest.copy()
            changed[gene] = 0
            before, after = fitted[form](np.stack([largest, changed]))
            assert before != after, name


def test_bits_do_not_change_the_prediction_of_the_fp32_predictor(encoding: NetworkEncoding, fp32: MLPPredictor) -> None:
    networks = encoding.decode(encoding.sample(20, np.random.default_rng(9)))
    two, eight = (fp32(encoding.encode([n.with_bits(b) for n in networks])) for b in (2, 8))
    np.testing.assert_array_equal(two, eight)
    assert len(set(two)) == 20


@pytest.mark.parametrize("form", [*FORMS, "fp32"])
def test_inert_genes_change_no_prediction(
    encoding: NetworkEncoding, fitted: dict[str, Predictor], fp32: MLPPredictor, rng: np.random.Generator, form: str
) -> None:
    predictor = (fitted | {"fp32": fp32})[form]
    genomes = encoding.sample(50, rng)
    filled = encoding.fill_inert(genomes, rng)
    assert (filled != genomes).any()
    np.testing.assert_array_equal(predictor(filled), predictor(genomes))
    np.testing.assert_array_equal(predictor(encoding.canonicalise(filled)), predictor(genomes))


def test_transferred_beats_scratch_in_the_mean_at_20_pairs(encoding: NetworkEncoding) -> None:
    quick = MLPSettings(steps=100)
    held = {"scratch": [], "transferred": []}
    genomes = encoding.sample(300, np.random.default_rng(99))
    for seed in SEEDS:
        fp32 = fit_mlp(encoding, fp32_pairs(encoding, 200, seed), seed, bits=False, settings=quick)
        pairs = quantized_pairs(encoding, 20, seed)
        for form, start in {"scratch": None, "transferred": fp32}.items():
            fitted = fit_mlp(encoding, pairs, seed, bits=True, start=start, settings=quick)
            held[form].append(tau(fitted(genomes), quantized_loss(encoding, genomes, seed)))
    assert np.mean(held["transferred"]) > np.mean(held["scratch"]) + 0.05


def test_a_ladder_on_a_good_proxy_beats_ridge_in_the_mean_at_20_pairs(encoding: NetworkEncoding) -> None:
    held = {"ridge": [], "ladder": []}
    genomes = encoding.sample(300, np.random.default_rng(99))
    for seed in SEEDS:
        proxy = fit_ridge(encoding, quantized_pairs(encoding, 300, seed), seed)
        few = encoding.sample(20, np.random.default_rng(seed + 50))
        pairs = Pairs(few, 2 * quantized_loss(encoding, few, seed))
        fits = {"ridge": fit_ridge(encoding, pairs, seed), "ladder": fit_residual(encoding, pairs, seed, base=proxy)}
        for form, taus in held.items():
            taus.append(tau(fits[form](genomes), quantized_loss(encoding, genomes, seed)))
    assert np.mean(held["ladder"]) > np.mean(held["ridge"]) + 0.05


def test_forms_start_from_nothing_from_fp32_from_features_and_from_the_proxy(
    encoding: NetworkEncoding, fp32: MLPPredictor
) -> None:
    proxy = fit_mlp(encoding, quantized_pairs(encoding, 30), 1, bits=True, settings=MLPSettings(steps=20))
    pairs = quantized_pairs(encoding, 20)
    genomes = encoding.sample(20, np.random.default_rng(9))
    expected = {
        "scratch": fit_mlp(encoding, pairs, 3, bits=True),
        "transferred": fit_mlp(encoding, pairs, 3, bits=True, start=fp32),
        "ridge": fit_residual(encoding, pairs, 3, base=None),
        "ordinal": fit_ordinal(encoding, pairs, 3, base=fp32),
        "gp": fit_gp(encoding, pairs, 3),
        "residual": fit_residual(encoding, pairs, 3, base=fp32),
        "linear_ladder": fit_residual(encoding, pairs, 3, base=proxy),
        "ladder": fit_gp(encoding, pairs, 3, base=proxy),
    }
    expected["mean"] = MeanPredictor((expected["linear_ladder"], expected["ladder"]))
    found = forms(fp32, proxy)
    assert found.keys() == expected.keys()
    for form, predictor in expected.items():
        np.testing.assert_array_equal(found[form](encoding, pairs, 3)(genomes), predictor(genomes))
    assert len({predictor(genomes[:1]).item() for predictor in expected.values()}) == 9


@pytest.mark.parametrize("form", FORMS)
def test_fit_is_deterministic_for_a_seed(encoding: NetworkEncoding, fp32: MLPPredictor, form: str) -> None:
    pairs = quantized_pairs(encoding, 20)
    genomes = encoding.sample(20, np.random.default_rng(9))
    first, again = (forms(fp32, fp32)[form](encoding, pairs, 3)(genomes) for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_another_seed_gives_another_predictor_from_scratch(encoding: NetworkEncoding) -> None:
    pairs = quantized_pairs(encoding, 20)
    first, other = (fit_mlp(encoding, pairs, seed, bits=True)(pairs.genomes) for seed in (3, 4))
    assert (first != other).any()


def test_transfer_starts_at_the_ranking_of_the_fp32_predictor(encoding: NetworkEncoding, fp32: MLPPredictor) -> None:
    pairs = quantized_pairs(encoding, 20)
    genomes = encoding.sample(200, np.random.default_rng(9))
    untrained = MLPSettings(steps=1, learning_rate=0.0)
    start = fit_mlp(encoding, pairs, 7, bits=True, start=fp32, settings=untrained)
    assert start.sees_bits
    assert tau(start(genomes), fp32(genomes)) == pytest.approx(1.0)


def test_transfer_leaves_the_fp32_predictor_as_it_was(encoding: NetworkEncoding, fp32: MLPPredictor) -> None:
    before = {name: value.copy() for name, value in fp32.weights.items()}
    fit_mlp(encoding, quantized_pairs(encoding, 20), 0, bits=True, start=fp32)
    assert before.keys() == fp32.weights.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(fp32.weights[name], value)


def test_a_constant_loss_is_predicted_as_it_is(encoding: NetworkEncoding) -> None:
    genomes = encoding.sample(10, np.random.default_rng(9))
    predictor = fit_ridge(encoding, Pairs(genomes, np.full(10, 0.7)), 0)
    np.testing.assert_allclose(predictor(genomes), 0.7, rtol=1e-9)


@pytest.mark.parametrize("form", [*FORMS, "fp32"])
def test_a_saved_predictor_predicts_the_same_to_the_last_bit(
    encoding: NetworkEncoding, fitted: dict[str, Predictor], fp32: MLPPredictor, tmp_path: Path, form: str
) -> None:
    predictor = (fitted | {"fp32": fp32})[form]
    path = tmp_path / "predictor.npz"
    path.write_bytes(predictor_bytes(predictor))
    genomes = encoding.sample(100, np.random.default_rng(9))
    again = load_predictor(path, encoding)
    assert type(again) is type(predictor)
    np.testing.assert_array_equal(again(genomes), predictor(genomes))


def test_a_ladder_on_a_ladder_survives_its_file(
    encoding: NetworkEncoding, fitted: dict[str, Predictor], tmp_path: Path
) -> None:
    pairs = quantized_pairs(encoding, 30)
    predictor = fit_residual(encoding, pairs, 0, base=fitted["ladder"])
    path = tmp_path / "predictor.npz"
    path.write_bytes(predictor_bytes(predictor))
    np.testing.assert_array_equal(load_predictor(path, encoding)(pairs.genomes), predictor(pairs.genomes))


@pytest.mark.parametrize("form", [*FORMS, "fp32"])
def test_a_predictor_of_another_space_is_refused(
    tiny: NetworkEncoding, fitted: dict[str, Predictor], fp32: MLPPredictor, tmp_path: Path, form: str
) -> None:
    path = tmp_path / "predictor.npz"
    path.write_bytes(predictor_bytes((fitted | {"fp32": fp32})[form]))
    with pytest.raises(RunError, match=r"predictor\.npz: is not a readable predictor for tiny .*make it again"):
        load_predictor(path, tiny)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_refused(
    encoding: NetworkEncoding, fitted: dict[str, Predictor], tmp_path: Path, form: str, share: float
) -> None:
    content = predictor_bytes(fitted[form])
    path = tmp_path / "predictor.npz"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(RunError, match=r"predictor\.npz: is not a readable predictor for digits"):
        load_predictor(path, encoding)


@pytest.mark.parametrize("form", ["scratch", "ladder"])
def test_a_file_from_which_any_array_is_missing_is_refused(
    encoding: NetworkEncoding, fitted: dict[str, Predictor], tmp_path: Path, form: str
) -> None:
    with np.load(io.BytesIO(predictor_bytes(fitted[form]))) as file:
        arrays = dict(file)
    path = tmp_path / "predictor.npz"
    accepted = []
    for missing in arrays:
        np.savez(path, **{name: array for name, array in arrays.items() if name != missing})
        try:
            load_predictor(path, encoding)
        except RunError:
            continue
        accepted.append(missing)
    assert accepted == []


def npy_bytes() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


@pytest.mark.parametrize("content", [b"garbage", b"PK\x03\x04", npy_bytes()], ids=["text", "zip head", "one array"])
def test_a_file_that_is_no_predictor_is_refused(encoding: NetworkEncoding, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "predictor.npz"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"predictor\.npz"):
        load_predictor(path, encoding)


def test_a_missing_file_is_refused_by_its_path(encoding: NetworkEncoding, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"absent\.npz"):
        load_predictor(tmp_path / "absent.npz", encoding)


def test_a_predictor_of_an_unknown_kind_is_not_saved() -> None:
    with pytest.raises(TypeError, match="cannot save a function"):
        predictor_bytes(lambda genomes: np.ones(len(genomes)))  # type: ignore[arg-type]


def test_agreement_of_perfect_predictions() -> None:
    measured = np.array([0.1, 0.5, 0.2, 2.0])
    assert agreement(measured, measured) == pytest.approx((1.0, 1.0, 0.0, 4))


def test_agreement_of_reversed_predictions() -> None:
    measured = np.array([1.0, 2.0, 3.0, 4.0])
    found = agreement(measured[::-1], measured)
    assert found.kendall_tau == pytest.approx(-1.0)
    assert found.pairwise_accuracy == 0.0
    logs = [np.log(4), np.log(1.5), np.log(1.5), np.log(4)]
    assert found.rmse_log == pytest.approx(np.sqrt(sum(x * x for x in logs) / 4))


def test_ties_count_half_in_pairwise_accuracy() -> None:
    # pairs of (1, 2, 3): right, tied, right
    found = agreement(np.array([1.0, 2.0, 2.0]), np.array([1.0, 3.0, 4.0]))
    assert found.pairwise_accuracy == pytest.approx(2.5 / 3)
    # tau-b: (concordant - discordant) / sqrt(pairs untied in one * pairs untied in the other)
    assert found.kendall_tau == pytest.approx(2 / np.sqrt(2 * 3))


def test_rmse_log_of_a_constant_factor_is_its_logarithm() -> None:
    measured = np.array([0.3, 0.7, 1.9])
    assert agreement(measured * 1.1, measured).rmse_log == pytest.approx(np.log(1.1))


@pytest.mark.parametrize(("n", "folds"), [(23, 5), (10, 10), (7, 2)])
def test_held_out_never_trains_on_the_row_that_it_predicts_and_keeps_the_order(
    encoding: NetworkEncoding, n: int, folds: int
) -> None:
    genomes = np.unique(encoding.sample(n + 20, np.random.default_rng(9)), axis=0)[:n]
    loss = np.arange(1.0, n + 1)
    trained, asked = [], []

    def fit(encoding: NetworkEncoding, pairs: Pairs, seed: int) -> Predictor:
        known = {genome.tobytes(): value for genome, value in zip(pairs.genomes, pairs.target, strict=True)}
        assert all(loss[(genomes == row).all(axis=1)].tolist() == [known[row.tobytes()]] for row in pairs.genomes)
        trained.append(len(known))
        assert seed == 4

        def predict(rows: np.ndarray) -> np.ndarray:
            assert not any(row.tobytes() in known for row in rows)
            asked.append(len(rows))
            return np.array([loss[(genomes == row).all(axis=1)][0] for row in rows])

        return predict  # type: ignore[return-value]

    predicted = held_out(fit, encoding, Pairs(genomes, loss), 4, folds=folds)
    assert predicted.tolist() == loss.tolist()
    assert sum(asked) == n
    assert trained == [n - size for size in asked]
    assert max(asked) - min(asked) <= 1
    assert len(asked) == folds


def test_held_out_mixes_the_rows_by_the_seed(encoding: NetworkEncoding) -> None:
    pairs = quantized_pairs(encoding, 20)

    def fit(encoding: NetworkEncoding, pairs: Pairs, seed: int) -> Predictor:
        return lambda rows: np.full(len(rows), pairs.target.mean())  # type: ignore[return-value]

    first, again, other = (held_out(fit, encoding, pairs, seed).tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_every_plain_form_learns_named_choices_and_comes_back_from_its_file(tmp_path: Path) -> None:
    choices = {"op": ["conv", "skip", "pool"], "width": [8, 16, 24, 32], "kernel": [(1, 1), (3, 3)]}
    space = SearchSpace.from_choices(choices | {"rate": [0.1, 0.01, 0.001], "flag": [True, False]}, "mine")
    encoding = encoding_of(space)
    rng = np.random.default_rng(0)
    genomes = rng.permutation(encoding.enumerate())[:80]
    log = 0.5 * genomes[:, 0] - 0.2 * (genomes[:, 1] - 1) ** 2 + 0.3 * genomes[:, 3] * genomes[:, 4]
    pairs, unseen = Pairs(genomes[:50], np.exp(log[:50])), slice(50, 80)
    for name, fit in plain_forms(log=True).items():
        predictor = fit(encoding, pairs, 0)
        assert agreement(predictor(genomes[unseen]), np.exp(log[unseen])).kendall_tau > 0.6, name
        (tmp_path / "p.npz").write_bytes(predictor_bytes(predictor))
        for given in (None, space, encoding):
            np.testing.assert_array_equal(load_predictor(tmp_path / "p.npz", given)(genomes), predictor(genomes))
    other = SearchSpace.from_choices(choices | {"rate": [0.001, 0.01, 0.1], "flag": [True, False]}, "other")
    with pytest.raises(
        RunError, match=r"p\.npz: was fitted on the choices of mine, .* those of other \(first difference: rate"
    ):
        load_predictor(tmp_path / "p.npz", other)
    with pytest.raises(RunError, match="was fitted on the choices of mine, which are not those of digits"):
        load_predictor(tmp_path / "p.npz", SearchSpace.load("digits"))


def test_weights_that_are_not_finite_are_refused(tiny: NetworkEncoding, everything: np.ndarray, tmp_path: Path) -> None:
    pairs = Pairs(everything[::500], np.exp(np.arange(len(everything[::500])) / 10))
    predictor = fit_ridge(tiny, pairs, 0)
    predictor.weights[3] = np.nan
    (tmp_path / "p.npz").write_bytes(predictor_bytes(predictor))
    with pytest.raises(RunError, match="weights holds a number that is not finite"):
        load_predictor(tmp_path / "p.npz")


def test_a_predictor_of_another_width_is_refused_though_its_features_are_as_many(tmp_path: Path) -> None:
    narrow, wide = (NetworkEncoding(SearchSpace.load(f"ofa_mobilenetv3_w{width}")) for width in (10, 12))
    genomes = narrow.sample(12, np.random.default_rng(0))
    ridge = fit_ridge(narrow, Pairs(genomes, np.linspace(0.7, 0.8, 12)), 0, log=False)
    path = tmp_path / "p.npz"
    path.write_bytes(predictor_bytes(ridge))
    assert load_predictor(path, narrow)(genomes).shape == (12,)
    with pytest.raises(RunError, match=r"was fitted on ofa_mobilenetv3_w10, whose block 1\.1 has in_channels 16"):
        load_predictor(path, wide)
