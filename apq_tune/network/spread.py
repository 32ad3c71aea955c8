"""Numbers that depend on some genes of a search space, as arrays with named axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Spread(NamedTuple):
    """Numbers as a function of the values of some genes.

    Attributes:
        genes: Names of the genes, one for each axis.
        values: Array with one axis for each gene, whose length is the number of values of the gene or 1.
    """

    genes: tuple[str, ...]
    values: NDArray[Any]

    @classmethod
    def of(cls, numbers: Any, genes: Sequence[str]) -> Spread:
        """Make from numbers of a layer, dropping genes that they do not depend on."""
        values = np.asarray(numbers)
        values = values.reshape((1,) * (len(genes) - values.ndim) + values.shape)
        kept = [axis for axis, size in enumerate(values.shape) if size > 1]
        return cls(tuple(genes[axis] for axis in kept), values.reshape([values.shape[axis] for axis in kept]))

    def over(self, genes: Sequence[str]) -> NDArray[Any]:
        """Numbers with one axis for each of ``genes``, which must include all genes of this object."""
        order = sorted(range(len(self.genes)), key=lambda axis: genes.index(self.genes[axis]))
        shape = {self.genes[axis]: self.values.shape[axis] for axis in order}
        return self.values.transpose(order).reshape([shape.get(gene, 1) for gene in genes])

    def times(self, other: Spread) -> Spread:
        """Product as a function of the genes of both."""
        genes = tuple(dict.fromkeys((*self.genes, *other.genes)))
        return Spread(genes, self.over(genes) * other.over(genes))
