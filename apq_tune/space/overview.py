"""What is open in a search space of networks, as a table for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from apq_tune.network.network import ops
from apq_tune.space.gene import BIT_KINDS

if TYPE_CHECKING:
    from apq_tune.space.model_choices import Choice
    from apq_tune.space.model_space import ModelSpace
    from apq_tune.space.search_space import SearchSpace

MOST_NAMES = 6
"""Names that a row lists."""


class Overview(NamedTuple):
    """Table of choices.

    Attributes:
        columns: Heads of the columns.
        rows: Cells.
        caption: Line below.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str


def overview_of_stages(space: SearchSpace) -> Overview:
    """One row for each stage."""
    told = (*BIT_KINDS, "sparsity")
    bits = {gene.name.rpartition(" ")[2]: list(gene.values) for gene in space.genes if gene.kind in told}
    network, rows = space.network, []
    for number, depth in enumerate((gene for gene in space.genes if gene.kind == "depth"), start=1):
        parts = [part for part in network.searched if part.switch is not None and part.switch.gene == depth.name]
        genes = [gene for gene in space.genes for part in parts if gene.name in part.genes]
        kernels = sorted({k for gene in genes if gene.kind == "kernel" for k in gene.values})
        spans = sorted({(g.values[0], g.values[-1], len(g.values)) for g in genes if g.kind == "width"})
        widths = "; ".join(f"{low} to {high} ({n})" for low, high, n in spans)
        first = network.layers(parts[0], network.sizes[-1])
        stride = max(op.stride for op in ops(first))
        row = (number, list(depth.values), kernels, widths, first[-1].output.channels, stride)
        rows.append(tuple(map(str, row)))
    columns = ("stage", "depth", "kernel size", "middle channels", "channels", "stride")
    return Overview(columns, tuple(rows), ", ".join(f"{name} {values}" for name, values in bits.items()))


def overview_of_model(space: ModelSpace) -> Overview:
    """One row for each kind of choice and its values, and for each reason why channels are kept."""
    choices, groups = space.choices, space.coupling.groups
    rows = _rows("depth", choices.depths.items())
    rows += _rows("width", ((groups[index].name, choice) for index, choice in choices.widths.items()))
    if any(choice.values != (0,) for choice in choices.sparsity.values()):
        rows += _rows("sparsity", choices.sparsity.items())
    rows += _rows("w_bits", choices.w_bits.items()) + _rows("a_bits", choices.a_bits.items())
    kept: dict[str, list[str]] = {}
    for group in groups:
        if group.locked:
            kept.setdefault(group.locked, []).append(group.name)
    rows += [("width", f"all: {reason}", _some(names)) for reason, names in kept.items()]
    return Overview(("kind", "values", "of"), tuple(rows), "widths: channels of the first layer that makes them")


def _rows(kind: str, named: Iterable[tuple[str, Choice]]) -> list[tuple[str, str, str]]:
    """Rows of equal values."""
    by_values: dict[tuple[int, ...], list[str]] = {}
    for name, choice in named:
        by_values.setdefault(choice.values, []).append(name)
    return [(kind, _values(values), _some(names)) for values, names in by_values.items()]


def _values(values: Sequence[int], n: int = 4) -> str:
    if len(values) <= n:
        return ", ".join(map(str, values))
    return f"{values[0]} to {values[-1]} ({len(values)})"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:MOST_NAMES])
    return shown if len(names) <= MOST_NAMES else f"{shown}, ... ({len(names)})"
