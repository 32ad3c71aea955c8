"""Stand-alone networks of single candidates, with folded batch norm."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from apq_tune.network.layer import Layer
from apq_tune.space.candidate import Candidate
from apq_tune.space.search_space import SearchSpace
from apq_tune.supernet.blocks import FoldedBlock, layers_of, run_block
from apq_tune.supernet.folded import FoldedConv, FoldedLinear
from apq_tune.supernet.forward import FixedConvs, FixedQuantizers, forward_pass
from apq_tune.supernet.interfaces import AnySubnet
from apq_tune.supernet.quantize import ActivationQuantizer


class Subnet(AnySubnet):
    """Stand-alone network of a candidate of a space of blocks."""

    space: SearchSpace
    candidate: Candidate

    def __init__(self, space: SearchSpace, candidate: Candidate) -> None:
        super().__init__(space, candidate)
        stem, last = space.stem, space.slots[-1].out_channels
        self._slots = space.active_slots(candidate)
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
        """Run the network at its bits, those of another candidate, or in full precision."""
        space, chosen = self.space, (bits or self.candidate).blocks
        has_first = space.first is not None
        fixed = FixedConvs(
            self.stem,
            self.first_depthwise if has_first else None,
            self.first_project if has_first else None,
            self.head,
            self.features if space.head.features is not None else None,
            self.classifier,
        )
        fixed_bits = space.fixed_bits if quantize else None

        def run_blocks(x: Tensor) -> Tensor:
            for own, slot, block in zip(cast("list[FoldedBlock]", self.blocks), self._slots, chosen, strict=True):
                layers = layers_of(slot, space.fixed_bits, block)
                x = run_block(x, layers, own.convs(layers), own.quantizers, fixed_bits)
            return x

        return forward_pass(x, fixed, run_blocks, self.quantizers, self.candidate.resolution, fixed_bits)

    def weighted(self) -> dict[str, FoldedConv | FoldedLinear]:
        """Layers with weights, by the name of the layer."""
        found: dict[str, Any] = {"stem": self.stem}
        if self.space.first is not None:
            found |= {"first.depthwise": self.first_depthwise, "first.project": self.first_project}
        for own, name, layers in self._named_blocks():
            found |= {f"{name}.{role}": conv for role, conv in own.convs(layers).items()}
        found["head"] = self.head
        if self.space.head.features is not None:
            found["features"] = self.features
        return found | {"classifier": self.classifier}

    def input_quantizers(self) -> dict[str, ActivationQuantizer]:
        """Quantizers of the inputs of layers with weights, by the name of the layer."""
        fixed = self.quantizers
        found = {"stem": fixed.stem, "head": fixed.head, "classifier": fixed.classifier}
        if self.space.first is not None:
            found["first.project"] = fixed.first_project
        if self.space.head.features is not None:
            found["features"] = fixed.features
        for own, name, layers in self._named_blocks():
            found |= {f"{name}.{role}": own.quantizers.of_input(role) for role in own.convs(layers)}
        return found

    def stored_quantizers(self) -> dict[str, ActivationQuantizer]:
        """Quantizers of stored tensors, by the name of the layer that makes the tensor."""
        fixed, found = self.quantizers, {"head": self.quantizers.head_output}
        if self.space.first is not None:
            found["stem"] = fixed.stem_output
            if self.space.first.channels == self.space.stem.channels:
                found["first.project"] = fixed.first_project_output
        sources = {layer.name: layer.inputs[0] for layer in self.layers}
        for own, name, layers in self._named_blocks():
            found[sources[layers[0].name]] = own.quantizers.stream
            for layer in layers:
                quantizer = own.quantizers.of_output(layer.role)
                if quantizer is not None:
                    found[f"{name}.{layer.role}"] = quantizer
        return found

    def _named_blocks(self) -> list[tuple[FoldedBlock, str, tuple[Layer, ...]]]:
        """Blocks, their names and their layers."""
        return [
            (cast(FoldedBlock, own), slot.name, layers_of(slot, self.space.fixed_bits, block))
            for own, slot, block in zip(self.blocks, self._slots, self.candidate.blocks, strict=True)
        ]
