"""Trained networks that a search has found, with what is needed to use them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apq_tune.errors import RunError
from apq_tune.inputs.checkpoints import read_state
from apq_tune.network.graph import Graph
from apq_tune.network.layer import Layer
from apq_tune.space.network_space import NetworkSpace, Normalisation
from apq_tune.supernet.batches import MEAN, STD, as_inputs
from apq_tune.supernet.interfaces import AnySubnet, HasWeights
from apq_tune.supernet.quantize import ActivationQuantizer
from apq_tune.supernet.train import is_finite

if TYPE_CHECKING:
    from typing_extensions import Self

BATCH = 256
"""Images at a time."""


class CostValue(NamedTuple):
    """Cost of a network."""

    value: float
    unit: str


class Preprocessing(NamedTuple):
    """How images become inputs of a network.

    Images are resized to ``size`` on their shorter side and cropped to the central square (images of a named data set
    are average-pooled instead), scaled from 0..255 to 0..1, and normalised by ``mean`` and ``std``. A network that
    reads smaller images resizes these itself, by antialiased bilinear interpolation; exported files take them resized.

    Attributes:
        channels: Number of channels: 1 for greyscale, 3 for RGB.
        size: Side length of the square in pixels.
        mean: Mean that is subtracted from each channel, after scaling.
        std: Standard deviation by which each channel is divided.
        classes: Class names in the order of the logits.
    """

    channels: int
    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]

    @classmethod
    def of(cls, space: NetworkSpace, classes: tuple[str, ...]) -> Preprocessing:
        """Preprocessing of the networks of a search space."""
        channels = space.input.channels
        usual = (
            Normalisation(MEAN, STD) if channels == len(MEAN) else Normalisation((0.0,) * channels, (1.0,) * channels)
        )
        mean, std = space.normalisation or usual
        return cls(channels, space.resolutions[-1], mean, std, classes)

    @property
    def normalisation(self) -> Normalisation:
        """How the values of pixels become inputs."""
        return Normalisation(self.mean, self.std)

    def __call__(self, images: NDArray[np.float32] | NDArray[np.uint8]) -> Tensor:
        """Network inputs as floats.

        Args:
            images: Square images of the right size, shape ``(n, channels, size, size)``: bytes, or floats from 0 to 1.

        Raises:
            RunError: If images have another shape.
        """
        expected = (self.channels, self.size, self.size)
        if images.shape[1:] != expected:
            raise RunError(f"images have the shape {images.shape}; give (n, {', '.join(map(str, expected))})")
        return as_inputs(torch.tensor(images), self.normalisation)


class FoundNetwork(AnySubnet):
    """Trained network of a candidate, in evaluation mode and quantized at its bits.

    It is a plain module: training can go on from it, and its parameters are weights, biases and clip values.

    Attributes:
        subnet: The module with the layers.
        name: Name of the network in its folder.
        costs: Costs that the search promised, by name.
        scores: ``loss`` (cross-entropy in nats) and ``accuracy`` (a fraction) by split, as measured after training;
            empty as soon as training goes on.
        preprocessing: How images become inputs.
        path: Folder that the network was loaded from; ``None`` if it was not loaded from one.
        bounds: Upper limits of the search on costs, by name; a baseline may break them.
    """

    def __init__(
        self,
        subnet: AnySubnet,
        *,
        name: str,
        costs: Mapping[str, CostValue],
        scores: Mapping[str, Mapping[str, float]],
        preprocessing: Preprocessing,
        path: Path | None = None,
        bounds: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(subnet.space, subnet.candidate)
        self.subnet = subnet
        self.path, self.bounds = path, dict(bounds or {})
        self.name, self.costs, self.preprocessing = name, dict(costs), preprocessing
        self.scores = {split: {kind: own[kind] for kind in ("loss", "accuracy")} for split, own in scores.items()}
        self.eval()

    def forward(self, x: Tensor, *, quantize: bool = True, bits: Any = None) -> Tensor:
        """Run the network on preprocessed images, by default at its bits."""
        return self.subnet(x, quantize=quantize, bits=bits)  # type: ignore[no-any-return]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Layers of the network in the order of the forward pass."""
        return self.subnet.layers

    @property
    def graph(self) -> Graph | None:
        """Graph of the network; ``None`` in networks of blocks."""
        return self.subnet.graph

    def constants(self, name: str) -> Mapping[str, Tensor]:
        """Parameters and statistics of a layer that is computed in floating point."""
        return self.subnet.constants(name)

    def weighted(self) -> Mapping[str, HasWeights]:
        """Layers with weights, by the name of the layer."""
        return self.subnet.weighted()

    def input_quantizers(self) -> Mapping[str, ActivationQuantizer]:
        """Quantizers of the inputs of layers with weights, by the name of the layer."""
        return self.subnet.input_quantizers()

    def stored_quantizers(self) -> Mapping[str, ActivationQuantizer]:
        """Quantizers of stored tensors, by the name of the layer that makes the tensor."""
        return self.subnet.stored_quantizers()

    def train(self, mode: bool = True) -> Self:
        """Switch to training mode, after which the measured scores no longer hold, or back."""
        if mode:
            self.scores = {}
        return super().train(mode)

    @torch.no_grad()
    def logits(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits of preprocessed images, shape ``(n, classes)``, computed in batches."""
        device = next(self.parameters()).device
        batches = torch.split(torch.tensor(images), BATCH)
        parts = [self(part.to(device)).cpu() for part in batches]
        return np.asarray(torch.cat(parts).numpy(), np.float32)


def load_weights(network: AnySubnet, path: Path) -> None:
    """Load the weights of a network from a file of ``torch.save``.

    Args:
        network: Network, whose weights are replaced.
        path: File with its state.

    Raises:
        RunError: If the file cannot be read, belongs to another network, or has weights that are not finite.
    """
    state = read_state(path)
    try:
        network.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError):
        raise RunError(
            f"{path}: holds the weights of another network than {network.candidate}; delete it and train it again"
        ) from None
    if not is_finite(network):
        raise RunError(f"{path}: has weights that are not finite; delete it and train the network again")
