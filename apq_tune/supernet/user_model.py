"""The model that a user brings: its weights, which a supernet starts from, and the teacher of that supernet."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from apq_tune.data import AnySplit
from apq_tune.errors import ModelError
from apq_tune.space.model_space import ModelSpace
from apq_tune.supernet.defaults import plain_torch
from apq_tune.supernet.device import Device
from apq_tune.supernet.evaluate import Score, score
from apq_tune.supernet.graph_supernet import GraphSupernet

SURE = 5.0
"""Standard deviations above chance from which a model counts as trained."""


def model_weights(space: ModelSpace, state: Mapping[str, Tensor], source: str = "weights") -> dict[str, Tensor]:
    """Tensors that a space needs of the state of a user's model, as dense float32 tensors on the CPU.

    Args:
        space: Space of the model.
        state: State dict of the model; entries that the network does not use are ignored.
        source: Where it is from, for messages.

    Raises:
        ModelError: If a tensor is missing, of another shape, not of floats, or not finite.
    """
    found = {}
    for name, shape in space.graph.shapes.items():
        value = state.get(name)
        if not isinstance(value, Tensor):
            raise ModelError(
                f"{source}: has no tensor {name!r}, which {space.name} needs; give the weights of this model"
            )
        if tuple(value.shape) != tuple(shape):
            raise ModelError(
                f"{source}: {name} has the shape {tuple(value.shape)}, {space.name} needs {tuple(shape)}; give the "
                "weights of this model"
            )
        if not value.is_floating_point():
            raise ModelError(f"{source}: {name} is of {str(value.dtype).removeprefix('torch.')}; give floats")
        value = value.detach().to("cpu", torch.float32, copy=True).contiguous()
        if not bool(torch.isfinite(value).all()):
            raise ModelError(f"{source}: {name} has values that are not finite; train the model again")
        found[name] = value
    return found


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, shapes and values, in hexadecimal."""
    whole = hashlib.sha256()
    for name in sorted(weights):
        value = np.ascontiguousarray(weights[name].numpy())
        whole.update(f"{name} {value.shape} {value.dtype.str}\n".encode())
        whole.update(value.tobytes())
    return whole.hexdigest()


@dataclass(frozen=True)
class UserModel:
    """The user's model as it is, in full precision.

    Attributes:
        space: Space of the model.
        weights: Its parameters and batch norm statistics, from ``model_weights``.
        device: Device on which it runs.
    """

    space: ModelSpace
    weights: Mapping[str, Tensor]
    device: Device = "cpu"

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the weights, in hexadecimal."""
        return weights_digest(self.weights)

    @functools.cached_property
    @plain_torch()
    def network(self) -> GraphSupernet:
        """Network that is never trained."""
        network = GraphSupernet(self.space)
        network.load_weights(self.weights)
        return network.requires_grad_(False).eval().to(self.device)

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        """Logits of images, shape ``(n, classes)``."""
        return self.network.logits_of_model(x)

    @plain_torch()
    def score(self, split: AnySplit) -> Score:
        """Loss and accuracy on the images of a split."""
        return score(self.logits, split, self.device)

    def is_trained(self, own: Score, split: AnySplit) -> bool:
        """Whether a score on a split is better than that of always naming its most frequent class.

        Args:
            own: Score of the model.
            split: Images that it is of.
        """
        counts = np.bincount(split.labels)
        share, n = counts.max() / counts.sum(), counts.sum()
        return bool(own.accuracy > share + SURE * math.sqrt(share * (1 - share) / n))
