"""Exactly as published: spaces, features, tables, predictors and supernet against golden values of others' code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apq_tune import CandidateError, NetworkEncoding, RunError, SearchSpace, TableError, load_cost_table, load_predictor
from apq_tune.cost.bits import pairs_that_shrink
from apq_tune.space.notation import candidate_from, read_candidates

APQ, OFA = NetworkEncoding(SearchSpace.load("apq_mobilenet")), NetworkEncoding(SearchSpace.load("ofa_mobilenetv3_w12"))


@pytest.fixture(scope="module")
def golden(shared_data: Callable[[str], Path]) -> list[dict[str, Any]]:
    return json.loads((shared_data("apq/golden_500.json")).read_text())


@pytest.fixture(scope="module")
def genomes(golden: list[dict[str, Any]]) -> np.ndarray:
    return APQ.encode([candidate_from(row["spec"], APQ.space) for row in golden])


def test_counts_of_the_spaces_are_the_published_ones() -> None:
    assert round(APQ.space.log10_size(bits=False), 2) == 35.96
    assert round(APQ.space.log10_size(), 1) == 74.9
    assert (APQ.n_arch_features, APQ.n_bit_features) == (520, 252)
    networks = sum((9.0 * 1) ** d for d in (2, 3, 4)) ** 5  # of once-for-all: 3 kernels, 3 expansions, 5 resolutions
    assert OFA.space.log10_size() == pytest.approx(np.log10(5 * networks), rel=1e-12)


def test_features_of_all_golden_candidates_are_identical(golden: list[dict[str, Any]], genomes: np.ndarray) -> None:
    for row, features in zip(golden, APQ.features(genomes), strict=True):
        assert np.flatnonzero(features).tolist() == row["active"]
    np.testing.assert_array_equal(APQ.from_features(APQ.features(genomes)), genomes)


def test_costs_of_all_golden_candidates(
    shared_data: Callable[[str], Path], golden: list[dict[str, Any]], genomes: np.ndarray
) -> None:
    models = load_cost_table(shared_data("apq/BitFusion_new.b1.dict")).models(APQ)
    assert [(model.name, model.unit) for model in models] == [("latency_ms", "ms"), ("energy_mj", "mJ")]
    for model in models:
        np.testing.assert_allclose(model(genomes), [row[model.name] for row in golden], rtol=1e-12)
        low, high = model.reachable()
        assert low <= model(genomes).min() <= model(genomes).max() <= high


def test_the_golden_points_of_the_table(shared_data: Callable[[str], Path]) -> None:
    latency, energy = load_cost_table(shared_data("apq/BitFusion_new.b1.dict")).models(APQ)
    smallest = APQ.extremes()[0]
    points = APQ.encode([smallest.with_bits(4), smallest.with_bits(8)])
    np.testing.assert_allclose(latency(points), [2.959, 4.665], atol=5e-4)
    np.testing.assert_allclose(energy(points), [5.107, 6.644], atol=5e-4)
    assert latency.reachable()[0] == pytest.approx(latency(points[:1])[0], rel=1e-12)


def test_pairs_of_the_table_that_shrink_with_more_bits(shared_data: Callable[[str], Path]) -> None:
    table = load_cost_table(shared_data("apq/BitFusion_new.b1.dict"))
    assert [pairs_that_shrink({key: values[number] for key, values in table.convs.items()}) for number in (0, 1)] == [
        (46, 18813),
        (354, 18813),
    ]


def test_a_space_that_the_table_does_not_cover_is_refused_with_the_first_missing_ops(
    shared_data: Callable[[str], Path],
) -> None:
    table = load_cost_table(shared_data("apq/BitFusion_new.b1.dict"))
    with pytest.raises(
        TableError, match=r"666 ops of digits are missing: conv in_channels=16 .*; \.\.\.; measure them"
    ):
        table.models(NetworkEncoding(SearchSpace.load("digits")))


def test_published_apq_predictor(
    shared_data: Callable[[str], Path], golden: list[dict[str, Any]], genomes: np.ndarray
) -> None:
    predictor = load_predictor(shared_data("apq/predictor_random.pt"))
    np.testing.assert_allclose(predictor(genomes), [row["predicted"] for row in golden], atol=1e-6)
    assert (predictor.name, predictor.unit) == ("accuracy", "fraction")


def test_bits_alone_change_the_published_prediction(shared_data: Callable[[str], Path], genomes: np.ndarray) -> None:
    """The published search never lets the predictor see the bits."""
    predictor = load_predictor(shared_data("apq/predictor_random.pt"))
    low = APQ.encode([c.with_bits(6) for c in APQ.decode(genomes[:20])])
    high = APQ.encode([c.with_bits(8) for c in APQ.decode(genomes[:20])])
    assert (predictor(low) != predictor(high)).all()


def test_published_once_for_all_predictor_and_latency_tables(shared_data: Callable[[str], Path]) -> None:
    rows = json.loads((shared_data("ofa/official_evolution.json")).read_text())
    genomes = OFA.encode([candidate_from(row["candidate"], OFA.space) for row in rows])
    predictor = load_predictor(shared_data("ofa/acc_predictor.pth"))
    np.testing.assert_allclose(predictor(genomes), [row["predicted_accuracy"] for row in rows], atol=1e-6)
    (latency,) = load_cost_table(shared_data("ofa/note10")).models(OFA)
    np.testing.assert_allclose(latency(genomes), [row["latency_ms"] for row in rows], rtol=1e-12)


def test_a_predictor_of_another_space_is_refused(shared_data: Callable[[str], Path]) -> None:
    with pytest.raises(RunError, match=r"W0 is \(520, 400\), digits needs"):
        load_predictor(shared_data("apq/predictor_random.pt"), SearchSpace.load("digits"))


def test_a_checkpoint_that_is_no_predictor_is_refused(shared_data: Callable[[str], Path]) -> None:
    with pytest.raises(RunError, match=r"is neither APQ's predictor .* it has blocks"):
        load_predictor(shared_data("apq/once_for_all_random_fp16.pt"))


@pytest.mark.slow
def test_published_supernet_checkpoint(shared_data: Callable[[str], Path]) -> None:
    import torch

    from apq_tune import load_supernet

    supernet, statistics = load_supernet(shared_data("apq/once_for_all_random_fp16.pt"))
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(1)).half().float()
    for row in json.loads((shared_data("apq/once_for_all_logits.json")).read_text())["rows"]:
        candidate = candidate_from(row["arch"], APQ.space)
        with torch.no_grad():
            logits = supernet(images, candidate, statistics=statistics(candidate))
        torch.testing.assert_close(logits[:, :50], torch.tensor(row["logits"]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("change", [{"ks": [3]}, {"e": [9.0] * 21}, {"d": [1] * 6}, {"ks": "three"}])
def test_published_notation_that_is_wrong_is_refused(change: dict[str, Any]) -> None:
    good = {"ks": [3] * 21, "e": [4] * 21, "d": [2] * 6}
    APQ.encode([candidate_from(good, APQ.space)])
    with pytest.raises(CandidateError):
        APQ.encode([candidate_from(good | change, APQ.space)])


def test_candidates_are_read_from_every_kind_of_file(tmp_path: Path) -> None:
    import pandas as pd

    candidates = APQ.decode(APQ.sample(5, np.random.default_rng(0)))
    dicts = [candidate.to_dict() for candidate in candidates]
    (tmp_path / "a.json").write_text(json.dumps(dicts))
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, dicts)))
    pd.DataFrame({"candidate_json": [c.to_json() for c in candidates]}).to_csv(tmp_path / "a.csv")
    pd.DataFrame(dicts).to_csv(tmp_path / "b.csv", index=False)
    for name in ("a.json", "a.jsonl", "a.csv", "b.csv"):
        assert [candidate_from(d, APQ.space) for d in read_candidates(tmp_path / name)] == candidates, name
