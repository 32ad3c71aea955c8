"""Predictors as files: our ``.npz``, arrays and numbers only, and the checkpoints of published predictors."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from apq_tune.encoding import Encoding
from apq_tune.errors import RunError
from apq_tune.predict.mlp import MLPPredictor, mlp_shapes
from apq_tune.predict.pairs import Predictor, Scale
from apq_tune.predict.published import published_predictor
from apq_tune.predict.ridge import RidgePredictor
from apq_tune.space import SearchSpace


def predictor_bytes(predictor: Predictor) -> bytes:
    """The content of a predictor file.

    Raises:
        TypeError: for a predictor of a kind that this version does not save.
    """
    buffer = io.BytesIO()
    arrays = _arrays(predictor)
    np.savez(buffer, space=np.asarray(predictor.encoding.space.to_yaml()), **arrays)  # type: ignore[attr-defined]
    return buffer.getvalue()


def load_predictor(path: str | Path, space: SearchSpace | Encoding | None = None) -> Predictor:
    """Read a predictor and check it against its space.

    Args:
        path: a file of ours; a checkpoint of APQ's quantization-aware predictor (``layers.0.0.weight``,
            ``quantize_fc.weight``, ...; Wang 2020); or one of once-for-all's (``0.weight`` to ``6.weight``; Cai 2020).
        space: that genomes will come from; by default the one that the file names (ours) or was published with.

    Raises:
        RunError: if the file is damaged, in no format that is known, or made for a space with other features.
    """
    path = Path(path)
    encoding = Encoding(space) if isinstance(space, SearchSpace) else space
    if path.suffix != ".npz" and not _is_npz(path):
        return published_predictor(path, encoding)
    named = f"for {encoding.space.name} " if encoding is not None else ""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        learned_on = SearchSpace.from_dict(yaml.safe_load(str(arrays.pop("space"))), str(path))
        encoding = encoding or Encoding(learned_on)
        return _predictor(arrays, "", encoding)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(f"{path}: is no readable predictor {named}({error}); make it again") from None


def _is_npz(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as file:
        return all(name.endswith(".npy") for name in file.namelist())


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
    kind, (mean, std, log) = str(own.pop("kind")), map(float, own.pop("scale"))
    scale = Scale(mean, std, bool(log))
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
