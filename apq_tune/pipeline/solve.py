"""New limits answered by the predictors of a finished run: nothing is measured again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from apq_tune.errors import ProblemError
from apq_tune.methods.searches import EVALUATIONS
from apq_tune.pipeline.answers import Solution, Solutions, best_trained
from apq_tune.pipeline.finished import read_finalists
from apq_tune.pipeline.learning import BOUND, PREDICTOR, REPORT, read_losses
from apq_tune.pipeline.reading import ReadRun, read_run
from apq_tune.predict.files import load_predictor
from apq_tune.predict.nearness import Nearness
from apq_tune.problem.costs import Costs
from apq_tune.problem.front import Front
from apq_tune.problem.limits import as_texts, read_combinations
from apq_tune.problem.metric import Metric
from apq_tune.problem.problem import Constraint, Objective, Problem
from apq_tune.searchers import search
from apq_tune.space.encoding import Genomes
from apq_tune.store.directory import kept_tables
from apq_tune.store.files import read_json

CHECK = 5
"""Divisor of the number of candidates of a search, for the search that looks for the least reachable cost."""


def solve(
    run: str | Path,
    constraints: Sequence[str] = (),
    *,
    budgets: Sequence[str] = (),
    tables: Sequence[Path] = (),
    n_evaluations: int = EVALUATIONS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Solutions:
    """Search under new limits with the predictor of a finished run; neither images nor supernets are needed.

    Everything that is found under one set of limits is compared under all of them, so that the answer to a looser one
    is never predicted to be worse.

    Args:
        run: Directory of a run that has fitted its predictors.
        constraints: Limits as text, such as ``"flash<=150kB"``, which all answers keep. If there are neither these nor
            ``budgets``, those of the run.
        budgets: Limits to sweep, such as ``"flash=100kB,150kB,200kB"``; of several costs, every combination.
        tables: Further cost tables beside those of the run.
        n_evaluations: Number of distinct candidates that each search scores.
        seed: Random seed.
        progress: Callback with the number of candidates that are scored, and of all.

    Raises:
        RunError: If it is not a run, its predictors are not fitted, or a file is damaged.
        ProblemError: If a limit cannot be read, or no set of limits can be kept; the message has the least reachable
            cost. If some can be kept, the others are answered with ``why``.
    """
    read = read_run(Path(run), "predictors")
    texts = constraints if constraints or budgets else read.settings.constraints
    costs = Costs.of(read.encoding, [*kept_tables(read.path), *tables], [*texts, *budgets])
    common = costs.limits(texts)
    reference = costs.at_largest() if any("%" in text for text in budgets) else {}
    combinations = read_combinations(costs.metrics, budgets, reference)
    asker = _Asker.of(read, costs, n_evaluations, seed)
    sets: list[tuple[Constraint, ...]] = [(*common, *own) for own in combinations]
    found, why = list[Genomes](), dict[int, str]()
    bounds = [tuple(limit.bound for limit in own) for own in combinations]
    for done, number in enumerate(sorted(range(len(sets)), key=bounds.__getitem__)):  # the tightest first

        def tell(n: int, before: int = done * n_evaluations) -> None:
            if progress is not None:
                progress(before + n, len(sets) * n_evaluations)

        try:
            sets[number] = costs.limits(as_texts(sets[number]))
            found.append(asker.best(sets[number], found, tell))
        except ProblemError as error:
            why[number] = str(error)
        tell(n_evaluations)
    if len(why) == len(sets):
        raise ProblemError(why[0] if len(why) == 1 else f"no network keeps any of the {len(why)} budgets: {why[0]}")
    pool, finalists = asker.starts(found), read_finalists(read.path)
    answers = tuple(
        asker.answer(f"answer_{number + 1}", limits, pool, finalists, why.get(number, ""))
        for number, limits in enumerate(sets)
    )
    swept = tuple(limit.metric for limit in combinations[0])
    return Solutions(
        read.path, read.encoding, costs, swept, answers, asker.report, len(asker.pairs), n_evaluations, seed
    )


@dataclass(frozen=True)
class _Asker:
    """Predictor of a run, with what it learned from, and the candidates from which searches begin."""

    costs: Costs
    loss: Metric
    report: Mapping[str, Any]
    pairs: Genomes
    nearness: Nearness
    known: Genomes
    n_evaluations: int
    seed: int

    @classmethod
    def of(cls, run: ReadRun, costs: Costs, n_evaluations: int, seed: int) -> _Asker:
        """Read the predictor of a run.

        Raises:
            RunError: If a file is missing or damaged.
        """
        stage, encoding = run.directory("predictors"), run.encoding
        loss = load_predictor(stage.checked(BOUND if run.settings.kappa else PREDICTOR), encoding)
        pairs, _ = read_losses(run.directory("qat_pairs"), encoding)
        smallest = np.zeros((1, encoding.n_genes), np.int16)
        parts = [encoding.uniform_policies(), smallest[encoding.is_allowed(smallest)], _of_searches(run)]
        known = encoding.canonicalise(np.concatenate(parts).astype(np.int16))
        nearness = Nearness.of(encoding, pairs.genomes)
        report = read_json(stage.checked(REPORT))
        return cls(costs, loss, report, pairs.genomes, nearness, known, n_evaluations, seed)

    def starts(self, found: Sequence[Genomes]) -> Genomes:
        """Distinct candidates from which a search begins: those of the run, then those that were found before."""
        rows = np.concatenate([self.known, *found])
        _, first = np.unique(rows, axis=0, return_index=True)
        return np.asarray(rows[np.sort(first)])

    def problem(self, limits: Sequence[Constraint]) -> Problem:
        """Problem of the predicted loss under limits."""
        return Problem(self.costs.encoding, [Objective(self.loss)], limits, list(self.costs.metrics.values()))

    def best(self, limits: Sequence[Constraint], found: Sequence[Genomes], tell: Callable[[int], None]) -> Genomes:
        """Genome of the least predicted loss that a search finds, shape ``(1, n_genes)``.

        Raises:
            ProblemError: If no candidate keeps the limits; the message has the least reachable cost.
        """
        problem, starts = self.problem(limits), self.starts(found)
        try:
            front = search(problem, n_evaluations=self.n_evaluations, seed=self.seed, initial=starts, progress=tell)
        except ProblemError:
            starts = np.concatenate([self._closest(limits, starts), starts])
            front = search(problem, n_evaluations=self.n_evaluations, seed=self.seed, initial=starts)
        return np.asarray(self.costs.encoding.encode(front.candidates[:1], check=False))

    def _closest(self, limits: Sequence[Constraint], starts: Genomes) -> Genomes:
        """Candidate that keeps limits which a search for the least loss did not reach.

        Raises:
            ProblemError: If the first limit that cannot be kept together with those before it is out of reach.
        """
        best = starts[:1]
        for number, limit in enumerate(limits):
            problem = Problem(
                self.costs.encoding,
                [Objective(limit.metric, "minimize" if limit.sense == "<=" else "maximize")],
                limits[:number],
            )
            n = max(len(starts), self.n_evaluations // CHECK)
            front = search(problem, n_evaluations=n, seed=self.seed, initial=np.concatenate([best, starts]))
            value = float(front.metrics[limit.metric.name].iloc[0])
            if limit.violation(np.array([value]))[0] > 0:
                given = "".join(f" and {other}" for other in limits[:number])
                end = "least" if limit.sense == "<=" else "largest"
                raise ProblemError(
                    f"no candidate found that keeps {limit}{given}; the {end} {limit.metric.name} found is {value:.6g} "
                    f"{limit.metric.unit}; relax a limit"
                )
            best = self.costs.encoding.encode(front.candidates[:1], check=False)
        return best

    def answer(
        self, name: str, limits: tuple[Constraint, ...], pool: Genomes, finalists: Mapping[str, Any], why: str
    ) -> Solution:
        """The best candidate of a pool under limits, with what tells how far to trust its prediction."""
        if why:
            return Solution(name, limits, why=why)
        evaluation = self.problem(limits).evaluate(pool)
        row = int(np.lexsort((evaluation.G.sum(axis=1), evaluation.F[:, 0]))[0])
        genome, loss = pool[row : row + 1], float(evaluation.F[row, 0])
        slope, intercept = self.report["error_law"]
        keeps = np.ones(len(self.pairs), bool)
        for limit in limits:
            keeps &= limit.violation(np.asarray(limit.metric(self.pairs), np.float64)) <= 0
        return Solution(
            name,
            limits,
            self.costs.encoding.decode(genome)[0],
            loss,
            float(np.clip(1 - np.exp(intercept) * loss**slope, 0, 1)),
            {cost: float(metric(genome)[0]) for cost, metric in self.costs.metrics.items()},
            float(self.nearness(genome)[0]),
            int(keeps.sum()),
            bool(self.nearness.outside(genome)[0]) or not keeps.any(),
            *best_trained(finalists, self.costs, limits),
        )


def _of_searches(run: ReadRun) -> Genomes:
    """Candidates that the searches of the run found; none if it has not searched yet."""
    stage, none = run.stages["search"], np.zeros((0, run.encoding.n_genes), np.int16)
    if not stage.begun or not stage.done:
        return none
    fronts = [Front.load(stage.checked(f"{name}.json")) for name in ("best", "front", "random")]
    own = [candidate for front in fronts for candidate in front.candidates]
    return np.asarray(run.encoding.encode(own, check=False)) if own else none
