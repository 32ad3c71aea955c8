"""Search in rounds of training, as in ``refine``: an ensemble of predictors chooses a batch and is refitted to it."""

from __future__ import annotations

from functools import partial

import numpy as np

from apq_tune.cost import bit_ops
from apq_tune.methods.bench import LOOKED_AT, Question
from apq_tune.methods.explore import best_of
from apq_tune.methods.predicted import Rungs, measure_rungs
from apq_tune.methods.projections import everything
from apq_tune.methods.propose import Proposals, searches_of_round
from apq_tune.methods.searches import EVALUATIONS, front_cost
from apq_tune.methods.subspace import Subspace
from apq_tune.predict import fit_proxy
from apq_tune.predict.ensemble import FEWEST_PAIRS, Ensemble, fit_ensemble, fit_parts
from apq_tune.space.encoding import Genomes

ROUNDS = 3
"""Number of batches of short trainings; fewer if a batch would have too few of them to fit an ensemble to."""


def refined(question: Question) -> Genomes:
    """Search in rounds: an ensemble of predictors proposes batches of candidates for short training.

    First, losses of random candidates in both supernets are measured. The candidates of a batch are promising,
    uncertain and dissimilar. As in ``shortlist``, several are measured on all images for each one that is trained; the
    first batch includes the baselines of ``refine``.
    """
    bench = question.bench
    rungs = measure_rungs(question)
    batch = max(FEWEST_PAIRS, -(-bench.left.short // ROUNDS))
    number = 0
    while bench.left.short:
        number += 1
        n = min(batch, bench.left.short)
        looked_at = bench.measured("fine").genomes
        new = _proposed(question, _ensemble(question, rungs, number), rungs, LOOKED_AT * n, number, looked_at)
        bench.fine(new)
        trained = {genome.tobytes() for genome in bench.measured("short").genomes}
        closely = bench.measured("fine")
        waiting = np.array([genome.tobytes() not in trained for genome in closely.genomes])
        bench.short(best_of(closely.rows(np.flatnonzero(waiting)), n).genomes)
    found = bench.measured("short")
    return best_of(found, len(found.target)).genomes


def _ensemble(question: Question, rungs: Rungs, number: int) -> Ensemble:
    """Ensemble for the loss after short training or, before the first one, for the loss in the quantized supernet."""
    encoding, trained = question.encoding, question.bench.measured("short")
    if not len(trained.target):
        fit = partial(fit_proxy, fp32=rungs.fp32)
        return fit_parts(fit, encoding, question.bench.measured("proxy"), question.seed)
    return fit_ensemble(encoding, [trained], rungs.proxy, (question.seed, number))


def _proposed(question: Question, ensemble: Ensemble, rungs: Rungs, n: int, number: int, known: Genomes) -> Genomes:
    """New candidates of shape ``(n, n_genes)``, filled up with random ones near the limits."""
    encoding, limits = question.encoding, question.limits
    cost = front_cost(limits, bit_ops(encoding))
    searches = searches_of_round(EVALUATIONS, question.seed, number)
    found, _ = Proposals(encoding, ensemble, rungs.fp32, limits, cost, known, *searches).batch(n, first=number == 1)
    if len(found) < n:
        near = Subspace(encoding, everything)
        rest = near.sample_band(limits, n - len(found), question.rng(6, number), np.concatenate([known, found]))
        found = np.concatenate([found, rest])
    return np.asarray(found, np.int16)
