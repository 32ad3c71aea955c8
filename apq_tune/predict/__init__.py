"""Predictors: models of the loss or accuracy of candidates, full-precision or quantized, under one interface."""

from apq_tune.predict.forms import (
    AVERAGED,
    Form,
    PlainForm,
    fit_fp32,
    fit_predictor,
    fit_proxy,
    fit_rungs,
    forms,
    plain_forms,
)
from apq_tune.predict.gp import GaussianProcessPredictor, fit_gp
from apq_tune.predict.mean import MeanPredictor, fit_mean
from apq_tune.predict.mixer import MixerPredictor, MixerSettings, fit_mixer
from apq_tune.predict.mlp import MLPPredictor, MLPSettings, fit_mlp
from apq_tune.predict.pairs import Fit, Floats, Pairs, Predictor
from apq_tune.predict.ridge import RidgePredictor, fit_ordinal, fit_residual, fit_ridge
from apq_tune.predict.scores import Agreement, agreement, held_out
from apq_tune.predict.transfer import transfer

__all__ = [
    "AVERAGED",
    "Agreement",
    "Fit",
    "Floats",
    "Form",
    "GaussianProcessPredictor",
    "MLPPredictor",
    "MLPSettings",
    "MeanPredictor",
    "MixerPredictor",
    "MixerSettings",
    "Pairs",
    "PlainForm",
    "Predictor",
    "RidgePredictor",
    "agreement",
    "fit_fp32",
    "fit_gp",
    "fit_mean",
    "fit_mixer",
    "fit_mlp",
    "fit_ordinal",
    "fit_predictor",
    "fit_proxy",
    "fit_residual",
    "fit_ridge",
    "fit_rungs",
    "forms",
    "held_out",
    "plain_forms",
    "transfer",
]
