"""Random candidates that predictors learn from, the same for the stages of a run and for a method on a bench."""

from __future__ import annotations

from typing import Literal

import numpy as np

from apq_tune.space.encoding import Genomes
from apq_tune.space.gene_encoding import GeneEncoding

Source = Literal["fp32_losses", "proxy_losses", "qat_pairs"]
"""Sets of candidates by what is measured: losses in either supernet, or after a short quantization-aware training."""

PairBits = Literal["policies", "alike"]
"""Distributions of the bits of the candidates that are trained."""

N_FP32, N_PROXY = 120, 160
"""Number of candidates that a default run measures in the full-precision and in the quantized supernet."""


def draw(encoding: GeneEncoding, source: Source, n: int, seed: int, *, bits: PairBits = "policies") -> Genomes:
    """Draw the candidates of one set.

    Args:
        encoding: Encoding of the search space.
        source: Set of candidates, each of which has its own random numbers.
        n: Number of candidates; a small search space may give some of them twice.
        seed: Random seed.
        bits: Distribution of the bits of the candidates that are trained: other probabilities of the bit-widths in each
            network (``policies``), or every bit-width of every layer equally likely (``alike``, Wang 2020).

    Returns:
        Canonical, allowed genomes, shape ``(n, n_genes)``.
    """
    rng = np.random.default_rng((seed, *source.encode()))
    plain = source == "fp32_losses" or (source == "qat_pairs" and bits == "alike")
    return encoding.sample(n, rng) if plain else encoding.sample_policies(n, rng)
