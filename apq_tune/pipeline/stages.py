"""The stages of a run in order."""

from __future__ import annotations

from apq_tune.pipeline.learning import fit_fp32_predictor, fit_predictors
from apq_tune.pipeline.measuring import (
    measure_finalists,
    measure_fp32_losses,
    measure_pairs,
    measure_proxy_losses,
    measure_searches,
)
from apq_tune.pipeline.raising import measure_raised
from apq_tune.pipeline.stage import RunStage
from apq_tune.pipeline.training import train_quantized_supernet, train_supernet
from apq_tune.pipeline.upgrade import RAISED

STAGES: tuple[RunStage, ...] = (
    RunStage("supernet", (), ("seed", "strategy", "supernet"), run=train_supernet),
    RunStage(
        "quantized_supernet",
        ("supernet",),
        ("seed", "strategy", "quantized", "n_calibration"),
        run=train_quantized_supernet,
    ),
    RunStage(
        "fp32_losses",
        ("supernet",),
        ("seed", "n_fp32", "n_calibration", "n_search", "batch"),
        measure=measure_fp32_losses,
    ),
    RunStage(
        "proxy_losses",
        ("quantized_supernet",),
        ("seed", "n_proxy", "n_calibration", "n_search", "batch"),
        measure=measure_proxy_losses,
    ),
    RunStage(
        "qat_pairs",
        ("quantized_supernet",),
        ("seed", "n_pairs", "pair", "pair_bits", "n_calibration", "n_search"),
        measure=measure_pairs,
    ),
    RunStage("fp32_predictor", ("fp32_losses",), ("seed", "folds"), run=fit_fp32_predictor),
    RunStage(
        "predictors",
        ("fp32_predictor", "proxy_losses", "qat_pairs"),
        ("seed", "folds", "predictor", "predictor_loss", "fallback", "kappa"),
        run=fit_predictors,
    ),
    RunStage("search", ("predictors",), ("seed", "constraints", "n_evaluations"), measure=measure_searches),
    RunStage(
        "finalists",
        ("search", "quantized_supernet"),
        ("seed", "n_front", "final", "n_calibration"),
        measure=measure_finalists,
    ),
    RunStage(RAISED, ("finalists", "quantized_supernet"), ("constraints", "final"), measure=measure_raised),
)

TRAINED = "finalists"
"""Last stage whose products a run needs to be read; ``raised`` adds a network where it found one."""
