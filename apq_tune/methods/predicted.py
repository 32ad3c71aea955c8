"""Search with a transferred predictor, as in ``run``: random measurements, regression, then evolution."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from apq_tune.methods.bench import Question
from apq_tune.methods.projections import everything
from apq_tune.methods.subspace import Subspace
from apq_tune.predict import Floats, Pairs, Predictor, forms
from apq_tune.predict.forms import Form, fit_rungs
from apq_tune.predict.mlp import MLPPredictor
from apq_tune.problem.metric import FunctionMetric
from apq_tune.searchers import Evolution, search
from apq_tune.space.encoding import Genomes
from apq_tune.space.gene import BIT_KINDS

FP32 = 3 / 7
"""Share of the evaluations that are made in the full-precision supernet: as 120 of 280 in a default run."""

FORM: Form = "mean"
"""Form of the predictor, the default of a run."""

EVALUATIONS = 10_000
"""Number of candidates that the predictor scores."""


class Rungs(NamedTuple):
    """Predictors of the losses of both supernets, fitted to random networks."""

    fp32: MLPPredictor
    proxy: Predictor


def predictor(question: Question) -> Genomes:
    """Evolution under the constraints with a predictor that is fitted to random candidates at three fidelities.

    The default predictor of a run is fitted to full-precision losses of random networks, losses of random policies in
    the quantized supernet, and losses of further candidates after short quantization-aware training. As many of the
    best predicted candidates as the budget allows are measured on all images, and their predictions are corrected by
    the relative error of the predictor of the quantized supernet.
    """
    encoding, bench = question.encoding, question.bench
    rungs = measure_rungs(question)
    drawn = distinct(encoding.sample_policies, bench.left.short, question.rng(3))
    fit = forms(rungs.fp32, rungs.proxy)[FORM]
    found = evolve(question, fit(encoding, Pairs(drawn, bench.short(drawn)), question.seed), bench.left.fine)
    corrected = found.target * bench.fine(found.genomes) / rungs.proxy(found.genomes)
    return np.asarray(found.genomes[np.argsort(corrected, kind="stable")[: bench.allowed.short]])


def measure_rungs(question: Question) -> Rungs:
    """Fit predictors to random networks and random policies, which take the whole budget of supernet evaluations."""
    encoding, bench = question.encoding, question.bench

    def architectures(n: int, rng: np.random.Generator) -> Genomes:
        return encoding.at_largest(encoding.sample(n, rng), BIT_KINDS)

    networks = distinct(architectures, round(FP32 * bench.left.proxy), question.rng(1))
    fp32 = Pairs(networks, bench.fp32(networks))
    policies = distinct(encoding.sample_policies, bench.left.proxy, question.rng(2))
    return Rungs(*fit_rungs(encoding, fp32, Pairs(policies, bench.proxy(policies)), question.seed))


def evolve(question: Question, loss: Callable[[Genomes], Floats], n: int) -> Pairs:
    """The ``n`` candidates with the lowest predicted loss of an evolutionary search, best first."""
    scored: list[tuple[Genomes, Floats]] = []

    def remembered(genomes: Genomes) -> Floats:
        losses = loss(genomes)
        scored.append((genomes, losses))
        return losses

    subspace = Subspace(question.encoding, everything)
    problem = subspace.problem(FunctionMetric("predicted_loss", "nats", remembered), question.limits)
    start = subspace.sample_band(question.limits, 50, question.rng(4))
    search(problem, Evolution(), n_evaluations=EVALUATIONS, seed=question.seed, initial=start)
    genomes, losses = (np.concatenate(parts) for parts in zip(*scored, strict=True))
    best = np.argsort(losses, kind="stable")[:n]
    return Pairs(np.asarray(genomes[best], np.int16), losses[best])


def distinct(draw: Callable[[int, np.random.Generator], Genomes], n: int, rng: np.random.Generator) -> Genomes:
    """Up to ``n`` distinct genomes out of ``2 * n`` drawn ones, shape ``(<= n, n_genes)``."""
    drawn = draw(2 * n, rng)
    _, first = np.unique(drawn, axis=0, return_index=True)
    return np.asarray(drawn[np.sort(first)][:n])
