"""Expressions of a layer's weights, activations and their gradients, which evolved proxies consist of.

An expression is the name of a tensor, or an operation and its arguments: ``("mean", ("abs", "gradient"))``. Operations
on tensors go number by number, reductions make one number of a layer's tensor. The score of a candidate is the sum over
its layers of that number times the bits of the layer, as in EMQ (Dong 2023).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import ProblemError
from apq_tune.predict.pairs import Floats

Expression = str | tuple[Any, ...]
"""Name of a tensor, or name of an operation and its arguments."""

Shape = Literal["weights", "channels", "number"]
"""What an expression gives for a layer: a number for each weight, for each channel that it reads, or one."""

TENSORS: dict[str, Shape] = {
    "weight": "weights",
    "gradient": "weights",
    "activation": "channels",
    "activation_gradient": "channels",
}
"""Tensors of a layer: its weights and the gradient of the loss by them; of the channels that it reads the root mean
square over images and pixels, and that of the gradient of the loss by them."""

EPSILON = 1e-12
MOST = 1e30
"""Magnitude from which a number counts as infinite."""

UNARY: dict[str, Callable[[Floats], Floats]] = {
    "abs": np.abs,
    "square": np.square,
    "sqrt": lambda x: np.sqrt(np.abs(x)),
    "log": lambda x: np.log(np.abs(x) + EPSILON),
    "exp": lambda x: np.exp(np.clip(x, -30, 30)),
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "inverse": lambda x: x / (x * x + EPSILON),
}
"""Operations on each number; those that are not defined everywhere are guarded."""

BINARY: dict[str, Callable[[Floats, Floats], Floats]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": lambda x, y: x * y / (y * y + EPSILON),
    "maximum": np.maximum,
}
COMMUTE = ("add", "multiply", "maximum")
"""Operations whose arguments are sorted, so that equal expressions are equal."""

REDUCTIONS = ("mean", "sum", "norm", "std", "largest")
"""What makes one number of a layer's tensor; ``largest`` is the largest magnitude."""


@dataclass(frozen=True)
class LayerTensors:
    """Tensors of the layers of candidates, end to end; candidates of the same architecture share theirs.

    Attributes:
        layers: Names of all layers, shape ``(n_layers,)``.
        values: Numbers of all layers by tensor, flat.
        starts: Where each layer of each architecture begins in them, by shape, shape ``(n_entries,)``.
        entries: Place of each candidate's layers among the entries, -1 where it lacks one, shape ``(n, n_layers)``.
        bits: Bits of weights and input together, zero for missing layers, shape ``(n, n_layers)``.
    """

    layers: tuple[str, ...]
    values: Mapping[str, Floats]
    starts: Mapping[Shape, NDArray[np.intp]]
    entries: NDArray[np.intp]
    bits: Floats

    @classmethod
    def of(
        cls,
        layers: tuple[str, ...],
        tensors: list[Mapping[str, Floats]],
        entries: NDArray[np.intp],
        bits: Floats,
    ) -> LayerTensors:
        """Put tensors end to end.

        Args:
            layers: Names of all layers.
            tensors: Tensors of each entry by name, those of ``TENSORS``.
            entries: Place of each candidate's layers among the entries, -1 where it lacks one.
            bits: Bits of weights and input together, zero for missing layers.
        """
        values = {name: np.concatenate([entry[name].ravel() for entry in tensors]) for name in TENSORS}
        sizes = {shape: [entry[name].size for entry in tensors] for name, shape in TENSORS.items()}
        starts = {shape: np.cumsum([0, *own[:-1]]) for shape, own in sizes.items()}
        return cls(layers, values, starts, entries, bits)

    def rows(self, index: NDArray[np.intp]) -> LayerTensors:
        """Some of the candidates, with the tensors that they need."""
        entries = self.entries[index]
        used = np.unique(entries[entries >= 0])
        place = np.full(entries.max(initial=0) + 1, -1)
        place[used] = np.arange(len(used))
        pieces = {name: np.split(own, self.starts[TENSORS[name]][1:]) for name, own in self.values.items()}
        tensors: list[Mapping[str, Floats]] = [{name: own[i] for name, own in pieces.items()} for i in used]
        return LayerTensors.of(self.layers, tensors, np.where(entries >= 0, place[entries], -1), self.bits[index])


