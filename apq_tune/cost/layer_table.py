"""Losses of layers, or other values, by the bits of their weights and inputs.

A table by layers is, for instance, HAWQ-V2's sensitivity (Dong 2020); as a metric it is added up over the layers that a
candidate has. A layer that is left out adds nothing, and one that is resized what the whole layer adds: tables say
what bits do, and nothing about architectures. Search bits of one architecture with them, or add what architectures do
by a table of genes, or as another objective.
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq_tune.cost.additive import AdditiveMetric, OpenTerm
from apq_tune.cost.model import switched
from apq_tune.errors import TableError
from apq_tune.network.layer import Layer
from apq_tune.network.network import Network, Part, has_network
from apq_tune.space.gene import BIT_KINDS, Kind
from apq_tune.space.gene_encoding import GeneEncoding

Bits = tuple[int | None, int | None]
"""Bits of weights and of inputs; ``None`` where a value does not depend on them."""

MOST_BITS = 32
"""Bits up to which ``times_bits`` has rows."""

N_LISTED = 5
"""Maximum number of missing rows that a message names."""


@dataclass(frozen=True)
class LayerTable:
    """Values of layers with weights, which are added up over a network.

    Attributes:
        name: Name of the metric.
        rows: Value of each layer by its name and by the bits of its weights and of its input. A layer has rows of pairs
            of bits, or rows of bits of the weights, of the input, or of both.
        unit: Unit of the values, for display.
        source: File that the table was read from, for messages.
    """

    name: str
    rows: Mapping[str, Mapping[Bits, float]]
    unit: str = ""
    source: str = "table"
    _places: Mapping[str, int] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def times_bits(cls, name: str, statistics: Mapping[str, float], kinds: Sequence[Kind] = ("w_bits",)) -> LayerTable:
        """Proxy of bit policies: a statistic of each layer times its bits, to be maximised (as in EMQ, Dong 2023).

        With 1 for each layer it is the sum of the bits, against which any other proxy has to hold.

        Args:
            name: Name of the metric.
            statistics: Statistic of each layer by its name, such as those of ``layer_statistics``.
            kinds: ``w_bits``, ``a_bits`` or both.
        """
        rows: dict[str, dict[Bits, float]] = {layer: {} for layer in statistics}
        for layer, value in statistics.items():
            for bits in range(1, MOST_BITS + 1):
                rows[layer] |= {(bits, None): value * bits} if "w_bits" in kinds else {}
                rows[layer] |= {(None, bits): value * bits} if "a_bits" in kinds else {}
        return cls(name, rows)

    def metric(self, encoding: GeneEncoding) -> AdditiveMetric:
        """The metric in a search space.

        Args:
            encoding: Encoding of a search space that has networks.

        Raises:
            TableError: If the space has no network, a layer is not in it, or bits of a layer are missing.
        """
        if not has_network(encoding.space):
            raise TableError(
                f"{self.source}: is a table of layers, {encoding.name} holds named choices; give columns gene and value"
            )
        network: Network = encoding.space.network
        known = {layer.name: part for part in network.parts for layer in _at_last(network, part) if layer.op}
        for name in self.rows:
            if name not in known:
                row = f"row {self._places[name]}: " if name in self._places else ""
                raise TableError(
                    f"{self.source}: {row}{encoding.name} has no layer {name!r} with weights{like(name, known)}; "
                    "correct the name, or remove its rows"
                )
        terms, missing = [], list[str]()
        for part in network.parts:
            genes = tuple(gene for gene in part.genes if gene in _bit_genes(encoding))
            grid = dict(zip(genes, np.ix_(*(network.genes[gene] for gene in genes)), strict=True))
            allowed = _allowed(network, part, genes)
            for layer in part.describe(network.sizes[-1], *(grid.get(g, network.genes[g][-1]) for g in part.genes)):
                values, absent = self._values(layer, allowed)
                missing += absent
                if layer.name in self.rows:
                    terms.append(_term(encoding, network, part, genes, values))
        if missing:
            raise TableError(incomplete(self.source, encoding, missing))
        return AdditiveMetric(self.name, self.unit, encoding, terms)

    def _values(self, layer: Layer, allowed: NDArray[np.bool_]) -> tuple[NDArray[np.float64], list[str]]:
        """Values of a layer at all bits of its part, of the shape of ``allowed``, and names of missing rows."""
        values, missing = np.zeros(allowed.shape), list[str]()
        if layer.op is None:
            return values, missing
        w, a = (np.broadcast_to(np.asarray(n, np.int64), allowed.shape) for n in (layer.op.w_bits, layer.op.a_bits))
        rows = self.rows.get(layer.name, {})
        needed = (self._of_kind[0] and bool(w.min() < w.max()), self._of_kind[1] and bool(a.min() < a.max()))
        for of_weights, of_inputs in _forms(rows, needed):
            kinds = w if of_weights else None, a if of_inputs else None
            own = _looked_up(rows, *kinds)
            gone = np.isnan(own) & allowed
            missing += _absent(layer.name, *(None if bits is None else bits[gone] for bits in kinds))
            values = values + np.nan_to_num(own)
        return values, missing

    @property
    def _of_kind(self) -> tuple[bool, bool]:
        """Whether any row depends on bits of weights, and on bits of inputs."""
        found = [any(bits[place] is not None for own in self.rows.values() for bits in own) for place in (0, 1)]
        return found[0], found[1]

    def save(self, path: str | Path) -> None:
        """Write the table as a CSV file with the columns ``layer``, ``w_bits``, ``a_bits`` and the name of the metric.

        Raises:
            TableError: If the file cannot be written.
        """
        lines = [
            [layer, *("" if one is None else one for one in bits), repr(float(value))]
            for layer, own in self.rows.items()
            for bits, value in own.items()
        ]
        write_table(path, ["layer", *BIT_KINDS, self.name], lines)


def _at_last(network: Network, part: Part) -> Sequence[Any]:
    return part.describe(network.sizes[-1], *(network.genes[gene][-1] for gene in part.genes))


def _bit_genes(encoding: GeneEncoding) -> frozenset[str]:
    return frozenset(gene.name for gene in encoding.genes if gene.kind in BIT_KINDS)


def _allowed(network: Network, part: Part, genes: Sequence[str]) -> NDArray[np.bool_]:
    """Combinations of some genes of a part that any combination with its other genes allows."""
    shape = tuple(len(network.genes[gene]) for gene in genes)
    if part.allowed is None:
        return np.ones(shape, bool)
    others = tuple(axis for axis, gene in enumerate(part.genes) if gene not in genes)
    return np.asarray(network.allowed(part).any(axis=others)).reshape(shape)


def _forms(rows: Mapping[Bits, float], needed: tuple[bool, bool]) -> list[tuple[bool, bool]]:
    """What rows of a layer there must be: of pairs of bits, or of bits of weights, of inputs, or of each."""
    if any(None not in bits for bits in rows):
        return [(True, True)]
    weights = needed[0] or any(w is not None for w, _ in rows)
    inputs = needed[1] or any(a is not None for _, a in rows)
    return [(True, False)] * weights + [(False, True)] * inputs


def _looked_up(
    rows: Mapping[Bits, float], w: NDArray[np.int64] | None, a: NDArray[np.int64] | None
) -> NDArray[np.float64]:
    """Values at bits; NaN where there is no row."""
    one = w if w is not None else a
    assert one is not None
    found = np.full(one.shape, np.nan)
    for (w_bits, a_bits), value in rows.items():
        if (w_bits is None) == (w is None) and (a_bits is None) == (a is None):
            found[(True if w is None else w == w_bits) & (True if a is None else a == a_bits)] = value
    return found


def _absent(layer: str, w: NDArray[np.int64] | None, a: NDArray[np.int64] | None) -> list[str]:
    """Names of rows that are missing, each once."""
    kinds = [(kind, bits) for kind, bits in zip(BIT_KINDS, (w, a), strict=True) if bits is not None]
    rows = np.unique(np.stack([bits for _, bits in kinds], axis=1), axis=0)
    return [f"{layer} " + " ".join(f"{kind}={n}" for (kind, _), n in zip(kinds, row, strict=True)) for row in rows]


def _term(
    encoding: GeneEncoding, network: Network, part: Part, genes: tuple[str, ...], values: NDArray[np.float64]
) -> OpenTerm:
    """Term of one layer, without the genes that its values do not depend on."""
    kept = [axis for axis in range(values.ndim) if (values != values.take([0], axis=axis)).any()]
    own = values[tuple(slice(None) if axis in kept else 0 for axis in range(values.ndim))]
    names = tuple(genes[axis] for axis in kept)
    if part.switch is not None:
        names, own = switched(network, part.switch, names, own)
    place = {name: number for number, name in enumerate(encoding.names)}
    return OpenTerm(tuple(place[name] for name in names), own)


def incomplete(source: str, encoding: GeneEncoding, missing: Sequence[str]) -> str:
    """Message that rows are missing."""
    listed = "; ".join(missing[:N_LISTED]) + ("; ..." if len(missing) > N_LISTED else "")
    return (
        f"{source}: {len(missing)} rows of {encoding.name} are missing: {listed}; add them, with a value of 0 for what "
        "does no harm"
    )


def like(name: str, known: Mapping[str, Any]) -> str:
    """The known name that is nearest to one that is not known, or the first known ones, for messages."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f" (did you mean {near[0]!r}?)" if near else f"; it has {', '.join(list(known)[:N_LISTED])}, ..."


def write_table(path: str | Path, header: Sequence[str], lines: Sequence[Sequence[Any]]) -> None:
    """Write a CSV file.

    Raises:
        TableError: If the file cannot be written.
    """
    try:
        with Path(path).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([header, *lines])
    except OSError as error:
        raise TableError(f"{path}: cannot be written ({error.strerror}); give the path of a file") from None
