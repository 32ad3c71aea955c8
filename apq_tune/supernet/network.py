"""The weight-shared network of a search space, and the stand-alone network of one candidate.

Both run the same forward pass, ``_forward``; they differ in where a convolution takes its weights from. Nothing is ever
"active": the candidate is an argument, and so are the batch norm statistics and whether to quantize.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from apq_tune.candidate import Block, Candidate
from apq_tune.geometry import squeezed_channels
from apq_tune.ops import active_slots
from apq_tune.space import Activation, SearchSpace, Slot
from apq_tune.supernet.quantize import FUNCTIONS, ActivationQuantizer, quantize_weight

EPS = 1e-3  # of batch norm (Cai 2020, once-for-all)

Gate = Callable[[Tensor], Tensor]
"""Squeeze-excite: from activations to their factors."""

Conv = Callable[[Tensor, int | None], Tensor]
"""From input and weight bits (``None``: full precision) to output."""

Statistics = list[tuple[Tensor, Tensor]]
"""Mean and variance of every batch norm of one candidate, in the order of the forward pass."""


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


def _forward(
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
        x = stream if pw_a == fixed_bits else quantizers.expand(stream, pw_a)
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


class ElasticConv(nn.Module):
    """A convolution that yields the weights of any smaller one: first channels, centre of the kernel.

    A smaller depthwise kernel is the centre of the next larger one, multiplied by a learned matrix (Cai 2020).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_sizes: Sequence[int] = (1,), *, depthwise: bool
    ) -> None:
        super().__init__()
        self.kernel_sizes, self.depthwise = tuple(kernel_sizes), depthwise
        largest = self.kernel_sizes[-1]
        self.weight = nn.Parameter(torch.empty(out_channels, 1 if depthwise else in_channels, largest, largest))
        nn.init.kaiming_normal_(self.weight, mode="fan_in" if depthwise else "fan_out", nonlinearity="relu")
        self.gamma = nn.Parameter(torch.ones(out_channels))
        self.beta = nn.Parameter(torch.zeros(out_channels))
        self.transforms = nn.ParameterList([torch.eye(size * size) for size in self.kernel_sizes[:-1]])

    def weights(self, in_channels: int, out_channels: int, kernel_size: int) -> Tensor:
        """``(out_channels, in_channels or 1, kernel_size, kernel_size)``."""
        weight = self.weight[:out_channels] if self.depthwise else self.weight[:out_channels, :in_channels]
        index = len(self.kernel_sizes) - 1
        while self.kernel_sizes[index] > kernel_size:
            margin = (self.kernel_sizes[index] - self.kernel_sizes[index - 1]) // 2
            index -= 1
            centre = weight[:, :, margin:-margin, margin:-margin]
            weight = (centre.flatten(2) @ self.transforms[index].T).reshape(centre.shape)
        return weight


class ElasticLinear(nn.Linear):
    """A linear layer that also works with its first inputs and outputs alone."""

    def sliced(self, in_features: int, out_features: int) -> Conv:
        """The layer with fewer inputs and outputs."""

        def run(x: Tensor, w_bits: int | None) -> Tensor:
            weight = quantize_weight(self.weight[:out_features, :in_features], w_bits)
            return functional.linear(x, weight, self.bias[:out_features])

        return run


