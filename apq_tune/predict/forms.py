"""The forms of a predictor that are compared, under one interface; all are fitted to the same pairs."""

from __future__ import annotations

from functools import partial
from typing import Literal

from apq_tune.predict.gp import fit_gp
from apq_tune.predict.mean import MeanPredictor, fit_mean
from apq_tune.predict.mlp import MLPPredictor, fit_mlp
from apq_tune.predict.pairs import Fit, Pairs, Predictor
from apq_tune.predict.ridge import fit_ordinal, fit_residual, fit_ridge
from apq_tune.space.network_encoding import NetworkEncoding

Form = Literal["scratch", "transferred", "ridge", "ordinal", "gp", "residual", "linear_ladder", "ladder", "mean"]
"""Names of the forms that ``forms`` offers."""

PlainForm = Literal["scratch", "ridge", "ordinal", "gp", "mean"]
"""Names of those that need nothing but pairs."""

AVERAGED: tuple[Form, ...] = ("linear_ladder", "ladder")
"""Members of ``mean``."""


def fit_fp32(encoding: NetworkEncoding, pairs: Pairs, seed: int) -> MLPPredictor:
    """The full-precision predictor: architecture only."""
    return fit_mlp(encoding, pairs, seed, bits=False)


def fit_proxy(encoding: NetworkEncoding, pairs: Pairs, seed: int, *, fp32: Predictor) -> MeanPredictor:
    """The predictor of the quantized supernet's losses, the middle rung of the ladder.

    The mean of three: a Gaussian process and a ridge on ordinal features, both with ``fp32`` as a hint, and a ridge on
    one-hots.
    """
    fits: dict[str, Fit] = {
        "gp": partial(fit_gp, base=fp32, correct=False),
        "ordinal": partial(fit_ordinal, base=fp32),
        "ridge": fit_ridge,
    }
    return fit_mean(encoding, pairs, seed, fits=fits)


def fit_rungs(encoding: NetworkEncoding, fp32: Pairs, proxy: Pairs, seed: int) -> tuple[MLPPredictor, Predictor]:
    """What ``forms`` needs, from full-precision losses and from losses of the quantized supernet."""
    fitted = fit_fp32(encoding, fp32, seed)
    return fitted, fit_proxy(encoding, proxy, seed, fp32=fitted)


def forms(fp32: MLPPredictor, proxy: Predictor) -> dict[Form, Fit]:
    """Ways to learn from quantized pairs.

    Args:
        fp32: predictor of full-precision losses.
        proxy: predictor of the quantized supernet's losses, which itself has learned from ``fp32``.

    Returns:
        ``scratch``: an MLP from random weights. ``transferred``: the same from ``fp32``'s weights (Wang 2020).
        ``ridge``: linear on one-hots. ``ordinal``: linear on ordinal features and ``fp32``. ``gp``: a Gaussian process
        on ordinal features. ``residual``: ``fp32`` plus a ridge on what it leaves over. ``linear_ladder``: the same of
        ``proxy``. ``ladder``: ``proxy`` plus a Gaussian process on what it leaves over. ``mean``: of ``AVERAGED``.
    """
    fits: dict[Form, Fit] = {
        "scratch": partial(fit_mlp, bits=True),
        "transferred": partial(fit_mlp, bits=True, start=fp32),
        "ridge": fit_ridge,
        "ordinal": partial(fit_ordinal, base=fp32),
        "gp": fit_gp,
        "residual": partial(fit_residual, base=fp32),
        "linear_ladder": partial(fit_residual, base=proxy),
        "ladder": partial(fit_gp, base=proxy),
    }
    return fits | {"mean": partial(fit_mean, fits={name: fits[name] for name in AVERAGED})}


def plain_forms(*, log: bool) -> dict[PlainForm, Fit]:
    """Ways to learn from pairs and nothing else; ``log`` as of ``fit_mlp``, the forms as of ``forms``."""
    fits: dict[PlainForm, Fit] = {
        "scratch": partial(fit_mlp, bits=True, log=log),
        "ridge": partial(fit_ridge, log=log),
        "ordinal": partial(fit_ordinal, log=log),
        "gp": partial(fit_gp, log=log),
    }
    averaged: dict[str, Fit] = {name: fits[name] for name in ("ridge", "ordinal", "gp")}
    return fits | {"mean": partial(fit_mean, fits=averaged, log=log)}
