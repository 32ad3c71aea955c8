"""The protocol of the paper, literally (Wang 2020): networks are only run quantized in quantization-aware training.

Full-precision losses of random architectures teach a predictor. Its weights are transferred to one that sees bits,
which learns from few random candidates after quantization-aware training that began at full-precision weights.
Evolution searches with it, and what it finds is trained.
"""

from __future__ import annotations

import numpy as np

from apq_tune.methods.bench import Question
from apq_tune.methods.subspace import Subspace, everything
from apq_tune.predict import Floats, Pairs, fit_fp32, fit_mlp
from apq_tune.problem.problem import FunctionMetric
from apq_tune.searchers import Evolution, search
from apq_tune.space.encoding import Genomes
from apq_tune.space.gene import BIT_KINDS

EVALUATIONS = 10_000
"""Candidates that the predictor scores."""


def paper(question: Question) -> Genomes:
    """The candidates that the transferred predictor likes best."""
    encoding, bench = question.encoding, question.bench
    networks = _distinct(encoding.at_largest(encoding.sample(2 * bench.left.proxy, question.rng(1)), BIT_KINDS))
    networks = networks[: bench.left.proxy]
    fp32 = fit_fp32(encoding, Pairs(networks, bench.fp32(networks)), question.seed)
    drawn = _distinct(encoding.sample(2 * bench.left.short, question.rng(2)))[: bench.left.short]
    predictor = fit_mlp(encoding, Pairs(drawn, bench.short(drawn)), question.seed, bits=True, start=fp32)
    scored: list[tuple[Genomes, Floats]] = []

    def remembered(genomes: Genomes) -> Floats:
        losses = predictor(genomes)
        scored.append((genomes, losses))
        return losses

    subspace = Subspace(encoding, everything)
    problem = subspace.problem(FunctionMetric(predictor.name, predictor.unit, remembered), question.limits)
    start = subspace.sample_band(question.limits, 50, question.rng(3))
    search(problem, Evolution(), n_evaluations=EVALUATIONS, seed=question.seed, initial=start)
    genomes, losses = (np.concatenate(parts) for parts in zip(*scored, strict=True))
    return np.asarray(genomes[np.argsort(losses, kind="stable")[: bench.allowed.short]], np.int16)


def _distinct(genomes: Genomes) -> Genomes:
    _, first = np.unique(genomes, axis=0, return_index=True)
    return np.asarray(genomes[np.sort(first)])
