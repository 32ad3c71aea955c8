"""Comparison of samplers on one problem: hypervolume by number of evaluations over seeds, with significance tests."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from apq_tune.errors import ProblemError
from apq_tune.hosts.optuna_studies import SAMPLERS, run_study
from apq_tune.hosts.work import Result
from apq_tune.problem.pareto import Yardstick
from apq_tune.problem.problem import Evaluation, Problem
from apq_tune.searchers import ALGORITHMS, MILP, search
from apq_tune.space.encoding import Genomes

Floats = NDArray[np.float64]

SAMPLER_NAMES = (*ALGORITHMS, MILP, *SAMPLERS)
"""Names of the samplers of this package, then of those of Optuna."""

ENUMERATED = 20_000
"""Maximum size of a space that is enumerated for its exact front."""

POINTS = 60
"""Number of points of a curve."""


class CompareTask(NamedTuple):
    """One sampler with one seed."""

    sampler: str
    seed: int

    @property
    def key(self) -> str:
        """Readable key, valid as a file name."""
        return f"{self.sampler}-{self.seed}"


CAPS: Mapping[str, int] = {"optuna-gp": 100, "ddpg": 400}
"""Maximum number of distinct candidates for samplers that take a large part of a second for each or more; 400 is the
number of AMC's episodes (He 2018)."""


class Contest(NamedTuple):
    """Arguments shared by all tasks."""

    problem: Problem
    n_evaluations: int  # distinct candidates
    caps: Mapping[str, int] = {}  # maximum number for some samplers

    def budget(self, sampler: str) -> int:
        """Number of distinct candidates for a sampler."""
        return min(self.n_evaluations, self.caps.get(sampler, self.n_evaluations))


