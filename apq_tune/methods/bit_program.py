"""Bits of one network by an integer program: the least sum of losses, gene by gene, within the limits of the search."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq_tune.cost import bit_ops
from apq_tune.cost.additive import OpenTerm
from apq_tune.cost.model import CostModel
from apq_tune.errors import ProblemError
from apq_tune.predict import Floats
from apq_tune.problem.metric import Metric
from apq_tune.problem.problem import Constraint
from apq_tune.searchers.integer_program import exact_choice, greedy_choice
from apq_tune.searchers.program import Budget, Table
from apq_tune.space.encoding import Genomes
from apq_tune.space.gene import BIT_KINDS
from apq_tune.space.gene_encoding import GeneEncoding

Sensitivities = Mapping[int, Floats]
"""Loss of each bit-width of a gene, by the index of the gene, shape ``(n_values,)`` each; losses of genes are added."""

CHECKS = 50
"""Number of random policies on which a cost that is no ``CostModel`` is compared with its tables."""


def open_bits(encoding: GeneEncoding, genome: Genomes) -> NDArray[np.intp]:
    """Indices of the genes of bits that a network of shape ``(n_genes,)`` has and that offer a choice."""
    places = encoding.places_of(BIT_KINDS)
    active = encoding.active_genes(genome[None])[0]
    return np.asarray(places[active[places] & (encoding.n_choices[places] > 1)])


def one_gene_lower(encoding: GeneEncoding, genome: Genomes) -> tuple[Genomes, list[tuple[int, int]]]:
    """Candidates whose losses make up the table of sensitivities of a network.

    Args:
        encoding: Encoding of the search space.
        genome: Network, shape ``(n_genes,)``; its bits do not matter.

    Returns:
        Candidates, shape ``(1 + k, n_genes)``: the network at the most bits, then with one gene at one other bit-width
        each; and the gene and the value of each of the latter.
    """
    top = encoding.at_largest(genome[None], BIT_KINDS)[0].astype(np.int16)
    cells = [(int(gene), value) for gene in open_bits(encoding, top) for value in range(encoding.n_choices[gene] - 1)]
    genomes = np.repeat(top[None], 1 + len(cells), axis=0)
    for row, (gene, value) in enumerate(cells, start=1):
        genomes[row, gene] = value
    return genomes, cells


def sensitivities(encoding: GeneEncoding, genome: Genomes, measure: Callable[[Genomes], Floats]) -> dict[int, Floats]:
    """Increase of the loss by each bit-width of each gene alone, all other bits being the most.

    Args:
        encoding: Encoding of the search space.
        genome: Network, shape ``(n_genes,)``.
        measure: Function from genomes of shape ``(k, n_genes)`` to losses of shape ``(k,)``.
    """
    genomes, cells = one_gene_lower(encoding, genome)
    losses = measure(genomes)
    table = {int(gene): np.zeros(int(encoding.n_choices[gene])) for gene in open_bits(encoding, genome)}
    for (gene, value), loss in zip(cells, losses[1:], strict=True):
        table[gene][value] = loss - losses[0]
    return table


def without_noise(bits: Sequence[int], losses: Floats) -> Floats:
    """Losses of a gene's bit-widths as they would be without noise.

    More bits never lose more, so the losses are fitted by a falling sequence. The squared error of a uniform quantizer
    falls by four with each bit, and small losses with it: where a loss is measured to be less than that predicts, its
    noise is larger than itself. Sums over many genes would prefer such bits to those that are measured to be harmless.

    Args:
        bits: Bit-widths, ascending.
        losses: Measured losses above that at the most bits, shape ``(len(bits),)``.

    Returns:
        Array of shape ``(len(bits),)`` that falls to zero at the most bits.
    """
    from scipy.optimize import isotonic_regression

    weights = np.ones(len(bits))
    weights[-1] = 1e9  # the last one is zero by definition
    found = np.asarray(isotonic_regression(np.asarray(losses, np.float64), weights=weights, increasing=False).x).copy()
    found -= found[-1]
    error = 4.0 ** -np.array(bits) - 4.0 ** -bits[-1]
    for i in range(1, len(bits)):
        found[i] = max(found[i], found[i - 1] * error[i] / error[i - 1])
    return found


def best_bits(
    encoding: GeneEncoding,
    genome: Genomes,
    table: Sensitivities,
    limits: Sequence[Constraint],
    n: int = 1,
    *,
    greedy: bool = False,
) -> Genomes:
    """Candidates of one architecture with the least sums of sensitivities within the limits, best first.

    Args:
        encoding: Encoding of the search space.
        genome: Network, shape ``(n_genes,)``.
        table: Sensitivities of all genes that ``open_bits`` lists.
        limits: Constraints on costs.
        n: Number of candidates; fewer are returned if there are no more.
        greedy: Whether to choose bits step by step, as a control of the exact choice; gives one candidate.

    Returns:
        Canonical genomes, shape ``(<= n, n_genes)``, distinct.

    Raises:
        ProblemError: If no bits keep the limits; the message has the least reachable cost. Also if a limited cost is
            no sum of terms over few genes.
    """
    genes = [int(gene) for gene in open_bits(encoding, genome)]
    losses = [np.asarray(table[gene], np.float64) for gene in genes]
    budgets = budgets_of(encoding, genome, limits)
    found: list[NDArray[np.intp]] = []
    while len(found) < n:
        try:
            choice = greedy_choice(losses, budgets) if greedy else exact_choice(losses, budgets, without=found)
        except ProblemError:
            if not found:
                raise
            break
        found.append(choice)
        if greedy or not genes:
            break
    genomes = np.repeat(np.asarray(genome, np.int16)[None], len(found), axis=0)
    genomes[:, genes] = np.array(found, np.int16).reshape(len(found), len(genes))
    return np.asarray(encoding.canonicalise(genomes), np.int16)


def budgets_of(encoding: GeneEncoding, genome: Genomes, limits: Sequence[Constraint]) -> list[Budget]:
    """Limits as budgets over the open genes of bits of one architecture, and the combinations that are allowed.

    Args:
        encoding: Encoding of the search space.
        genome: Network, shape ``(n_genes,)``.
        limits: Constraints on costs.

    Raises:
        ProblemError: If a limit is no upper bound of a cost that is a sum of terms over few genes.
    """
    genes = [int(gene) for gene in open_bits(encoding, genome)]
    variable = {gene: number for number, gene in enumerate(genes)}
    budgets = []
    for limit in limits:
        if limit.sense != "<=":
            raise ProblemError(f"{limit}: the integer program of bits takes upper bounds only; search with a sampler")
        for fixed, terms in _sums(encoding, genome, genes, limit.metric):
            tables = tuple(Table(tuple(variable[g] for g in own), values) for own, values in terms)
            budgets.append(Budget(limit.metric.name, limit.bound, tables, fixed))
    if encoding.forbids:  # each term knows which combinations its part allows
        ((_, terms),) = bit_ops(encoding).sums(genome, genes)
        tables = tuple(Table(tuple(variable[g] for g in own), values) for own, values in terms)
        tables += tuple(
            Table((variable[w], variable[a]), np.where(allowed, 0.0, math.inf))
            for w, a, allowed in encoding.pairs
            if w in variable and a in variable
        )
        budgets.append(Budget("forbidden", math.inf, tables))
    return budgets


def _sums(
    encoding: GeneEncoding, genome: Genomes, genes: Sequence[int], metric: Metric
) -> list[tuple[float, list[OpenTerm]]]:
    """Sums over open genes whose largest is a cost."""
    if isinstance(metric, CostModel):
        return metric.sums(genome, genes)
    return [_probed(encoding, genome, genes, metric)]


def _probed(
    encoding: GeneEncoding, genome: Genomes, genes: Sequence[int], metric: Metric
) -> tuple[float, list[OpenTerm]]:
    """Constant part and terms of a cost that is known by its values only.

    A cost that is a sum over layers depends on the bits of weights and of activations alone and on pairs of the two.

    Raises:
        ProblemError: If the cost is of another form, such as peak memory.
    """
    base = np.asarray(genome, np.int16).copy()
    base[list(genes)] = 0

    def at(changes: Sequence[Mapping[int, int]]) -> Floats:
        rows = np.repeat(base[None], len(changes), axis=0)
        for row, own in zip(rows, changes, strict=True):
            row[list(own)] = list(own.values())
        return np.asarray(metric(rows), np.float64)

    n = {gene: int(encoding.n_choices[gene]) for gene in genes}
    fixed = float(at([{}])[0])
    alone = {gene: at([{gene: value} for value in range(n[gene])]) - fixed for gene in genes}
    terms = [OpenTerm((gene,), values) for gene, values in alone.items()]
    kind = {gene: encoding.genes[gene].kind for gene in genes}
    pairs = [(w, a) for w in genes if kind[w] == "w_bits" for a in genes if kind[a] == "a_bits"]
    ends = at([{w: n[w] - 1, a: n[a] - 1} for w, a in pairs])
    for (w, a), together in zip(pairs, ends, strict=True):
        if not _same(together, fixed + alone[w][-1] + alone[a][-1]):
            values = at([{w: i, a: j} for i in range(n[w]) for j in range(n[a])]).reshape(n[w], n[a])
            terms.append(OpenTerm((w, a), values - fixed - alone[w][:, None] - alone[a]))
    rng = np.random.default_rng(0)
    checks: list[dict[int, int]] = [{g: int(rng.integers(n[g])) for g in genes} for _ in range(CHECKS)]
    sums = [fixed + sum(float(term.values[tuple(one[g] for g in term.genes)]) for term in terms) for one in checks]
    if not _same(np.array(sums), at(checks)):
        raise ProblemError(
            f"{metric.name} is no sum over layers, so the integer program of bits cannot keep a limit on it; search "
            "with a sampler, or limit weight_bytes or bit_ops"
        )
    return fixed, terms


def _same(one: Any, other: Any) -> bool:
    return bool(np.allclose(one, other, rtol=1e-9, atol=0))
