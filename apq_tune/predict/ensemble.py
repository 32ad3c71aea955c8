"""Ensembles of predictors fitted to random subsets of the pairs; their disagreement estimates the uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from apq_tune.errors import RunError
from apq_tune.predict.pairs import Fit, Floats, Pairs, Predictor, n_networks, networks_of, rows_of
from apq_tune.predict.ridge import fit_residual
from apq_tune.space.encoding import Featured, Genomes

SHARE = 2 / 3
"""Share of the networks that a member is fitted to. They are drawn without replacement (Buhlmann 2002), as duplicates
would spoil the leave-one-out error by which ridge regression selects its penalty."""

KAPPA = 2.0
"""Distance of the lower confidence bound from the mean, in standard deviations."""

FEWEST_PAIRS = 4
"""Minimum number of different networks of a fidelity; with fewer there are none left to estimate the error on."""


@dataclass(frozen=True)
class Ensemble:
    """Ensemble of predictors fitted to random subsets of the same pairs.

    Attributes:
        members: Predictors of the loss in nats.
        error: Root mean square error of the members on held-out pairs, in natural logarithms of the loss. It covers
            label noise and what no predictor of this form can express.
    """

    members: tuple[Predictor, ...]
    error: float
    name = "predicted_loss"
    unit = "nats"

    @property
    def encoding(self) -> Featured:
        """Encoding of the search space."""
        encoding: Featured = self.members[0].encoding  # type: ignore[attr-defined]
        return encoding

    def moments(self, genomes: Genomes) -> tuple[Floats, Floats]:
        """Mean and standard deviation of the natural logarithm of the loss, each of shape ``(n,)``."""
        logs = np.log([member(genomes) for member in self.members])
        return logs.mean(axis=0), np.hypot(logs.std(axis=0), self.error)

    def __call__(self, genomes: Genomes) -> Floats:
        """Predicted losses in nats, the geometric mean of the members, shape ``(n,)``."""
        return np.asarray(np.exp(self.moments(genomes)[0]))

    def bound(self, genomes: Genomes, kappa: float) -> Floats:
        """Confidence bound ``kappa`` standard deviations above the mean, in nats, shape ``(n,)``.

        A pessimistic bound (``kappa > 0``) suits a search whose results are used without being measured, since the
        best of many predictions is usually an underestimate. An optimistic one (``kappa < 0``) suits a search whose
        results are measured and added to the pairs.
        """
        mean, std = self.moments(genomes)
        return np.asarray(np.exp(mean + kappa * std))

    def lower_bound(self, genomes: Genomes) -> Floats:
        """Lower confidence bound of the loss in nats, ``KAPPA`` standard deviations below the mean, shape ``(n,)``."""
        return self.bound(genomes, -KAPPA)


@dataclass(frozen=True)
class BoundPredictor:
    """Confidence bound of an ensemble as a predictor; see ``Ensemble.bound``.

    Attributes:
        ensemble: Ensemble of predictors.
        kappa: Distance of the bound above the mean, in standard deviations.
    """

    ensemble: Ensemble
    kappa: float
    unit = "nats"

    @property
    def name(self) -> str:
        """Name of the metric."""
        return self.ensemble.name

    @property
    def encoding(self) -> Featured:
        """Encoding of the search space."""
        return self.ensemble.encoding

    def __call__(self, genomes: Genomes) -> Floats:
        """Bounds of the loss in nats, shape ``(n,)``."""
        return self.ensemble.bound(genomes, self.kappa)


def fit_ensemble(
    encoding: Featured, rungs: Sequence[Pairs], base: Predictor, seed: tuple[int, ...], n_members: int = 8
) -> Ensemble:
    """Fit an ensemble of multi-fidelity predictors to random subsets of the pairs.

    Losses after trainings of different lengths are never pooled. For each fidelity a ridge regression corrects the
    predictor of the next lower one; the lowest corrects ``base``, the predictor of the supernet's losses.

    Args:
        encoding: Encoding of the search space.
        rungs: Pairs of each fidelity, the shortest training first; at least four pairs of the first.
        base: Predictor that the first fidelity corrects.
        seed: Seed of the random subsets.
        n_members: Number of members.
    """
    rng = np.random.default_rng(seed)
    used = [pairs for pairs in rungs if n_networks(pairs) >= FEWEST_PAIRS]
    members, errors = [], []
    for _ in range(n_members):
        predictor = base
        for pairs in used:
            fit = partial(fit_residual, base=predictor)
            predictor, wrong = _member(fit, encoding, pairs, rng, 0)
        members.append(predictor)
        errors.append(wrong)
    return _ensemble(members, errors)


def fit_parts(fit: Fit, encoding: Featured, pairs: Pairs, seed: int, n_members: int = 8) -> Ensemble:
    """Fit an ensemble of any form of predictor to random subsets of the pairs.

    Args:
        fit: Form of predictor of a loss.
        encoding: Encoding of the search space.
        pairs: Pairs to fit to, at least four.
        seed: Seed of the subsets and of the fits.
        n_members: Number of members.
    """
    rng = np.random.default_rng((seed, n_members))
    found = [_member(fit, encoding, pairs, rng, seed) for _ in range(n_members)]
    return _ensemble(*map(list, zip(*found, strict=True)))


def _member(
    fit: Fit, encoding: Featured, pairs: Pairs, rng: np.random.Generator, seed: int
) -> tuple[Predictor, Floats]:
    """Predictor fitted to the pairs of a random subset of networks, and its log errors on all other pairs."""
    networks = networks_of(pairs.genomes)
    if len(order := rng.permutation(n_networks(pairs))) < 2:
        raise RunError(f"all {len(networks)} pairs are of one network; measure others, too: nothing can be held out")
    parts = np.split(order, [min(int(np.ceil(SHARE * len(order))), len(order) - 1)])
    known, unseen = (rows_of(networks, part) for part in parts)
    predictor = fit(encoding, pairs.rows(known), seed)
    return predictor, np.log(predictor(pairs.genomes[unseen]) / pairs.target[unseen])


def _ensemble(members: list[Predictor], errors: list[Floats]) -> Ensemble:
    return Ensemble(tuple(members), float(np.sqrt(np.mean(np.concatenate(errors) ** 2))))
