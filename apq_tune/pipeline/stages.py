"""The stages of a run in order. Each reads the products of those it needs and writes its own into its directory."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch

from apq_tune.candidate import Candidate
from apq_tune.data import Data
from apq_tune.encoding import Encoding
from apq_tune.errors import RunError
from apq_tune.front import Front
from apq_tune.integrations.ray import Result, Work
from apq_tune.pipeline.directory import StageDirectory, read_json, to_json, write_atomically
from apq_tune.pipeline.settings import Settings
from apq_tune.pipeline.work import Networks, Question, final_training, pair_batch, run_search, score_batch
from apq_tune.predict import Agreement, Fit, Pairs, agreement, fit_fp32, fit_mlp, forms, held_out
from apq_tune.predict.files import load_predictor, predictor_bytes
from apq_tune.predict.mlp import MLPPredictor
from apq_tune.supernet.evaluate import calibrate_quantizers
from apq_tune.supernet.network import Supernet
from apq_tune.supernet.train import Training, optimizer_for, supernet_loss, train_epochs

N_QUANTIZER_CANDIDATES = 8
"""Random candidates, beside the largest, that initial clip values are calibrated on."""


class Run(Protocol):
    """What a stage may use."""

    encoding: Encoding
    settings: Settings
    data: Data

    def directory(self, stage: str) -> StageDirectory:
        """Of any stage that is done, or of the one that runs."""
        ...

    def trials(
        self, stage: str, work: Work, shared: Any, items: Mapping[str, Any], on_result: Callable[[str, Result], None]
    ) -> None:
        """Run the items as Tune trials."""
        ...

    def advance(self, done: int, total: int) -> None:
        """Tell the user how far the stage is."""
        ...


class Stage(NamedTuple):
    """One step of a run.

    Attributes:
        name: of the stage and of its directory.
        needs: stages whose products it reads.
        settings: names of the settings it depends on.
        run: does it.
    """

    name: str
    needs: tuple[str, ...]
    settings: tuple[str, ...]
    run: Callable[[Run], None]


def train_supernet(run: Run) -> None:
    """Train the weight-shared network in full precision."""
    torch.manual_seed(run.settings.seed)
    supernet = Supernet(run.encoding.space)
    _train(run, "supernet", supernet, run.settings.supernet, quantize=False)


def train_quantized_supernet(run: Run) -> None:
    """Go on training the same weights with random bits in every layer."""
    supernet = Supernet(run.encoding.space)
    supernet.load_state_dict(_weights(run, "supernet"))
    rng = np.random.default_rng((run.settings.seed, 2))
    candidates = [*run.encoding.decode(run.encoding.sample(N_QUANTIZER_CANDIDATES, rng)), run.encoding.extremes()[1]]
    images = torch.from_numpy(run.data.train.images[: run.settings.n_calibration])
    calibrate_quantizers(supernet, [lambda c=c: supernet.recalibrate(images, c) for c in candidates])  # type: ignore[misc]
    _train(run, "quantized_supernet", supernet, run.settings.quantized, quantize=True)


def _train(run: Run, stage: str, supernet: Supernet, training: Training, *, quantize: bool) -> None:
    torch.set_num_threads(1)
    path = run.directory(stage).path
    optimizer, checkpoint = optimizer_for(supernet, training), path / "checkpoint.pt"
    first_epoch = 0
    if checkpoint.exists():
        state = _torch_load(checkpoint)
        supernet.load_state_dict(state["supernet"])
        optimizer.load_state_dict(state["optimizer"])
        first_epoch = state["epoch"]

    def after_epoch(epoch: int) -> None:
        state = {"supernet": supernet.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch}
        write_atomically(checkpoint, _torch_bytes(state))
        run.advance(epoch, training.epochs)

    run.advance(first_epoch, training.epochs)
    loss = supernet_loss(supernet, run.encoding, run.settings.strategy, quantize=quantize)
    seed = (run.settings.seed, 2 if quantize else 1)
    train_epochs(
        supernet, loss, optimizer, run.data.train, training, seed, first_epoch=first_epoch, after_epoch=after_epoch
    )
    write_atomically(path / "weights.pt", _torch_bytes(supernet.state_dict()))
    checkpoint.unlink(missing_ok=True)


def collect_fp32_losses(run: Run) -> None:
    """Measure random networks in full precision."""
    _collect(run, "fp32_losses", "supernet", score_batch, run.settings.n_fp32, run.settings.batch, quantize=False)


def collect_proxy_losses(run: Run) -> None:
    """Measure random candidates in the quantized supernet."""
    _collect(run, "proxy_losses", "quantized_supernet", score_batch, run.settings.n_proxy, run.settings.batch, quantize=True)


def collect_pairs(run: Run) -> None:
    """Finetune random candidates briefly and measure them: the few quantized samples of the method."""
    _collect(run, "qat_pairs", "quantized_supernet", pair_batch, run.settings.n_pairs, PAIR_BATCH, quantize=True)


PAIR_BATCH = 4
"""Candidates in a trial of brief QAT."""


def _collect(run: Run, stage: str, source: str, work: Work, n: int, batch: int, *, quantize: bool) -> None:
    """Sample candidates, measure what is not yet measured, write ``losses.csv``."""
    directory = run.directory(stage)
    rng = np.random.default_rng((run.settings.seed, *stage.encode()))
    candidates = run.encoding.decode(run.encoding.sample(n, rng))
    batches = {f"{first:05d}": candidates[first : first + batch] for first in range(0, n, batch)}
    finished = directory.finished_items()
    run.advance(sum(len(batches[key]) for key in finished), n)

    def on_result(key: str, result: Result) -> None:
        directory.finish_item(key, result.metrics)
        finished[key] = result.metrics
        run.advance(sum(len(batches[key]) for key in finished), n)

    items = {
        key: {"first": int(key), "candidates": [c.to_dict() for c in part]}
        for key, part in batches.items()
        if key not in finished
    }
    shared = Networks(run.encoding.space, _weights(run, source), quantize, run.data, run.settings)
    run.trials(stage, work, shared, items, on_result)
    scores = [score for key in batches for score in finished[key]["scores"]]
    table = pd.DataFrame(scores).assign(candidate=[c.to_json() for c in candidates])
    write_atomically(directory.path / "losses.csv", table.to_csv(index=False))


def _measured(run: Run, stage: str) -> tuple[Pairs, pd.DataFrame]:
    table = pd.read_csv(run.directory(stage).path / "losses.csv", float_precision="round_trip")
    genomes = run.encoding.encode([Candidate.from_json(text) for text in table["candidate"]])
    return Pairs(genomes, table["loss"].to_numpy()), table


def fit_fp32_predictor(run: Run) -> None:
    """Learn full-precision loss from architecture."""
    pairs, table = _measured(run, "fp32_losses")
    report = {
        "noise_floor": _noise_floor(table),
        "held_out": _held_out(run, fit_fp32, pairs),
    }
    path = run.directory("fp32_predictor").path
    write_atomically(path / "predictor.npz", predictor_bytes(fit_fp32(run.encoding, pairs, run.settings.seed)))
    write_atomically(path / "report.json", to_json(report))


def fit_predictors(run: Run) -> None:
    """Transfer to the quantized supernet's losses, then to QAT; compare with other forms on held-out pairs."""
    fp32 = load_predictor(run.directory("fp32_predictor").path / "predictor.npz", run.encoding)
    assert isinstance(fp32, MLPPredictor)
    proxy_pairs, proxy_table = _measured(run, "proxy_losses")
    pairs, table = _measured(run, "qat_pairs")
    seed = run.settings.seed
    proxy = fit_mlp(run.encoding, proxy_pairs, seed, bits=True, start=fp32)
    fits = forms(fp32, proxy)
    if run.settings.predictor not in fits:
        raise RunError(f"setting predictor: unknown form {run.settings.predictor!r}; known: {', '.join(fits)}")
    scores = {}
    for number, (name, fit) in enumerate(fits.items()):
        run.advance(number, len(fits) + 1)
        scores[name] = _held_out(run, fit, pairs)
    report = {
        "noise_floor": {"quantized supernet": _noise_floor(proxy_table), "qat pairs": _noise_floor(table)},
        "held_out": scores,
        "proxy alone": agreement(proxy(pairs.genomes), pairs.loss)._asdict(),
        "chosen": run.settings.predictor,
        "accuracy_of_log_loss": list(np.polyfit(np.log(pairs.loss), table["accuracy"], 1)),
    }
    path = run.directory("predictors").path
    chosen = fits[run.settings.predictor](run.encoding, pairs, seed)
    write_atomically(path / "predictor.npz", predictor_bytes(chosen))
    write_atomically(path / "report.json", to_json(report))


