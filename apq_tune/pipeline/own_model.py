"""Runs on a model of the user: its weights in the run directory, and what is known of it before it is trained."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from apq_tune.data import Data
from apq_tune.errors import ModelError, RunError
from apq_tune.inputs.checkpoints import read_state
from apq_tune.pipeline.settings import RunSettings
from apq_tune.pipeline.stage import torch_bytes
from apq_tune.space.model_space import ModelSpace
from apq_tune.space.network_space import NetworkSpace
from apq_tune.store.directory import MODEL, KeptModel
from apq_tune.supernet.device import Device
from apq_tune.supernet.strategies import Teacher
from apq_tune.supernet.user_model import UserModel, model_weights

BEGIN_WITH_MODEL = ("supernet", "quantized_supernet")
"""Stages that depend on the weights of the model and on the settings about it."""

ONLY_MODELS = ("distillation", "importance")
"""Settings about the model."""

JUDGED = 1_000
"""Maximum number of search images on which the model is judged."""


class JudgedModel(NamedTuple):
    """What is known of a model before it is trained further.

    Attributes:
        trained: Whether it is better than always naming the most frequent class.
        line: Line of text about it.
    """

    trained: bool
    line: str


def user_model(
    space: NetworkSpace, weights: Mapping[str, Tensor] | None, path: Path, device: Device
) -> UserModel | None:
    """Model of a space; ``None`` if the space is not of a model.

    Args:
        space: Search space.
        weights: State dict of the model; ``None`` for the one that the run directory keeps.
        path: Run directory.
        device: Device on which it runs.

    Raises:
        ModelError: If there are no weights, or they do not fit.
    """
    if not isinstance(space, ModelSpace):
        if weights is not None:
            raise ModelError(f"{space.name}: is not the space of a model, and takes no weights; leave them out")
        return None
    if weights is None:
        if not (path / MODEL).exists():
            raise ModelError(
                f"{space.name}: is the space of a model without weights; give --weights FILE, in "
                "Python weights=model.state_dict()"
            )
        return UserModel(space, model_weights(space, read_state(path / MODEL), str(path / MODEL)), device)
    return UserModel(space, model_weights(space, weights), device)


def check_of_model(model: UserModel | None, name: str, given: Collection[str]) -> None:
    """Refuse settings about a model in runs without one.

    Args:
        model: Model of the run.
        name: Name of its space.
        given: Names of the settings that the user gave.

    Raises:
        RunError: If there is such a setting.
    """
    if model is None and (wrong := [own for own in ONLY_MODELS if own in given]):
        raise RunError(f"setting {wrong[0]}: is for models of your own (--model), which {name} is not; leave it out")


def judge(model: UserModel, data: Data) -> JudgedModel:
    """Score a model on images of the search split, as it is."""
    split = data.search.first(min(JUDGED, len(data.search.labels)))
    own = model.score(split)
    line = f"model: {own.accuracy:.1%} of {len(split.labels)} search images are right as it is, in full precision"
    if model.is_trained(own, split):
        return JudgedModel(True, line)
    return JudgedModel(
        False,
        f"{line}: no better than chance, so it is trained from the beginning; if it is trained, its pixels were "
        "normalised otherwise (--mean, --std), or its classes have another order",
    )


def teacher_of(model: UserModel | None, settings: RunSettings) -> Teacher | None:
    """Teacher of the supernet; ``None`` if there is no model, or the settings ask for none."""
    return None if model is None or not settings.distillation else Teacher(model.logits, settings.distillation)


def kept_model(model: UserModel) -> KeptModel:
    """What a run directory keeps of a model."""
    return KeptModel(model.space.graph.digest, model.digest, torch_bytes(model.weights))


def model_basis(weights: str, settings: RunSettings) -> dict[str, Any]:
    """What the training of a supernet depends on if it begins with a model.

    Args:
        weights: Digest of the weights of the model.
        settings: Settings of the run.
    """
    return {"weights": weights, **settings.model_dump(mode="json", include=set(ONLY_MODELS))}
