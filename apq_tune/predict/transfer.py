"""Transfer learning of MLP predictors to new pairs (Wang 2020)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from apq_tune.predict.gp import fit_gp
from apq_tune.predict.mlp import MLPPredictor, MLPSettings, fit_mlp
from apq_tune.predict.pairs import Fit, Pairs, Predictor, Scale
from apq_tune.predict.ridge import fit_ridge
from apq_tune.predict.scores import Agreement, agreement, held_out
from apq_tune.space.encoding import Featured

GENTLE = MLPSettings(learning_rate=3e-4, weight_decay=0.1)
"""Settings for finetuning a trained predictor; with ten times the learning rate few pairs would overwrite it."""


def transfer(
    start: MLPPredictor, pairs: Pairs, seed: int, *, log: bool, folds: int = 5
) -> tuple[dict[str, Agreement], MLPPredictor]:
    """Finetune a predictor on new pairs; an input for the bits is added if it has none.

    Args:
        start: Predictor whose weights are finetuned.
        pairs: Pairs of its search space.
        seed: Seed of the folds and of the fits.
        log: Whether the target is a loss rather than an accuracy.
        folds: Number of folds of the cross-validation.

    Returns:
        Held-out agreement by name, of the transferred predictor, of predictors that do not use ``start`` (an MLP from
        scratch, ridge regression, a Gaussian process) and of ``start`` itself; and the transferred predictor, fitted to
        all pairs.
    """

    def fit(encoding: Featured, known: Pairs, seed: int) -> MLPPredictor:
        return fit_mlp(
            encoding, known, seed, bits=True, start=_rescaled(start, known, log=log), log=log, settings=GENTLE
        )

    forms: dict[str, Fit] = {
        "transferred": fit,
        "scratch": partial(fit_mlp, bits=True, log=log),
        "ridge": partial(fit_ridge, log=log),
        "gp": partial(fit_gp, log=log),
    }
    report = {
        name: agreement(held_out(form, start.encoding, pairs, seed, folds=folds), pairs.target, log=log)
        for name, form in forms.items()
    }
    alone: Predictor = start
    sign = 1.0 if start.scale.log == log else -1.0  # predicted accuracies rank losses in reverse
    report["start alone"] = agreement(sign * alone(pairs.genomes), pairs.target, log=False)
    return report, fit(start.encoding, pairs, seed)


def _rescaled(start: MLPPredictor, pairs: Pairs, *, log: bool) -> MLPPredictor:
    """Rescale the outputs of a predictor to zero mean and unit variance, like standardised targets.

    The factor is distributed evenly over the layers, which is exact for ReLU. In the last layer alone it would make the
    first training steps of all other layers overshoot.
    """
    raw = Scale(0.0, 1.0, log=False)
    outputs = replace(start, scale=raw)(pairs.genomes)
    mean, std = float(outputs.mean()), float(outputs.std()) or 1.0
    sign = 1.0 if start.scale.log == log else -1.0
    factor = std**-0.25
    weights = {}
    for name, weight in start.weights.items():
        layer = 0 if name[1] == "q" else int(name[1])
        power = layer + 1 if name[0] == "b" else 1
        weights[name] = (weight - mean if name == "b3" else weight) * factor**power
    weights |= {name: sign * weights[name] for name in ("W3", "b3")}
    return replace(start, weights={name: weight.astype("float32") for name, weight in weights.items()})
