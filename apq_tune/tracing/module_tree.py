"""Modules of a graph with the user's names, as source that needs torch only."""

from __future__ import annotations

import json
import keyword
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from apq_tune.errors import ModelError
from apq_tune.network.graph import Graph, Node
from apq_tune.tracing.expressions import number, padding_before, short

ROLES = {"weight": "weight", "bias": "bias", "mean": "running_mean", "variance": "running_var"}
"""Name of the tensor in a module of torch for each role."""

INDENT = " " * 4


class ModuleLayer(NamedTuple):
    """Node that calls a module of torch.

    Attributes:
        path: Path of the module.
        source: Source that makes it.
    """

    path: str
    source: str


def module_layers(graph: Graph) -> dict[str, ModuleLayer]:
    """Nodes that are modules of torch, by name: those whose parameters are all that such a module has."""
    found = {node.name: layer for node in graph.nodes if (layer := _layer(graph, node)) is not None}
    own = {f"{layer.path}.{role}" for layer in found.values() for role in ROLES.values()}
    others = [name for name in graph.shapes if name not in own]
    return {
        name: layer
        for name, layer in found.items()
        if not any(other.startswith(f"{layer.path}.") for other in (*others, *(item.path for item in found.values())))
    }


def _layer(graph: Graph, node: Node) -> ModuleLayer | None:
    paths = {name.rpartition(".")[0] for name in node.parameters.values()}
    roles = {name.rpartition(".")[2] == ROLES.get(role) for role, name in node.parameters.items()}
    if len(paths) != 1 or roles != {True} or paths == {""}:
        return None
    path, has_bias = paths.pop(), "bias" in node.parameters
    size = int(node.shape[-1])
    eps = "" if node.settings.get("eps", 1e-5) == 1e-5 else f", eps={number(node.settings['eps'])}"
    match node.kind:
        case "conv":
            source = _conv(graph, node)
        case "linear":
            inner = int(graph.shapes[node.parameters["weight"]][1])
            source = f"nn.Linear({inner}, {size}{'' if has_bias else ', bias=False'})"
        case "norm" if has_bias == ("weight" in node.parameters):
            kind = "BatchNorm2d" if len(node.shape) == 3 else "BatchNorm1d"
            source = f"nn.{kind}({int(node.shape[0])}{eps}{'' if has_bias else ', affine=False'})"
        case "layer_norm" if "weight" in node.parameters:
            bias = "" if has_bias else ", bias=False"
            source = f"nn.LayerNorm({size}{eps}{bias})"
        case _:
            return None
    return ModuleLayer(path, source)


def _conv(graph: Graph, node: Node) -> str:
    settings, (outer, inner, *kernel) = node.settings, graph.shapes[node.parameters["weight"]]
    parts = [str(int(inner) * int(settings["groups"])), str(int(outer)), short(kernel)]
    if list(settings["stride"]) != [1, 1]:
        parts.append(f"stride={short(settings['stride'])}")
    if any(settings["padding"]) and padding_before(node) is None:
        parts.append(f"padding={short(settings['padding'][:2])}")
    if list(settings["dilation"]) != [1, 1]:
        parts.append(f"dilation={short(settings['dilation'])}")
    if settings["groups"] != 1:
        parts.append(f"groups={int(settings['groups'])}")
    if "bias" not in node.parameters:
        parts.append("bias=False")
    return f"nn.Conv2d({', '.join(parts)})"


Form = Literal["attributes", "list", "dict"]


