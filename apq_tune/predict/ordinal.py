"""Candidates as numbers that know what is more and what is less; one-hot columns have to learn that from pairs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from apq_tune.cost import CostModel, cost_models
from apq_tune.predict import named
from apq_tune.predict.pairs import Floats
from apq_tune.space.choices import ChoiceEncoding
from apq_tune.space.encoding import Genomes
from apq_tune.space.mbconv import Block
from apq_tune.space.network_encoding import NetworkEncoding

N_REFERENCE = 2000
"""Random candidates that say how far each column spreads: the space is known before any pair is."""


@dataclass(frozen=True)
class OrdinalFeatures:
    """Which blocks are on, logarithms of their choices and of the costs; every kind of column weighs the same.

    Kinds: on or off; kernel size; channels; each of the four bit-widths (``log2(bits)``, and ``2**-bits`` as rounding
    errors go); resolution; the cost models. A block that is off has zeros. Genes without a choice have no column. Each
    column is centred and scaled by its spread over random candidates, each kind divided by the root of its number of
    columns and of the number of kinds, so that a random candidate's squared length is 1 in the mean.

    Attributes:
        encoding: of the space; for named choices without a network see ``named.columns``.
        mean: ``(n_features,)`` of the columns over random candidates.
        factor: ``(n_features,)`` that the centred columns are multiplied by.
    """

    encoding: NetworkEncoding | ChoiceEncoding
    mean: Floats
    factor: Floats

    @classmethod
    def of(cls, encoding: NetworkEncoding | ChoiceEncoding, rng: np.random.Generator) -> OrdinalFeatures:
        """Measure the spread of the columns on random candidates."""
        n = n_features(encoding)
        raw = cls(encoding, np.zeros(n), np.ones(n))
        columns = raw(encoding.sample(N_REFERENCE, rng))
        spread, kinds = columns.std(axis=0), _kinds(encoding)
        varies = spread > 1e-9 * np.abs(columns).max(axis=0)
        used = np.unique(kinds[varies])
        factor = np.zeros(n)
        for kind in used:
            own = varies & (kinds == kind)
            factor[own] = 1 / (spread[own] * np.sqrt(own.sum() * len(used)))
        return cls(encoding, columns.mean(axis=0), factor)

    def __call__(self, genomes: Genomes) -> Floats:
        """``(n, n_genes) -> (n, n_features)``."""
        return np.asarray((self._columns(genomes) - self.mean) * self.factor)

    def _columns(self, genomes: Genomes) -> Floats:
        """``(n, n_genes) -> (n, n_features)``, neither centred nor scaled."""
        if isinstance(self.encoding, ChoiceEncoding):
            return named.columns(self.encoding, genomes)
        active, genes = self.encoding.active(genomes), self.encoding.block_genes(genomes)
        columns = [active.astype(np.float64)]
        fields, slots = np.indices(genes.shape[1:])
        for table, chosen in zip(self._tables, _columns(self.encoding), strict=True):
            columns.append((table[fields, slots, genes] * active[:, None])[:, chosen])
        if len(resolutions := self.encoding.space.resolutions) > 1:
            columns.append(np.log2(resolutions)[self.encoding.resolution_index(genomes)][:, None])
        index = self._costs[0].index(genomes)
        columns.append(np.log(np.column_stack([cost.at(*index) for cost in self._costs])))
        return np.concatenate(columns, axis=1)

    @property
    def kinds(self) -> NDArray[np.intp]:
        """``(n_features,)``: which kind each column is of."""
        return _kinds(self.encoding)

    @cached_property
    def _costs(self) -> tuple[CostModel, ...]:
        assert isinstance(self.encoding, NetworkEncoding)
        return cost_models(self.encoding)

    @cached_property
    def _tables(self) -> tuple[Floats, Floats]:
        """``(6, n_slots, n_values)``: by field, slot and gene, ``log2`` of the value, and 2 to the minus it."""
        assert isinstance(self.encoding, NetworkEncoding)
        blocks = self.encoding.choices[-len(Block._fields) * self.encoding.n_slots :]
        values = np.ones((len(blocks), max(map(len, blocks))))
        for row, choices in zip(values, blocks, strict=True):
            row[: len(choices)] = choices
        shape = len(Block._fields), self.encoding.n_slots, -1
        return np.log2(values).reshape(shape), (2.0**-values).reshape(shape)


def _columns(encoding: NetworkEncoding) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """``(6, n_slots)`` each: fields and slots with a column of ``log2``, and with one of 2 to the minus it."""
    several = encoding.n_choices[-len(Block._fields) * encoding.n_slots :] > 1
    several = several.reshape(len(Block._fields), encoding.n_slots)
    is_bits = np.array([field.endswith("bits") for field in Block._fields])
    return several, several & is_bits[:, None]


def _kinds(encoding: NetworkEncoding | ChoiceEncoding) -> NDArray[np.intp]:
    """``(n_features,)``: which kind each column is of."""
    if isinstance(encoding, ChoiceEncoding):
        return named.kinds(encoding)
    n_fields = len(Block._fields)
    fields = np.broadcast_to(np.arange(n_fields)[:, None], (n_fields, encoding.n_slots))
    kinds = [np.full(encoding.n_slots, n_fields), *(fields[chosen] for chosen in _columns(encoding))]
    if len(encoding.space.resolutions) > 1:
        kinds.append(np.array([n_fields + 1]))
    return np.concatenate([*kinds, np.full(len(cost_models(encoding)), n_fields + 2)])


def n_features(encoding: NetworkEncoding | ChoiceEncoding) -> int:
    """Number of columns for a space."""
    return len(_kinds(encoding))
