"""Predictors as arrays by name, and back; each form of predictor is of one kind."""

from __future__ import annotations

from typing import Any

import numpy as np

from apq_tune.cost import CostModel, cost_models
from apq_tune.predict.design import Design
from apq_tune.predict.ensemble import BoundPredictor, Ensemble
from apq_tune.predict.gp import GaussianProcessPredictor, Kernel
from apq_tune.predict.law import LawPredictor
from apq_tune.predict.mean import MeanPredictor
from apq_tune.predict.mixer import LayerStatistics, MixerPredictor, mixer_shapes
from apq_tune.predict.mlp import MLPPredictor, mlp_shapes
from apq_tune.predict.ordinal import OrdinalFeatures, n_features
from apq_tune.predict.pairs import Predictor, Scale
from apq_tune.predict.ridge import RidgePredictor
from apq_tune.space.encoding import Featured

MIXER = "mixer"
"""Kind of predictors that read statistics of layers."""

SAME = 0.01
"""Relative difference up to which statistics are the same, as machines round otherwise."""


class OtherStatistics(ValueError):  # noqa: N818  # told to users as another error
    """A predictor reads other statistics of layers than it is given."""


def arrays_of(predictor: Predictor, prefix: str = "") -> dict[str, Any]:
    """Convert a predictor to arrays by name; those of predictors inside it have names with dots.

    Args:
        predictor: Predictor to convert.
        prefix: Prefix of all names.

    Raises:
        TypeError: If the predictor is of a class that this version does not save.
    """
    children: dict[str, Predictor] = {}
    if isinstance(predictor, MLPPredictor):
        own: dict[str, Any] = {"kind": "mlp", "scale": predictor.scale} | predictor.weights
    elif isinstance(predictor, MixerPredictor):
        own = {"kind": MIXER, "scale": predictor.scale, "centre": predictor.centre, "spread": predictor.spread}
        own |= {"layers": predictor.statistics.layers, "columns": predictor.statistics.columns}
        own |= {"probe": predictor.probe} | predictor.weights
    elif isinstance(predictor, (RidgePredictor, GaussianProcessPredictor)):
        own, children = _design_arrays(predictor.design)
        if isinstance(predictor, RidgePredictor):
            own |= {"kind": "ridge"}
        else:
            own |= {"kind": "gp", "known": predictor.known, "kernel": predictor.kernel}
        own |= {"weights": predictor.weights, "intercept": predictor.intercept}
    elif isinstance(predictor, (MeanPredictor, Ensemble)):
        children = {f"member{number}": member for number, member in enumerate(predictor.members)}
        own = {"n_members": len(children)}
        if isinstance(predictor, MeanPredictor):
            own |= {"kind": "mean", "log": predictor.log}
        else:
            own |= {"kind": "ensemble", "error": predictor.error}
    elif isinstance(predictor, BoundPredictor):
        own, children = {"kind": "bound", "kappa": predictor.kappa}, {"ensemble": predictor.ensemble}
    elif isinstance(predictor, LawPredictor):
        own = {"kind": "law", "slope": predictor.slope, "intercept": predictor.intercept, "cost": ""}
        if isinstance(predictor.metric, CostModel):
            own["cost"] = predictor.metric.name
        else:
            children = {"metric": predictor.metric}
    else:
        raise TypeError(f"cannot save a {type(predictor).__name__}; this version saves the forms that it fits")
    arrays = {prefix + name: np.asarray(value) for name, value in own.items()}
    for name, child in children.items():
        arrays |= arrays_of(child, f"{prefix}{name}.")
    return arrays


def _design_arrays(design: Design) -> tuple[dict[str, Any], dict[str, Predictor]]:
    arrays: dict[str, Any] = {"scale": design.scale, "ordinal": design.ordinal is not None}
    arrays |= {"based": design.base is not None, "correct": design.correct}
    if design.ordinal is not None:
        arrays |= {"mean": design.ordinal.mean, "factor": design.ordinal.factor}
    return arrays, {} if design.base is None else {"base": design.base}


