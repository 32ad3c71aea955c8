"""Predictor that a search uses: fitted to trained candidates, its form judged on held-out ones."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from apq_tune.cost import cost_models
from apq_tune.predict.forms import AVERAGED, Form, forms
from apq_tune.predict.law import fit_law
from apq_tune.predict.losses import Loss
from apq_tune.predict.mlp import MLPPredictor
from apq_tune.predict.pairs import Fit, Floats, Pairs, Predictor, n_networks
from apq_tune.predict.scores import held_out, kendall_tau
from apq_tune.predict.trust import COSTS, PROXY, Trust, judge
from apq_tune.space.gene_encoding import GeneEncoding

FORM: Form = "mean"
"""Form of predictor that a run uses by default."""

FOLDS = 5
"""Number of folds by which forms are judged by default."""


class ChosenForm(NamedTuple):
    """Form of predictor that a search uses, and how it was chosen."""

    predictor: Predictor  # fitted to all pairs
    fit: Fit  # the form that is used
    trust: Trust
    unseen: dict[Form, Floats]  # held-out predictions of each form in the order of the pairs, shape (n,)


def choose_form(
    encoding: GeneEncoding,
    fp32: MLPPredictor,
    proxy: Predictor,
    pairs: Pairs,
    seed: int,
    *,
    form: Form = FORM,
    loss: Loss = "mse",
    folds: int = FOLDS,
    fall_back: bool = True,
    advance: Callable[[int, int], None] | None = None,
) -> ChosenForm:
    """Compare all forms of predictors on held-out pairs, and fit the one that the search uses to all pairs.

    A form that ranks held-out pairs no better than chance, or than a cost, is replaced by the one that the pairs
    support best (``predict.trust``).

    Args:
        encoding: Encoding of the search space.
        fp32: Predictor of full-precision losses.
        proxy: Predictor of the quantized supernet's losses.
        pairs: Candidates with their losses after short quantization-aware training.
        seed: Seed of the folds and of the fits.
        form: Requested form.
        loss: Loss that the forms with weights are trained with, see ``training_loss``.
        folds: Number of folds.
        fall_back: Whether a useless form is replaced.
        advance: Callback with the number of finished steps and the number of all steps.
    """
    fits = forms(fp32, proxy, loss=loss)
    unseen: dict[Form, Floats] = {}
    for number, (name, fit) in enumerate(fits.items()):
        if advance is not None:
            advance(number, len(fits) + 1)
        if name != "mean":
            unseen[name] = held_out(fit, encoding, pairs, seed, folds=folds)
    unseen["mean"] = np.exp(np.mean([np.log(unseen[name]) for name in AVERAGED], axis=0))
    costs = {cost.name: cost for cost in cost_models(encoding) if cost.name in COSTS}
    rankings: dict[str, Floats] = {str(name): values for name, values in unseen.items()}
    rankings |= {PROXY: proxy(pairs.genomes)} | {name: -cost(pairs.genomes) for name, cost in costs.items()}
    taus = {name: kendall_tau(values, pairs.target) for name, values in rankings.items()}
    trust = judge(form, taus, n_networks(pairs), fall_back=fall_back)
    laws: dict[str, Fit] = {name: partial(fit_law, metric=metric) for name, metric in (costs | {PROXY: proxy}).items()}
    used = ({str(name): own for name, own in fits.items()} | laws)[trust.used]
    return ChosenForm(used(encoding, pairs, seed), used, trust, unseen)
