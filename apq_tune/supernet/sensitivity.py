"""Sensitivity of a network to the bits of its layers: what each bit-width of each gene alone does to the logits.

The divergence is that of Kullback and Leibler, from the logits in full precision to those with one gene at one
bit-width and all others at the most bits. What the most bits lose is subtracted, so that divergences of genes can be
added. Two controls have the same form: errors of the quantized tensors themselves, which need no logits, and the table
with its genes shuffled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from apq_tune.methods.bit_program import Sensitivities, one_gene_lower, open_bits
from apq_tune.space.encoding import Genomes
from apq_tune.space.encodings import encoding_of
from apq_tune.space.gene_encoding import GeneEncoding
from apq_tune.supernet.defaults import plain_torch
from apq_tune.supernet.evaluate import quantizer_inputs
from apq_tune.supernet.graph_subnet import FoldedWeights
from apq_tune.supernet.interfaces import AnySubnet
from apq_tune.supernet.quantize import quantize_weight

SAMPLES = 16_000
"""Number of activations of each tensor by which its quantization error is measured."""


class Cell(NamedTuple):
    """Part of a table: one bit-width of one gene on some images.

    Attributes:
        gene: Index of the gene.
        value: Index of the bit-width.
        divergences: Divergence on each image, in nats, above that at the most bits, shape ``(n,)``.
    """

    gene: int
    value: int
    divergences: NDArray[np.float64]


def divergences(reference: Tensor, logits: Tensor) -> NDArray[np.float64]:
    """Kullback-Leibler divergence of each image, in nats.

    Args:
        reference: Logits in full precision, shape ``(n, classes)``.
        logits: Logits, shape ``(n, classes)``.

    Returns:
        Array of shape ``(n,)``.
    """
    log_p, log_q = (functional.log_softmax(x.double(), dim=1) for x in (reference, logits))
    return np.asarray((log_p.exp() * (log_p - log_q)).sum(dim=1).cpu().numpy(), np.float64)


def measure_cells(subnet: AnySubnet, images: Tensor, genes: Sequence[int]) -> Iterator[list[Cell]]:
    """Measure all bit-widths of genes but the most bits, gene by gene.

    Args:
        subnet: Network, whose bits do not matter.
        images: Images on its device, shape ``(n, channels, h, w)``.
        genes: Indices of genes that ``open_bits`` lists, in the order in which they are measured.

    Yields:
        Cells of one gene.
    """
    encoding, genome = encoded(subnet)
    genomes, places = one_gene_lower(encoding, genome)
    candidates = encoding.decode(genomes)
    rows: dict[int, list[tuple[int, Any]]] = {gene: [] for gene in genes}
    for (gene, value), candidate in zip(places, candidates[1:], strict=True):
        if gene in rows:
            rows[gene].append((value, candidate))
    with plain_torch(), torch.no_grad():
        reference = subnet(images, quantize=False)
        run = subnet.on(images)
        most = divergences(reference, run(candidates[0]))
        for gene in genes:
            yield [Cell(gene, value, divergences(reference, run(candidate)) - most) for value, candidate in rows[gene]]


def encoded(subnet: AnySubnet) -> tuple[GeneEncoding, Genomes]:
    """Encoding of the space of a network, and its genome of shape ``(n_genes,)``."""
    encoding = encoding_of(subnet.space)
    return encoding, encoding.encode([subnet.candidate], check=False)[0]


@plain_torch()
@torch.no_grad()
def tensor_errors(subnet: AnySubnet, images: Tensor) -> dict[int, NDArray[np.float64]]:
    """Control without logits: squared error of the tensors that each gene quantizes, relative to their squared values.

    Args:
        subnet: Network with calibrated quantizers.
        images: Images on its device; errors of weights do not depend on them.

    Returns:
        Sum over the layers that a gene governs, for each bit-width, by index of the gene.
    """
    encoding, genome = encoded(subnet)
    genomes, places = one_gene_lower(encoding, genome)
    top, *lower = (
        {layer.name: layer.op for layer in subnet.space.network.at(subnet.space.values_of(candidate)) if layer.op}
        for candidate in encoding.decode(genomes)
    )
    modules, quantizers = subnet.weighted(), subnet.input_quantizers()
    samples = quantizer_inputs(subnet, [lambda: subnet(images, quantize=False)], SAMPLES)
    table = {int(gene): np.zeros(int(encoding.n_choices[gene])) for gene in open_bits(encoding, genome)}
    for (gene, value), ops in zip(places, lower, strict=True):
        for name, op in ops.items():
            if op.w_bits != top[name].w_bits:
                module, bits = modules[name], cast(int, op.w_bits)
                factor = module.factor(bits) if isinstance(module, FoldedWeights) else None
                table[gene][value] += _relative(module.weight, quantize_weight(module.weight, bits, factor))
            if op.a_bits != top[name].a_bits:
                quantizer = quantizers[name]
                x = quantizer(samples[quantizer], None)
                table[gene][value] += _relative(x, quantizer(samples[quantizer], cast(int, op.a_bits)))
    return table


def _relative(exact: Tensor, quantized: Tensor) -> float:
    return float((quantized - exact).square().sum() / exact.square().sum().clamp_min(1e-30))


def shuffled(
    table: Sensitivities, rng: np.random.Generator, groups: Mapping[int, str]
) -> dict[int, NDArray[np.float64]]:
    """Control: each gene gets the row of another gene of its group with as many bit-widths.

    Args:
        table: Table of sensitivities.
        rng: Random number generator.
        groups: Group of each gene, such as its kind.
    """
    own: dict[int, NDArray[np.float64]] = {}
    sets: dict[tuple[str, int], list[int]] = {}
    for gene, row in table.items():
        sets.setdefault((groups[gene], len(row)), []).append(gene)
    for genes in sets.values():
        for gene, other in zip(genes, rng.permutation(genes), strict=True):
            own[gene] = np.asarray(table[int(other)], np.float64)
    return {gene: own[gene] for gene in table}