class Tree:
    """Modules by their paths.

    Attributes:
        layers: Source of each module that computes, by path.
        raw: Source of each parameter and buffer that is in no such module, by path.
    """

    def __init__(self, layers: Mapping[str, str], raw: Mapping[str, str]) -> None:
        """Check the names.

        Raises:
            ModelError: If a name is none that torch's modules can have.
        """
        self.layers, self.raw = layers, raw
        for name in (*(f"{path}.weight" for path in layers), *raw):
            *parents, own = name.split(".")
            if not all(parents) or not own.isidentifier() or keyword.iskeyword(own):
                raise ModelError(f"{name!r}: cannot be the name of a tensor in a module; trace the model again")
        self._children: dict[str, list[str]] = {"": []}
        for path in (*layers, *(name.rpartition(".")[0] for name in raw)):
            self._add(path)

    def _add(self, path: str) -> None:
        if path in self._children:
            return
        parent, _, name = path.rpartition(".")
        self._add(parent)
        self._children[parent].append(name)
        self._children[path] = []

    def form(self, path: str) -> Form:
        """How the children of a module are kept and reached."""
        names = self._children[path]
        if all(name.isidentifier() and not keyword.iskeyword(name) for name in names):
            return "attributes"
        return "list" if names == [str(index) for index in range(len(names))] else "dict"

    @property
    def has_blocks(self) -> bool:
        """Whether there are modules below the first level that have others as attributes."""
        return any(path and path not in self.layers and self.form(path) == "attributes" for path in self._children)

    def access(self, path: str) -> str:
        """Source that reaches a module from ``self``."""
        if not path:
            return "self"
        parent, _, name = path.rpartition(".")
        before, form = self.access(parent), self.form(parent)
        if form == "attributes":
            return f"{before}.{name}"
        return f"{before}[{name}]" if form == "list" else f"{before}[{json.dumps(name)}]"

    def tensor(self, name: str) -> str:
        """Source that reaches a parameter or buffer from ``self``."""
        parent, _, own = name.rpartition(".")
        return f"{self.access(parent)}.{own}"

    def source(self) -> list[str]:
        """Lines that make all modules, in ``__init__`` of the network."""
        names, form = self._children[""], self.form("")
        if form == "attributes":
            lines = ["super().__init__()"]
            for name in names:
                first, *rest = self._made(name)
                lines += [f"self.{name} = {first}", *rest]
        else:
            lines = self._collected("super().__init__", "", form)
        for name, source in self.raw.items():
            parent, _, own = name.rpartition(".")
            if source.startswith("nn.Parameter"):
                lines.append(f"{self.tensor(name)} = {source}")
            else:
                lines.append(f"{self.access(parent)}.register_buffer({json.dumps(own)}, {source})")
        return lines

    def _made(self, path: str) -> list[str]:
        """Lines of the expression that makes a module."""
        if path in self.layers:
            return [self.layers[path]]
        form = self.form(path)
        if not self._children[path]:
            return ["Block()"]
        call = {"attributes": "Block", "list": "nn.ModuleList", "dict": "nn.ModuleDict"}[form]
        return self._collected(call, path, form)

    def _collected(self, call: str, path: str, form: Form) -> list[str]:
        """Lines of a call with all children of a module."""
        brackets = {"attributes": ("", ""), "list": ("[", "]"), "dict": ("{", "}")}[form]
        lines = [f"{call}({brackets[0]}"]
        for name in self._children[path]:
            first, *rest = self._made(f"{path}.{name}" if path else name)
            key = {"attributes": f"{name}=", "list": "", "dict": f"{json.dumps(name)}: "}[form]
            own = [f"{key}{first}", *rest]
            own[-1] += ","
            lines += [INDENT + line for line in own]
        return [*lines, f"{brackets[1]})"]

    @property
    def base(self) -> str:
        """Class that the network is derived from."""
        return {"attributes": "nn.Module", "list": "nn.ModuleList", "dict": "nn.ModuleDict"}[self.form("")]


def tree_of(graph: Graph, layers: Mapping[str, ModuleLayer], floats: Sequence[str]) -> Tree:
    """Modules of a graph.

    Args:
        graph: Graph.
        layers: Nodes that are modules.
        floats: Names of tensors of floating-point numbers; others cannot be parameters.
    """
    inside = {name for node in graph.nodes if node.name in layers for name in node.parameters.values()}
    raw = {}
    for node in graph.nodes:
        for role, name in node.parameters.items():
            if name in inside or name in raw:
                continue
            is_parameter = name in floats and not (node.kind == "norm" and role in ("mean", "variance"))
            sizes = [int(size) for size in graph.shapes[name]]
            zeros = f"torch.zeros({sizes}{'' if name in floats else ', dtype=torch.long'})"
            raw[name] = f"nn.Parameter({zeros})" if is_parameter else zeros
    return Tree({layer.path: layer.source for layer in layers.values()}, raw)
