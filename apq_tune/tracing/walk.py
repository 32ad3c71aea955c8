"""Walk through an exported program, call by call, from which the nodes of a graph come."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from apq_tune.errors import ModelError
from apq_tune.network.graph import Graph, Node
from apq_tune.network.layer import IMAGE
from apq_tune.tracing.aten import recognise
from apq_tune.tracing.aten_layers import EITHER
from apq_tune.tracing.aten_shapes import SAME
from apq_tune.tracing.calls import Call, Draft, Output, Stored
from apq_tune.tracing.exporting import BATCH, own_places
from apq_tune.tracing.opaque import NotPlainError, is_pure, plain
from apq_tune.tracing.simplify import RESHAPE
from apq_tune.tracing.values import Value, flat, functional, plain_values, seen

PRELU = "aten.prelu.default"
"""Operation on each value by itself with a parameter, which has one value or one for each channel."""

VIEWS = ("view", "reshape", "unsqueeze", "squeeze", "_unsafe_view")
"""Operations that may only add axes of size 1 to a parameter."""

OWN_NAMES = ("weight", "running_mean")
"""Names of parameters whose module gives the name of the node."""


def graph_of(module: nn.Module, program: ExportedProgram) -> Graph:
    """Graph of a program, operation by operation.

    Args:
        module: Model that was exported.
        program: Its program.

    Raises:
        ModelError: If an operation cannot be in a graph; the message names its place in the user's source.
    """
    return _Walk(module, program).graph()


def attribute(module: nn.Module, path: str) -> Tensor | None:
    """Tensor of a module at a path of attributes; ``None`` if there is none."""
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, Tensor) else None


def is_inplace(node: fx.Node) -> bool:
    """Whether a call writes to one of its arguments."""
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


class _Walk:
    """Nodes of an exported program, made call by call."""

    def __init__(self, module: nn.Module, program: ExportedProgram) -> None:
        self.module = module
        self.program = program
        self.values: dict[fx.Node, Value] = {}
        self.nodes: list[Node] = []
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.names = {IMAGE}
        self.moving = {IMAGE}  # what depends on the image
        self.reserved = {name.rpartition(".")[0] for name, _ in module.named_parameters()}
        first: dict[int, str] = {}  # names of parameters that have several
        self.first_name = {
            name: first.setdefault(id(value), name) for name, value in module.named_parameters(remove_duplicate=False)
        }
        self.stored: dict[str, tuple[int, ...]] = {}  # shapes of all parameters and buffers
        self.views: dict[Stored, fx.Node] = {}  # parameters with axes of size 1 that they do not have in the state dict
        self.owners: dict[str, str] = {}  # layer that reads each weight
        self.batch: Any = None

    def graph(self) -> Graph:
        """Graph of the whole program."""
        image: tuple[int, ...] = ()
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                value = self.values[node] = self._input(node)
                if isinstance(value, Stored):
                    self.stored[value.name] = value.shape
                if isinstance(value, Output):
                    image = value.shape
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                output = self.values[node.args[0][-1]]
        if not isinstance(output, Output) or output.name == IMAGE:
            raise ModelError(f"{type(self.module).__name__}: its output does not depend on the image")
        if output.batch != 1:
            raise ModelError(f"{type(self.module).__name__}: {BATCH}")
        if self.nodes and self.nodes[-1].name != output.name:
            self.nodes = list(_until(self.nodes, output.name))
        assert len(image) == 3
        return Graph(image, tuple(self.nodes), self.shapes)

    def _input(self, node: fx.Node) -> Value:
        """Value of an input of the program: the image, a parameter, a buffer or a constant."""
        signature = self.program.graph_signature
        if (name := signature.inputs_to_parameters.get(node.name)) is not None:
            return Stored(self.first_name.get(name, name), tuple(node.meta["val"].shape))
        if (name := signature.inputs_to_buffers.get(node.name)) is not None:
            return Stored(name, tuple(node.meta["val"].shape))
        if (name := signature.inputs_to_lifted_tensor_constants.get(node.name)) is not None:
            value = self.program.constants[name]
            if attribute(self.module, name) is not None and value.is_floating_point():
                return Stored(name, tuple(value.shape))
            return value.detach().clone()
        value = node.meta["val"]
        self.batch = value.shape[0]
        return Output(IMAGE, tuple(value.shape[1:]))

    def _call(self, node: fx.Node) -> None:
        """Give a call its value, with new nodes where they are needed."""
        target = node.target
        if target is operator.getitem:
            parts = self.values[node.args[0]]  # type: ignore[index]
            if isinstance(parts, list) and not node.users:
                return
            if isinstance(parts, list) and node.args[1] >= len(parts):  # type: ignore[operator]
                raise self._refused(node, "reads the positions of the largest values of a pool; use its values alone")
            part = parts[node.args[1]]
            if isinstance(part, Draft):
                part = parts[node.args[1]] = self._node(node.args[0], part, node)  # type: ignore[arg-type]
            elif callable(part):
                part = parts[node.args[1]] = part(node)
            self.values[node] = part
            return
        value = node.meta.get("val")
        if isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)) or not isinstance(
            target, torch._ops.OpOverload
        ):
            if value is None or isinstance(value, Tensor):
                raise self._refused(node, f"{target} is no operation on tensors")
            self.values[node] = value
            return
        if value is None:  # checks that the program makes of itself
            return
        arguments = self._arguments(node)
        self._check_deterministic(node, arguments)
        if not any(isinstance(own, (Output, Stored, torch.SymInt)) for own in flat(arguments)):
            self.values[node] = target(*self._constants(node.args), **self._constants(node.kwargs))
            return
        if (view := _view_of(node, arguments)) is not None:
            if view.shape != self.stored[view.name]:
                self.views.setdefault(view, node)
            self.values[node] = view
            return
        result = self._recognised(node, arguments)
        if result is None:
            result = self._opaque(node)
        elif isinstance(result, Draft):
            many = isinstance(value, (list, tuple))
            result = self._node(node, result, node)
            result = [result] if many else result
        elif isinstance(result, list):
            result = list(result)
        if is_inplace(node):
            self._write(node, result)
        self.values[node] = result

    def _write(self, node: fx.Node, result: Value) -> None:
        """Let everything that is the tensor an in-place operation wrote to be its result."""
        before = self.values.get(node.args[0])  # type: ignore[arg-type]
        for other, value in self.values.items():
            if isinstance(value, type(before)) and value == before:
                self.values[other] = result

    def _arguments(self, node: fx.Node) -> dict[str, Value]:
        """Arguments of a call by the names in the schema, with defaults."""
        schema = node.target._schema.arguments  # type: ignore[union-attr]
        values = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
        values |= {argument.name: value for argument, value in zip(schema, node.args, strict=False)}
        values |= node.kwargs
        ordered = {argument.name: values[argument.name] for argument in schema if argument.name in values}
        return {name: self._value(value) for name, value in ordered.items()}

    def _value(self, value: Any) -> Value:
        if isinstance(value, fx.Node):
            return self.values[value]
        if isinstance(value, (list, tuple)):
            return [self._value(item) for item in value]
        return value

    def _constants(self, value: Any) -> Any:
        """Arguments of a call that depends on no image and on no parameter, as they are."""
        if isinstance(value, Mapping):
            return {name: self._constants(item) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(self._constants(item) for item in value)
        return self.values[value] if isinstance(value, fx.Node) else value

    def _check_deterministic(self, node: fx.Node, arguments: Mapping[str, Value]) -> None:
        target = node.target
        assert isinstance(target, torch._ops.OpOverload)
        moves = any(isinstance(own, Output) and own.name in self.moving for own in flat(arguments))
        if moves and arguments.get("training") is True:
            raise self._refused(
                node,
                "normalises with statistics of the batch, also where the model is evaluated; "
                "let it store statistics (track_running_stats=True), and call model.eval() before torch.export",
            )
        is_random = arguments.get("train", arguments.get("dropout_p", True))
        if is_random and torch.Tag.nondeterministic_seeded in target.tags:
            raise self._refused(
                node,
                f"{target._schema.name.removeprefix('aten::')} draws random numbers, also where the model is "
                "evaluated; draw them only if self.training (F.dropout(x, p, training=self.training))",
            )

    def _recognised(self, node: fx.Node, arguments: Mapping[str, Value]) -> Any:
        """Result of a rule for this operation; ``None`` if there is none."""
        target = node.target
        assert isinstance(target, torch._ops.OpOverload)
        values = node.meta["val"]
        first = values[0] if isinstance(values, (list, tuple)) else values
        name = target._schema.name.removeprefix("aten::")
        name = name if name.startswith("_") or not name.endswith("_") else name[:-1]
        call = Call(name, {own: seen(value) for own, value in arguments.items()}, tuple(first.shape[1:]))
        if name in SAME:
            return recognise(call)
        if name not in EITHER and any(isinstance(own, Stored) and own in self.views for own in flat(arguments)):
            return None
        outputs = [own for own in flat(arguments) if isinstance(own, Output)]
        if not outputs or any(own.batch != 1 for own in outputs) or self._multiple(first) != 1:
            return None
        return recognise(call) if all(isinstance(size, int) for size in call.shape) else None

    def _multiple(self, value: Tensor) -> int:
        """Size of the first axis in units of the batch; 0 if it is no multiple of it."""
        return 0 if value.ndim == 0 else self._times(value.shape[0])

    def _times(self, size: Any) -> int:
        """A size in units of the batch; 0 if it is no multiple of it."""
        if isinstance(size, int):
            return 0
        ratio = size.node.expr / self.batch.node.expr
        return int(ratio) if ratio.is_Integer else 0

    def _opaque(self, node: fx.Node) -> Value:
        """Node of a call that no rule knows, or functions that make one for each of its outputs."""
        assert isinstance(node.target, torch._ops.OpOverload)
        target: torch._ops.OpOverload | None = node.target
        if node.target._schema.is_mutable:
            target = functional(node.target)
        if target is None or not is_pure(target):
            raise self._refused(node, f"{node.target} is an operation with effects, which a graph cannot hold")
        inputs: list[Output] = []
        parameters: list[Stored] = []

        def encoded(value: Any) -> Any:
            value = self.values[value] if isinstance(value, fx.Node) else value
            if isinstance(value, Stored) and (view := self.views.get(value)) is not None:
                value = self._viewed(value, view)
            if isinstance(value, Output):
                if value not in inputs:
                    inputs.append(value)
                return {"input": inputs.index(value)}
            if isinstance(value, Stored):
                if value not in parameters:
                    parameters.append(value)
                return {"parameter": str(parameters.index(value))}
            if isinstance(value, torch.SymInt):
                if not (times := self._times(value)):
                    raise NotPlainError("a size that is no multiple of the batch")
                batched = next((index for index, own in enumerate(inputs) if own.batch == 1), None)
                if batched is None:
                    batched = len(inputs)
                    inputs.append(Output(IMAGE, ()))
                return {"size": [batched, times]}
            return [encoded(item) for item in value] if isinstance(value, (list, tuple)) else plain(value)

        try:
            # dropped copies may leave a layout that a view cannot have
            named = RESHAPE if str(target) in ("aten.view.default", "aten._unsafe_view.default") else str(target)
            settings: dict[str, Any] = {"target": named, "arguments": [encoded(value) for value in node.args]}
            if keywords := {name: encoded(value) for name, value in node.kwargs.items()}:
                settings["keywords"] = keywords
        except NotPlainError as error:
            raise self._refused(node, f"{node.target} has {error}, which a graph cannot hold") from None
        stored = {str(index): own for index, own in enumerate(parameters)}

        def make(source: fx.Node, own: Mapping[str, Any]) -> Output:
            return self._node(node, Draft("opaque", inputs, own, stored), source)

        value = node.meta["val"]
        if isinstance(value, Tensor):
            known = named == PRELU if stored else torch.Tag.pointwise in target.tags
            if known and self._is_alike(value, inputs, settings):
                settings["pointwise"] = True
            return make(node, settings)
        return [lambda source, index=index: make(source, {**settings, "output": index}) for index in range(len(value))]

    def _viewed(self, parameter: Stored, view: fx.Node) -> Output:
        """Node of a parameter in another shape, for operations that need it so."""
        settings = {"target": RESHAPE, "arguments": [{"parameter": "0"}, list(parameter.shape)]}
        own = Stored(parameter.name, self.stored[parameter.name])
        return self._node(view, Draft("opaque", (), settings, {"0": own}), view)

    def _is_alike(self, value: Tensor, inputs: Sequence[Output], settings: Mapping[str, Any]) -> bool:
        """Whether all tensors that a call reads have the shape of what it makes, a batch of images."""
        shape = tuple(value.shape[1:])
        same = all(own.batch == 1 and own.shape == shape for own in inputs)
        constants = [own for own in plain_values(settings) if "constant" in own and isinstance(own["constant"], list)]
        return bool(inputs) and same and self._multiple(value) == 1 and not constants

    def _node(self, call: fx.Node, draft: Draft, source: fx.Node) -> Output:
        """Add a node; its shape is that of ``source``, all else is of ``call``."""
        value = source.meta["val"]
        value = value[0] if isinstance(value, (list, tuple)) else value
        batch = self._multiple(value)
        sizes = [size for size in value.shape if not self._times(size)]
        if not all(isinstance(size, int) for size in sizes):
            raise self._refused(call, "has an output whose size depends on the values of the image")
        shape = tuple(int(size) for size in sizes)
        stored = {role: own for role, own in draft.parameters.items() if own is not None}
        path, is_leaf = self._module_of(call)
        place = next(iter(own_places(call.meta.get("stack_trace") or "")), "")
        name = self._unique(_name(draft, stored, path, is_leaf), bool(stored))
        weight = stored.get("weight")
        if draft.kind in ("conv", "linear") and weight is not None:
            owner = self.owners.setdefault(weight.name, name)
            if owner != name:
                raise ModelError(
                    f"{owner}: its {weight.name!r} is used twice, again{f' at {place}' if place else ''}; widths and "
                    "bits of shared weights cannot be chosen, give each layer its own (copy.deepcopy)"
                )
        for own in stored.values():
            self.shapes[own.name] = self.stored[own.name]
        inputs = tuple(own.name for own in draft.inputs)
        parameters = {role: own.name for role, own in stored.items()}
        if not self.moving.isdisjoint(inputs):
            self.moving.add(name)
        self.nodes.append(Node(name, draft.kind, inputs, shape, dict(draft.settings), parameters, place))
        return Output(name, shape, batch)

    def _module_of(self, call: fx.Node) -> tuple[str, bool]:
        """Path of the module that makes a call, and whether it has no modules of its own."""
        stack = list((call.meta.get("nn_module_stack") or {"": ("", "")}).values())
        path, kind = re.sub(r"@\d+", "", stack[-1][0]), stack[-1][1]
        kind = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__name__}"
        try:
            has_own = any(True for _ in self.module.get_submodule(path).children())
        except AttributeError:
            has_own = False
        return path, bool(path) and kind.startswith("torch.nn.") and not has_own

    def _unique(self, name: str, is_owner: bool) -> str:
        """Name, numbered if it is taken or belongs to a module with parameters."""
        number, found = 1, name
        while found in self.names or (found in self.reserved and not is_owner):
            number += 1
            found = f"{name}_{number}"
        self.names.add(found)
        return found

    def _refused(self, call: fx.Node, why: str) -> ModelError:
        place = next(iter(own_places(call.meta.get("stack_trace") or "")), "")
        path, _ = self._module_of(call)
        return ModelError(f"{path or type(self.module).__name__}{f' ({place})' if place else ''}: {why}")


def _view_of(node: fx.Node, arguments: Mapping[str, Value]) -> Stored | None:
    """Parameter with other axes of size 1, which a call makes of one; ``None`` if it does anything else."""
    target, x = node.target, next(iter(arguments.values()), None)
    assert isinstance(target, torch._ops.OpOverload)
    if not isinstance(x, Stored) or target._schema.name.removeprefix("aten::") not in VIEWS:
        return None
    shape = tuple(node.meta["val"].shape)
    alike = [size for size in shape if size != 1] == [size for size in x.shape if size != 1]
    return Stored(x.name, shape) if alike else None


def _name(draft: Draft, stored: Mapping[str, Stored], path: str, is_leaf: bool) -> str:
    """Name of a node before it is made unique."""
    if draft.kind != "opaque" and stored:
        own = stored.get("weight") or stored.get("mean") or next(iter(stored.values()))
        parent, _, last = own.name.rpartition(".")
        return parent if last in OWN_NAMES and parent and draft.kind != "affine" else own.name
    if draft.kind == "function":
        kind = draft.settings["name"]
    elif draft.kind == "opaque":
        kind = draft.settings["target"].split(".")[1]
    else:
        kind = draft.kind
    return path if is_leaf else f"{path}.{kind}".lstrip(".")


def _until(nodes: list[Node], name: str) -> Iterator[Node]:
    for node in nodes:
        yield node
        if node.name == name:
            return
