"""The weight-shared network of a search space.

Nothing is ever "active": the candidate is an argument, and so are the batch norm statistics and whether to quantize.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from apq_tune.network.layer import Layer
from apq_tune.space.candidate import Candidate
from apq_tune.space.search_space import SearchSpace
from apq_tune.supernet.blocks import ElasticBlock, FoldedBlock, layers_of, run_block
from apq_tune.supernet.defaults import plain_torch
from apq_tune.supernet.elastic import EPS, ElasticConv, ElasticLinear, Norms, Statistics
from apq_tune.supernet.forward import FixedConvs, FixedQuantizers, forward_pass
from apq_tune.supernet.subnet import Subnet


class Supernet(nn.Module):
    """All networks of a search space in one set of weights.

    Attributes:
        space: The search space.
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
            candidate: Which network, and at which bits.
            quantize: Whether to apply the candidate's bits.
            statistics: Of batch norm, from ``recalibrate``; ``None`` takes them from this batch (training).

        Returns:
            ``(n, classes)`` logits.
        """
        return self._run(x, candidate, quantize, Norms(statistics, None))

    @torch.no_grad()
    def recalibrate(self, x: Tensor, candidate: Candidate, *, quantize: bool = False) -> Statistics:
        """Batch norm statistics of one candidate on the images ``x``; without them its accuracy means nothing."""
        statistics: Statistics = []
        self._run(x, candidate, quantize, Norms(None, statistics))
        return statistics

    def _run(self, x: Tensor, candidate: Candidate, quantize: bool, norms: Norms) -> Tensor:
        conv = norms.conv
        stem, first, head, space = self.space.stem, self.space.first, self.space.head, self.space
        fixed = FixedConvs(
            conv(self.stem, stem.kernel_size, space.input.channels, stem.channels, stem.stride),
            None if first is None else conv(self.first_depthwise, first.kernel_size, stem.channels, stem.channels),
            None if first is None else conv(self.first_project, 1, stem.channels, first.channels),
            conv(self.head, 1, space.slots[-1].out_channels, head.channels),
            self.features.sliced(head.channels, head.features) if head.features is not None else None,
            self.classifier.sliced(head.features or head.channels, space.classes),
        )
        fixed_bits = space.fixed_bits if quantize else None

        def run_blocks(x: Tensor) -> Tensor:
            for block, layers in self.chosen(candidate):
                x = run_block(x, layers, block.convs(layers, norms), block.quantizers, fixed_bits)
            return x

        return forward_pass(x, fixed, run_blocks, self.quantizers, candidate.resolution, fixed_bits)

    def chosen(self, candidate: Candidate) -> list[tuple[ElasticBlock, tuple[Layer, ...]]]:
        """The blocks of a candidate and their layers, in the order of the forward pass."""
        index = {(slot.stage, slot.position): i for i, slot in enumerate(self.space.slots)}
        chosen = self.space.active_slots(candidate)
        return [
            (
                cast("ElasticBlock", self.blocks[index[slot.stage, slot.position]]),
                layers_of(slot, self.space.fixed_bits, block),
            )
            for slot, block in zip(chosen, candidate.blocks, strict=True)
        ]

    def sort_channels(self) -> None:
        """Sort the inner channels of every block by importance; the largest network's output does not change."""
        for block in self.blocks:
            cast("ElasticBlock", block).sort_channels()

    @torch.no_grad()
    def extract(self, candidate: Candidate, statistics: Statistics) -> Subnet:
        """A stand-alone network with this one's weights, batch norm folded; same output as ``forward``.

        Args:
            candidate: Which network.
            statistics: Of batch norm, from ``recalibrate``.
        """
        with self.stem.weight.device:  # made elsewhere, each of its tensors would travel there and back
            subnet = Subnet(self.space, candidate)
        given = iter(statistics)

        def copy(target: Any, source: Any) -> None:
            out, in_ = target.weight.shape[:2]
            weight = source.weights(in_, out, target.weight.shape[-1])
            mean, variance = next(given)
            factor = source.gamma[:out] * (variance + EPS).rsqrt()
            target.weight.copy_(weight * factor[:, None, None, None])
            target.bias.copy_(source.beta[:out] - mean * factor)

        copy(subnet.stem, self.stem)
        if self.space.first is not None:
            copy(subnet.first_depthwise, self.first_depthwise)
            copy(subnet.first_project, self.first_project)
        for module, (source, layers) in zip(subnet.blocks, self.chosen(candidate), strict=True):
            target = cast(FoldedBlock, module)
            for layer in layers:
                if layer.kind == "conv":
                    copy(target.get_submodule(layer.role), source.get_submodule(layer.role))
                elif layer.kind == "linear":
                    _copy_corner(target.get_submodule(layer.role), source.get_submodule(layer.role))
            target.quantizers.load_state_dict(source.quantizers.state_dict())
        copy(subnet.head, self.head)
        if self.space.head.features is not None:
            _copy_corner(subnet.features, self.features)
        _copy_corner(subnet.classifier, self.classifier)
        subnet.quantizers.load_state_dict(self.quantizers.state_dict())
        return subnet


def _copy_corner(target: Any, source: Any) -> None:
    n_out, n_in = target.weight.shape
    target.weight.copy_(source.weight[:n_out, :n_in])
    target.bias.copy_(source.bias[:n_out])