def predictor_of(
    arrays: dict[str, Any], prefix: str, encoding: Featured, statistics: LayerStatistics | None = None
) -> Predictor:
    """Inverse of ``arrays_of``.

    Args:
        arrays: Arrays by name.
        prefix: Prefix of the names of this predictor.
        encoding: Encoding of the search space.
        statistics: Statistics of layers, for predictors that read them.

    Raises:
        OtherStatistics: If it reads statistics of layers that are not the given ones.
        ValueError: If arrays do not fit each other or the search space, or the kind is unknown.
        KeyError: If an array is missing.
    """
    own = {
        name[len(prefix) :]: a
        for name, a in arrays.items()
        if name.startswith(prefix) and "." not in name[len(prefix) :]
    }
    kind = str(own.pop("kind"))
    if kind == "mlp":
        scale = _scale(own.pop("scale"))
        expected = mlp_shapes(encoding, own["b0"].size, bits="Wq" in own)
        if (found := {name: array.shape for name, array in own.items()}) != expected:
            raise ValueError(f"holds weights of shapes {found}, the space needs {expected}")
        return MLPPredictor(encoding, own, scale)
    if kind == MIXER:
        return _mixer(own, encoding, statistics)
    if kind in ("ridge", "gp"):
        base = predictor_of(arrays, f"{prefix}base.", encoding, statistics) if own["based"] else None
        return _of_design(kind, own, _design(own, encoding, base))
    if kind == "bound":
        ensemble = predictor_of(arrays, f"{prefix}ensemble.", encoding, statistics)
        assert isinstance(ensemble, Ensemble)
        return BoundPredictor(ensemble, float(own["kappa"]))
    if kind == "law":
        metric: Predictor | CostModel
        if cost := str(own["cost"]):
            metric = {model.name: model for model in cost_models(encoding)}[cost]
        else:
            metric = predictor_of(arrays, f"{prefix}metric.", encoding, statistics)
        return LawPredictor(encoding, metric, float(own["slope"]), float(own["intercept"]))
    members = tuple(
        predictor_of(arrays, f"{prefix}member{i}.", encoding, statistics) for i in range(int(own["n_members"]))
    )
    if kind == "mean":
        return MeanPredictor(members, bool(own["log"]))
    if kind == "ensemble":
        return Ensemble(members, float(own["error"]))
    raise ValueError(f"is of a kind {kind!r} that this version does not know")


def _mixer(own: dict[str, Any], encoding: Featured, statistics: LayerStatistics | None) -> MixerPredictor:
    """Predictor of statistics of layers.

    Raises:
        OtherStatistics: If statistics are missing, or are not those that it was fitted to.
        ValueError: If arrays do not fit each other.
    """
    if statistics is None:
        raise OtherStatistics(
            "reads statistics of layers; give load_predictor those that it was fitted to, as statistics="
        )
    for name, ours in (("layers", statistics.layers), ("columns", statistics.columns)):
        if (theirs := tuple(own.pop(name).tolist())) != ours:
            raise OtherStatistics(f"was fitted to {name} {theirs}, the given statistics have {ours}")
    scale, probe, centre, spread = _scale(own.pop("scale")), own.pop("probe"), own.pop("centre"), own.pop("spread")
    blocks = sum(name.endswith("_layers_in") for name in own)
    expected = mixer_shapes(len(probe), probe.shape[1], own["bias"].size, blocks)
    if (found := {name: array.shape for name, array in own.items()}) != expected:
        raise ValueError(f"holds weights of shapes {found}, {expected} are needed")
    if not centre.shape == spread.shape == probe.shape[1:]:
        raise ValueError(f"scales {centre.shape} and {spread.shape} statistics, there are {probe.shape[1]}")
    predictor = MixerPredictor(encoding, statistics, centre, spread, own, scale)
    if probe.shape != predictor.probe.shape or not np.allclose(probe, predictor.probe, rtol=SAME):
        raise OtherStatistics("was fitted to statistics of another network or of other images; give those of the same")
    return predictor


def _scale(values: Any) -> Scale:
    mean, std, log = map(float, values)
    return Scale(mean, std, bool(log))


def _design(own: dict[str, Any], encoding: Featured, base: Predictor | None) -> Design:
    ordinal = None
    if own["ordinal"]:
        ordinal = OrdinalFeatures(encoding, own["mean"], own["factor"])
        if own["mean"].shape != (n := (n_features(encoding),)) or own["factor"].shape != n:
            raise ValueError(f"scales {len(own['mean'])} ordinal features, the space has {n[0]}")
    return Design(encoding, _scale(own["scale"]), base, ordinal, bool(own["correct"]))


def _of_design(kind: str, own: dict[str, Any], design: Design) -> Predictor:
    weights, intercept, n = own["weights"], float(own["intercept"]), design.n_features
    if kind == "ridge":
        if weights.shape != (n,):
            raise ValueError(f"{len(weights)} weights, the space has {n} features")
        return RidgePredictor(design, weights, intercept)
    if own["known"].shape != (len(weights), n):
        raise ValueError(f"knows {own['known'].shape} features, {(len(weights), n)} are needed")
    return GaussianProcessPredictor(design, own["known"], weights, Kernel(*map(float, own["kernel"])), intercept)
