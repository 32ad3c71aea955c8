"""Free upgrades of a network: more bits wherever no limit is broken and no latency grows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from apq_tune.problem.metric import Metric
from apq_tune.problem.problem import Constraint
from apq_tune.space.encoding import Genomes
from apq_tune.space.gene import BIT_KINDS
from apq_tune.space.gene_encoding import GeneEncoding

ROUNDING = 1e-9
"""Relative growth of a latency that is due to the order of its sum."""


class Raise(NamedTuple):
    """Gene of bits that was raised.

    Attributes:
        gene: Name of the gene, such as ``"1.2 pw_w_bits"``.
        of: What has these bits, such as ``"weights of 1.2 pw"``.
        before: Bits before.
        after: Bits after, more than before.
    """

    gene: str
    of: str
    before: int
    after: int

    def __str__(self) -> str:
        return f"{self.of} from {self.before} to {self.after} bits"


def raise_bits(
    encoding: GeneEncoding, genomes: Genomes, constraints: Sequence[Constraint], latencies: Sequence[Metric] = ()
) -> Genomes:
    """Raise bits of networks, never lower them, as long as all constraints are kept and no latency grows.

    The gene with the fewest bits is raised first, to the next of its values that is possible, and the first of equal
    ones: rounding errors fall by four with every bit, so that the fewest bits cost the most. Where the space allows the
    bits of weights and of the input of a layer only together, both are raised at once. This ends where no gene, and no
    such pair, can be raised alone.

    Args:
        encoding: Encoding of the search space.
        genomes: Networks that keep the constraints, shape ``(n, n_genes)``; others are returned as they are.
        constraints: Constraints that they must still keep.
        latencies: Costs that may not grow.

    Returns:
        Canonical genomes of the same architectures, shape ``(n, n_genes)``.
    """
    raised = [_raised(encoding, genome, constraints, latencies) for genome in np.asarray(genomes, np.int16)]
    return np.array(raised, np.int16).reshape(len(raised), encoding.n_genes)


def _raised(
    encoding: GeneEncoding, genome: Genomes, constraints: Sequence[Constraint], latencies: Sequence[Metric]
) -> Genomes:
    now = genome.copy()
    if any(limit.violation(np.asarray(limit.metric(now[None]), np.float64))[0] > 0 for limit in constraints):
        return now
    most = [float(metric(now[None])[0]) for metric in latencies]
    while True:
        tried = _steps(encoding, now)
        if not len(tried):
            return now
        good = encoding.is_allowed(tried)
        for limit in constraints:
            good[good] = limit.violation(np.asarray(limit.metric(tried[good]), np.float64)) <= 0
        for metric, bound in zip(latencies, most, strict=True):
            good[good] = np.asarray(metric(tried[good])) <= bound + ROUNDING * abs(bound)
        if not good.any():
            return now
        now = tried[int(good.argmax())]


def _steps(encoding: GeneEncoding, genome: Genomes) -> Genomes:
    """Genomes with one gene raised, the fewest bits first, then with both genes of a layer, shape ``(k, n_genes)``."""
    places = encoding.places_of(BIT_KINDS)
    places = places[encoding.active_genes(genome[None])[0][places]]
    bits = {int(gene): encoding.choices[gene][genome[gene]] for gene in places}
    order = sorted(bits, key=lambda gene: (bits[gene], gene))
    changes = [{gene: value} for gene in order for value in range(genome[gene] + 1, encoding.n_choices[gene])]
    layers: dict[tuple[str, str], list[int]] = {}
    for gene in order:
        layers.setdefault((encoding.genes[gene].block, encoding.genes[gene].layer), []).append(gene)
    for own in layers.values():
        if len(own) == 2:
            one, other = own
            changes += [
                {one: i, other: j}
                for i in range(genome[one] + 1, encoding.n_choices[one])
                for j in range(genome[other] + 1, encoding.n_choices[other])
            ]
    rows = np.repeat(genome[None], len(changes), axis=0)
    for row, change in zip(rows, changes, strict=True):
        row[list(change)] = list(change.values())
    return rows


def raises(encoding: GeneEncoding, before: Genomes, after: Genomes) -> tuple[Raise, ...]:
    """Genes of bits that differ between two genomes of one architecture, each of shape ``(n_genes,)``."""
    found = []
    for place in np.flatnonzero(before != after).tolist():
        gene = encoding.genes[place]
        part = " ".join(filter(None, (gene.block, gene.layer))) or gene.name
        of = f"{'weights' if gene.kind == 'w_bits' else 'input'} of {part}"
        found.append(Raise(gene.name, of, int(gene.values[before[place]]), int(gene.values[after[place]])))
    return tuple(found)
