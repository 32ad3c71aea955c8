"""Calls of ATen as rules see them, and what rules make of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from apq_tune.network.graph import NodeKind


class Output(NamedTuple):
    """Output of a node, or the image, as an argument of a call.

    Attributes:
        name: Name of the node.
        shape: Shape without the batch; the whole shape if there is no batch.
        batch: Size of the first axis in units of the batch; 0 if it is no batch.
    """

    name: str
    shape: tuple[int, ...]
    batch: int = 1


class Stored(NamedTuple):
    """Parameter or buffer as an argument of a call: its name in the state dict and its shape."""

    name: str
    shape: tuple[int, ...]


class Draft(NamedTuple):
    """Node before it has a name.

    Attributes:
        kind: Kind of node.
        inputs: Outputs that it reads.
        settings: Settings by name.
        parameters: Parameters and buffers by role.
    """

    kind: NodeKind
    inputs: Sequence[Output]
    settings: Mapping[str, Any] = {}
    parameters: Mapping[str, Stored | None] = {}


@dataclass(frozen=True)
class Call:
    """Call of an operation of ATen on tensors with a batch.

    Attributes:
        name: Name of the operation without namespace, overload and the underscore of in-place forms.
        arguments: Arguments by the names in the operation's schema; tensors are ``Output`` or ``Stored``.
        shape: Shape of the output without the batch; of the first one, if there are several.
    """

    name: str
    arguments: Mapping[str, Any]
    shape: tuple[int, ...]

    def __getitem__(self, name: Any) -> Any:
        """Argument by name; ``None`` if the operation has no such argument."""
        return self.arguments.get(name)

    @property
    def x(self) -> Any:
        """First argument; rules of ``RULES`` are called for an ``Output`` only."""
        return next(iter(self.arguments.values()))


Result = Draft | Output | list[Draft | Output] | None
"""A node, an argument that is the output itself, several outputs, or ``None``: the operation is opaque."""

Rule = Callable[[Call], Result]
"""What a call is; ``RULES`` of ``apq_tune.tracing.aten`` has one for each name of an operation."""
