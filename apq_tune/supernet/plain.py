"""Found networks of traced models as plain modules, which need nothing of this package."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from apq_tune.errors import RunError
from apq_tune.network.graph import WEIGHTED, Graph, Node
from apq_tune.supernet.found_network import FoundNetwork
from apq_tune.supernet.graph_subnet import GraphSubnet
from apq_tune.supernet.interfaces import AnySubnet
from apq_tune.tracing.plain_module import plain_module, source


class PlainNetwork(NamedTuple):
    """Network in full precision, batch norm folded into the layers with weights.

    Attributes:
        graph: Its graph.
        tensors: Its parameters and buffers by name.
        resize: Whether its image size was chosen, so that the file's module makes images smaller.
    """

    graph: Graph
    tensors: dict[str, Tensor]
    resize: bool = False

    @classmethod
    def of(cls, network: AnySubnet) -> PlainNetwork:
        """Network of a candidate with its weights, which were trained for its bits and are not quantized.

        Raises:
            RunError: If it is not cut out of a model of the user.
        """
        subnet = network.subnet if isinstance(network, FoundNetwork) else network
        if not isinstance(subnet, GraphSubnet):
            raise RunError(f"{subnet.space.name}: has networks of blocks; plain modules are of models of your own")
        instead: dict[str, str] = {}  # batch norms that are folded, and the layers that they are folded into
        tensors: dict[str, Tensor] = {}
        nodes: list[Node] = []
        layers = {layer.name: layer for layer in subnet.network.fused}
        for node in subnet.network.graph.nodes:
            if node.name in instead:
                continue
            parameters = dict(node.parameters)
            if node.kind in WEIGHTED:
                weight = parameters["weight"]
                if weight in tensors:  # another layer has the same weight, folded with another batch norm
                    weight = f"{node.name}.weight"
                bias = parameters.get("bias", f"{weight.removesuffix('.weight')}.bias")
                parameters = {"weight": weight, "bias": bias if bias not in tensors else f"{node.name}.bias"}
                if (norm := layers[node.name].norm) is not None:
                    instead[norm.name] = node.name
            if parameters:
                constants = subnet.constants(node.name)
                tensors |= {name: constants[role].detach().cpu() for role, name in parameters.items()}
            inputs = tuple(instead.get(name, name) for name in node.inputs)
            nodes.append(node._replace(inputs=inputs, parameters=parameters))
        shapes = {name: tuple(value.shape) for name, value in tensors.items()}
        resize = len(subnet.space.resolutions) > 1
        return cls(Graph(subnet.network.graph.image, tuple(nodes), shapes), tensors, resize)

    def module(self) -> nn.Module:
        """The network as a module, for images of the size of its graph."""
        return plain_module(self.graph, self.tensors)

    def source(self, title: str) -> str:
        """Source of a file that defines the module and needs torch only.

        Args:
            title: First line of its docstring.
        """
        return source(self.graph, self.tensors, title=title, resize=self.resize)
