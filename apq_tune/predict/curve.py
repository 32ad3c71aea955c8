"""How good forms are by number of pairs learned from, over random splits of the pairs there are."""

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
from apq_tune.space.network_encoding import NetworkEncoding

NORMAL_90 = 1.6449
"""Standard deviations to each side that hold nine tenths of a normal distribution."""


def fit_each(
    fits: Mapping[Form, Fit], averaged: Sequence[Form], encoding: NetworkEncoding, pairs: Pairs, seed: int
) -> dict[Form, Predictor]:
    """Fit every form once; ``mean`` is made of the members that are fitted already.

    Args:
        fits: by name, ``mean`` among them or not.
        averaged: names of the members of ``mean``.
        encoding: of the space.
        pairs: to learn from.
        seed: of the fits.
    """
    fitted: dict[Form, Predictor] = {name: fit(encoding, pairs, seed) for name, fit in fits.items() if name != "mean"}
    if "mean" not in fits:
        return fitted
    return fitted | {"mean": MeanPredictor(tuple(fitted[name] for name in averaged))}


def counts_for(n: int, wanted: Sequence[int], n_test: int) -> list[int]:
    """The wanted numbers of pairs that ``n`` pairs can provide beside ``n_test``, and all that remain.

    A number that is nearly all is left out.
    """
    most = n - n_test
    return sorted({count for count in wanted if count <= 0.8 * most} | {most})


def half_width(spread: float, n_splits: int, n_pairs: int, n_test: int) -> float:
    """Half of the 95% interval of a mean over random splits of the same pairs (Nadeau 2003).

    Splits share pairs, so their spread alone promises too much: its square counts ``1 / n_splits + n_test / (n_pairs -
    n_test)`` instead of ``1 / n_splits``.

    Args:
        spread: standard deviation over the splits.
        n_splits: at least two.
        n_pairs: that are split.
        n_test: pairs held out in each.
    """
    from scipy.stats import t

    return float(t.ppf(0.975, n_splits - 1) * spread * np.sqrt(1 / n_splits + n_test / (n_pairs - n_test)))


def learning_curve(
    fits: Mapping[Form, Fit],
    averaged: Sequence[Form],
    encoding: NetworkEncoding,
    pairs: Pairs,
    counts: Sequence[int],
    *,
    n_test: int,
    n_splits: int,
    seed: int,
    coverage_at: Sequence[int] = (),
    advance: Callable[[int, int], None] | None = None,
) -> Iterator[dict[str, Any]]:
    """Learn from ever more pairs and predict others.

    In each split the pairs are shuffled, network by network; the last ``n_test`` are predicted, the first ones learned
    from, so that forms and numbers of pairs are compared on the same ones. A network on the border is predicted, with
    all that was measured of it.

    Args:
        fits: the forms.
        averaged: see ``fit_each``.
        encoding: of the space.
        pairs: of losses.
        counts: of pairs to learn from.
        n_test: pairs held out in each split.
        n_splits: random splits.
        seed: of splits and fits.
        coverage_at: counts at which each form's uncertainty is tried, too, which takes eight times as long.
        advance: told how many fits of how many are done.

    Yields:
        A row for each split, count and form: ``split``, ``n``, ``form``, the fields of ``Agreement`` but its ``n``, and
        ``coverage``: the share of held-out losses inside the ensemble's intervals of 90%, not a number where untried.
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
    """Pairs in random order, those of a network beside each other, and where those begin that are held out.

    Args:
        networks: ``(n,)``, see ``networks_of``.
        n_test: pairs to hold out, at least; more where the border would cut through a network.
        rng: that shuffles.

    Raises:
        RunError: if the border would leave nothing to learn from, because there is but one network.
    """
    order = rows_of(networks, rng.permutation(int(networks.max()) + 1))
    first = len(order) - n_test
    first = int(np.flatnonzero(networks[order] == networks[order[first]])[0])
    if first == 0:
        raise RunError(f"{len(order)} pairs are of too few networks to hold {n_test} of them out; measure other ones")
    return order, first


def coverage(ensemble: Ensemble, pairs: Pairs, width: float = NORMAL_90) -> float:
    """Share of measured losses within ``width`` standard deviations of the predicted mean, in logarithms."""
    mean, std = ensemble.moments(pairs.genomes)
    return float((np.abs(np.log(pairs.target) - mean) <= width * std).mean())
