"""Learned metrics: cross-entropy from a genome, full precision or quantized, several forms under one interface."""

from apq_tune.predict.forms import Form, fit_fp32, forms
from apq_tune.predict.mlp import MLPPredictor, MLPSettings, fit_mlp
from apq_tune.predict.pairs import Fit, Floats, Pairs, Predictor
from apq_tune.predict.ridge import RidgePredictor, fit_residual, fit_ridge
from apq_tune.predict.scores import Agreement, agreement, held_out
from apq_tune.predict.transfer import transfer

__all__ = [
    "Agreement",
    "Fit",
    "Floats",
    "Form",
    "MLPPredictor",
    "MLPSettings",
    "Pairs",
    "Predictor",
    "RidgePredictor",
    "agreement",
    "fit_fp32",
    "fit_mlp",
    "fit_residual",
    "fit_ridge",
    "forms",
    "held_out",
    "transfer",
]
