"""Features of genomes for Gaussian processes, in groups that have a relevance each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq_tune.predict.ordinal import OrdinalFeatures
from apq_tune.problem.pareto import Floats
from apq_tune.space.encoding import Genes, Genomes
from apq_tune.space.gene_encoding import GeneEncoding

FEW = 8
"""An ordered gene with at most this many values has one-hot columns besides its rank."""


@dataclass(frozen=True, eq=False)
class Columns:
    """Features of genomes with a mean squared length of 1, in groups of equal weight.

    Networks have ``OrdinalFeatures``, grouped by kind (kernel size, channels, bits, costs). In any other space, and for
    further parameters of a study, each gene is a group: its rank if its values are ordered, one-hot columns otherwise.

    Attributes:
        groups: Group of each column, from 0, shape ``(n_features,)``.
        network: Features of the first genes, which encode a network; ``None`` if there are no such genes.
        n_choices: Number of values of each further gene.
        ordered: Whether the values of each further gene are ordered.
    """

    groups: NDArray[np.intp]
    network: OrdinalFeatures | None
    n_choices: tuple[int, ...]
    ordered: tuple[bool, ...]

    @classmethod
    def of(cls, encoding: Genes | None, others: Sequence[tuple[int, bool]] = ()) -> Columns:
        """Derive the features of a search space.

        Args:
            encoding: Encoding of the search space, if any. Named choices are ordered if all their values are numbers;
                genes of an encoding without known values are ordered.
            others: Number of values of each further gene, and whether they are ordered.
        """
        network, kinds = None, np.zeros(0, np.intp)
        n_choices, ordered = [size for size, _ in others], [order for _, order in others]
        if isinstance(encoding, GeneEncoding):
            network = OrdinalFeatures.of(encoding, np.random.default_rng(0))
            kinds = np.unique(np.where(network.factor > 0, network.kinds, network.kinds.max()), return_inverse=True)[1]
        elif encoding is not None:
            own = np.asarray(encoding.n_choices).tolist()
            values = getattr(encoding, "choices", None)
            n_choices = own + n_choices
            ordered = ([True] * len(own) if values is None else [_are_numbers(each) for each in values]) + ordered
        widths = [
            order + (size if not order or size <= FEW else 0) for size, order in zip(n_choices, ordered, strict=True)
        ]
        first = kinds.max(initial=-1) + 1
        groups = np.concatenate([kinds, first + np.repeat(np.arange(len(widths)), widths)]).astype(np.intp)
        return cls(groups, network, tuple(n_choices), tuple(ordered))

    def __call__(self, genomes: Genomes) -> Floats:
        """Features of canonical genomes ``(n, n_genes)``, shape ``(n, n_features)``."""
        n_groups = int(self.groups.max()) + 1
        n_network = genomes.shape[1] - len(self.n_choices)
        columns = [np.zeros((len(genomes), 0))]
        if self.network is not None:
            share = (n_groups - len(self.n_choices)) / n_groups
            columns.append(self.network(genomes[:, :n_network]) * np.sqrt(share))
        for place, (size, order) in enumerate(zip(self.n_choices, self.ordered, strict=True)):
            gene = genomes[:, n_network + place].astype(np.int64)
            both = order and size <= FEW
            share = 1 / (2 * n_groups if both else n_groups)
            if order:
                spread = np.sqrt((size**2 - 1) / 12) or 1.0
                columns.append(((gene - (size - 1) / 2) / spread * np.sqrt(share))[:, None])
            if not order or both:
                hot = np.zeros((len(gene), size))
                hot[np.arange(len(gene)), gene] = 1.0
                columns.append((hot - 1 / size) * np.sqrt(share / max(1 - 1 / size, 0.5)))
        return np.concatenate(columns, axis=1)


def _are_numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
