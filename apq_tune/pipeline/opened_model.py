"""Models of users, opened as search spaces: from where they come, on which images, and what is chosen in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from apq_tune.data.choice import data_shape
from apq_tune.data.named import Shape
from apq_tune.errors import DocumentError, ModelError, SpaceError
from apq_tune.inputs.documents import load_yaml
from apq_tune.space.model_choices import ModelOptions
from apq_tune.space.model_space import ModelSpace, options_of
from apq_tune.supernet.defaults import plain_torch
from apq_tune.supernet.user_model import weights_digest
from apq_tune.tracing.model_files import load_model, load_weights
from apq_tune.tracing.trace import weights_of


class OpenedModel(NamedTuple):
    """Model as a search space, and its weights.

    Attributes:
        space: Search space, of the images that were named.
        weights: Parameters and buffers of the model by name.
        line: Line of text about it.
    """

    space: ModelSpace
    weights: dict[str, Tensor]
    line: str

    @property
    def digest(self) -> str:
        """SHA-256 of the weights."""
        return weights_digest(self.weights)


@plain_torch()
def open_model(
    source: str,
    data: str,
    *,
    weights: Path | None = None,
    shape: Sequence[int] | None = None,
    options: Mapping[str, Any] | None = None,
) -> OpenedModel:
    """Load a model of the user, and trace it with images of the shape of some data.

    Args:
        source: ``"package.module:build"``, ``"file.py:build"`` or ``"program.pt2"``.
        data: Name of a data set, or folder of images.
        weights: File with the state dict of the model; ``None`` for the weights that it comes with.
        shape: Channels, height and width of its images; by default those of the data.
        options: Fields of ``ModelOptions``.

    Raises:
        ModelError: If the model cannot be loaded or traced, or the weights do not fit.
        SpaceError: If an option does not fit the model, or the model does not fit the data.
        RunError: If a file or the data cannot be read.
    """
    torch.manual_seed(0)  # of models that are trained from the beginning
    model = load_model(source).float().cpu()
    if weights is not None:
        load_weights(model, weights)
    name, images = data_shape(data)
    channels, height, width = shape or (images.channels, images.size, images.size)
    if height != width:
        raise ModelError(
            f"--input {channels},{height},{width}: runs read square images; give the same height and width"
        )
    example = torch.randn((2, channels, height, width), generator=torch.Generator().manual_seed(0))
    space = ModelSpace.from_module(model, example, name=_name(source), **(options or {}))
    space = fitted(space, name, images)
    kinds = f"{len(space.graph.weighted)} layers, {len(space.blocks)} blocks that can be left out"
    line = (
        f"space: {space.name} with images of {channels}x{height}x{width}, {kinds}, 10^{space.log10_size():.0f} networks"
    )
    return OpenedModel(space, weights_of(model, space.graph), line)


def fitted(space: ModelSpace, data: str, images: Shape) -> ModelSpace:
    """Space for the images of some data; files are read in colour or in grey, as the model wants.

    Raises:
        SpaceError: If the model has other classes than the data, or other channels than it can have.
    """
    own = space.input.channels
    channels = own if Path(data).is_absolute() and own in (1, 3) else images.channels
    return space.fitted(data, channels, images.classes)


def read_options(path: Path) -> dict[str, Any]:
    """Options of a model in a YAML file.

    Raises:
        SpaceError: If it cannot be read, or has a key that is none of ``ModelOptions`` or an invalid value.
    """
    try:
        found = load_yaml(path.read_text("utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise SpaceError(f"{path}: cannot be read ({error}); give a YAML file") from None
    except DocumentError as error:
        raise SpaceError(str(error)) from None
    known = [name for name in ModelOptions.model_fields if name != "data"]
    if found is None:
        raise SpaceError(f"{path}: is empty; its keys are {', '.join(known)}")
    if not isinstance(found, dict):
        raise SpaceError(f"{path}: holds {type(found).__name__}, not a mapping; its keys are {', '.join(known)}")
    if unknown := [key for key in found if key not in known]:
        raise SpaceError(f"{path}: there is no {unknown[0]!r}; its keys are {', '.join(known)}")
    options_of(found, str(path))  # so that a message names the file
    return found


def _name(source: str) -> str:
    """Name of the space of a model: that of its factory or its file."""
    end = source.rpartition(":")[2] if not source.endswith(".pt2") else Path(source).stem
    name = "".join(c if c.isalnum() or c in "_-" else "_" for c in end.partition("(")[0])
    return name.strip("_-") or "model"
