"""Original protocol of APQ (Wang 2020), in which quantized networks are only run in quantization-aware training.

A predictor is fitted to full-precision losses of random architectures. Its weights are transferred to a predictor with
bits as an input, which is finetuned on few random candidates after quantization-aware training from full-precision
weights. Evolution searches with this predictor, and its best candidates are trained.
"""

from __future__ import annotations

import numpy as np

from apq_tune.methods.bench import Question
from apq_tune.methods.projections import everything
from apq_tune.methods.searches import EVALUATIONS, Recorder
from apq_tune.methods.subspace import Subspace
from apq_tune.predict import Pairs, fit_fp32, fit_mlp
from apq_tune.searchers import Evolution, search
from apq_tune.space.encoding import Genomes
from apq_tune.space.gene import BIT_KINDS


def paper(question: Question) -> Genomes:
    """Candidates with the lowest losses by the transferred predictor."""
    encoding, bench = question.encoding, question.bench
    networks = _distinct(encoding.at_largest(encoding.sample(2 * bench.left.proxy, question.rng(1)), BIT_KINDS))
    networks = networks[: bench.left.proxy]
    fp32 = fit_fp32(encoding, Pairs(networks, bench.fp32(networks)), question.seed)
    drawn = _distinct(encoding.sample(2 * bench.left.short, question.rng(2)))[: bench.left.short]
    predictor = fit_mlp(encoding, Pairs(drawn, bench.short(drawn)), question.seed, bits=True, start=fp32)
    scored = Recorder(predictor)
    subspace = Subspace(encoding, everything)
    start = subspace.sample_band(question.limits, 50, question.rng(3))
    problem = subspace.problem(scored, question.limits)
    search(problem, Evolution(), n_evaluations=EVALUATIONS, seed=question.seed, initial=start)
    return scored.least(bench.allowed.short).genomes


def _distinct(genomes: Genomes) -> Genomes:
    _, first = np.unique(genomes, axis=0, return_index=True)
    return np.asarray(genomes[np.sort(first)])
