"""What a run's own pairs say of the forms of predictors, by number of pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from apq_tune.encoding import Encoding
from apq_tune.errors import RunError
from apq_tune.pipeline.finished import open_run
from apq_tune.pipeline.learning import noise_floor, read_losses
from apq_tune.predict import AVERAGED, fit_rungs, forms
from apq_tune.predict.curve import counts_for, half_width, learning_curve

SCORES = ("kendall_tau", "pairwise_accuracy", "rmse_log", "coverage")

FEWEST = 10
"""Pairs without which nothing can be compared."""

MOST_TEST = 40
"""Pairs held out in each split; a third of all if that is less."""


class PredictorReport(NamedTuple):
    """How good the forms are.

    Attributes:
        splits: a row for each split, number of pairs and form; see ``learning_curve``.
        summary: mean over splits and half of its 95% interval (``..._interval``) for each form and number of pairs.
        floor: agreement of the losses on even and on odd images; what a perfect predictor could not much exceed.
        n_pairs: of the run.
        n_test: of them held out in each split.
        n_splits: random splits.
        used: the form that the run's search uses.
    """

    splits: pd.DataFrame
    summary: pd.DataFrame
    floor: dict[str, float]
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
    """Fit every form to ever more of a run's pairs, over random splits of them.

    Args:
        run: directory of a run whose losses are measured.
        counts: of pairs to learn from, as far as the run has them; all that are left are always tried.
        n_splits: at least two.
        seed: of the splits.
        coverage_at: numbers of pairs at which the uncertainty of each form is tried, too; by default the most.
        advance: told how many fits of how many are done.

    Raises:
        RunError: if it is no run, has not measured its losses, or has too few pairs.
    """
    opened = open_run(run, ("fp32_losses", "proxy_losses", "qat_pairs"))
    encoding, own = Encoding(opened.space), opened.settings
    fp32, proxy = (read_losses(opened.stages[name], encoding)[0] for name in ("fp32_losses", "proxy_losses"))
    pairs, table = read_losses(opened.stages["qat_pairs"], encoding)
    n_pairs = len(pairs.target)
    if n_pairs < FEWEST:
        raise RunError(f"{run}: has {n_pairs} quantized pairs, {FEWEST} are needed; run it with --set n_pairs={FEWEST}")
    n_test = min(MOST_TEST, n_pairs // 3)
    possible = counts_for(n_pairs, counts, n_test)
    rows = learning_curve(
        forms(*fit_rungs(encoding, fp32, proxy, own.seed)),
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
        splits, summarise(splits, n_pairs, n_test), noise_floor(table), n_pairs, n_test, n_splits, own.predictor
    )


def summarise(splits: pd.DataFrame, n_pairs: int, n_test: int) -> pd.DataFrame:
    """Mean and half of the 95% interval over splits, for each form and number of pairs."""
    rows = []
    for (form, n), group in splits.groupby(["form", "n"], sort=False):
        row = {"form": form, "n": n, "splits": len(group)}
        for score in SCORES:
            row[score] = group[score].mean()
            row[f"{score}_interval"] = half_width(group[score].std(), len(group), n_pairs, n_test)
        rows.append(row)
    return pd.DataFrame(rows)
