"""Several predictors instead of one: each knows a part of the pairs, and where they differ, none of them knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from apq_tune.encoding import Encoding
from apq_tune.genotype import Genomes
from apq_tune.predict.pairs import Floats, Pairs, Predictor
from apq_tune.predict.ridge import fit_residual

SHARE = 2 / 3
"""Of the pairs that a member knows. Drawn without replacement (Buhlmann 2002): ridge chooses its penalty by
leave-one-out error, which is none where the pair left out is there a second time."""

KAPPA = 2.0
"""Standard deviations that a lower confidence bound lies below the mean."""

FEWEST_PAIRS = 4
"""Of a fidelity that is learned from; fewer leave nothing to estimate an error on."""


@dataclass(frozen=True)
class Ensemble:
    """Predictors fitted to random parts of the same pairs.

    Attributes:
        members: the predictors, of loss in nats.
        error: root mean square of what members get wrong of pairs that they have not seen, in natural logarithms of
            the loss: noise of the labels, and what no predictor of this form can know.
    """

    members: tuple[Predictor, ...]
    error: float
    name = "predicted_loss"
    unit = "nats"

    def moments(self, genomes: Genomes) -> tuple[Floats, Floats]:
        """``(n, n_genes) -> (n,), (n,)``: mean and standard deviation of the natural logarithm of the loss."""
        logs = np.log([member(genomes) for member in self.members])
        return logs.mean(axis=0), np.hypot(logs.std(axis=0), self.error)

    def __call__(self, genomes: Genomes) -> Floats:
        """``(n, n_genes) -> (n,)`` loss in nats, the members' geometric mean."""
        return np.asarray(np.exp(self.moments(genomes)[0]))

    def lower_bound(self, genomes: Genomes) -> Floats:
        """``(n, n_genes) -> (n,)`` loss in nats, a lower confidence bound."""
        mean, std = self.moments(genomes)
        return np.asarray(np.exp(mean - KAPPA * std))


def fit_ensemble(
    encoding: Encoding, rungs: Sequence[Pairs], base: Predictor, seed: tuple[int, ...], n_members: int = 8
) -> Ensemble:
    """Fit ladders of ridges to random parts of the pairs.

    Losses after trainings of different lengths are never mixed: pairs of a longer one correct the predictor of the
    shorter one, as pairs of the shorter one correct that of the supernet.

    Args:
        encoding: of the space.
        rungs: pairs of each fidelity, the shortest first; at least four of the first.
        base: predictor to correct first.
        seed: of the parts.
        n_members: how many ladders.
    """
    rng = np.random.default_rng(seed)
    used = [pairs for pairs in rungs if len(pairs.target) >= FEWEST_PAIRS]
    members, errors = [], []
    for _ in range(n_members):
        predictor = base
        for pairs in used:
            order = rng.permutation(len(pairs.target))
            known, unseen = np.split(order, [int(np.ceil(SHARE * len(order)))])
            predictor = fit_residual(encoding, pairs.rows(known), 0, base=predictor)
        members.append(predictor)
        errors.append(np.log(predictor(pairs.genomes[unseen]) / pairs.target[unseen]))
    return Ensemble(tuple(members), float(np.sqrt(np.mean(np.concatenate(errors) ** 2))))
