"""Learning curves: scores of forms of predictors by number of training pairs, over random splits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import RunError
from apq_tune.predict.ensemble import FEWEST_PAIRS, Ensemble, fit_parts
from apq_tune.predict.forms import Form
from apq_tune.predict.mean import MeanPredictor
from apq_tune.predict.pairs import Fit, Pairs, Predictor, n_networks, networks_of, rows_of
from apq_tune.predict.scores import agreement
from apq_tune.space.encoding import Featured

NORMAL_90 = 1.6449
"""Half-width of the central 90% interval of the standard normal distribution."""


def fit_each(
    fits: Mapping[Form, Fit], averaged: Sequence[Form], encoding: Featured, pairs: Pairs, seed: int
) -> dict[Form, Predictor]:
    """Fit every form of predictor once; ``mean`` reuses the fitted members.

    Args:
        fits: Forms by name, with or without ``mean``.
        averaged: Names of the members of ``mean``.
        encoding: Encoding of the search space.
        pairs: Pairs to fit to.
        seed: Seed of the fits.
    """
    fitted: dict[Form, Predictor] = {name: fit(encoding, pairs, seed) for name, fit in fits.items() if name != "mean"}
    if "mean" not in fits:
        return fitted
    return fitted | {"mean": MeanPredictor(tuple(fitted[name] for name in averaged))}


def counts_for(n: int, wanted: Sequence[int], n_test: int) -> list[int]:
    """Numbers of training pairs: those of ``wanted`` that are at most 80% of ``n - n_test``, and ``n - n_test``."""
    most = n - n_test
    return sorted({count for count in wanted if count <= 0.8 * most} | {most})


def half_width(spread: float, n_splits: int, n_pairs: int, n_test: int) -> float:
    """Half-width of the 95% confidence interval of a mean over random splits (corrected t-interval, Nadeau 2003).

    As splits share pairs, the variance of the mean is ``1 / n_splits + n_test / (n_pairs - n_test)`` times that over
    splits, instead of ``1 / n_splits`` times.

    Args:
        spread: Standard deviation over the splits.
        n_splits: Number of splits, at least two.
        n_pairs: Number of pairs that are split.
        n_test: Number of pairs held out in each split.
    """
    from scipy.stats import t

    return float(t.ppf(0.975, n_splits - 1) * spread * np.sqrt(1 / n_splits + n_test / (n_pairs - n_test)))


def learning_curve(
    fits: Mapping[Form, Fit],
    averaged: Sequence[Form],
    encoding: Featured,
    pairs: Pairs,
    counts: Sequence[int],
    *,
    n_test: int,
    n_splits: int,
    seed: int,
    coverage_at: Sequence[int] = (),
    advance: Callable[[int, int], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Fit forms of predictors to increasing numbers of pairs and score them on held-out ones.

    In each split the pairs are shuffled network by network. The last ``n_test`` are held out and the first ones are
    fitted to, so that forms and numbers of pairs are compared on the same held-out pairs. Repeated measurements of a
    network are never divided; a network on the border is held out.

    Args:
        fits: Forms of predictors by name.
        averaged: Names of the members of ``mean``; see ``fit_each``.
        encoding: Encoding of the search space.
        pairs: Pairs of candidates and losses.
        counts: Numbers of training pairs.
        n_test: Number of pairs held out in each split.
        n_splits: Number of random splits.
        seed: Seed of splits and fits.
        coverage_at: Numbers of training pairs at which the coverage of ensembles is scored, too, which takes eight
            times as long.
        advance: Callback with the number of fits done and their total number.

    Yields:
        One row per split, number of pairs and form: ``split``, ``form``, the fields of ``Agreement`` (with ``n``
        replaced by the number of training pairs), and ``coverage``, the share of held-out losses inside the 90%
        intervals of an ensemble, NaN where it is not scored.
    """
    networks = networks_of(pairs.genomes)
    done, total = 0, n_splits * sum(len(fits) + (count in coverage_at) * len(fits) for count in counts)
    for split in range(n_splits):
        order, first = shuffled(networks, n_test, np.random.default_rng((seed, split)))
        unseen = pairs.rows(order[first:])
        for count in counts:
            known = pairs.rows(order[: min(count, first)])
            fitted = fit_each(fits, averaged, encoding, known, seed)
            for name, predictor in fitted.items():
                covered = np.nan
                if count in coverage_at and n_networks(known) >= FEWEST_PAIRS:
                    covered = coverage(fit_parts(fits[name], encoding, known, seed), unseen)
                    done += 1
                scores = agreement(predictor(unseen.genomes), unseen.target)._asdict() | {"n": count}
                yield {"split": split, "form": name, **scores, "coverage": covered}
                done += 1
                if advance is not None:
                    advance(done, total)


def shuffled(networks: NDArray[np.intp], n_test: int, rng: np.random.Generator) -> tuple[NDArray[np.intp], int]:
    """Shuffle pairs network by network and divide them into training and held-out pairs.

    Args:
        networks: Group number of each pair (see ``networks_of``), shape ``(n,)``.
        n_test: Minimum number of pairs to hold out; more are if the border would divide a network.
        rng: Random number generator.

    Returns:
        Permutation of the pairs, shape ``(n,)``, and the position of the first held-out one.

    Raises:
        RunError: If there are too few networks to leave a training pair.
    """
    order = rows_of(networks, rng.permutation(int(networks.max()) + 1))
    first = len(order) - n_test
    first = int(np.flatnonzero(networks[order] == networks[order[first]])[0])
    if first == 0:
        raise RunError(f"{len(order)} pairs are of too few networks to hold {n_test} of them out; measure other ones")
    return order, first


def coverage(ensemble: Ensemble, pairs: Pairs, width: float = NORMAL_90) -> float:
    """Share of measured log losses within ``width`` standard deviations of the predicted mean."""
    mean, std = ensemble.moments(pairs.genomes)
    return float((np.abs(np.log(pairs.target) - mean) <= width * std).mean())