class _Norms:
    """Batch norm whose statistics come from the batch, are recorded from it, or are given."""

    def __init__(self, given: Statistics | None, recorded: Statistics | None) -> None:
        self._given: Iterator[tuple[Tensor, Tensor]] | None = iter(given) if given is not None else None
        self._recorded = recorded

    def __call__(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        if self._given is not None:
            mean, variance = next(self._given)
            return functional.batch_norm(x, mean, variance, gamma, beta, False, 0.0, EPS)
        if self._recorded is None:
            return functional.batch_norm(x, None, None, gamma, beta, True, 0.0, EPS)
        mean, variance = torch.zeros_like(beta), torch.ones_like(beta)
        y = functional.batch_norm(x, mean, variance, gamma, beta, True, 1.0, EPS)  # momentum 1: keep this batch's
        self._recorded.append((mean, variance))
        return y


class ElasticBlock(nn.Module):
    """An inverted bottleneck at its widest and its largest kernel."""

    def __init__(self, space: SearchSpace, slot: Slot) -> None:
        super().__init__()
        widest = slot.channels[-1]
        self.expand = ElasticConv(slot.in_channels, widest, depthwise=False)
        self.depthwise = ElasticConv(widest, widest, slot.kernel_sizes, depthwise=True)
        self.project = ElasticConv(widest, slot.out_channels, depthwise=False)
        if slot.squeeze_excite:
            self.squeeze = ElasticLinear(widest, squeezed_channels(widest))
            self.excite = ElasticLinear(squeezed_channels(widest), widest)
        self.quantizers = BlockQuantizers(space, slot)

    def convs(self, c: int) -> tuple[Conv | None, Conv | None]:
        """Squeeze and excite at ``c`` middle channels."""
        if not hasattr(self, "squeeze"):
            return None, None
        squeezed = squeezed_channels(c)
        return self.squeeze.sliced(c, squeezed), self.excite.sliced(squeezed, c)

    @torch.no_grad()
    def sort_channels(self) -> None:
        """Reorder the middle channels by the L1 norm of the weights that read them, most important first (Cai 2020)."""
        order = self.project.weight.abs().sum(dim=(0, 2, 3)).argsort(descending=True)
        self.project.weight.copy_(self.project.weight[:, order])
        for conv in (self.expand, self.depthwise):
            for parameter in (conv.weight, conv.gamma, conv.beta):
                parameter.copy_(parameter[order])
        if hasattr(self, "squeeze"):
            self.squeeze.weight.copy_(self.squeeze.weight[:, order])
            self.excite.weight.copy_(self.excite.weight[order])
            self.excite.bias.copy_(self.excite.bias[order])


class Supernet(nn.Module):
    """All networks of a search space in one set of weights.

    Attributes:
        space: the search space.
    """

    def __init__(self, space: SearchSpace) -> None:
        """Initialise at random, from torch's global generator (seed it with ``torch.manual_seed``)."""
        super().__init__()
        self.space = space
        stem, last = space.stem, space.slots[-1].out_channels
        self.stem = ElasticConv(space.input.channels, stem.channels, (stem.kernel_size,), depthwise=False)
        if space.first is not None:
            kernel_sizes = (space.first.kernel_size,)
            self.first_depthwise = ElasticConv(stem.channels, stem.channels, kernel_sizes, depthwise=True)
            self.first_project = ElasticConv(stem.channels, space.first.channels, depthwise=False)
        self.blocks = nn.ModuleList([ElasticBlock(space, slot) for slot in space.slots])
        self.head = ElasticConv(last, space.head.channels, depthwise=False)
        if space.head.features is not None:
            self.features = ElasticLinear(space.head.channels, space.head.features)
        self.classifier = ElasticLinear(space.head.features or space.head.channels, space.classes)
        self.quantizers = FixedQuantizers(space)

    def forward(
        self, x: Tensor, candidate: Candidate, *, quantize: bool = False, statistics: Statistics | None = None
    ) -> Tensor:
        """Run one candidate.

        Args:
            x: ``(n, channels, size, size)`` images; resized if the candidate has another resolution.
            candidate: which network, and at which bits.
            quantize: whether to apply the candidate's bits.
            statistics: of batch norm, from ``recalibrate``; ``None`` takes them from this batch (training).

        Returns:
            ``(n, classes)`` logits.
        """
        return self._run(x, candidate, quantize, _Norms(statistics, None))

    @torch.no_grad()
    def recalibrate(self, x: Tensor, candidate: Candidate, *, quantize: bool = False) -> Statistics:
        """Batch norm statistics of one candidate on the images ``x``; without them its accuracy means nothing."""
        statistics: Statistics = []
        self._run(x, candidate, quantize, _Norms(None, statistics))
        return statistics

    def _run(self, x: Tensor, candidate: Candidate, quantize: bool, norms: _Norms) -> Tensor:
        def conv(layer: ElasticConv, kernel_size: int, in_: int, out: int, stride: int = 1) -> Conv:
            def run(x: Tensor, w_bits: int | None) -> Tensor:
                weight = quantize_weight(layer.weights(in_, out, kernel_size), w_bits)
                groups = out if layer.depthwise else 1
                y = functional.conv2d(x, weight, None, stride, kernel_size // 2, 1, groups)
                return norms(y, layer.gamma[:out], layer.beta[:out])

            return run

        def blocks() -> Iterator[tuple[Convs, BlockQuantizers, Block, Slot]]:
            for own, slot, block in self.chosen(candidate):
                c = block.channels
                convs = Convs(
                    conv(own.expand, 1, slot.in_channels, c),
                    conv(own.depthwise, block.kernel_size, c, c, slot.stride),
                    conv(own.project, 1, c, slot.out_channels),
                    *own.convs(c),
                )
                yield convs, own.quantizers, block, slot

        stem, first, head, space = self.space.stem, self.space.first, self.space.head, self.space
        fixed = FixedConvs(
            conv(self.stem, stem.kernel_size, space.input.channels, stem.channels, stem.stride),
            None if first is None else conv(self.first_depthwise, first.kernel_size, stem.channels, stem.channels),
            None if first is None else conv(self.first_project, 1, stem.channels, first.channels),
            conv(self.head, 1, space.slots[-1].out_channels, head.channels),
            self.features.sliced(head.channels, head.features) if head.features is not None else None,
            self.classifier.sliced(head.features or head.channels, space.classes),
        )
        return _forward(x, fixed, blocks(), self.quantizers, candidate.resolution, quantize)

    def chosen(self, candidate: Candidate) -> list[tuple[ElasticBlock, Slot, Block]]:
        """The blocks of a candidate: ours, their places and their choices, in the order of the forward pass."""
        chosen = active_slots(self.space, candidate)
        index = {(slot.stage, slot.position): i for i, slot in enumerate(self.space.slots)}
        return [
            (cast("ElasticBlock", self.blocks[index[slot.stage, slot.position]]), slot, block)
            for slot, block in zip(chosen, candidate.blocks, strict=True)
        ]

    def sort_channels(self) -> None:
        """Sort the middle channels of every block by importance; the largest network's output does not change."""
        for block in self.blocks:
            cast("ElasticBlock", block).sort_channels()

    @torch.no_grad()
    def extract(self, candidate: Candidate, statistics: Statistics) -> Subnet:
        """A stand-alone network with this one's weights, batch norm folded; same output as ``forward``.

        Args:
            candidate: which network.
            statistics: of batch norm, from ``recalibrate``.
        """
        subnet = Subnet(self.space, candidate)
        given = iter(statistics)

        def copy(target: nn.Conv2d, source: ElasticConv) -> None:
            out, in_ = target.weight.shape[:2]
            weight = source.weights(in_, out, target.weight.shape[-1])
            mean, variance = next(given)
            factor = source.gamma[:out] * (variance + EPS).rsqrt()
            target.weight.copy_(weight * factor[:, None, None, None])
            target.bias.copy_(source.beta[:out] - mean * factor)  # type: ignore[union-attr]

        copy(subnet.stem, self.stem)
        if self.space.first is not None:
            copy(subnet.first_depthwise, self.first_depthwise)
            copy(subnet.first_project, self.first_project)
        for module, (source, _, _) in zip(subnet.blocks, self.chosen(candidate), strict=True):
            target = cast("FoldedBlock", module)
            copy(target.expand, source.expand)
            copy(target.depthwise, source.depthwise)
            copy(target.project, source.project)
            if hasattr(source, "squeeze"):
                _copy_corner(target.squeeze, source.squeeze)
                _copy_corner(target.excite, source.excite)
            target.quantizers.load_state_dict(source.quantizers.state_dict())
        copy(subnet.head, self.head)
        if self.space.head.features is not None:
            _copy_corner(subnet.features, self.features)
        _copy_corner(subnet.classifier, self.classifier)
        subnet.quantizers.load_state_dict(self.quantizers.state_dict())
        return subnet


def _copy_corner(target: nn.Linear, source: nn.Linear) -> None:
    n_out, n_in = target.weight.shape
    target.weight.copy_(source.weight[:n_out, :n_in])
    target.bias.copy_(source.bias[:n_out])


class FoldedConv(nn.Conv2d):
    """A convolution with bias whose weights are quantized on the way in."""

    def forward(self, x: Tensor, w_bits: int | None = None) -> Tensor:
        """Convolve with weights at ``w_bits`` (``None``: full precision)."""
        y: Tensor = self._conv_forward(x, quantize_weight(self.weight, w_bits), self.bias)
        return y


class FoldedLinear(nn.Linear):
    """A linear layer whose weights are quantized on the way in."""

    def forward(self, x: Tensor, w_bits: int | None = None) -> Tensor:
        """Multiply with weights at ``w_bits`` (``None``: full precision)."""
        return functional.linear(x, quantize_weight(self.weight, w_bits), self.bias)


class FoldedBlock(nn.Module):
    """An inverted bottleneck of fixed shape, batch norm folded."""

    def __init__(self, space: SearchSpace, slot: Slot, block: Block) -> None:
        super().__init__()
        c, k = block.channels, block.kernel_size
        self.expand = FoldedConv(slot.in_channels, c, 1)
        self.depthwise = FoldedConv(c, c, k, slot.stride, k // 2, groups=c)
        self.project = FoldedConv(c, slot.out_channels, 1)
        if slot.squeeze_excite:
            self.squeeze = FoldedLinear(c, squeezed_channels(c))
            self.excite = FoldedLinear(squeezed_channels(c), c)
        self.quantizers = BlockQuantizers(space, slot)

    def convs(self) -> Convs:
        """The layers as functions."""
        gate = (self.squeeze, self.excite) if hasattr(self, "squeeze") else (None, None)
        return Convs(self.expand, self.depthwise, self.project, *gate)


class Subnet(nn.Module):
    """One network on its own, batch norm folded as in integer inference (Jacob 2018).

    Attributes:
        space: where the candidate is from.
        candidate: the network and the bits that ``forward`` applies unless others are given.
    """

    def __init__(self, space: SearchSpace, candidate: Candidate) -> None:
        super().__init__()
        self.space, self.candidate = space, candidate
        stem, last = space.stem, space.slots[-1].out_channels
        self._slots = active_slots(space, candidate)
        self.stem = FoldedConv(
            space.input.channels, stem.channels, stem.kernel_size, stem.stride, stem.kernel_size // 2
        )
        if space.first is not None:
            c, k = stem.channels, space.first.kernel_size
            self.first_depthwise = FoldedConv(c, c, k, 1, k // 2, groups=c)
            self.first_project = FoldedConv(c, space.first.channels, 1)
        self.blocks = nn.ModuleList(
            [FoldedBlock(space, slot, block) for slot, block in zip(self._slots, candidate.blocks, strict=True)]
        )
        self.head = FoldedConv(last, space.head.channels, 1)
        if space.head.features is not None:
            self.features = FoldedLinear(space.head.channels, space.head.features)
        self.classifier = FoldedLinear(space.head.features or space.head.channels, space.classes)
        self.quantizers = FixedQuantizers(space)

    def forward(self, x: Tensor, *, quantize: bool = True, bits: Candidate | None = None) -> Tensor:
        """Run the network.

        Args:
            x: ``(n, channels, size, size)`` images.
            quantize: whether to apply bits at all.
            bits: a candidate of the same architecture whose bits to apply; by default its own.

        Returns:
            ``(n, classes)`` logits.
        """
        blocks = (bits or self.candidate).blocks
        parts = zip(cast("list[FoldedBlock]", self.blocks), blocks, self._slots, strict=True)
        has_first = self.space.first is not None
        fixed = FixedConvs(
            self.stem,
            self.first_depthwise if has_first else None,
            self.first_project if has_first else None,
            self.head,
            self.features if self.space.head.features is not None else None,
            self.classifier,
        )
        convs = ((own.convs(), own.quantizers, block, slot) for own, block, slot in parts)
        return _forward(x, fixed, convs, self.quantizers, self.candidate.resolution, quantize)
