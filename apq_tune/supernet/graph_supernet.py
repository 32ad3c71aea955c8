"""Supernet of a traced model: the user's parameters at full size, of which any candidate takes a part."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from apq_tune.network.fused import FusedLayer, fused
from apq_tune.network.graph import WEIGHTED, Node
from apq_tune.network.slicing import Indices
from apq_tune.space.model_candidate import ModelCandidate
from apq_tune.space.model_network import MOST_BITS
from apq_tune.space.model_space import ModelSpace
from apq_tune.supernet.defaults import plain_torch
from apq_tune.supernet.elastic import Conv, InputStep, Norms, Statistics
from apq_tune.supernet.graph_forward import GraphLayers, GraphNetwork, run_layers
from apq_tune.supernet.graph_quantizers import GraphQuantizers, bits_of, module_key, sources_of
from apq_tune.supernet.graph_ranks import ChannelRanks, Importance, importance_of
from apq_tune.supernet.graph_subnet import FoldedWeights, GraphSubnet, NodeTensors
from apq_tune.supernet.interfaces import AnySupernet
from apq_tune.supernet.masks import pruned
from apq_tune.supernet.quantize import fitted_factors, quantize_weight, weight_step
from apq_tune.supernet.widths import SearchedWidth, WidthScale
from apq_tune.tracing.functions import compute


class PlannedNorm(NamedTuple):
    """Batch norm of a network.

    Attributes:
        name: Name of its node.
        statistics: Names of its mean and variance in the user's state dict.
    """

    name: str
    statistics: tuple[str, str]


class PlannedNetwork(NamedTuple):
    """Network of a candidate, and where its parameters are in those of the model.

    Attributes:
        network: Graph and layers.
        takes: Indices along the axes of each parameter by name; see ``apq_tune.network.slicing.Sliced``.
    """

    network: GraphNetwork
    takes: Mapping[str, tuple[Indices | None, ...]]

    @property
    def norms(self) -> tuple[PlannedNorm, ...]:
        """Batch norms in the order of the forward pass."""
        nodes = (layer.norm or layer.main for layer in self.network.fused)
        return tuple(
            PlannedNorm(node.name, (node.parameters["mean"], node.parameters["variance"]))
            for node in nodes
            if node.kind == "norm"
        )


class GraphSupernet(AnySupernet):
    """Weight-shared network of a traced model.

    Attributes:
        space: Space of the model.
        tensors: Parameters of the whole model, by ``module_key`` of their names in the user's state dict.
        stored: Batch norm statistics of the model, likewise.
        factors: Factors of the quantization steps of weights by ``module_key`` of the layer, shape ``(n_bits, out)``.
        ranks: Ranks of channels; a candidate has the most important ones.
        quantizers: Quantizers of stored tensors.
    """

    @plain_torch()
    def __init__(self, space: ModelSpace) -> None:
        """Initialise weights with torch's global generator; ``load_model`` replaces them by those of the user."""
        super().__init__()
        self.space: ModelSpace = space
        statistics = {
            node.parameters[role] for node in space.graph.nodes if node.kind == "norm" for role in ("mean", "variance")
        }
        self.tensors = nn.ParameterDict()
        self.stored = nn.Module()
        for name, shape in space.graph.shapes.items():
            value = torch.zeros(shape) if len(shape) < 2 else nn.init.kaiming_normal_(torch.empty(shape))
            if name in statistics:
                self.stored.register_buffer(module_key(name), value)
            else:
                self.tensors[module_key(name)] = nn.Parameter(value)
        self.factors = nn.Module()
        for node in space.graph.weighted:
            n_out = space.graph.shapes[node.parameters["weight"]][0]
            self.factors.register_buffer(module_key(node.name), torch.ones(len(bits_of(space)), n_out))
        self.ranks = ChannelRanks(space.coupling)
        self.quantizers = GraphQuantizers(space.graph, sources_of(space), bits_of(space))
        for node in space.graph.nodes:
            if node.kind == "norm":
                with torch.no_grad():
                    for role in {"weight", "variance"} & set(node.parameters):
                        self.tensor(node.parameters[role]).fill_(1)

    def tensor(self, name: str) -> Tensor:
        """Parameter or statistic of the whole model by its name in the user's state dict."""
        key = module_key(name)
        return cast(Tensor, self.tensors[key] if key in self.tensors else self.stored.get_buffer(key))

    @torch.no_grad()
    def load_model(self, state: Mapping[str, Tensor], importance: Importance = "l1") -> None:
        """Start from the weights of the user's model, and rank its channels by them.

        Args:
            state: Its tensors by name; see ``apq_tune.supernet.user_model.model_weights``.
            importance: Importance of channels, ``"l1"`` or ``"norm"``.
        """
        self.load_weights(state)
        self.fit_weight_steps()
        self.rank_channels(importance)

    @torch.no_grad()
    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """Copy the tensors of the user's model."""
        for name in self.space.graph.shapes:
            self.tensor(name).copy_(state[name])

    @torch.no_grad()
    def fit_weight_steps(self) -> None:
        """Set the quantization steps of all weights to those that fit them best (PTQ)."""
        for node in self.space.graph.weighted:
            own = fitted_factors(self.tensor(node.parameters["weight"]), bits_of(self.space))
            self.factors.get_buffer(module_key(node.name)).copy_(own)

    @torch.no_grad()
    def rank_channels(self, kind: Importance = "l1", gradients: Mapping[str, Tensor] | None = None) -> None:
        """Rank channels by importance; the largest network stays as it is.

        Args:
            kind: Importance.
            gradients: Gradients of a loss by name of the parameter, for ``"taylor"``.
        """
        graph, coupling = self.space.graph, self.space.coupling
        named = {name: self.tensor(name) for name in graph.shapes}
        self.ranks.set(importance_of(graph, coupling, named, kind, gradients))

    def rank_by_loss(self, images: Tensor, labels: Tensor) -> None:
        """Rank channels by how much the loss of the user's model on some images would change without them (Taylor)."""
        weights = {node.parameters["weight"] for node in self.space.graph.weighted}
        tensors = {name: self.tensor(name) for name in weights}
        with torch.enable_grad():
            loss = functional.cross_entropy(self.logits_of_model(images), labels)
            gradients = torch.autograd.grad(loss, list(tensors.values()))
        self.rank_channels("taylor", dict(zip(tensors, gradients, strict=True)))

    def sort_channels(self) -> None:
        """Rank channels by the magnitudes of their weights as they are now."""
        self.rank_channels("l1")

    def searched_widths(self) -> list[SearchedWidth]:
        """Groups of coupled channels with a gene; what scales them last is batch norm, or the layer without one."""
        return [
            SearchedWidth(choice.gene, self.space.coupling.groups[group].n_units, tuple(self._scales_of(group)))
            for group, choice in self.space.choices.widths.items()
            if choice.gene
        ]

    def _scales_of(self, group: int) -> list[WidthScale]:
        found: dict[str, WidthScale] = {}
        for layer in fused(self.space.graph):
            channels = self.space.coupling.outputs[layer.main.name]
            if layer.main.kind not in (*WEIGHTED, "norm") or not (channels.group == group).any():
                continue
            units = torch.from_numpy(np.where(channels.group == group, channels.unit, -1))
            for role in ("weight", "bias"):
                if role in (own := (layer.norm or layer.main).parameters):
                    found[own[role]] = WidthScale(self.tensors, module_key(own[role]), units)
        return list(found.values())

    def rank_widths(self, importance: Sequence[Tensor]) -> None:
        """Rank the units of groups with a gene; those of others keep their ranks."""
        searched = [group for group, choice in self.space.choices.widths.items() if choice.gene]
        by_group = {group: -torch.from_numpy(order).argsort() for group, order in self.ranks.by_group.items()}
        self.ranks.set(by_group | dict(zip(searched, importance, strict=True)))

    def forward(
        self, x: Tensor, candidate: ModelCandidate, *, quantize: bool = False, statistics: Statistics | None = None
    ) -> Tensor:
        """Run one candidate; ``statistics`` are those of ``recalibrate``, or ``None`` for those of this batch."""
        return self.run(x, self.planned(candidate), Norms(statistics, None), quantize=quantize)

    @torch.no_grad()
    def recalibrate(self, x: Tensor, candidate: ModelCandidate, *, quantize: bool = False) -> Statistics:
        """Batch norm statistics of one candidate on the images ``x``."""
        statistics: Statistics = []
        self.run(x, self.planned(candidate), Norms(None, statistics), quantize=quantize)
        return statistics

    def stored_statistics(self, candidate: ModelCandidate) -> Statistics:
        """Batch norm statistics of the user's model, of the channels of a candidate."""
        return self.stored_of(self.planned(candidate))

    def stored_of(self, planned: PlannedNetwork) -> Statistics:
        """Batch norm statistics of the user's model, of the channels of a network."""
        return [
            (self._taken(planned, mean), self._taken(planned, variance))
            for mean, variance in (norm.statistics for norm in planned.norms)
        ]

    def logits_of_model(self, x: Tensor) -> Tensor:
        """Logits of the user's model, in full precision and with its own batch norm statistics."""
        return self.run(x, self.model, Norms(self.stored_of(self.model), None), quantize=False)

    @functools.cached_property
    def model(self) -> PlannedNetwork:
        """The user's model as a whole, which runs in full precision only."""
        graph = self.space.graph
        takes = {name: (None,) * len(shape) for name, shape in graph.shapes.items()}
        return PlannedNetwork(GraphNetwork(graph, fused(graph), ()), takes)

    def planned(self, candidate: ModelCandidate) -> PlannedNetwork:
        """Network of a candidate, of the channels that rank highest."""
        plan = self.space.plan(candidate, self.ranks.by_group)
        return PlannedNetwork(GraphNetwork.of(plan), plan.takes)

    @staticmethod
    def cut(planned: PlannedNetwork, name: str, tensor: Tensor) -> Tensor:
        """Part that a network has of a tensor with the shape of a parameter of the model."""
        for axis, indices in enumerate(planned.takes[name]):
            if indices is not None:
                tensor = tensor.index_select(axis, torch.from_numpy(indices).to(tensor.device))
        return tensor

    def _taken(self, planned: PlannedNetwork, name: str) -> Tensor:
        return self.cut(planned, name, self.tensor(name))

    def parameters_of(self, planned: PlannedNetwork, node: Node) -> dict[str, Tensor]:
        """Parameters of a node by role, weights at the sparsity that they have in the network."""
        own = {role: self._taken(planned, name) for role, name in node.parameters.items()}
        if (found := planned.network.sparse.get(node.name)) is not None:
            own["weight"] = pruned(own["weight"], *found)
        return own

    def _factors(self, planned: PlannedNetwork, node: Node) -> Tensor:
        """Factors of the steps of the output channels of a layer at all bit-widths, shape ``(n_bits, out)``."""
        weight = node.parameters["weight"]
        own = self.factors.get_buffer(module_key(node.name))
        own = self.cut(planned._replace(takes={weight: (None, planned.takes[weight][0])}), weight, own)
        if (found := planned.network.sparse.get(node.name)) is not None:  # the steps of all weights fit those left, too
            dense = self._taken(planned, weight).detach()
            own = own * (weight_step(dense, MOST_BITS) / weight_step(pruned(dense, *found), MOST_BITS)).flatten()
        return own

    def factor_of(self, planned: PlannedNetwork, node: Node, bits: int | None) -> Tensor | None:
        """Factors of the steps of the output channels of a layer at a bit-width, shape ``(out,)``."""
        return None if bits is None else self._factors(planned, node)[bits_of(self.space).index(bits)]

    def run(self, x: Tensor, planned: PlannedNetwork, norms: Norms, *, quantize: bool) -> Tensor:
        """Run a network.

        Args:
            x: Images, shape ``(n, channels, h, w)``.
            planned: Network.
            norms: Its batch norm.
            quantize: Whether to quantize weights and activations.

        Returns:
            Logits, shape ``(n, classes)``.
        """

        def weighted(layer: FusedLayer) -> Conv:
            def run(x: Tensor, w_bits: int | None, *, input_step: InputStep | None = None) -> Tensor:  # noqa: ARG001
                own = self.parameters_of(planned, layer.main)
                own["weight"] = quantize_weight(own["weight"], w_bits, self.factor_of(planned, layer.main, w_bits))
                y = compute(layer.main, [x], own)
                return y if layer.norm is None else self.normalised(planned, layer.norm, y, norms)

            return run

        def others(layer: FusedLayer, inputs: Sequence[Tensor]) -> Tensor:
            if layer.main.kind == "norm":
                return self.normalised(planned, layer.main, inputs[0], norms)
            return compute(layer.main, inputs, self.parameters_of(planned, layer.main))

        layers = planned.network.layers if quantize else None
        return run_layers(x, planned.network, GraphLayers(weighted, others), self.quantizers, layers)

    def normalised(self, planned: PlannedNetwork, node: Node, x: Tensor, norms: Norms) -> Tensor:
        """Output of a batch norm of a network."""
        roles = {"weight", "bias"} & set(node.parameters)
        own = {role: self._taken(planned, node.parameters[role]) for role in roles}
        return norms(x, own.get("weight"), own.get("bias"), node.settings["eps"])

    @torch.no_grad()
    def extract(self, candidate: ModelCandidate, statistics: Statistics) -> GraphSubnet:
        """Stand-alone network with folded batch norm, whose output equals that of ``forward``."""
        planned = self.planned(candidate)
        with self.ranks.order.device:  # to avoid copies of its tensors between devices
            subnet = GraphSubnet(self.space, candidate)
        subnet.ranks.load_state_dict(self.ranks.state_dict())
        subnet.quantizers.load_state_dict(self.quantizers.state_dict())
        given = iter(statistics)
        for layer in planned.network.fused:
            key, node = module_key(layer.name), layer.main
            if node.kind in WEIGHTED:
                cast(FoldedWeights, subnet.parts[key]).factors.copy_(self._factors(planned, node))
                norm = None if layer.norm is None else (layer.norm, *next(given))
                self._fold(planned, node, norm, cast(FoldedWeights, subnet.parts[key]))
            elif node.parameters:
                own = self.parameters_of(planned, node)
                if node.kind == "norm":
                    own["mean"], own["variance"] = next(given)
                for role, value in own.items():
                    cast(NodeTensors, subnet.parts[key]).get(role).copy_(value)
        return subnet

    def _fold(
        self, planned: PlannedNetwork, node: Node, norm: tuple[Node, Tensor, Tensor] | None, target: FoldedWeights
    ) -> None:
        """Copy the weights of a layer, with its batch norm folded into them."""
        own = self.parameters_of(planned, node)
        weight, bias = own["weight"], own.get("bias")
        if norm is None:
            target.weight.copy_(weight)
            target.bias.copy_(torch.zeros_like(target.bias) if bias is None else bias)
            return
        node, mean, variance = norm
        scale = self.parameters_of(planned, node)
        factor = (variance + node.settings["eps"]).rsqrt() * scale.get("weight", 1.0)
        target.weight.copy_(weight * factor.reshape(-1, *[1] * (weight.ndim - 1)))
        centred = -mean if bias is None else bias - mean
        target.bias.copy_(centred * factor + scale.get("bias", 0.0))
