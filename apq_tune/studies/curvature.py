"""Sensitivities by Hessians in a comparison of methods, and how many evaluations they are charged with."""

from __future__ import annotations

import math

import torch

from apq_tune.methods.bench import Curvature
from apq_tune.methods.bit_program import Sensitivities
from apq_tune.space.encoding import Genomes
from apq_tune.space.encodings import encoding_of
from apq_tune.space.gene import BIT_KINDS
from apq_tune.space.narrowing import Narrowing
from apq_tune.supernet.batches import first_images
from apq_tune.supernet.hessian import forward_passes, hessian_table, open_kinds
from apq_tune.supernet.trained import TrainedSupernet

SHARE, FEWEST = 16, 16
"""Number of search images for each image of a trace, and smallest number of the latter.

With few probes, more images hardly make the traces better.
"""


def curvature_of(supernet: TrainedSupernet, images: int, seed: int, part: Narrowing | None = None) -> Curvature:
    """Sensitivities by Hessians in the quantized supernet, in full precision, on training images.

    Their price is the number of their forward passes over that of an evaluation, rounded up; both estimate batch norm.

    Args:
        supernet: Supernet.
        images: Number of search images of an evaluation.
        seed: Seed of the probes.
        part: The space of the supernet and the part of it that is searched; ``None`` if it is the whole.
    """
    whole, train = encoding_of(supernet.space), supernet.data.train
    encoding = whole if part is None else part.part
    n = min(len(train.labels), max(FEWEST, images // SHARE))
    bits = [gene for gene in encoding.places_of(BIT_KINDS) if encoding.n_choices[gene] > 1]
    kinds = open_kinds(encoding.genes[gene].kind for gene in bits)
    evaluation = min(images, len(supernet.data.search.labels)) + supernet.n_calibration

    def measure(genome: Genomes) -> Sensitivities:
        (candidate,) = whole.decode(genome[None] if part is None else part.widen(genome[None]))
        subnet, labels = supernet.subnet(candidate).eval(), torch.tensor(train.labels[:n], device=supernet.device)
        table = hessian_table(subnet, first_images(train, n).to(supernet.device), labels, kinds=kinds, seed=seed)
        return table if part is None else part.rows(table)

    return Curvature(math.ceil((forward_passes(n, kinds) + supernet.n_calibration) / evaluation), measure)
