"""The stages of a run, in order: the table of contents of the method."""

from __future__ import annotations

from apq_tune.pipeline.learning import fit_fp32_predictor, fit_predictors
from apq_tune.pipeline.measuring import (
    measure_finalists,
    measure_fp32_losses,
    measure_pairs,
    measure_proxy_losses,
    measure_searches,
)
from apq_tune.pipeline.stage import Stage
from apq_tune.pipeline.training import train_quantized_supernet, train_supernet

STAGES: tuple[Stage, ...] = (
    Stage("supernet", (), ("seed", "strategy", "supernet"), run=train_supernet),
    Stage(
        "quantized_supernet",
        ("supernet",),
        ("seed", "strategy", "quantized", "n_calibration"),
        run=train_quantized_supernet,
    ),
    Stage(
        "fp32_losses",
        ("supernet",),
        ("seed", "n_fp32", "n_calibration", "n_search", "batch"),
        measure=measure_fp32_losses,
    ),
    Stage(
        "proxy_losses",
        ("quantized_supernet",),
        ("seed", "n_proxy", "n_calibration", "n_search", "batch"),
        measure=measure_proxy_losses,
    ),
    Stage(
        "qat_pairs",
        ("quantized_supernet",),
        ("seed", "n_pairs", "pair", "pair_bits", "n_calibration", "n_search"),
        measure=measure_pairs,
    ),
    Stage("fp32_predictor", ("fp32_losses",), ("seed", "folds"), run=fit_fp32_predictor),
    Stage(
        "predictors",
        ("fp32_predictor", "proxy_losses", "qat_pairs"),
        ("seed", "folds", "predictor", "fallback", "kappa"),
        run=fit_predictors,
    ),
    Stage("search", ("predictors",), ("seed", "constraints", "n_evaluations"), measure=measure_searches),
    Stage(
        "finalists",
        ("search", "quantized_supernet"),
        ("seed", "n_front", "final", "n_calibration"),
        measure=measure_finalists,
    ),
)
