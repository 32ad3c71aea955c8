"""Stages that fit and compare predictors."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd

from apq_tune.pipeline.stage import Run
from apq_tune.predict import Agreement, Fit, Floats, Pairs, agreement, fit_fp32, fit_proxy, held_out
from apq_tune.predict.chosen import choose_form
from apq_tune.predict.ensemble import BoundPredictor, fit_parts
from apq_tune.predict.files import load_predictor, predictor_bytes
from apq_tune.predict.mlp import MLPPredictor
from apq_tune.predict.pairs import networks_of
from apq_tune.space.candidate import candidate_in
from apq_tune.space.gene_encoding import GeneEncoding
from apq_tune.store.files import to_json
from apq_tune.store.stage import StageFiles

LOSSES, PREDICTOR, REPORT = "losses.csv", "predictor.npz", "report.json"
"""Names of the files of measuring stages and of stages that fit predictors."""

BOUND = "bound.npz"
"""Name of the file of the confidence bound, which exists only if ``kappa`` is positive."""


def measured(run: Run, stage: str) -> tuple[Pairs, pd.DataFrame]:
    """Pairs of a finished measuring stage, and its table of scores."""
    return read_losses(run.directory(stage), run.encoding)


def read_losses(stage: StageFiles, encoding: GeneEncoding) -> tuple[Pairs, pd.DataFrame]:
    """Read the pairs and the table of scores from the folder of a measuring stage.

    Raises:
        RunError: If the table is missing or damaged.
    """
    exact = dict.fromkeys(("loss", "loss_even", "loss_odd", "accuracy"), float)  # older pandas rounds otherwise
    table = pd.read_csv(stage.checked(LOSSES), converters=exact)
    genomes = encoding.encode([candidate_in(text) for text in table["candidate"]])
    return Pairs(genomes, table["loss"].to_numpy()), table


def fit_fp32_predictor(run: Run) -> None:
    """Fit the predictor of full-precision losses, which depend on the architecture only."""
    pairs, table = measured(run, "fp32_losses")
    report = {
        "split_half": split_half(table),
        "held_out": _held_out(run, fit_fp32, pairs),
    }
    directory = run.directory("fp32_predictor")
    directory.write(PREDICTOR, predictor_bytes(fit_fp32(run.encoding, pairs, run.settings.seed)))
    directory.write(REPORT, to_json(report))


def fit_predictors(run: Run) -> None:
    """Transfer to losses of the quantized supernet, then to losses after QAT; compare all forms on held-out pairs.

    The method ``predictor`` of a comparison chooses its form by the same function. If ``kappa`` is positive, an
    ensemble of the used form gives the confidence bound.
    """
    fp32 = load_predictor(run.directory("fp32_predictor").checked(PREDICTOR), run.encoding)
    assert isinstance(fp32, MLPPredictor)
    proxy_pairs, proxy_table = measured(run, "proxy_losses")
    pairs, table = measured(run, "qat_pairs")
    settings, seed = run.settings, run.settings.seed
    proxy = fit_proxy(run.encoding, proxy_pairs, seed, fp32=fp32)
    chosen = choose_form(
        run.encoding,
        fp32,
        proxy,
        pairs,
        seed,
        form=settings.predictor,
        loss=settings.predictor_loss,
        folds=settings.folds,
        fall_back=settings.fallback,
        advance=partial(run.advance, "predictors"),
    )
    trust = chosen.trust
    n_images = len(run.data.search.labels)
    n_search = min(n_images, settings.n_search or n_images)
    report = {
        "split_half": {"quantized supernet": split_half(proxy_table), "qat pairs": split_half(table)},
        "held_out": {name: agreement(values, pairs.target)._asdict() for name, values in chosen.unseen.items()},
        "proxy alone": agreement(proxy(pairs.genomes), pairs.target)._asdict(),
        "chosen": trust.form,
        "used": trust.used,
        "useless": trust.useless,
        "why": trust.why,
        "n": trust.n,
        "support": {name: support._asdict() for name, support in trust.support.items()},
        "error_law": error_law(pairs.target, table["accuracy"].to_numpy(), n_search),
    }
    directory = run.directory("predictors")
    directory.write(PREDICTOR, predictor_bytes(chosen.predictor))
    if settings.kappa:
        bound = BoundPredictor(fit_parts(chosen.fit, run.encoding, pairs, seed), settings.kappa)
        directory.write(BOUND, predictor_bytes(bound))
    directory.write(REPORT, to_json(report))


def error_law(loss: Floats, accuracy: Floats, n_images: int) -> list[float]:
    """Fit ``1 - accuracy = exp(intercept) * loss ** slope``, which converts predicted losses to accuracies.

    Args:
        loss: Cross-entropy in nats, shape ``(n,)``.
        accuracy: Accuracies as fractions, shape ``(n,)``; half an image is added to each error, so that none is zero.
        n_images: Number of images that each accuracy was measured on.

    Returns:
        Slope and intercept.
    """
    error = ((1 - accuracy) * n_images + 0.5) / (n_images + 1)
    slope, intercept = np.polyfit(np.log(loss), np.log(error), 1)
    return [float(slope), float(intercept)]


def _held_out(run: Run, fit: Fit, pairs: Pairs) -> dict[str, float]:
    architectures = networks_of(run.encoding.features(pairs.genomes)[:, : run.encoding.n_arch_features])
    # If only bits are searched there is a single architecture, so that folds need not be split by architecture.
    networks = architectures if architectures.any() else None
    predicted = held_out(fit, run.encoding, pairs, run.settings.seed, folds=run.settings.folds, networks=networks)
    return agreement(predicted, pairs.target)._asdict()


def split_half(table: pd.DataFrame) -> dict[str, float]:
    """Split-half agreement of the labels: scores of losses on even against losses on odd images."""
    halves: Agreement = agreement(table["loss_even"].to_numpy(), table["loss_odd"].to_numpy())
    return halves._asdict()
