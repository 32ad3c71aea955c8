"""Predictors as ``.npz`` files: arrays and numbers only, nothing that executes when it is read."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from apq_tune.encoding import Encoding
from apq_tune.errors import RunError
from apq_tune.predict.mlp import MLPPredictor, mlp_shapes
from apq_tune.predict.pairs import Predictor, Scale
from apq_tune.predict.ridge import RidgePredictor


def predictor_bytes(predictor: Predictor) -> bytes:
    """The content of a predictor file.

    Raises:
        TypeError: for a predictor of a kind that this version does not save.
    """
    buffer = io.BytesIO()
    np.savez(buffer, **_arrays(predictor))
    return buffer.getvalue()


def load_predictor(path: Path, encoding: Encoding) -> Predictor:
    """Read a predictor and check it against the space.

    Raises:
        RunError: if the file is damaged, or made for a space with other features.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        return _predictor(arrays, "", encoding)
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(f"{path}: is no readable predictor for {encoding.space.name} ({error}); make it again") from None


def _arrays(predictor: Predictor, prefix: str = "") -> dict[str, Any]:
    if isinstance(predictor, MLPPredictor):
        own: dict[str, Any] = {"kind": "mlp", "scale": predictor.scale} | predictor.weights
        base = None
    elif isinstance(predictor, RidgePredictor):
        own = {"kind": "ridge", "scale": predictor.scale}
        own |= {"weights": predictor.weights, "intercept": predictor.intercept}
        base = predictor.base
    else:
        raise TypeError(f"cannot save a {type(predictor).__name__}; this version saves MLPPredictor and RidgePredictor")
    arrays = {prefix + name: np.asarray(value) for name, value in own.items()}
    return arrays | (_arrays(base, f"{prefix}base.") if base is not None else {})


def _predictor(arrays: dict[str, Any], prefix: str, encoding: Encoding) -> Predictor:
    own = {
        name[len(prefix) :]: a
        for name, a in arrays.items()
        if name.startswith(prefix) and "." not in name[len(prefix) :]
    }
    kind, scale = str(own.pop("kind")), Scale(*map(float, own.pop("scale")))
    if kind == "mlp":
        expected = mlp_shapes(encoding, own["b0"].size, bits="Wq" in own)
        if (found := {name: array.shape for name, array in own.items()}) != expected:
            raise ValueError(f"holds weights of shapes {found}, the space needs {expected}")
        return MLPPredictor(encoding, own, scale)
    base = _predictor(arrays, f"{prefix}base.", encoding) if f"{prefix}base.kind" in arrays else None
    n = encoding.n_arch_features + encoding.n_bit_features + (base is not None)
    if len(own["weights"]) != n:
        raise ValueError(f"{len(own['weights'])} weights, the space has {n} features")
    return RidgePredictor(encoding, own["weights"], float(own["intercept"]), scale, base)
