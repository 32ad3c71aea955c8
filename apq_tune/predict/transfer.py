"""Transfer to the user's own pairs, from any predictor with our MLP's layers (Wang 2020)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from apq_tune.predict.gp import fit_gp
from apq_tune.predict.mlp import MLPPredictor, MLPSettings, fit_mlp
from apq_tune.predict.pairs import Fit, Pairs, Predictor, Scale
from apq_tune.predict.ridge import fit_ridge
from apq_tune.predict.scores import Agreement, agreement, held_out
from apq_tune.space.network_encoding import NetworkEncoding

GENTLE = MLPSettings(learning_rate=3e-4, weight_decay=0.1)
"""Finetuning of a predictor that is good already: ten times the learning rate unlearns it on few pairs."""


def transfer(
    start: MLPPredictor, pairs: Pairs, seed: int, *, log: bool, folds: int = 5
) -> tuple[dict[str, Agreement], MLPPredictor]:
    """Finetune a predictor on pairs, its bits' input added if it has none.

    Args:
        start: whose weights to begin with.
        pairs: to learn from, of its space.
        seed: of folds.
        log: whether the target is a loss; else it is an accuracy.
        folds: of the cross-validation.

    Returns:
        Held-out agreement of the transferred predictor, of one from scratch, of ridge, of a Gaussian process (the last
        three need no start) and of the start itself; and the transferred predictor, fitted to all pairs.
    """

    def fit(encoding: NetworkEncoding, known: Pairs, seed: int) -> MLPPredictor:
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
    sign = 1.0 if start.scale.log == log else -1.0  # a predicted accuracy ranks losses the other way round
    report["start alone"] = agreement(sign * alone(pairs.genomes), pairs.target, log=False)
    return report, fit(start.encoding, pairs, seed)


def _rescaled(start: MLPPredictor, pairs: Pairs, *, log: bool) -> MLPPredictor:
    """Give the start's outputs mean 0 and spread 1, as standardised targets have.

    The factor is spread evenly over the layers, which ReLU passes on: in the last layer alone it would make the first
    steps of training overshoot in all the others.
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