def _held_out(run: Run, fit: Fit, pairs: Pairs) -> dict[str, float]:
    predicted = held_out(fit, run.encoding, pairs, run.settings.seed, folds=run.settings.folds)
    return agreement(predicted, pairs.loss)._asdict()


def _noise_floor(table: pd.DataFrame) -> dict[str, float]:
    """How well the losses on even and on odd images agree: what even a perfect predictor could not much exceed."""
    halves: Agreement = agreement(table["loss_even"].to_numpy(), table["loss_odd"].to_numpy())
    return halves._asdict()


def search_candidates(run: Run) -> None:
    """Answer the constrained question and the front, each search one trial, and the front at random beside it."""
    directory = run.directory("search")
    predictor = load_predictor(run.directory("predictors").path / "predictor.npz", run.encoding)
    names = ("best", "front", "random")
    missing = [name for name in names if not (directory.path / f"{name}.json").exists()]

    def on_result(key: str, result: Result) -> None:
        write_atomically(directory.path / f"{key}.json", result.metrics["front"])
        run.advance(sum((directory.path / f"{name}.json").exists() for name in names), len(names))

    run.advance(len(names) - len(missing), len(names))
    question = Question(run.encoding.space, predictor, run.settings)
    run.trials("search", run_search, question, {name: name for name in missing}, on_result)