def shape_of(expression: Expression) -> Shape:
    """What an expression gives for a layer."""
    if isinstance(expression, str):
        return TENSORS[expression]
    return "number" if expression[0] in REDUCTIONS else shape_of(expression[1])


def size_of(expression: Expression) -> int:
    """Number of tensors and operations of an expression."""
    return sum(1 for _ in parts_of(expression))


def parts_of(expression: Expression, path: tuple[int, ...] = ()) -> Iterator[tuple[tuple[int, ...], Expression]]:
    """An expression and all expressions in it, each with its path: the places of arguments that lead to it."""
    yield path, expression
    if not isinstance(expression, str):
        for place, argument in enumerate(expression[1:], start=1):
            yield from parts_of(argument, (*path, place))


def replaced(expression: Expression, path: tuple[int, ...], part: Expression) -> Expression:
    """Expression with another one at a path."""
    if not path:
        return part
    assert not isinstance(expression, str)
    first, *rest = path
    return (*expression[:first], replaced(expression[first], tuple(rest), part), *expression[first + 1 :])


def canonical(expression: Expression) -> Expression:
    """Expression with sorted arguments where their order makes no difference."""
    if isinstance(expression, str):
        return expression
    arguments = [canonical(argument) for argument in expression[1:]]
    return (expression[0], *(sorted(arguments, key=str) if expression[0] in COMMUTE else arguments))


def text_of(expression: Expression) -> str:
    """Expression as people write it, such as ``mean(abs(gradient))``."""
    if isinstance(expression, str):
        return expression
    return f"{expression[0]}({', '.join(map(text_of, expression[1:]))})"


def values_of(expression: Expression, tensors: LayerTensors) -> Floats:
    """Values of an expression, flat; of a number one for each entry. They may be infinite or NaN."""
    if isinstance(expression, str):
        return tensors.values[expression]
    operation, *arguments = expression
    first, *others = (values_of(argument, tensors) for argument in arguments)
    with np.errstate(all="ignore"):
        if operation in UNARY:
            return np.asarray(UNARY[operation](first))
        if operation in BINARY:
            return np.asarray(BINARY[operation](first, others[0]))
        shape = shape_of(arguments[0])
        assert shape != "number"
        return _reduced(operation, first, tensors.starts[shape])


def _reduced(operation: str, values: Floats, starts: NDArray[np.intp]) -> Floats:
    n = np.diff([*starts, len(values)])
    if operation == "largest":
        return np.asarray(np.maximum.reduceat(np.abs(values), starts))
    sums = np.add.reduceat(values, starts)
    if operation == "sum":
        return np.asarray(sums)
    if operation == "mean":
        return np.asarray(sums / n)
    squares = np.add.reduceat(values * values, starts)
    return np.sqrt(squares if operation == "norm" else np.maximum(squares / n - (sums / n) ** 2, 0))


def scores_of(expression: Expression, tensors: LayerTensors) -> Floats | None:
    """Sum over the layers of each candidate of an expression times the layer's bits, shape ``(n,)``.

    Returns:
        ``None`` if a layer's value or a score is no finite number below ``MOST``.

    Raises:
        ProblemError: If the expression gives no number for a layer.
    """
    if shape_of(expression) != "number":
        raise ProblemError(f"{text_of(expression)} gives a tensor for each layer; reduce it by {', '.join(REDUCTIONS)}")
    values = values_of(expression, tensors)
    if not (np.abs(values) < MOST).all():  # NaN is not below
        return None
    scores = (values[tensors.entries] * tensors.bits).sum(axis=1)
    return scores if (np.abs(scores) < MOST).all() else None


def values_by_layer(expression: Expression, tensors: LayerTensors, candidate: int = 0) -> dict[str, float]:
    """Values of an expression in the layers of one candidate by name, such as for ``LayerTable.times_bits``."""
    values = values_of(expression, tensors)
    own = tensors.entries[candidate]
    return {name: float(values[entry]) for name, entry in zip(tensors.layers, own, strict=True) if entry >= 0}
