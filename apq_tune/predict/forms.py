"""Forms of predictors under one interface, as compared in predictor reports."""

from __future__ import annotations

from functools import partial
from typing import Literal

from apq_tune.errors import ProblemError
from apq_tune.predict.gp import fit_gp
from apq_tune.predict.losses import LOSSES, Loss
from apq_tune.predict.mean import MeanPredictor, fit_mean
from apq_tune.predict.mlp import MLPPredictor, MLPSettings, fit_mlp
from apq_tune.predict.pairs import Fit, Pairs, Predictor
from apq_tune.predict.ridge import fit_ordinal, fit_residual, fit_ridge
from apq_tune.space.encoding import Featured

Form = Literal["scratch", "transferred", "ridge", "ordinal", "gp", "residual", "linear_ladder", "ladder", "mean"]
"""Names of the forms of ``forms``."""

PlainForm = Literal["scratch", "ridge", "ordinal", "gp", "mean"]
"""Names of the forms of ``plain_forms``, which need nothing but pairs."""

AVERAGED: tuple[Form, ...] = ("linear_ladder", "ladder")
"""Members of the form ``mean``."""


def fit_fp32(encoding: Featured, pairs: Pairs, seed: int) -> MLPPredictor:
    """Fit the predictor of full-precision losses, which sees only the architecture."""
    return fit_mlp(encoding, pairs, seed, bits=False)


def fit_proxy(encoding: Featured, pairs: Pairs, seed: int, *, fp32: Predictor) -> MeanPredictor:
    """Fit the proxy: the predictor of the quantized supernet's losses.

    It is the mean of a Gaussian process and a ridge regression on ordinal features, both with the prediction of
    ``fp32`` as a feature, and a ridge regression on one-hot features.
    """
    fits: dict[str, Fit] = {
        "gp": partial(fit_gp, base=fp32, correct=False),
        "ordinal": partial(fit_ordinal, base=fp32),
        "ridge": fit_ridge,
    }
    return fit_mean(encoding, pairs, seed, fits=fits)


def fit_rungs(encoding: Featured, fp32: Pairs, proxy: Pairs, seed: int) -> tuple[MLPPredictor, Predictor]:
    """Fit the two predictors that ``forms`` needs, to losses of the full-precision and of the quantized supernet."""
    fitted = fit_fp32(encoding, fp32, seed)
    return fitted, fit_proxy(encoding, proxy, seed, fp32=fitted)


def forms(fp32: MLPPredictor, proxy: Predictor, *, loss: Loss = "mse") -> dict[Form, Fit]:
    """Forms of predictors of losses after quantization-aware training.

    Args:
        fp32: Predictor of full-precision losses.
        proxy: Predictor of the quantized supernet's losses, which uses ``fp32``.
        loss: Loss that ``scratch`` and ``transferred`` are trained with, see ``training_loss``.

    Returns:
        Fit functions by name. ``scratch``: MLP with random initial weights. ``transferred``: MLP initialised with the
        weights of ``fp32`` (Wang 2020). ``ridge``: ridge regression on one-hot features. ``ordinal``: ridge regression
        on ordinal features and the prediction of ``fp32``. ``gp``: Gaussian process on ordinal features. ``residual``:
        ``fp32`` corrected by ridge regression. ``linear_ladder``: ``proxy`` corrected by ridge regression. ``ladder``:
        ``proxy`` corrected by a Gaussian process. ``mean``: mean of ``linear_ladder`` and ``ladder``.
    """
    settings = MLPSettings(loss=loss)
    fits: dict[Form, Fit] = {
        "scratch": partial(fit_mlp, bits=True, settings=settings),
        "transferred": partial(fit_mlp, bits=True, start=fp32, settings=settings),
        "ridge": fit_ridge,
        "ordinal": partial(fit_ordinal, base=fp32),
        "gp": fit_gp,
        "residual": partial(fit_residual, base=fp32),
        "linear_ladder": partial(fit_residual, base=proxy),
        "ladder": partial(fit_gp, base=proxy),
    }
    return fits | {"mean": partial(fit_mean, fits={name: fits[name] for name in AVERAGED})}


def plain_forms(*, log: bool, loss: Loss = "mse") -> dict[PlainForm, Fit]:
    """Forms of ``forms`` that need nothing but pairs, of losses or (``log=False``) accuracies.

    Args:
        log: Whether targets are losses.
        loss: Loss that ``scratch`` is trained with.
    """
    fits: dict[PlainForm, Fit] = {
        "scratch": partial(fit_mlp, bits=True, log=log, settings=MLPSettings(loss=loss)),
        "ridge": partial(fit_ridge, log=log),
        "ordinal": partial(fit_ordinal, log=log),
        "gp": partial(fit_gp, log=log),
    }
    averaged: dict[str, Fit] = {name: fits[name] for name in ("ridge", "ordinal", "gp")}
    return fits | {"mean": partial(fit_mean, fits=averaged, log=log)}


def fit_predictor(
    encoding: Featured, pairs: Pairs, form: PlainForm = "gp", *, seed: int = 0, log: bool = False, loss: Loss = "mse"
) -> Predictor:
    """Fit a predictor to measured candidates.

    Args:
        encoding: Encoding of the search space.
        pairs: Candidates and their measurements.
        form: Kind of model.
        seed: Seed of the fit.
        log: Whether to learn the logarithm of the measurements: true for losses, false for accuracies.
        loss: What the form ``"scratch"`` minimises: ``"mse"``, or one of two losses of the order of pairs alone,
            ``"pairwise"`` and ``"diffkendall"``.

    Returns:
        The predictor, which maps genomes of shape ``(n, n_genes)`` to predictions of shape ``(n,)``.

    Raises:
        ProblemError: If there is no such form or loss, or the form has a closed solution and no choice of losses.
    """
    known = plain_forms(log=log, loss=loss)
    if form not in known:
        raise ProblemError(f"unknown form {form!r}; known: {', '.join(known)}")
    if loss not in LOSSES:
        raise ProblemError(f"unknown loss {loss!r}; known: {', '.join(LOSSES)}")
    if loss != "mse" and form != "scratch":
        raise ProblemError(f"form {form!r} has a closed solution and takes no loss {loss!r}; give form 'scratch'")
    return known[form](encoding, pairs, seed)
