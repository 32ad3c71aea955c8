"""Encoding of the parameters of an Optuna study as genes, which are small integers along their ranges."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from apq_tune.hosts.narrowed import NarrowedEncoding
from apq_tune.space.encoding import Genomes, draw
from apq_tune.space.gene_encoding import GeneEncoding

GRID = 2**14
"""Number of steps of the range of a float, or of an integer with more values. It fits into a 16-bit gene, and is a
power of two, so that halves and quarters of a range are exact."""


class ParameterGenes:
    """Genes of a study's parameters: first those of the search space, if all are present, then any others."""

    def __init__(
        self,
        distributions: Mapping[str, BaseDistribution],
        encoding: GeneEncoding | NarrowedEncoding | None,
    ) -> None:
        own = () if encoding is None else encoding.names
        self._encoding = encoding if all(name in distributions for name in own) else None
        self.distributions = {
            name: distributions[name] for name in dict.fromkeys((*own, *distributions)) if name in distributions
        }
        self._last = [_last_gene(distribution) for distribution in self.distributions.values()]
        self.n_choices = np.array(self._last, np.int16) + np.int16(1)

    def repair(self, genomes: Genomes, rng: np.random.Generator) -> Genomes:
        """Repair the genes of the search space to an allowed candidate."""
        if self._encoding is None:
            return genomes
        n = len(self._encoding.names)
        return np.concatenate([self._encoding.repair(genomes[:, :n], rng), genomes[:, n:]], axis=1)

    def sample(self, n: int, rng: np.random.Generator) -> Genomes:
        """Sample ``n`` uniform genomes."""
        return self.repair(draw(self.n_choices, n, rng), rng)

    def encode(self, trials: Sequence[FrozenTrial]) -> tuple[Genomes, NDArray[np.bool_]]:
        """Encode trials.

        Returns:
            Genomes of shape ``(n, n_genes)``, and a mask of the same shape of parameters that a trial lacks or has out
            of range, whose genes are -1.
        """
        genes = []
        for trial in trials:
            params = trial.params
            row = []
            for (name, distribution), last in zip(self.distributions.items(), self._last, strict=True):
                share = _share(distribution, params[name]) if name in params else None
                row.append(-1 if share is None else round(share * last))
            genes.append(row)
        genomes = np.array(genes, np.int16)
        return genomes, genomes < 0

    def decode(self, genome: NDArray[np.int16]) -> dict[str, Any]:
        """Values of the parameters of a genome of shape ``(n_genes,)``, by name."""
        return {
            name: _value(distribution, gene / (last or 1))
            for (name, distribution), last, gene in zip(
                self.distributions.items(), self._last, genome.tolist(), strict=True
            )
        }


def _last_gene(distribution: BaseDistribution) -> int:
    """Largest gene value of a parameter; the smallest is 0."""
    if isinstance(distribution, CategoricalDistribution):
        return min(len(distribution.choices) - 1, GRID)
    numbers = cast(FloatDistribution | IntDistribution, distribution)
    if numbers.single():
        return 0
    if numbers.log or numbers.step is None:
        return GRID
    return min(round((numbers.high - numbers.low) / numbers.step), GRID)


def _ends(numbers: FloatDistribution | IntDistribution) -> tuple[float, float]:
    """Ends of a range; logarithms on a log scale, where integers are extended by .5 so that all are equally wide."""
    if not numbers.log:
        return numbers.low, numbers.high
    half = 0.5 if isinstance(numbers, IntDistribution) else 0.0
    return math.log(numbers.low - half), math.log(numbers.high + half)


def _share(distribution: BaseDistribution, value: Any) -> float | None:
    """Relative position of a value in its range, from 0 to 1; ``None`` if it is outside."""
    if isinstance(distribution, CategoricalDistribution):
        try:
            return distribution.to_internal_repr(value) / max(len(distribution.choices) - 1, 1)
        except ValueError:
            return None
    numbers = cast(FloatDistribution | IntDistribution, distribution)
    if not numbers.low <= value <= numbers.high:
        return None
    low, high = _ends(numbers)
    at = math.log(value) if numbers.log else value
    return (at - low) / (high - low) if high > low else 0.0


def _value(distribution: BaseDistribution, share: float) -> Any:
    """Value at a relative position of a range; inverse of ``_share``."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[round(share * (len(distribution.choices) - 1))]
    numbers = cast(FloatDistribution | IntDistribution, distribution)
    low, high = _ends(numbers)
    at = low * (1 - share) + high * share
    if numbers.log:
        at = math.exp(at)
    if numbers.step is not None:
        at = numbers.low + numbers.step * round((at - numbers.low) / numbers.step)
    return min(max(at, numbers.low), numbers.high)


def uniform_value(distribution: BaseDistribution, rng: np.random.Generator) -> Any:
    """Draw a value of one parameter, uniformly over its genes."""
    last = _last_gene(distribution)
    return _value(distribution, int(rng.integers(last + 1)) / (last or 1))