class Watched(Problem):
    """Problem that records the history of its front.

    Attributes:
        n_evaluations: Number of evaluations so far.
        history: Number of evaluations and minimised objectives of each candidate that no earlier one dominated or
            equalled.
        worst: Worst feasible objectives, shape ``(n_objectives,)``.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.encoding, problem.objectives, problem.constraints, problem.metrics)
        self.n_evaluations = 0
        self.history: list[tuple[int, list[float]]] = []
        self.worst = np.full(len(problem.objectives), -np.inf)
        self._front = np.zeros((0, len(problem.objectives)))

    def evaluate(self, genomes: Genomes) -> Evaluation:
        """Evaluate candidates, and record those that improve the front."""
        scores = super().evaluate(genomes)
        for place in np.flatnonzero(scores.feasible):
            F = scores.F[place]
            self.worst = np.maximum(self.worst, F)
            if not (self._front <= F).all(axis=1).any():
                self._front = np.vstack([self._front[~(self._front >= F).all(axis=1)], F])
                self.history.append((self.n_evaluations + int(place) + 1, F.tolist()))
        self.n_evaluations += len(genomes)
        return scores


def run_entry(entry: CompareTask, shared: Contest) -> Result:
    """Run one search of one sampler."""
    problem, n = Watched(shared.problem), shared.budget(entry.sampler)
    trials = n
    if entry.sampler in SAMPLERS:
        trials = run_study(problem, entry.sampler, n_evaluations=n, seed=entry.seed)
    else:
        try:
            algorithm = MILP if entry.sampler == MILP else ALGORITHMS[entry.sampler]()
            search(problem, algorithm, n_evaluations=n, seed=entry.seed)
        except ProblemError:
            if problem.history:
                raise  # otherwise no candidate is feasible, and the curve is 0
    return Result(
        {
            "n_evaluations": problem.n_evaluations,
            "trials": problem.n_evaluations if entry.sampler == MILP else trials,
            "counts": [count for count, _ in problem.history],
            "F": [F for _, F in problem.history],
            "worst": problem.worst.tolist() if problem.history else None,
        }
    )


def yardstick_of(problem: Problem, results: Sequence[Mapping[str, Any]]) -> tuple[Yardstick, bool]:
    """Reference for hypervolumes: the exact front of a small space, otherwise the best front of all searches together.

    The reference point is the worst feasible value of each objective, in the whole space or in any search.

    Returns:
        The yardstick, and whether its front is exact.

    Raises:
        ProblemError: If no feasible candidate is known.
    """
    exact = problem.encoding.size() <= ENUMERATED
    if exact:
        scores = problem.evaluate(problem.encoding.enumerate(ENUMERATED))
        known = scores.F[scores.feasible]
    else:
        rows = [F for result in results for F in [*result["F"], *([result["worst"]] if result["worst"] else [])]]
        known = np.array(rows, np.float64).reshape(-1, len(problem.objectives))
    if len(known) == 0:
        limits = " and ".join(map(str, problem.constraints))
        raise ProblemError(f"no sampler found a candidate with {limits}; relax a bound, or give more evaluations")
    return Yardstick.of(known), exact


def curves_frame(
    entries: Sequence[CompareTask],
    results: Mapping[str, Mapping[str, Any]],
    yardstick: Yardstick,
    at: Sequence[int],
    caps: Mapping[str, int] | None = None,
) -> pd.DataFrame:
    """Relative hypervolume by number of distinct candidates.

    Returns:
        Table with the columns ``sampler``, ``seed``, ``evaluations`` and ``share``, for each of ``at`` and numbers in
        between, up to the maximum of the sampler.
    """
    counts = np.unique([*np.geomspace(min(10, at[-1]), at[-1], POINTS).round().astype(int), *at])
    rows = []
    for entry in entries:
        result = results[entry.key]
        found = np.array(result["counts"], int)
        F = np.array(result["F"], np.float64).reshape(len(found), len(yardstick.low))
        own = counts[counts <= (caps or {}).get(entry.sampler, at[-1])]
        rows += [(*entry, int(n), yardstick.share(F[found <= n])) for n in own]
    return pd.DataFrame(rows, columns=["sampler", "seed", "evaluations", "share"])


def medians_frame(curves: pd.DataFrame, at: Sequence[int]) -> pd.DataFrame:
    """Quartiles of the relative hypervolume over seeds, by sampler and number of evaluations."""
    chosen = curves[curves["evaluations"].isin(at)]
    quartiles = chosen.groupby(["sampler", "evaluations"], sort=False)["share"].quantile([0.25, 0.5, 0.75])
    return quartiles.unstack().set_axis(["q25", "q50", "q75"], axis=1).reset_index()


def pairwise_tests(curves: pd.DataFrame, at: Sequence[int]) -> pd.DataFrame:
    """Pairwise tests of samplers at each number of evaluations.

    Returns:
        ``evaluations``, ``sampler``, ``other``; ``wins``, ``ties``, ``losses`` of the first over seeds, each against
        the other's of the same seed; ``difference`` of the medians; ``p`` of the two-sided Mann-Whitney test, and
        ``p_holm``, corrected for all pairs at that number of evaluations.
    """
    names = ["evaluations", "sampler", "other", "wins", "ties", "losses", "difference", "p"]
    parts = []
    for n in at:
        shares = curves[curves["evaluations"] == n].pivot(index="seed", columns="sampler", values="share")
        rows = []
        there = [sampler for sampler in curves["sampler"].unique() if sampler in shares]
        for one, other in itertools.combinations(there, 2):
            a, b = shares[one].to_numpy(), shares[other].to_numpy()
            ties = np.isclose(a, b, rtol=1e-12, atol=0)
            wins = int((~ties & (a > b)).sum())
            p = 1.0 if np.ptp([a, b]) == 0 else float(mannwhitneyu(a, b, alternative="two-sided").pvalue)
            known = (wins, int(ties.sum()), len(a) - wins - int(ties.sum()))
            rows.append((n, one, other, *known, float(np.median(a) - np.median(b)), p))
        if not rows:
            continue
        part = pd.DataFrame(rows, columns=names)
        parts.append(part.assign(p_holm=holm(part["p"].to_numpy(np.float64))))
    if not parts:  # of one sampler alone
        return pd.DataFrame(columns=[*names, "p_holm"])
    return pd.concat(parts, ignore_index=True)


def recommended(medians: pd.DataFrame, tests: pd.DataFrame, level: float) -> pd.DataFrame:
    """Best sampler for each number of evaluations.

    Args:
        medians: Table of ``medians_frame``.
        tests: Table of ``pairwise_tests``.
        level: Significance level.

    Returns:
        Table with the columns ``evaluations``, ``best`` by the median, and ``level_with_it``: samplers that are not
        significantly worse, best first.
    """
    rows = []
    for n in medians["evaluations"].unique():
        there = medians[medians["evaluations"] == n].sort_values("q50", ascending=False, kind="stable")["sampler"]
        best = there.iloc[0]
        own = tests[(tests["evaluations"] == n) & ((tests["sampler"] == best) | (tests["other"] == best))]
        behind = own[own["p_holm"] < level]
        worse = {*behind["sampler"], *behind["other"]}
        rows.append((int(n), best, ", ".join(name for name in there.iloc[1:] if name not in worse)))
    return pd.DataFrame(rows, columns=["evaluations", "best", "level_with_it"])


def holm(p: Floats) -> Floats:
    """Correct p-values for multiple testing (Holm 1979).

    Args:
        p: P-values, shape ``(n,)``.

    Returns:
        Corrected p-values, shape ``(n,)``.
    """
    order = np.argsort(p, kind="stable")
    corrected = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    out = np.empty(len(p))
    out[order] = corrected
    return out
