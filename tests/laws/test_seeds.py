"""Laws of seeds: another one changes every random product, each by itself, with all that comes before it the same."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from apq_tune import NetworkEncoding
from apq_tune.data import Data
from apq_tune.hosts.work import result_of
from apq_tune.methods import METHODS
from apq_tune.methods import Question as Compared
from apq_tune.methods.bench import Bench, Counts
from apq_tune.pipeline.finished import FinishedRun, load_run, open_run
from apq_tune.pipeline.learning import read_losses
from apq_tune.pipeline.run import PipelineRun
from apq_tune.pipeline.settings import RunSettings
from apq_tune.pipeline.training import calibrate
from apq_tune.pipeline.work import InnerSearches, final_task, pair_task, run_search, train_batch, train_network
from apq_tune.predict import fit_fp32, forms, held_out
from apq_tune.predict.ensemble import fit_ensemble
from apq_tune.predict.files import load_predictor, predictor_bytes
from apq_tune.problem.costs import Costs
from apq_tune.refine.settings import RefineSettings
from apq_tune.studies.halving import Halving
from apq_tune.studies.versus import KINDS
from apq_tune.supernet.metrics import QATLoss
from apq_tune.supernet.network import Supernet
from tests.methods.test_methods import gates

pytestmark = pytest.mark.slow

LOSSES = ("3_fp32_losses", "4_proxy_losses", "5_qat_pairs")


def test_another_seed_draws_other_candidates_and_ends_with_other_networks(world, data, base, tmp_path: Path) -> None:
    run = world.run(data, tmp_path / "run", seed=1)
    drawn = []
    for name in LOSSES:
        before, after = (pd.read_csv(folder / name / "losses.csv") for folder in (base.run, run))
        assert len(set(before["candidate"]) & set(after["candidate"])) < len(before) / 2, name
        drawn += [set(before["candidate"]), set(after["candidate"])]
    for one, other in ((0, 2), (2, 4), (1, 3)):  # nor are stages given each other's candidates
        assert drawn[one] != drawn[other]
    trained = sorted(path.relative_to(run) for path in run.glob("*/*.pt"))
    assert len(trained) >= 6
    for path in trained:
        if (base.run / path).exists():
            assert (run / path).read_bytes() != (base.run / path).read_bytes(), path
    for path in ("6_fp32_predictor/predictor.npz", "7_predictors/predictor.npz", "8_search/front.json"):
        assert (run / path).read_bytes() != (base.run / path).read_bytes(), path


@pytest.fixture(scope="module")
def finished(world, data: Data, base) -> FinishedRun:
    world.use(data)
    return load_run(base.run)


@pytest.fixture(scope="module")
def encoding(finished: FinishedRun) -> NetworkEncoding:
    return NetworkEncoding(finished.space)


def largest(finished: FinishedRun) -> Any:
    return NetworkEncoding(finished.space).extremes()[1]


def trained_pairs(finished: FinishedRun, seed: int, first: int, n: int) -> list[dict[str, float]]:
    """Scores of equal pairs, by a batch that begins with one of them."""
    settings = finished.settings.updated({"seed": seed})
    tasks = [pair_task(largest(finished), number, settings) for number in range(first, first + n)]
    scores: list[dict[str, float]] = result_of(train_batch, tasks, finished.supernet).metrics["scores"]
    return scores


def pairs_of_qat(finished: FinishedRun, _: Path, seed: int) -> Any:
    return trained_pairs(finished, seed, 0, 1)


def finalist(finished: FinishedRun, _: Path, seed: int) -> Any:
    task = final_task(largest(finished), finished.settings.updated({"seed": seed}))
    return train_network(task, finished.supernet).files["weights.pt"]


def refined(finished: FinishedRun, _: Path, seed: int) -> Any:
    task = RefineSettings(seed=seed, epochs=1, final_epochs=1).task(largest(finished), 1, finished.settings)
    return train_network(task, finished.supernet).files["weights.pt"]


def halved(finished: FinishedRun, _: Path, seed: int) -> Any:
    halving = Halving(finished.supernet, finished.settings.final, (2, 6), 2, seed)
    return [halving.train(largest(finished), steps).scores for steps in (2, 6)]


def qat_loss(finished: FinishedRun, _: Path, seed: int) -> Any:
    training = dataclasses.replace(finished.settings.final, epochs=1)
    genomes = NetworkEncoding(finished.space).encode([largest(finished)])
    return QATLoss(finished.supernet, training, seed)(genomes).tolist()


def clip_values(finished: FinishedRun, _: Path, seed: int) -> Any:
    supernet = Supernet(finished.space)
    supernet.load_state_dict(dict(finished.fp32_supernet.weights))
    calibrate(supernet, NetworkEncoding(finished.space), finished.supernet.calibration, seed)
    return [p.tolist() for name, p in supernet.named_parameters() if name.endswith("clip")]


def fp32_predictor(finished: FinishedRun, run: Path, seed: int) -> Any:
    encoding = NetworkEncoding(finished.space)
    return predictor_bytes(
        fit_fp32(encoding, read_losses(open_run(run, ("fp32_losses",)).stages["fp32_losses"], encoding)[0], seed)
    )


def folds(finished: FinishedRun, run: Path, seed: int) -> Any:
    encoding = NetworkEncoding(finished.space)
    pairs, _ = read_losses(open_run(run, ("qat_pairs",)).stages["qat_pairs"], encoding)
    fp32 = load_predictor(run / "6_fp32_predictor" / "predictor.npz", encoding)
    return held_out(forms(fp32, fp32)["ridge"], encoding, pairs, seed, folds=3).tolist()  # type: ignore[arg-type]


def parts_of_an_ensemble(finished: FinishedRun, run: Path, seed: int) -> Any:
    encoding = NetworkEncoding(finished.space)
    pairs, _ = read_losses(open_run(run, ("qat_pairs",)).stages["qat_pairs"], encoding)
    return fit_ensemble(encoding, [pairs], finished.predictor, (seed, 1)).error


def searched(finished: FinishedRun, run: Path, seed: int, item: str) -> Any:
    fp32 = load_predictor(run / "6_fp32_predictor" / "predictor.npz", finished.space)
    settings = finished.settings.updated({"seed": seed, "n_evaluations": 40})
    costs = Costs.of(NetworkEncoding(finished.space))
    return run_search(item, InnerSearches(finished.space, finished.predictor, fp32, settings, costs)).metrics["file"]


class Enough(Exception):  # noqa: N818
    """A method has shown where it begins."""


def first_asked(finished: FinishedRun, seed: int, method: str) -> list[bytes]:
    """The first candidates that a method measures."""
    encoding = NetworkEncoding(finished.space)
    asked: list[bytes] = []

    def measured(genomes: Any) -> Any:
        asked.extend(genome.tobytes() for genome in genomes)
        if len(asked) >= 24:
            raise Enough
        return finished.predictor(genomes)

    bench = Bench(encoding, dict.fromkeys(KINDS, measured), Counts.of(60, 6), gates=gates(encoding))
    with pytest.raises(Enough):
        METHODS[method].propose(Compared(encoding, (), bench, seed))
    return asked


PRODUCTS: dict[str, Callable[[FinishedRun, Path, int], Any]] = {
    "brief QAT of pairs": pairs_of_qat,
    "QAT of finalists": finalist,
    "QAT of a refinement": refined,
    "QAT of a comparison": halved,
    "QATLoss": qat_loss,
    "clip values": clip_values,
    "full-precision predictor": fp32_predictor,
    "folds": folds,
    "parts of an ensemble": parts_of_an_ensemble,
    "search of the front": lambda finished, run, seed: searched(finished, run, seed, "front"),
    "search of the best": lambda finished, run, seed: searched(finished, run, seed, "best"),
    "random search": lambda finished, run, seed: searched(finished, run, seed, "random"),
}


@pytest.mark.parametrize("product", PRODUCTS)
def test_a_random_product_repeats_with_its_seed_and_changes_with_another(finished, base, product: str) -> None:
    first, again, other = (PRODUCTS[product](finished, base.run, seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


# magnitude has so few networks that it tries all of them, whatever its seed
@pytest.mark.parametrize("method", [name for name in METHODS if name != "magnitude"])
def test_a_method_begins_where_its_seed_says(finished: FinishedRun, method: str) -> None:
    first, again, other = (first_asked(finished, seed, method) for seed in (0, 0, 1))
    assert first == again
    assert len(set(first) & set(other)) < len(first)


def test_pairs_and_repeats_and_lengths_have_shuffles_of_their_own(finished: FinishedRun) -> None:
    """Equal networks that are trained twice tell how much luck is in a training."""
    first, second = trained_pairs(finished, 0, 0, 2)
    assert first != second
    assert trained_pairs(finished, 0, 1, 1) == [second]  # however they are dealt out
    halving = Halving(finished.supernet, finished.settings.final, (6, 6), 2, 0)
    assert halving.train(largest(finished), 6, 0).scores != halving.train(largest(finished), 6, 1).scores


@pytest.mark.parametrize("stage", ["supernet", "quantized_supernet"])
def test_a_supernets_first_weights_and_its_training_depend_on_the_seed(
    world, data: Data, encoding: NetworkEncoding, stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each alone: the training is left out, then what comes before it is always the same."""
    from apq_tune.pipeline import training

    world.use(data)
    real = training.strategies.train_supernet

    def weights(name: str, seed: int, **changes: Any) -> bytes:
        settings = RunSettings().updated({"supernet.epochs": 1, "quantized.epochs": 1, **changes, "seed": seed})
        run = PipelineRun(encoding.space, settings, tmp_path / name)
        run.run_until(stage)
        return (run.directory(stage).path / "weights.pt").read_bytes()

    def seeded(network: Supernet, *arguments: Any, **options: Any) -> None:
        with torch.no_grad():
            for number, parameter in enumerate(network.parameters()):
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
        real(network, *arguments, **options)

    monkeypatch.setattr(training.strategies, "train_supernet", lambda *_, **__: None)
    assert weights("untrained_0", 0) == weights("untrained_0_again", 0) != weights("untrained_1", 1)
    monkeypatch.setattr(training.strategies, "train_supernet", seeded)
    assert weights("trained_0", 0) == weights("trained_0_again", 0) != weights("trained_1", 1)
