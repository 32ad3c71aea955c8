"""Trained models at any bits without training: quantizers calibrated and batch norm corrected on a few images (PTQ)."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from apq_tune.errors import ModelError
from apq_tune.space.model_candidate import ModelCandidate
from apq_tune.space.model_space import ModelSpace
from apq_tune.supernet.defaults import plain_torch
from apq_tune.supernet.evaluate import calibrate_quantizers
from apq_tune.supernet.graph_statistics import Moments, moments_of_model, shifted_statistics
from apq_tune.supernet.graph_subnet import GraphSubnet
from apq_tune.supernet.graph_supernet import GraphSupernet
from apq_tune.supernet.user_model import model_weights

CALIBRATION_BATCH = 8
"""Images that quantizers see at a time."""


@dataclass(frozen=True)
class CalibratedModel:
    """Trained model, from which networks at any bits of its space are made without training.

    Attributes:
        supernet: Weights, steps and clip values of the model.
        images: Images that calibrate, shape ``(n, channels, h, w)``.
    """

    supernet: GraphSupernet
    images: Tensor

    @classmethod
    @plain_torch()
    def of(cls, space: ModelSpace, weights: Mapping[str, Tensor], images: Tensor) -> CalibratedModel:
        """Calibrate a model.

        Args:
            space: Space of the model.
            weights: State dict of the model.
            images: Some tens of images as the model reads them, shape ``(n, channels, h, w)``; no labels are needed.

        Raises:
            ModelError: If weights or images do not fit the model.
        """
        expected = space.graph.image
        if images.ndim != 4 or tuple(images.shape[1:]) != expected or len(images) < 2:
            raise ModelError(
                f"images: have the shape {tuple(images.shape)}; give two or more of {expected}, as {space.name} reads "
                "them"
            )
        if not bool(torch.isfinite(images).all()):
            raise ModelError("images: have values that are not finite numbers; give images as the model reads them")
        supernet = GraphSupernet(space)
        supernet.load_model(model_weights(space, weights))
        parts = torch.split(images.float(), CALIBRATION_BATCH)
        calibrate_quantizers(supernet, [functools.partial(supernet.logits_of_model, part) for part in parts])
        return cls(supernet.eval(), images.float())

    @property
    def space(self) -> ModelSpace:
        """Space of the model."""
        return self.supernet.space

    @functools.cached_property
    def moments(self) -> Moments:
        """Moments of the inputs of batch norms in full precision."""
        return moments_of_model(self.supernet, self.images)

    @plain_torch()
    def subnet(self, candidate: ModelCandidate) -> GraphSubnet:
        """Network of a candidate, its batch norm corrected for its widths and bits, and folded."""
        statistics = shifted_statistics(self.supernet, self.images, candidate, of_model=self.moments)
        return self.supernet.extract(candidate, statistics).eval()

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Logits of the model itself, in full precision."""
        return self.supernet.logits_of_model(images)
