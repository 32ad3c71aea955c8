"""What supernets and stand-alone networks of all kinds of search spaces have in common."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from apq_tune.network.graph import Graph
from apq_tune.network.layer import Layer
from apq_tune.supernet.elastic import Statistics
from apq_tune.supernet.quantize import ActivationQuantizer
from apq_tune.supernet.widths import SearchedWidth


class HasWeights(Protocol):
    """Convolution or linear layer, batch norm folded."""

    @property
    def weight(self) -> Tensor:
        """Weight, shape ``(out, in / groups, h, w)`` or ``(out, in)``."""
        ...

    @property
    def bias(self) -> Tensor | None:
        """Bias, shape ``(out,)``."""
        ...


class AnySubnet(nn.Module, abc.ABC):
    """Stand-alone network of a candidate, with batch norm folded as in integer inference (Jacob 2018).

    Attributes:
        space: Search space of the candidate.
        candidate: Architecture, and the bits that ``forward`` applies by default.
    """

    def __init__(self, space: Any, candidate: Any) -> None:
        super().__init__()
        self.space, self.candidate = space, candidate

    @abc.abstractmethod
    def forward(self, x: Tensor, *, quantize: bool = True, bits: Any = None) -> Tensor:
        """Run the network.

        Args:
            x: Images, shape ``(n, channels, size, size)``.
            quantize: Whether to quantize weights and activations.
            bits: Candidate of the same architecture whose bits are applied; by default its own.

        Returns:
            Logits, shape ``(n, classes)``.
        """

    def on(self, x: Tensor) -> Callable[[Any], Tensor]:
        """The network on the same images at different bits, as a function from a candidate to logits.

        Args:
            x: Images, shape ``(n, channels, size, size)``.
        """
        return lambda bits: self(x, bits=bits)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Layers of the network in the order of the forward pass, at the bits of its candidate."""
        return self.space.network.at(self.space.values_of(self.candidate))  # type: ignore[no-any-return]

    @property
    def graph(self) -> Graph | None:
        """Graph of the network; ``None`` in networks of blocks."""
        return None

    def constants(self, name: str) -> Mapping[str, Tensor]:  # noqa: ARG002
        """Parameters and statistics of a layer that is computed in floating point; networks of blocks have none."""
        return {}

    @abc.abstractmethod
    def weighted(self) -> Mapping[str, HasWeights]:
        """Layers with weights, by the name of the layer."""

    @abc.abstractmethod
    def input_quantizers(self) -> Mapping[str, ActivationQuantizer]:
        """Quantizers of the inputs of layers with weights, by the name of the layer.

        Where the input has its own quantizer, that of the layer is used only if its bits differ, or is missing.
        """

    @abc.abstractmethod
    def stored_quantizers(self) -> Mapping[str, ActivationQuantizer]:
        """Quantizers of stored tensors, by the name of the layer that makes the tensor."""


class AnySupernet(nn.Module, abc.ABC):
    """Weight-shared network that contains all networks of a search space.

    Attributes:
        space: Search space.
    """

    space: Any

    @abc.abstractmethod
    def forward(
        self, x: Tensor, candidate: Any, *, quantize: bool = False, statistics: Statistics | None = None
    ) -> Tensor:
        """Run one candidate.

        Args:
            x: Images, shape ``(n, channels, size, size)``; they are resized to the resolution of the candidate.
            candidate: Architecture and bits.
            quantize: Whether to quantize weights and activations to the bits of the candidate.
            statistics: Batch norm statistics from ``recalibrate``; ``None`` for those of this batch, as in training.

        Returns:
            Logits, shape ``(n, classes)``.
        """

    @abc.abstractmethod
    def recalibrate(self, x: Tensor, candidate: Any, *, quantize: bool = False) -> Statistics:
        """Batch norm statistics of one candidate on the images ``x``, which its evaluation requires."""

    @abc.abstractmethod
    def sort_channels(self) -> None:
        """Make the most important channels those that small networks keep; the largest network stays as it is."""

    @abc.abstractmethod
    def searched_widths(self) -> list[SearchedWidth]:
        """Channels that can be chosen, and the parameters that scale them."""

    @abc.abstractmethod
    def rank_widths(self, importance: Sequence[Tensor]) -> None:
        """Make the most important units those that small networks keep; the largest network stays as it is.

        Args:
            importance: Importance of the units of each searched width, shape ``(n_units,)``.
        """

    @abc.abstractmethod
    def extract(self, candidate: Any, statistics: Statistics) -> AnySubnet:
        """Stand-alone network with folded batch norm, whose output equals that of ``forward``.

        Args:
            candidate: Architecture and bits.
            statistics: Batch norm statistics from ``recalibrate``.
        """
