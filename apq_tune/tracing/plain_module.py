"""Graphs as plain modules: source of a class that needs torch only, and the module that it makes."""

from __future__ import annotations

import linecache
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from apq_tune.network.fused import fused
from apq_tune.network.graph import Graph, Node
from apq_tune.network.layer import IMAGE
from apq_tune.tracing.expressions import Expression, expression, pad, padding_before
from apq_tune.tracing.module_tree import INDENT, ModuleLayer, Tree, module_layers, tree_of

WIDTH = 110
"""Largest number of characters of an expression that several nodes are joined to."""

LINE = 112
"""Largest number of characters of a line of a function."""

NOUNS = {"conv": "convolution", "linear": "linear layer"}

TAKEN = {"self", "x", "torch", "nn", "functional", "Tensor"}
"""Names that variables cannot have."""

HEAD = '''"""{title}

Images of shape (n, {image}) to {classes} outputs; {parameters:,} parameters. To load the weights:

    network = Network()
    network.load_state_dict(torch.load(PATH, weights_only=True))
    outputs = network.eval()(images)
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

'''

BLOCK = '''
class Block(nn.Module):
    """Layers by their names in the original model."""

    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)

'''


def plain_module(graph: Graph, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Module of a graph, in evaluation mode, with a copy of its weights.

    Args:
        graph: Graph of a model, possibly with fewer channels or blocks.
        tensors: Its parameters and buffers by name.

    Returns:
        Module whose state dict has the user's names; its code is that of ``source``.
    """
    text = source(graph, tensors)
    name = f"<network {graph.digest[:16]}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)  # so that tracebacks have lines
    defined: dict[str, object] = {"__name__": "network"}
    exec(compile(text, name, "exec"), defined)
    network = defined["Network"]()  # type: ignore[operator]
    assert isinstance(network, nn.Module)
    network.load_state_dict({own: tensors[own].detach().clone() for own in graph.shapes})
    return network.eval()


def source(
    graph: Graph,
    tensors: Mapping[str, Tensor] | None = None,
    *,
    title: str = "Network of apq-tune.",
    resize: bool = False,
) -> str:
    """Source of a file that defines the network of a graph as the class ``Network`` and needs torch only.

    Args:
        graph: Graph of a model.
        tensors: Its parameters and buffers by name, for their types; without them all are of floats.
        title: First line of the file's docstring.
        resize: Whether images may be larger than those of the graph, and are made smaller as in training.
    """
    floats = [name for name in graph.shapes if tensors is None or tensors[name].is_floating_point()]
    layers = module_layers(graph)
    tree = tree_of(graph, layers, floats)
    head = HEAD.format(
        title=re.sub(r'[\\"\s]+', " ", title),
        image=", ".join(str(int(size)) for size in graph.image) + (" or larger" if resize else ""),
        classes=int(graph.nodes[-1].shape[0]),
        parameters=sum(_size(graph, node) for node in graph.nodes),
    )
    lines = [f"class Network({tree.base}):", f'{INDENT}"""{_summary(graph)}"""', ""]
    lines += [f"{INDENT}def __init__(self) -> None:", *(2 * INDENT + line for line in tree.source()), ""]
    lines += [f"{INDENT}def forward(self, x: Tensor) -> Tensor:"]
    lines += [f'{2 * INDENT}"""Compute the outputs of images, without softmax."""']
    if resize:
        size = "size=({}, {})".format(*graph.image[1:])
        lines += [f'{2 * INDENT}x = functional.interpolate(x, {size}, mode="bilinear", antialias=True)']
    lines += [2 * INDENT + part for line in _forward(graph, layers, tree) for part in wrapped(line)]
    return head + (BLOCK if tree.has_blocks else "") + "\n" + "\n".join(lines) + "\n"


def _size(graph: Graph, node: Node) -> int:
    """Number of trained values of a node."""
    counted = 0
    for role, name in node.parameters.items():
        if role not in ("mean", "variance"):
            size = 1
            for own in graph.shapes[name]:
                size *= own
            counted += size
    return counted


def _summary(graph: Graph) -> str:
    parts = []
    for kind, noun in NOUNS.items():
        if count := sum(node.kind == kind for node in graph.nodes):
            parts.append(f"{count} {noun}{'' if count == 1 else 's'}")
    return f"Network of {' and '.join(parts)}." if parts else "Network."


def wrapped(line: str) -> list[str]:
    """Line of source as lines of at most ``LINE`` characters, where commas within brackets allow it."""
    lines, depth, current, last = [], 0, "", 0
    for character in line:
        current += character
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth:
            last = len(current)
        if len(current) > LINE and last:
            lines.append(current[:last])
            current, last = INDENT + current[last:].lstrip(), 0
    return [*lines, current]


def _forward(graph: Graph, layers: Mapping[str, ModuleLayer], tree: Tree) -> list[str]:
    """Lines of the forward pass; a node that only the next one reads is joined to that."""
    known = {IMAGE: Expression("x")}
    taken = set(TAKEN)
    lines: list[str] = []
    part = ""
    nodes = graph.nodes
    if len(graph.readers[IMAGE]) > 1 or graph.readers[IMAGE][0] is not nodes[0]:
        known[IMAGE] = Expression("image")
        taken.add("image")
        lines.append("image = x")
    for index, node in enumerate(nodes):
        made = _expression(node, [known[name] for name in node.inputs], layers.get(node.name), tree)
        readers = graph.readers[node.name]
        is_last = index == len(nodes) - 1
        is_chained = not is_last and len(readers) == 1 and readers[0] is nodes[index + 1]
        is_read_once = is_chained and readers[0].inputs.count(node.name) == 1
        is_short = len(made.text) < WIDTH // 2 and node.kind != "add" and readers[:1] and readers[0].kind != "opaque"
        if is_read_once and is_short:
            known[node.name] = made
            continue
        if (own := _part(node.name)) != part and own:
            lines.append(f"# {own}")
            part = own
        if is_last:
            lines.append(f"return {made.text}")
            break
        variable = "x" if is_chained else _variable(node.name, taken)
        known[node.name] = Expression(variable)
        lines.append(f"{variable} = {made.text}")
    return lines


def _expression(node: Node, inputs: list[Expression], layer: ModuleLayer | None, tree: Tree) -> Expression:
    if layer is None:
        parameters = {role: tree.tensor(name) for role, name in node.parameters.items()}
        return expression(node, inputs, parameters)
    x = inputs[0].text
    if node.kind == "conv" and (around := padding_before(node)) is not None:
        x = pad(x, around)
    return Expression(f"{tree.access(layer.path)}({x})")


def _part(name: str) -> str:
    """Block of a node, for a comment."""
    return re.sub(r"[^\w.]", "", name.rpartition(".")[0])


def _variable(name: str, taken: set[str]) -> str:
    """Name of a variable for the output of a node."""
    base = re.sub(r"\W", "_", name)
    base = f"x_{base}" if not base[:1].isalpha() or not base.isidentifier() else base
    number, found = 1, base
    while found in taken:
        number += 1
        found = f"{base}_{number}"
    taken.add(found)
    return found


def fold_norms(graph: Graph, tensors: Mapping[str, Tensor]) -> tuple[Graph, dict[str, Tensor]]:
    """Fold batch norm into the convolutions and linear layers before it, which then have a bias.

    Args:
        graph: Graph of a model.
        tensors: Its parameters and buffers by name.

    Returns:
        The graph without these norms, and its tensors.
    """
    layers = {layer.name: layer for layer in fused(graph) if layer.norm is not None}
    gone = {layer.norm.name: layer.name for layer in layers.values() if layer.norm is not None}
    nodes, own = [], dict(tensors)
    for node in graph.nodes:
        if node.name in gone:
            continue
        node = node._replace(inputs=tuple(gone.get(name, name) for name in node.inputs))
        layer = layers.get(node.name)
        if layer is not None and layer.norm is not None:
            weight, bias = _folded(node, layer.norm, tensors)
            name = node.parameters.get("bias") or f"{node.parameters['weight'].removesuffix('.weight')}.bias"
            own |= {node.parameters["weight"]: weight, name: bias}
            node = node._replace(parameters={**node.parameters, "bias": name})
        nodes.append(node)
    named = {name for node in nodes for name in node.parameters.values()}
    own = {name: value for name, value in own.items() if name in named}
    return Graph(graph.image, tuple(nodes), {name: tuple(value.shape) for name, value in own.items()}), own


@torch.no_grad()
def _folded(node: Node, norm: Node, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer with the batch norm behind it."""
    own = {role: tensors[name] for role, name in norm.parameters.items()}
    bias = tensors[node.parameters["bias"]] if "bias" in node.parameters else None
    scale, offset = own.get("weight", torch.ones_like(own["mean"])), own.get("bias", torch.zeros_like(own["mean"]))
    weight, bias = fuse_conv_bn_weights(
        tensors[node.parameters["weight"]], bias, own["mean"], own["variance"], norm.settings["eps"], scale, offset
    )
    return weight.detach(), bias.detach()
