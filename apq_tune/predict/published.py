"""Published accuracy predictors (APQ, once-for-all), read into ``MLPPredictor``, which has the same layers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from apq_tune.errors import RunError
from apq_tune.inputs.checkpoints import read_state, tensor
from apq_tune.predict.mlp import MLPPredictor, mlp_shapes
from apq_tune.predict.pairs import Scale
from apq_tune.space.flat_encoding import FlatEncoding
from apq_tune.space.network_encoding import NetworkEncoding
from apq_tune.space.search_space import SearchSpace

APQ_NAMES = {"quantize_fc": "q", "regressor": "3"} | {f"layers.{i}.0": str(i) for i in range(3)}
"""Layers of ``MLPPredictor`` by their names in APQ's checkpoint (Wang 2020)."""

OFA_NAMES = {str(2 * i): str(i) for i in range(4)}
"""Layers of ``MLPPredictor`` by their names in the checkpoint of once-for-all (Cai 2020)."""

OFA_RESOLUTIONS = tuple(range(112, 225, 16))
"""Input resolutions that the last features of the once-for-all predictor encode."""

OFA_SPACE = "ofa_mobilenetv3_w12"

AS_IT_IS = Scale(0.0, 1.0, log=False)


def published_predictor(path: Path, encoding: NetworkEncoding | FlatEncoding | None) -> MLPPredictor:
    """Read the accuracy predictor of APQ or of once-for-all from its checkpoint.

    Args:
        path: Path of the checkpoint; only tensors are read from it.
        encoding: Encoding of the search space; by default that of the space the predictor was published for.

    Raises:
        RunError: If the checkpoint is of neither predictor, or its shapes do not fit the space.
    """
    state = read_state(path)
    found = set(state)
    if found == _parameters(APQ_NAMES):
        encoding = encoding or NetworkEncoding(SearchSpace.load("apq_mobilenet"))
        weights = _renamed(path, state, APQ_NAMES)
    elif found == _parameters(OFA_NAMES):
        encoding = encoding or NetworkEncoding(SearchSpace.load(OFA_SPACE))
        weights = _renamed(path, state, OFA_NAMES)
    else:
        raise RunError(f"{path}: {_neither(found)}")
    if not isinstance(encoding, NetworkEncoding):
        raise RunError(f"{path}: is a predictor of other networks than {encoding.space.name} has; fit one of your own")
    if weights["b0"].ndim != 1 or weights["W0"].ndim != 2:
        raise RunError(f"{path}: its first layer has the shape {weights['W0'].shape}; give a predictor as published")
    if found == _parameters(OFA_NAMES):
        _keep_own_resolutions(path, weights, encoding)
    expected = mlp_shapes(encoding, weights["b0"].size, bits="Wq" in weights)
    for name, shape in expected.items():
        if weights[name].shape != shape:
            raise RunError(
                f"{path}: {name} is {weights[name].shape}, {encoding.space.name} needs {shape}; "
                "give the space that the predictor was trained on"
            )
    return MLPPredictor(encoding, weights, AS_IT_IS)


def _neither(found: set[str]) -> str:
    """Explain why a checkpoint is not one of the published predictors, naming unexpected and missing keys."""
    known = {"APQ's": _parameters(APQ_NAMES), "once-for-all's": _parameters(OFA_NAMES)}
    whose, wanted = max(known.items(), key=lambda entry: len(entry[1] & found))
    if len(wanted & found) >= len(wanted) / 2:
        odd = [f"also has {_some(found - wanted)}"] if found - wanted else []
        odd += [f"lacks {_some(wanted - found)}"] if wanted - found else []
        return f"is {whose} predictor but for its keys: it {' and '.join(odd)}; give it as it was published"
    return (
        "is neither APQ's predictor (layers.0.0.weight, ..., quantize_fc.weight) nor once-for-all's "
        f"(0.weight, ..., 6.weight); it has {_some(found)}"
    )


def _some(names: set[str], n: int = 4) -> str:
    return ", ".join(sorted(names)[:n]) + (", ..." if len(names) > n else "")


def _parameters(names: Mapping[str, str]) -> set[str]:
    return {f"{name}.{kind}" for name in names for kind in ("weight", "bias")}


def _renamed(path: Path, state: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    weights = {}
    for theirs, ours in names.items():
        weights[f"W{ours}"] = np.ascontiguousarray(tensor(path, state, f"{theirs}.weight").numpy().T)
        weights[f"b{ours}"] = tensor(path, state, f"{theirs}.bias").numpy()
    return weights


def _keep_own_resolutions(path: Path, weights: dict[str, Any], encoding: NetworkEncoding) -> None:
    """Drop the rows of the first layer that belong to resolutions outside of the search space."""
    if unknown := [size for size in encoding.space.resolutions if size not in OFA_RESOLUTIONS]:
        raise RunError(
            f"{path}: knows the resolutions {list(OFA_RESOLUTIONS)}; {encoding.space.name} also has {unknown}"
        )
    if len(weights["W0"]) <= len(OFA_RESOLUTIONS):
        raise RunError(f"{path}: its first layer has {len(weights['W0'])} inputs; give a predictor as published")
    blocks, theirs = np.split(weights["W0"], [-len(OFA_RESOLUTIONS)])
    own = theirs[[OFA_RESOLUTIONS.index(size) for size in encoding.space.resolutions]]
    if len(own) == 1:  # a single resolution is not a feature: its row is added to the bias
        weights["b0"], own = weights["b0"] + own[0], own[:0]
    weights["W0"] = np.concatenate([blocks, own])
