"""The weight-shared network of a search space.

Nothing is ever "active": the candidate is an argument, and so are the batch norm statistics and whether to quantize.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from apq_tune.space.candidate import Candidate
from apq_tune.space.geometry import squeezed_channels
from apq_tune.space.mbconv import Block
from apq_tune.space.search_space import SearchSpace
from apq_tune.space.skeleton import Slot
from apq_tune.supernet.defaults import plain_torch
from apq_tune.supernet.forward import BlockQuantizers, Conv, Convs, FixedConvs, FixedQuantizers, forward_pass
from apq_tune.supernet.quantize import quantize_weight
from apq_tune.supernet.subnet import FoldedBlock, Subnet

EPS = 1e-3  # of batch norm (Cai 2020, once-for-all)

Statistics = list[tuple[Tensor, Tensor]]
"""Mean and variance of every batch norm of one candidate, in the order of the forward pass."""


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

    @plain_torch()
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
        return forward_pass(x, fixed, blocks(), self.quantizers, candidate.resolution, quantize)

    def chosen(self, candidate: Candidate) -> list[tuple[ElasticBlock, Slot, Block]]:
        """The blocks of a candidate: ours, their places and their choices, in the order of the forward pass."""
        chosen = self.space.active_slots(candidate)
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
        with self.stem.weight.device:  # made elsewhere, each of its tensors would travel there and back
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
            target = cast(FoldedBlock, module)
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
