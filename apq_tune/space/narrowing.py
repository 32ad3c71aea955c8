"""A space and the part of it that a device runs: candidates and genomes of one as those of the other."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import DeviceError
from apq_tune.space.device import DevicePreset
from apq_tune.space.device_rules import check_network
from apq_tune.space.encoding import Genomes
from apq_tune.space.encodings import encoding_of
from apq_tune.space.gene_encoding import GeneEncoding
from apq_tune.space.model_space import ModelSpace
from apq_tune.space.network_space import NetworkSpace


class Narrowing:
    """A search space and a part of it.

    What was learned or trained on the whole space, such as a predictor, is of use in the part by ``widen``.

    Attributes:
        whole: Encoding of the whole space.
        part: Encoding of the part.
    """

    def __init__(self, whole: NetworkSpace, part: NetworkSpace) -> None:
        self.whole: GeneEncoding = encoding_of(whole)
        self.part: GeneEncoding = encoding_of(part)
        column = {name: place for place, name in enumerate(self.part.names)}
        self._columns = np.array([column.get(name, -1) for name in self.whole.names], np.intp)
        """Gene of the part of each gene of the whole space; -1 if one value is left."""
        self._places: list[NDArray[np.int16]] = []
        """Place in the whole space of each value of each of its genes that is left."""
        for name, values in zip(self.whole.names, self.whole.choices, strict=True):
            kept = self.part.choices[column[name]] if name in column else (self._only(name),)
            self._places.append(np.array([values.index(value) for value in kept], np.int16))

    def _only(self, name: str) -> Any:
        """The one value of a gene that the part does not have."""
        whole, part = self.whole.space, self.part.space
        assert isinstance(whole, ModelSpace)
        for kind in ("depths", "widths", "w_bits", "a_bits", "sparsity"):
            for key, choice in getattr(whole.choices, kind).items():
                if choice.gene == name:
                    return getattr(part.choices, kind)[key].values[-1]
        raise KeyError(name)

    def widen(self, genomes: Genomes) -> Genomes:
        """Genomes of the part as canonical genomes of the whole space, shape ``(n, n_genes)``."""
        wide = np.empty((len(genomes), self.whole.n_genes), np.int16)
        for gene, (column, places) in enumerate(zip(self._columns, self._places, strict=True)):
            wide[:, gene] = places[0] if column < 0 else places[genomes[:, column]]
        return np.asarray(self.whole.canonicalise(wide), np.int16)

    def narrow(self, genomes: Genomes) -> tuple[Genomes, NDArray[np.bool_]]:
        """Inverse of ``widen``.

        Args:
            genomes: Canonical genomes of the whole space, shape ``(n, n_genes)``.

        Returns:
            Canonical genomes of the part, and whether genomes are in it, shape ``(n,)``; the others are arbitrary.
        """
        narrow = np.zeros((len(genomes), self.part.n_genes), np.int16)
        for gene, (column, places) in enumerate(zip(self._columns, self._places, strict=True)):
            if column >= 0:
                here = np.zeros(len(self.whole.choices[gene]), np.int16)
                here[places] = np.arange(len(places))
                narrow[:, column] = here[genomes[:, gene]]
        narrow = np.asarray(self.part.canonicalise(narrow), np.int16)
        same = (self.widen(narrow) == genomes).all(axis=1)
        return narrow, np.asarray(same & self.part.is_allowed(narrow))

    def rows(self, rows: Mapping[int, NDArray[np.float64]]) -> dict[int, NDArray[np.float64]]:
        """Numbers by the values of genes of the whole space, as those of genes of the part.

        Args:
            rows: Array of shape ``(n_values,)`` by index of the gene.
        """
        return {
            int(self._columns[gene]): row[self._places[gene]] for gene, row in rows.items() if self._columns[gene] >= 0
        }

    def mask(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """What a mask of the values of genes of the whole space says of the part; see ``measured_values``."""
        found = np.zeros((self.part.n_genes, int(self.part.n_choices.max())), bool)
        for gene, (column, places) in enumerate(zip(self._columns, self._places, strict=True)):
            if column >= 0:
                found[column, : len(places)] = mask[gene, places]
        return found

    def places(self) -> NDArray[np.intp]:
        """Where an array over the values of the part's genes has those of the whole space.

        Returns:
            Index in the flat array of shape ``(n_genes, most)`` of each value of each gene of the whole space, of this
            shape, too; with ``size`` the size of the flat array, ``size`` for values that are not left and ``size + 1``
            for the only one of a gene that the part does not have.
        """
        most = int(self.part.n_choices.max())
        size = self.part.n_genes * most
        found = np.full((self.whole.n_genes, int(self.whole.n_choices.max())), size, np.intp)
        for gene, (column, places) in enumerate(zip(self._columns, self._places, strict=True)):
            found[gene, places] = size + 1 if column < 0 else column * most + np.arange(len(places))
        return found

    def candidate(self, candidate: Any) -> Any:
        """Candidate of the part as one of the whole space."""
        return self.whole.decode(self.widen(self.part.encode([candidate], check=False)))[0]

    @functools.cached_property
    def is_whole(self) -> bool:
        """Whether the part is the whole space."""
        return bool(self.whole.size() == self.part.size())


def candidates_run(preset: DevicePreset, part: NetworkSpace, candidates: Sequence[Any]) -> list[Any]:
    """Candidates of a whole space as those of the part that a device runs.

    Args:
        preset: Preset of the device.
        part: Space that was narrowed for it.
        candidates: Candidates of ``part.whole``.

    Raises:
        DeviceError: If the device does not run one; the message names its position, the layer and the rule.
    """
    whole = part.whole
    for place, candidate in enumerate(candidates):
        layers = whole.network.at(whole.values_of(candidate))
        try:
            check_network(preset, layers)
        except DeviceError as error:
            raise DeviceError(f"candidate {place}: {error}") from None
    narrowing = Narrowing(whole, part)
    genomes, inside = narrowing.narrow(narrowing.whole.encode(candidates))
    if not inside.all():  # what check_network allows, a space narrowed gene by gene may leave out
        place = int(np.argmin(inside))
        raise DeviceError(f"candidate {place}: is not in {part.name} as narrowed for {preset.name}; leave it out")
    return list(narrowing.part.decode(genomes))
