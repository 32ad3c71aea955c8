"""Forward pass of supernets and stand-alone networks.

The layers, whose weights come from different sources, are passed as functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from apq_tune.space.search_space import SearchSpace
from apq_tune.supernet.elastic import Conv
from apq_tune.supernet.quantize import FUNCTIONS, ActivationQuantizer, again


class FixedConvs(NamedTuple):
    """Layers that are not searched, including their batch norm; the first block and features are optional."""

    stem: Conv
    first_depthwise: Conv | None
    first_project: Conv | None
    head: Conv
    features: Conv | None
    classifier: Conv


class FixedQuantizers(nn.Module):
    """Activation quantizers of the layers that are not searched, all at ``fixed_bits``."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.bits, self.pooled_activation = space.fixed_bits, space.head.activation
        fixed = (self.bits,)
        self.stem = ActivationQuantizer(fixed, None)
        self.first = ActivationQuantizer(fixed, space.stem.activation)
        if space.first is not None:
            self.first_project = ActivationQuantizer(fixed, space.first.activation)
        self.head = ActivationQuantizer(fixed, None)
        pooled = again(space.head.activation)
        if space.head.features is not None:
            self.features = ActivationQuantizer(fixed, pooled)
        self.classifier = ActivationQuantizer(fixed, pooled if space.head.features is None else space.head.activation)


def forward_pass(
    x: Tensor,
    convs: FixedConvs,
    blocks: Callable[[Tensor], Tensor],
    fixed: FixedQuantizers,
    resolution: int | None,
    fixed_bits: int | None,
) -> Tensor:
    """Run a network.

    Args:
        x: Images, shape ``(n, channels, size, size)``; they are resized to ``resolution`` if it is given.
        convs: Layers that are not searched.
        blocks: Function that applies the searched blocks.
        fixed: Quantizers of the layers that are not searched.
        resolution: Image size of the network.
        fixed_bits: Bits of layers that are not searched; ``None`` for full precision.

    Returns:
        Logits, shape ``(n, classes)``.
    """
    if resolution is not None and x.shape[-1] != resolution:
        x = functional.interpolate(x, size=(resolution, resolution), mode="bilinear", antialias=True)
    x = convs.stem(fixed.stem(x, fixed_bits), fixed_bits)
    # After the stem, since a one-channel input has no memory format. Training is 1.3 times faster on CPUs.
    x = fixed.first(x, fixed_bits).contiguous(memory_format=torch.channels_last)
    if convs.first_depthwise is not None and convs.first_project is not None:
        y = convs.first_depthwise(x, fixed_bits)
        y = convs.first_project(fixed.first_project(y, fixed_bits), fixed_bits)
        x = x + y if x.shape[1] == y.shape[1] else y
    x = blocks(x)
    x = convs.head(fixed.head(x, fixed_bits), fixed_bits)
    x = FUNCTIONS[fixed.pooled_activation](x).mean(dim=(2, 3))
    if convs.features is not None:
        x = convs.features(fixed.features(x, fixed_bits), fixed_bits)
    return convs.classifier(fixed.classifier(x, fixed_bits), fixed_bits)
