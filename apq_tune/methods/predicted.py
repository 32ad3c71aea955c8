"""Search of a run as a method: random candidates teach a predictor, and evolution searches with it.

The draws of candidates (``draws``), the fits of predictors and the choice of their form (``predict.chosen``), and the
search with the chosen predictor (``searches``) are functions that the stages of ``apq-tune run`` call, too. Numbers of
measurements follow from the budget. A run then trains rivals and points of a front beside the best candidate; here
further candidates of the same search are measured on all images.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from apq_tune.methods.bench import Question
from apq_tune.methods.draws import N_FP32, N_PROXY, draw
from apq_tune.methods.searches import EVALUATIONS, Recorder, search_best
from apq_tune.predict import MLPPredictor, Pairs, Predictor, fit_rungs
from apq_tune.predict.chosen import choose_form
from apq_tune.space.encoding import Genomes


class Rungs(NamedTuple):
    """Predictors of the losses of both supernets, fitted to random networks."""

    fp32: MLPPredictor
    proxy: Predictor


def predictor(question: Question) -> Genomes:
    """Evolution under the constraints with a predictor that is fitted to random candidates at three fidelities.

    As many of the best predicted candidates as the budget allows are measured on all images, and their predictions are
    corrected by the relative error of the predictor of the quantized supernet.
    """
    encoding, bench, seed = question.encoding, question.bench, question.seed
    rungs = measure_rungs(question)
    drawn = draw(encoding, "qat_pairs", bench.left.short, seed)
    chosen = choose_form(encoding, *rungs, Pairs(drawn, bench.short(drawn)), seed)
    scored = Recorder(chosen.predictor)
    search_best(encoding, scored, question.limits, n_evaluations=EVALUATIONS, seed=seed)
    found = scored.least(bench.left.fine)
    corrected = found.target * bench.fine(found.genomes) / rungs.proxy(found.genomes)
    return np.asarray(found.genomes[np.argsort(corrected, kind="stable")[: bench.allowed.short]])


def measure_rungs(question: Question) -> Rungs:
    """Fit predictors to random networks and random policies, which take the whole budget of supernet evaluations.

    The evaluations are divided between the supernets as in a default run.
    """
    encoding, bench, seed = question.encoding, question.bench, question.seed
    networks = draw(encoding, "fp32_losses", round(bench.left.proxy * N_FP32 / (N_FP32 + N_PROXY)), seed)
    fp32 = Pairs(networks, bench.fp32(networks))
    policies = draw(encoding, "proxy_losses", bench.left.proxy, seed)
    return Rungs(*fit_rungs(encoding, fp32, Pairs(policies, bench.proxy(policies)), seed))
