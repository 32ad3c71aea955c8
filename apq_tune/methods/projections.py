"""Projections of genomes onto what a stage or a policy leaves open."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import ProblemError
from apq_tune.space.encoding import Encoding, Genomes
from apq_tune.space.gene import ARCHITECTURE_KINDS, BIT_KINDS, Kind, common_bits, places_of

Project = Callable[[Genomes], Genomes]
"""Projection of genomes onto a subspace; genomes of the subspace are not changed."""

W_BITS: tuple[Kind, ...] = ("w_bits",)
A_BITS: tuple[Kind, ...] = ("a_bits",)


def everything(genomes: Genomes) -> Genomes:
    """Whole search space."""
    return genomes


def _follow(encoding: Encoding, followers: Mapping[int, int]) -> Project:
    """Projection in which genes take the values of other genes, or the nearest values that they have.

    Args:
        encoding: Encoding of the search space.
        followers: Index of each following gene -> index of the gene that it follows, which follows none itself.
    """
    nearest = {gene: _nearest(encoding.genes[of].values, encoding.genes[gene].values) for gene, of in followers.items()}

    def project(genomes: Genomes) -> Genomes:
        genomes = genomes.copy()
        for gene, of in followers.items():
            genomes[:, gene] = nearest[gene][genomes[:, of]]
        return genomes

    return project


def _nearest(source: Sequence[int], target: Sequence[int]) -> NDArray[np.int16]:
    """Index of the nearest target value for each source value."""
    return np.asarray(np.abs(np.subtract.outer(np.array(source), np.array(target))).argmin(axis=1), np.int16)


def _always_active(encoding: Encoding, kinds: Sequence[Kind]) -> list[int]:
    """Indices of the genes of some kinds, one that every network has first."""
    places = places_of(encoding.genes, kinds).tolist()
    active = encoding.active_genes(np.zeros((1, len(encoding.genes)), np.int16))[0]
    return sorted(places, key=lambda place: not active[place])


def uniform_bits(encoding: Encoding) -> Project:
    """Projection onto uniform policies: all layers get the bit-width of one gene of weight bits.

    Raises:
        ProblemError: If the layers have no bit-width in common.
    """
    widths = common_bits(encoding.genes)
    if not widths:
        raise ProblemError(f"{encoding.name}: no bit-width is open to all layers; there is no uniform policy")
    first = int(_always_active(encoding, W_BITS)[0])
    nearest = _nearest(encoding.genes[first].values, widths)
    bits = {
        int(gene): np.array([encoding.genes[gene].values.index(width) for width in widths], np.int16)
        for gene in places_of(encoding.genes, BIT_KINDS)
    }

    def project(genomes: Genomes) -> Genomes:
        genomes = genomes.copy()
        width = nearest[genomes[:, first]]
        for gene, places in bits.items():
            genomes[:, gene] = places[width]
        return genomes

    return project


def uniform_wa_bits(encoding: Encoding) -> Project:
    """Projection onto policies with one bit-width for all weights and one for all activations."""
    followers: dict[int, int] = {}
    for kinds in (W_BITS, A_BITS):
        first, *others = _always_active(encoding, kinds) or [0]
        followers |= dict.fromkeys(others, first)
    return _follow(encoding, followers)


def tied_bits(encoding: Encoding) -> Project:
    """Projection onto policies whose layers have the same bit-width for weights and input."""
    layers = [(gene.block, gene.layer) for gene in encoding.genes]
    weights = {layers[place]: place for place in places_of(encoding.genes, W_BITS).tolist()}
    inputs = places_of(encoding.genes, A_BITS).tolist()
    return _follow(encoding, {place: weights[layers[place]] for place in inputs if layers[place] in weights})


def nearest_value(values: Sequence[int], bits: int) -> int:
    """Index of a bit-width among ascending ones, or of the next larger one; else of the largest."""
    return min(int(np.searchsorted(values, bits)), len(values) - 1)


def levels(encoding: Encoding) -> list[int]:
    """Bit-widths whose policies ``at_bits`` differ, ascending: those that all layers have in common, and all others.

    Where some tensors have fewer choices, such as activations of 8 bits only, these are all policies that users would
    call uniform.
    """
    own = [encoding.genes[gene].values for gene in places_of(encoding.genes, BIT_KINDS)]
    policies: dict[tuple[int, ...], int] = {}
    for bits in sorted({bits for values in own for bits in values}):
        policies.setdefault(tuple(nearest_value(values, bits) for values in own), bits)
    return list(policies.values())


def at_bits(encoding: Encoding, bits: int) -> Project:
    """Projection onto the uniform policy of a bit-width; layers without it get the next larger one that they have."""
    genes = places_of(encoding.genes, BIT_KINDS)
    places = np.array([nearest_value(encoding.genes[gene].values, bits) for gene in genes], np.int16)

    def project(genomes: Genomes) -> Genomes:
        genomes = genomes.copy()
        genomes[:, genes] = places
        return genomes

    return project


def most_bits(encoding: Encoding) -> Project:
    """Projection onto the uniform policy of the largest bit-width that all layers have in common.

    Raises:
        ProblemError: If the layers have no bit-width in common.
    """
    uniform_bits(encoding)  # refuses such a space
    return at_bits(encoding, common_bits(encoding.genes)[-1])


def four_bits(encoding: Encoding) -> Project:
    """Projection onto 4 bits everywhere; tensors without this choice get the next larger one that they have.

    Raises:
        ProblemError: If no tensor can have 4 bits.
    """
    if not any(4 in encoding.genes[gene].values for gene in places_of(encoding.genes, BIT_KINDS)):
        raise ProblemError(f"{encoding.name}: 4 bits are open to no layer; there is no uniform policy of 4 bits")
    return at_bits(encoding, 4)


def largest(encoding: Encoding, kinds: Sequence[Kind]) -> Project:
    """Projection that sets genes of some kinds to their last choice."""
    genes = places_of(encoding.genes, kinds)

    def project(genomes: Genomes) -> Genomes:
        genomes = genomes.copy()
        genomes[:, genes] = encoding.n_choices[genes] - 1
        return genomes

    return project


def same_share(encoding: Encoding) -> Project:
    """Projection onto the largest architecture with one share of channels in all layers, and one bit-width.

    Widths are at the same place, rounded, between the first and the last choice of each layer.

    Raises:
        ProblemError: If the layers have no bit-width in common, or no width is open.
    """
    widths = _always_active(encoding, ("width",))
    if not widths:
        raise ProblemError(f"{encoding.name}: no width is open; there is nothing to prune")
    last = encoding.n_choices[widths] - 1
    leading = int(np.argmax(last))  # of the most choices, so that every share that a layer has can be tried

    def prune(genomes: Genomes) -> Genomes:
        genomes = genomes.copy()
        share = genomes[:, widths[leading]] / last[leading]
        genomes[:, widths] = np.rint(share[:, None] * last).astype(np.int16)
        return genomes

    return both(largest(encoding, ARCHITECTURE_KINDS), prune, uniform_bits(encoding))


def fixed(encoding: Encoding, template: Genomes, kinds: Sequence[Kind]) -> Project:
    """Projection that sets genes of some kinds to those of a template.

    Args:
        encoding: Encoding of the search space.
        template: Genome, shape ``(n_genes,)``.
        kinds: Kinds of the genes that are fixed.
    """
    genes = places_of(encoding.genes, kinds)

    def project(genomes: Genomes) -> Genomes:
        genomes = genomes.astype(np.int16)
        genomes[:, genes] = template[genes]
        return genomes

    return project


def both(*projects: Project) -> Project:
    """Composition of projections, applied in order."""

    def project(genomes: Genomes) -> Genomes:
        for each in projects:
            genomes = each(genomes)
        return genomes

    return project
