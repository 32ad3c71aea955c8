"""The forward pass that the supernet and a stand-alone network share.

They differ in where a convolution takes its weights from, and hand them over as functions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from apq_tune.network.layer import Activation
from apq_tune.space.mbconv import Block
from apq_tune.space.search_space import SearchSpace
from apq_tune.space.skeleton import Slot
from apq_tune.supernet.quantize import FUNCTIONS, ActivationQuantizer

Conv = Callable[[Tensor, int | None], Tensor]
"""From input and weight bits (``None``: full precision) to output."""


class Convs(NamedTuple):
    """The convolutions of one block, batch norm included."""

    expand: Conv
    depthwise: Conv
    project: Conv
    squeeze: Conv | None = None
    excite: Conv | None = None


class FixedConvs(NamedTuple):
    """The layers that are not searched, batch norm included; a space may be without first block and features."""

    stem: Conv
    first_depthwise: Conv | None
    first_project: Conv | None
    head: Conv
    features: Conv | None
    classifier: Conv


def _again(activation: Activation) -> Activation | None:
    """What a quantizer applies to values that had this activation already: nothing new."""
    return None if activation == "h_swish" else activation


class BlockQuantizers(nn.Module):
    """Where one block computes and quantizes activations."""

    def __init__(self, space: SearchSpace, slot: Slot) -> None:
        super().__init__()
        fixed, activation = (space.fixed_bits,), slot.activation
        self.stream = ActivationQuantizer(fixed, None)
        self.expand = ActivationQuantizer(space.choices.pw_a_bits, None)
        self.depthwise = ActivationQuantizer(space.choices.dw_a_bits, activation)
        self.project = ActivationQuantizer(
            space.choices.pw_a_bits, _again(activation) if slot.squeeze_excite else activation
        )
        if slot.squeeze_excite:
            self.squeeze = ActivationQuantizer(fixed, _again(activation))
            self.excite = ActivationQuantizer(fixed, "relu")


class FixedQuantizers(nn.Module):
    """Where the parts that are not searched compute and quantize activations, all at ``fixed_bits``."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self.bits, self.pooled_activation = space.fixed_bits, space.head.activation
        fixed = (self.bits,)
        self.stem = ActivationQuantizer(fixed, None)
        self.first = ActivationQuantizer(fixed, space.stem.activation)
        if space.first is not None:
            self.first_project = ActivationQuantizer(fixed, space.first.activation)
        self.head = ActivationQuantizer(fixed, None)
        pooled = _again(space.head.activation)
        if space.head.features is not None:
            self.features = ActivationQuantizer(fixed, pooled)
        self.classifier = ActivationQuantizer(fixed, pooled if space.head.features is None else space.head.activation)


def forward_pass(
    x: Tensor,
    convs: FixedConvs,
    blocks: Iterable[tuple[Convs, BlockQuantizers, Block, Slot]],
    fixed: FixedQuantizers,
    resolution: int | None,
    quantize: bool,
) -> Tensor:
    """``(n, channels, size, size) -> (n, classes)``; images are resized to ``resolution`` if one is given."""
    fixed_bits = fixed.bits if quantize else None
    if resolution is not None and x.shape[-1] != resolution:
        x = functional.interpolate(x, size=(resolution, resolution), mode="bilinear", antialias=True)
    x = convs.stem(fixed.stem(x, fixed_bits), fixed_bits)
    # After the stem: a one-channel input has no memory format to keep. Training is 1.3 times faster on CPU.
    x = fixed.first(x, fixed_bits).contiguous(memory_format=torch.channels_last)
    if convs.first_depthwise is not None and convs.first_project is not None:
        y = convs.first_depthwise(x, fixed_bits)
        y = convs.first_project(fixed.first_project(y, fixed_bits), fixed_bits)
        x = x + y if x.shape[1] == y.shape[1] else y
    x = _run_blocks(x, blocks, fixed_bits, quantize)
    x = convs.head(fixed.head(x, fixed_bits), fixed_bits)
    x = FUNCTIONS[fixed.pooled_activation](x).mean(dim=(2, 3))
    if convs.features is not None:
        x = convs.features(fixed.features(x, fixed_bits), fixed_bits)
    return convs.classifier(fixed.classifier(x, fixed_bits), fixed_bits)


def _run_blocks(
    x: Tensor,
    blocks: Iterable[tuple[Convs, BlockQuantizers, Block, Slot]],
    fixed_bits: int | None,
    quantize: bool,
) -> Tensor:
    for convs, quantizers, block, slot in blocks:
        pw_w, pw_a, dw_w, dw_a = block[2:] if quantize else (None,) * 4
        stream = quantizers.stream(x, fixed_bits)
        x = stream if quantize and pw_a == fixed_bits else quantizers.expand(stream, pw_a)
        x = convs.expand(x, pw_w)
        x = convs.depthwise(quantizers.depthwise(x, dw_a), dw_w)
        if convs.squeeze is not None and convs.excite is not None:  # MobileNetV3's gate (Howard 2019)
            x = FUNCTIONS[slot.activation](x)
            pooled = quantizers.squeeze(x.mean(dim=(2, 3)), fixed_bits)
            hidden = quantizers.excite(convs.squeeze(pooled, fixed_bits), fixed_bits)
            x = x * functional.hardsigmoid(convs.excite(hidden, fixed_bits))[:, :, None, None]
        x = convs.project(quantizers.project(x, pw_a), pw_w)
        x = stream + x if slot.has_shortcut else x
    return x
