"""Forward pass of supernets and stand-alone networks.

The layers, whose weights come from different sources, are passed as functions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from apq_tune.space.search_space import SearchSpace
from apq_tune.supernet.batches import resized
from apq_tune.supernet.elastic import Conv
from apq_tune.supernet.quantize import ActivationQuantizer, again


class FixedConvs(NamedTuple):
    """Layers that are not searched, including their batch norm; the first block and features are optional."""

    stem: Conv
    first_depthwise: Conv | None
    first_project: Conv | None
    head: Conv
    features: Conv | None
    classifier: Conv


class FixedQuantizers(nn.Module):
    """Activation quantizers of the layers that are not searched, all at ``fixed_bits``.

    Each is named after the layer that reads what it quantizes, or after the layer whose output it stores.
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.bits = space.fixed_bits
        fixed = (self.bits,)
        self.stem = ActivationQuantizer(fixed, None)
        if space.first is not None:
            self.stem_output = ActivationQuantizer(fixed, space.stem.activation)
            self.first_project = ActivationQuantizer(fixed, space.first.activation)
            if space.first.channels == space.stem.channels:
                self.first_project_output = ActivationQuantizer(fixed, None)
        self.head = ActivationQuantizer(fixed, None)
        self.head_output = ActivationQuantizer(fixed, space.head.activation)
        pooled = again(space.head.activation)
        if space.head.features is not None:
            self.features = ActivationQuantizer(fixed, pooled)
        self.classifier = ActivationQuantizer(fixed, pooled if space.head.features is None else space.head.activation)

    def run(self, x: Tensor, conv: Conv, quantizer: ActivationQuantizer, fixed_bits: int | None) -> Tensor:
        """Quantize the input of a layer and run it; ``None`` for full precision."""
        if fixed_bits is None:
            return conv(quantizer(x, None), None)
        return self.on_stored(quantizer(x, fixed_bits), conv, quantizer, fixed_bits)

    @staticmethod
    def on_stored(x: Tensor, conv: Conv, quantizer: ActivationQuantizer, fixed_bits: int | None) -> Tensor:
        """Run a layer on an input that its quantizer has quantized."""
        step = None if fixed_bits is None else partial(quantizer.step, fixed_bits)
        return conv(x, fixed_bits, input_step=step)


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
    if resolution is not None:
        x = resized(x, resolution, resolution)
    x = fixed.run(x, convs.stem, fixed.stem, fixed_bits)
    # After the stem, since a one-channel input has no memory format. Training is 1.3 times faster on CPUs.
    x = x.contiguous(memory_format=torch.channels_last)
    if convs.first_depthwise is not None and convs.first_project is not None:
        x = fixed.stem_output(x, fixed_bits)
        y = fixed.on_stored(x, convs.first_depthwise, fixed.stem_output, fixed_bits)
        y = fixed.run(y, convs.first_project, fixed.first_project, fixed_bits)
        x = x + fixed.first_project_output(y, fixed_bits) if x.shape[1] == y.shape[1] else y
    x = blocks(x)
    x = fixed.run(x, convs.head, fixed.head, fixed_bits)
    x = fixed.head_output(x, fixed_bits).mean(dim=(2, 3))
    if convs.features is not None:
        x = fixed.run(x, convs.features, fixed.features, fixed_bits)
    return fixed.run(x, convs.classifier, fixed.classifier, fixed_bits)
