"""Losses of genes, or other values, by the values of the genes, in any search space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from apq_tune.cost.additive import AdditiveMetric
from apq_tune.cost.layer_table import incomplete, like, write_table
from apq_tune.errors import TableError
from apq_tune.space.gene_encoding import GeneEncoding


@dataclass(frozen=True)
class GeneTable:
    """Values of genes, which are added up over all genes of a candidate; inert genes add nothing.

    Attributes:
        name: Name of the metric.
        rows: What each value of a gene adds, by the name of the gene and the value as text.
        unit: Unit of the values, for display.
        source: File that the table was read from, for messages.
    """

    name: str
    rows: Mapping[str, Mapping[str, float]]
    unit: str = ""
    source: str = "table"
    _places: Mapping[str, int] = field(default_factory=dict, repr=False, compare=False)

    def metric(self, encoding: GeneEncoding) -> AdditiveMetric:
        """The metric in a search space.

        Genes of a kind of which the table has none, such as widths in a table of bits, add nothing.

        Args:
            encoding: Encoding of any search space.

        Raises:
            TableError: If a gene or a value is not in the space, or a value is missing.
        """
        place = {name: number for number, name in enumerate(encoding.names)}
        values: dict[int, NDArray[np.float64]] = {}
        missing = list[str]()
        for name, own in self.rows.items():
            row = f"row {self._places[name]}: " if name in self._places else ""
            if name not in place:
                raise TableError(
                    f"{self.source}: {row}{encoding.name} has no gene {name!r}{like(name, place)}; correct the name, "
                    "or remove its rows"
                )
            texts = [str(value) for value in encoding.choices[place[name]]]
            if foreign := [text for text in own if text not in texts]:
                raise TableError(
                    f"{self.source}: {row}{name} has no value {foreign[0]!r} in {encoding.name}; it offers "
                    f"{', '.join(texts)}"
                )
            missing += [f"{name} {text}" for text in texts if text not in own]
            values[place[name]] = np.array([own.get(text, np.nan) for text in texts])
        kinds = {encoding.genes[number].kind for number in values}
        missing += [
            f"{gene.name} {value}"
            for number, gene in enumerate(encoding.genes)
            if gene.kind in kinds and len(gene.values) > 1 and number not in values
            for value in gene.values
        ]
        if missing:
            raise TableError(incomplete(self.source, encoding, missing))
        return AdditiveMetric.of_genes(self.name, self.unit, encoding, values)

    def save(self, path: str | Path) -> None:
        """Write the table as a CSV file with the columns ``gene``, ``value`` and the name of the metric.

        Raises:
            TableError: If the file cannot be written.
        """
        lines = [[gene, value, repr(float(loss))] for gene, own in self.rows.items() for value, loss in own.items()]
        write_table(path, ["gene", "value", self.name], lines)
