"""Settings with which a whole run on a small space takes seconds."""

from __future__ import annotations

from typing import Any

QUICK: dict[str, Any] = {
    "supernet.epochs": 1,
    "supernet.images": 256,
    "quantized.epochs": 1,
    "quantized.images": 256,
    "n_fp32": 12,
    "n_proxy": 16,
    "n_pairs": 12,
    "pair.images": 64,
    "folds": 2,
    "final.epochs": 1,
    "final.images": 128,
    "n_evaluations": 500,
    "n_front": 1,
    "n_calibration": 64,
    "n_search": 100,
}
