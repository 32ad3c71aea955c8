"""Several predictors instead of one: each knows a part of the pairs, and where they differ, none of them knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from apq_tune.errors import RunError
from apq_tune.predict.pairs import Fit, Floats, Pairs, Predictor, n_networks, networks_of, rows_of
from apq_tune.predict.ridge import fit_residual
from apq_tune.space.encoding import Genomes
from apq_tune.space.network_encoding import NetworkEncoding

SHARE = 2 / 3
"""Of the networks whose pairs a member knows. Drawn without replacement (Buhlmann 2002): ridge chooses its penalty by
leave-one-out error, which is none where the pair left out is there a second time."""

KAPPA = 2.0
"""Standard deviations that a lower confidence bound lies below the mean."""

FEWEST_PAIRS = 4
"""Of different networks, of a fidelity that is learned from; fewer leave nothing to estimate an error on."""


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

    @property
    def encoding(self) -> NetworkEncoding:
        """Of the space."""
        encoding: NetworkEncoding = self.members[0].encoding  # type: ignore[attr-defined]
        return encoding

    def moments(self, genomes: Genomes) -> tuple[Floats, Floats]:
        """``(n, n_genes) -> (n,), (n,)``: mean and standard deviation of the natural logarithm of the loss."""
        logs = np.log([member(genomes) for member in self.members])
        return logs.mean(axis=0), np.hypot(logs.std(axis=0), self.error)

    def __call__(self, genomes: Genomes) -> Floats:
        """``(n, n_genes) -> (n,)`` loss in nats, the members' geometric mean."""
        return np.asarray(np.exp(self.moments(genomes)[0]))

    def bound(self, genomes: Genomes, kappa: float) -> Floats:
        """``(n, n_genes) -> (n,)`` loss in nats, ``kappa`` standard deviations above the mean.

        Above it is the lower confidence bound of quality: for a search whose finds nobody measures before they are
        used, since the best of many predictions is mostly one that errs. Below it (``kappa < 0``) is for a search whose
        finds are measured and learned from.
        """
        mean, std = self.moments(genomes)
        return np.asarray(np.exp(mean + kappa * std))

    def lower_bound(self, genomes: Genomes) -> Floats:
        """``(n, n_genes) -> (n,)`` loss in nats, ``KAPPA`` standard deviations below the mean."""
        return self.bound(genomes, -KAPPA)


@dataclass(frozen=True)
class BoundPredictor:
    """A bound of an ensemble as a predictor of its own; see ``Ensemble.bound``.

    Attributes:
        ensemble: that knows how far to trust itself.
        kappa: standard deviations above the mean.
    """

    ensemble: Ensemble
    kappa: float
    unit = "nats"

    @property
    def name(self) -> str:
        """Of the metric."""
        return self.ensemble.name

    @property
    def encoding(self) -> NetworkEncoding:
        """Of the space."""
        return self.ensemble.encoding

    def __call__(self, genomes: Genomes) -> Floats:
        """``(n, n_genes) -> (n,)`` loss in nats."""
        return self.ensemble.bound(genomes, self.kappa)


def fit_ensemble(
    encoding: NetworkEncoding, rungs: Sequence[Pairs], base: Predictor, seed: tuple[int, ...], n_members: int = 8
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


def fit_parts(fit: Fit, encoding: NetworkEncoding, pairs: Pairs, seed: int, n_members: int = 8) -> Ensemble:
    """The same for any form: predictors of it, fitted to random parts of the pairs.

    Args:
        fit: the form, of a loss.
        encoding: of the space.
        pairs: to learn from, at least four.
        seed: of the parts and of the fits.
        n_members: how many parts.
    """
    rng = np.random.default_rng((seed, n_members))
    found = [_member(fit, encoding, pairs, rng, seed) for _ in range(n_members)]
    return _ensemble(*map(list, zip(*found, strict=True)))


def _member(
    fit: Fit, encoding: NetworkEncoding, pairs: Pairs, rng: np.random.Generator, seed: int
) -> tuple[Predictor, Floats]:
    """A predictor that knows the pairs of a part of the networks, and what it gets wrong of others, in logarithms."""
    networks = networks_of(pairs.genomes)
    if len(order := rng.permutation(n_networks(pairs))) < 2:
        raise RunError(f"all {len(networks)} pairs are of one network; measure others, too: nothing can be held out")
    parts = np.split(order, [min(int(np.ceil(SHARE * len(order))), len(order) - 1)])
    known, unseen = (rows_of(networks, part) for part in parts)
    predictor = fit(encoding, pairs.rows(known), seed)
    return predictor, np.log(predictor(pairs.genomes[unseen]) / pairs.target[unseen])


def _ensemble(members: list[Predictor], errors: list[Floats]) -> Ensemble:
    return Ensemble(tuple(members), float(np.sqrt(np.mean(np.concatenate(errors) ** 2))))
