"""Comparison of the forms of predictors on the pairs of a run, by number of pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from apq_tune.errors import RunError
from apq_tune.pipeline.finished import OpenRun, open_run
from apq_tune.pipeline.learning import REPORT, read_losses, split_half
from apq_tune.predict import AVERAGED, fit_rungs, forms
from apq_tune.predict.curve import counts_for, half_width, learning_curve
from apq_tune.predict.trust import FEWEST_FOR_INTERVAL
from apq_tune.space.encodings import encoding_of
from apq_tune.store.files import read_json

SCORES = ("kendall_tau", "pairwise_accuracy", "rmse_log", "coverage")

FEWEST = 10
"""Minimum number of pairs for a comparison."""

MOST_TEST = 40
"""Maximum number of pairs held out in each split; at most a third of all pairs are held out."""


class PredictorReport(NamedTuple):
    """Scores of the forms of predictors.

    Attributes:
        splits: Table with a row for each split, number of pairs and form; see ``learning_curve``.
        summary: Means over the splits; see ``summarise``.
        split_half: Split-half agreement of the labels: scores of losses on even against losses on odd images.
            Predictors may exceed it, since each half has half of the images.
        n_pairs: Number of QAT pairs of the run.
        n_test: Number of pairs held out in each split.
        n_splits: Number of random splits.
        used: Form of predictor that the run's search uses.
    """

    splits: pd.DataFrame
    summary: pd.DataFrame
    split_half: dict[str, float]
    n_pairs: int
    n_test: int
    n_splits: int
    used: str


def report_predictors(
    run: Path,
    *,
    counts: Sequence[int] = (10, 20, 50, 100, 200),
    n_splits: int = 5,
    seed: int = 0,
    coverage_at: Sequence[int] | None = None,
    advance: Callable[[int, int], None] | None = None,
) -> PredictorReport:
    """Learning curves: fit every form to increasing numbers of the pairs of a run, over random splits.

    Args:
        run: Directory of a run that has measured its losses.
        counts: Numbers of training pairs, as far as the run has them; all pairs that are not held out are always used
            as well.
        n_splits: Number of random splits, at least two.
        seed: Seed of the splits.
        coverage_at: Numbers of pairs at which the coverage of prediction intervals is measured, too; by default the
            largest.
        advance: Callback with the number of finished fits and the number of all fits.

    Raises:
        RunError: If it is not a run, has not measured its losses, or has too few pairs.
    """
    opened = open_run(run, ("fp32_losses", "proxy_losses", "qat_pairs"))
    encoding, own = encoding_of(opened.space), opened.settings
    fp32, proxy = (read_losses(opened.stages[name], encoding)[0] for name in ("fp32_losses", "proxy_losses"))
    pairs, table = read_losses(opened.stages["qat_pairs"], encoding)
    n_pairs = len(pairs.target)
    if n_pairs < FEWEST:
        raise RunError(f"{run}: has {n_pairs} quantized pairs, {FEWEST} are needed; run it with --set n_pairs={FEWEST}")
    n_test = min(MOST_TEST, n_pairs // 3)
    possible = counts_for(n_pairs, counts, n_test)
    rows = learning_curve(
        forms(*fit_rungs(encoding, fp32, proxy, own.seed), loss=own.predictor_loss),
        AVERAGED,
        encoding,
        pairs,
        possible,
        n_test=n_test,
        n_splits=n_splits,
        seed=seed,
        coverage_at=possible[-1:] if coverage_at is None else coverage_at,
        advance=advance,
    )
    splits = pd.DataFrame(rows)
    return PredictorReport(
        splits, summarise(splits, n_pairs, n_test), split_half(table), n_pairs, n_test, n_splits, _used(opened)
    )


def summarise(splits: pd.DataFrame, n_pairs: int, n_test: int) -> pd.DataFrame:
    """Mean and 95% interval (``..._low``, ``..._high``) over splits, for each form and number of pairs."""
    rows = []
    for (form, n), group in splits.groupby(["form", "n"], sort=False):
        row = {"form": form, "n": n, "splits": len(group)}
        for score in SCORES:
            row[score] = group[score].mean()
            values = group[score].to_numpy(np.float64)
            row[f"{score}_low"], row[f"{score}_high"] = interval(values, score, n_pairs, n_test)
        rows.append(row)
    return pd.DataFrame(rows)


def interval(values: NDArray[np.float64], score: str, n_pairs: int, n_test: int) -> tuple[float, float]:
    """95% confidence interval of the mean of a score over splits, within the range of the score.

    Correlations are averaged after Fisher's z-transformation and errors as logarithms, since symmetric intervals on
    their own scales could leave the range of the score.

    Args:
        values: Score in each split, shape ``(n_splits,)``.
        score: Name of the score.
        n_pairs: Number of pairs that are split.
        n_test: Number of pairs held out in each split; with fewer than ten there is no meaningful interval.

    Returns:
        Lower and upper end of the interval; NaN if there is none.
    """
    if n_test < FEWEST_FOR_INTERVAL or np.isnan(values).any():
        return np.nan, np.nan
    most = 1 - 4 / (n_test * (n_test - 1))  # as if one pair of networks were in the wrong order
    there: Callable[[Any], Any]
    back: Callable[[Any], Any]
    if score == "kendall_tau":
        there, back = (lambda tau: np.arctanh(np.clip(tau, -most, most))), np.tanh
    elif score == "pairwise_accuracy":
        there, back = (lambda share: np.arctanh(np.clip(2 * share - 1, -most, most))), (lambda z: (1 + np.tanh(z)) / 2)
    elif score == "rmse_log":
        there, back = np.log, np.exp
    else:
        there, back = (lambda share: share), (lambda share: np.clip(share, 0, 1))
    moved = there(values)
    half = half_width(float(moved.std(ddof=1)), len(values), n_pairs, n_test)
    ends = back(moved.mean() - half), back(moved.mean() + half)
    return float(min(ends[0], values.mean())), float(max(ends[1], values.mean()))


def _used(opened: OpenRun) -> str:
    """Form of predictor that the search of the run uses: the requested one, or its replacement."""
    predictors = opened.stages["predictors"]
    if predictors.begun and predictors.done:
        return str(read_json(predictors.checked(REPORT))["used"])
    return opened.settings.predictor
