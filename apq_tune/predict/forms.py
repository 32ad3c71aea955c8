"""The forms of a quantization-aware predictor that a run compares; all are fitted to the same pairs."""

from __future__ import annotations

from functools import partial
from typing import Literal

from apq_tune.encoding import Encoding
from apq_tune.predict.mlp import MLPPredictor, fit_mlp
from apq_tune.predict.pairs import Fit, Pairs
from apq_tune.predict.ridge import fit_residual, fit_ridge


def fit_fp32(encoding: Encoding, pairs: Pairs, seed: int) -> MLPPredictor:
    """The full-precision predictor: architecture only."""
    return fit_mlp(encoding, pairs, seed, bits=False)


Form = Literal["scratch", "transferred", "ridge", "ladder"]
"""Names of the forms that ``forms`` offers."""


def forms(fp32: MLPPredictor, proxy: MLPPredictor) -> dict[Form, Fit]:
    """Ways to learn from quantized pairs.

    Args:
        fp32: predictor of full-precision losses.
        proxy: predictor of the quantized supernet's losses, itself transferred from ``fp32``.

    Returns:
        ``scratch``: an MLP from random weights. ``transferred``: the same from ``fp32``'s weights (Wang 2020).
        ``ridge``: linear on one-hots. ``ladder``: ``proxy`` plus a ridge on what it leaves over.
    """
    return {
        "scratch": partial(fit_mlp, bits=True),
        "transferred": partial(fit_mlp, bits=True, start=fp32),
        "ridge": fit_ridge,
        "ladder": partial(fit_residual, base=proxy),
    }