def train_finalists(run: Run) -> None:
    """Train the chosen candidates and the baselines at full length, on equal terms."""
    directory = run.directory("finalists")
    chosen = finalists(run)
    finished = directory.finished_items()
    run.advance(len(finished), len(chosen))

    def on_result(key: str, result: Result) -> None:
        write_atomically(directory.path / f"{key}.pt", result.files["weights.pt"])
        directory.finish_item(key, result.metrics | {"candidate": chosen[key].to_dict()})
        finished[key] = result.metrics
        run.advance(len(finished), len(chosen))

    items = {key: {"candidate": c.to_dict()} for key, c in chosen.items() if key not in finished}
    shared = Networks(run.encoding.space, _weights(run, "quantized_supernet"), True, run.data, run.settings)
    run.trials("finalists", final_training, shared, items, on_result)


def finalists(run: Run) -> dict[str, Candidate]:
    """Name -> candidate: the baselines, the best under the constraints, and points spread over the front."""
    path = run.directory("search").path
    largest = run.encoding.extremes()[1]
    chosen = {f"largest_{bits}bit": largest.with_bits(bits) for bits in baseline_bits(run.encoding)}
    chosen["best"] = Front.load(path / "best.json").candidates[0]
    front = Front.load(path / "front.json")
    for number, index in enumerate(spread(np.log(front.metrics["bit_ops"].to_numpy()), run.settings.n_front), start=1):
        if front.candidates[index] != chosen["best"]:
            chosen[f"front_{number}"] = front.candidates[index]
    return chosen


def baseline_bits(encoding: Encoding) -> list[int]:
    """The widest bit-width that all layers can take, and half of it if they can."""
    common = sorted(set(encoding.space.bit_choices()[0]).intersection(*encoding.space.bit_choices()), reverse=True)
    return [bits for bits in common[:1] + [b for b in common[1:] if b == common[0] // 2]]


def spread(values: np.ndarray, n: int) -> list[int]:
    """Indices of the values nearest to ``n`` evenly spaced points between the smallest and the largest, both excluded."""
    targets = np.linspace(values.min(), values.max(), n + 2)[1:-1]
    return sorted({int(np.abs(values - target).argmin()) for target in targets}, key=lambda i: values[i])


def _weights(run: Run, stage: str) -> dict[str, Any]:
    return _torch_load(run.directory(stage).path / "weights.pt")


def _torch_bytes(state: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getvalue()


def _torch_load(path: Path) -> dict[str, Any]:
    try:
        loaded: dict[str, Any] = torch.load(path, weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, zipfile.BadZipFile) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{path}: damaged checkpoint ({reason}); delete {path.parent} to have that stage done again") from None
    return loaded


STAGES: Sequence[Stage] = (
    Stage("supernet", (), ("seed", "strategy", "supernet"), train_supernet),
    Stage("fp32_losses", ("supernet",), ("seed", "n_fp32", "n_calibration", "batch"), collect_fp32_losses),
    Stage("fp32_predictor", ("fp32_losses",), ("seed", "folds"), fit_fp32_predictor),
    Stage(
        "quantized_supernet", ("supernet",), ("seed", "strategy", "quantized", "n_calibration"), train_quantized_supernet
    ),
    Stage("proxy_losses", ("quantized_supernet",), ("seed", "n_proxy", "n_calibration", "batch"), collect_proxy_losses),
    Stage("qat_pairs", ("quantized_supernet",), ("seed", "n_pairs", "pair", "n_calibration"), collect_pairs),
    Stage("predictors", ("fp32_predictor", "proxy_losses", "qat_pairs"), ("seed", "folds", "predictor"), fit_predictors),
    Stage("search", ("predictors",), ("seed", "constraints", "n_evaluations"), search_candidates),
    Stage(
        "finalists", ("search", "quantized_supernet"), ("seed", "n_front", "final", "n_calibration"), train_finalists
    ),
)
