"""Additive tables by direct measurement: any metric of candidates that differ from one in a single gene."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from apq_tune.cost.gene_table import GeneTable
from apq_tune.problem.metric import Metric
from apq_tune.space.encoding import Genomes
from apq_tune.space.encodings import encoding_of
from apq_tune.space.gene import BIT_KINDS, Kind
from apq_tune.space.gene_encoding import GeneEncoding


def measure_one_at_a_time(
    metric: Metric, space: Any, *, reference: Any = None, kinds: Iterable[Kind] = BIT_KINDS
) -> GeneTable:
    """Measure what each value of each gene alone changes a metric by, from one candidate on.

    As a metric (``GeneTable.metric``), the changes are added, as if genes did not interact. With ``kinds`` of the
    architecture, such as ``depth`` and ``width``, leaving out a block or making it narrower has its own loss; without,
    the table knows nothing of architectures.

    Args:
        metric: Metric of the space, such as ``SupernetLoss``; it is evaluated once for each value of each gene.
        space: Search space, or its encoding.
        reference: Candidate that the others differ from; by default the largest network at the most bits.
        kinds: Kinds of genes that are changed; those that are inert in the reference are left out.

    Returns:
        Table of all changed genes, with zero for the values of the reference.
    """
    encoding: GeneEncoding = encoding_of(space)
    genome = encoding.ends()[1] if reference is None else encoding.encode([reference])[0]
    genomes, cells = one_gene_changed(encoding, genome, kinds)
    values = np.asarray(metric(genomes), np.float64)
    rows: dict[str, dict[str, float]] = {}
    for gene in dict.fromkeys(gene for gene, _ in cells):
        rows[encoding.names[gene]] = dict.fromkeys(map(str, encoding.choices[gene]), 0.0)
    for (gene, value), own in zip(cells, values[1:], strict=True):
        rows[encoding.names[gene]][str(encoding.choices[gene][value])] = float(own - values[0])
    return GeneTable(f"{metric.name}_change", rows, metric.unit)


def one_gene_changed(
    encoding: GeneEncoding, genome: Genomes, kinds: Iterable[Kind]
) -> tuple[Genomes, list[tuple[int, int]]]:
    """Candidates that differ from one in a single gene.

    Args:
        encoding: Encoding of the search space.
        genome: The candidate, shape ``(n_genes,)``.
        kinds: Kinds of the genes that are changed.

    Returns:
        Canonical genomes, the candidate first, shape ``(1 + k, n_genes)``; and the gene and its value of each other.
    """
    places = encoding.places_of(kinds)
    active = encoding.active_genes(genome[None])[0]
    cells = [
        (int(gene), value)
        for gene in places
        if active[gene]
        for value in range(encoding.n_choices[gene])
        if value != genome[gene]
    ]
    genomes = np.repeat(np.asarray(genome, np.int16)[None], 1 + len(cells), axis=0)
    for row, (gene, value) in enumerate(cells, start=1):
        genomes[row, gene] = value
    return np.asarray(encoding.canonicalise(genomes), np.int16), cells
