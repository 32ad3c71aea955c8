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
from apq_tune.problem.device import limit_texts
from apq_tune.problem.front import Front
from apq_tune.problem.limits import as_texts, read_combinations
from apq_tune.problem.metric import Metric, WidenedMetric
from apq_tune.problem.problem import Constraint, Objective, Problem
from apq_tune.searchers import search
from apq_tune.space.candidate import read_candidate
from apq_tune.space.device import DevicePreset, load_preset
from apq_tune.space.encoding import Genomes
from apq_tune.space.narrowing import Narrowing
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
    device_preset: DevicePreset | str | Path | None = None,
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
        device_preset: Device, the name of a preset, or its file: only networks that it runs are answers, and its memory
            is a further limit.
        n_evaluations: Number of distinct candidates that each search scores.
        seed: Random seed.
        progress: Callback with the number of candidates that are scored, and of all.

    Raises:
        RunError: If it is not a run, its predictors are not fitted, or a file is damaged.
        ProblemError: If a limit cannot be read, or no set of limits can be kept; the message has the least reachable
            cost. If some can be kept, the others are answered with ``why``.
        DeviceError: If the device is unknown, or runs no network of the space.
    """
    read = read_run(Path(run), "predictors")
    preset = load_preset(device_preset) if isinstance(device_preset, str | Path) else device_preset
    own = constraints if constraints or budgets else read.settings.constraints
    texts = (*own, *limit_texts(preset))
    narrowing = None if preset is None else Narrowing(read.encoding.space, read.encoding.space.narrowed(preset))
    encoding = read.encoding if narrowing is None else narrowing.part
    costs = Costs.of(encoding, [*kept_tables(read.path), *tables], [*texts, *budgets])
    common = costs.limits(texts)
    reference = costs.at_largest() if any("%" in text for text in budgets) else {}
    combinations = read_combinations(costs.metrics, budgets, reference)
    asker = _Asker.of(read, costs, narrowing, n_evaluations, seed)
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
    whole = (
        costs
        if narrowing is None
        else Costs.of(read.encoding, [*kept_tables(read.path), *tables], [*texts, *budgets], strict=False)
    )
    pool, finalists = asker.starts(found), asker.inside(read_finalists(read.path))
    answers = tuple(
        asker.answer(f"answer_{number + 1}", limits, pool, whole, finalists, why.get(number, ""))
        for number, limits in enumerate(sets)
    )
    swept = tuple(whole.metrics[limit.metric.name] for limit in combinations[0])
    return Solutions(
        read.path, read.encoding, whole, swept, answers, asker.report, len(asker.pairs), n_evaluations, seed
    )


@dataclass(frozen=True)
class _Asker:
    """Predictor of a run, with what it learned from, and the candidates from which searches begin.

    Attributes:
        costs: Costs of the space that is searched: that of the run, or the part of it that a device runs.
        narrowing: Both spaces; ``None`` if they are the same.
        loss: Predictor of the loss, of genomes of the space that is searched.
        report: Report on the predictors.
        pairs: Genomes of the pairs that it learned from, those of the space of the run.
        nearness: Distances from the pairs.
        known: Candidates from which searches begin.
        n_evaluations: Number of candidates that each search scores.
        seed: Random seed.
    """

    costs: Costs
    narrowing: Narrowing | None
    loss: Metric
    report: Mapping[str, Any]
    pairs: Genomes
    nearness: Nearness
    known: Genomes
    n_evaluations: int
    seed: int

    @classmethod
    def of(cls, run: ReadRun, costs: Costs, narrowing: Narrowing | None, n_evaluations: int, seed: int) -> _Asker:
        """Read the predictor of a run.

        Raises:
            RunError: If a file is missing or damaged.
        """
        stage, encoding = run.directory("predictors"), costs.encoding
        loss: Metric = load_predictor(stage.checked(BOUND if run.settings.kappa else PREDICTOR), run.encoding)
        pairs, _ = read_losses(run.directory("qat_pairs"), run.encoding)
        found = _of_searches(run)
        if narrowing is not None:
            loss, found = WidenedMetric(loss, narrowing), _inside(narrowing, found)
        smallest = np.zeros((1, encoding.n_genes), np.int16)
        parts = [encoding.uniform_policies(), smallest[encoding.is_allowed(smallest)], found]
        known = encoding.canonicalise(np.concatenate(parts).astype(np.int16))
        nearness = Nearness.of(run.encoding, pairs.genomes)
        report = read_json(stage.checked(REPORT))
        return cls(costs, narrowing, loss, report, pairs.genomes, nearness, known, n_evaluations, seed)

    def inside(self, records: Mapping[str, Any]) -> dict[str, Any]:
        """Records of those networks of the run that are in the space that is searched."""
        own = self.narrowing
        return {
            name: record
            for name, record in records.items()
            if own is None or len(_inside(own, own.whole.encode([read_candidate(record["candidate"])], check=False)))
        }

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
        self,
        name: str,
        limits: tuple[Constraint, ...],
        pool: Genomes,
        whole: Costs,
        finalists: Mapping[str, Any],
        why: str,
    ) -> Solution:
        """The best candidate of a pool under limits, with what tells how far to trust its prediction.

        Args:
            name: Name of the answer.
            limits: Limits on the costs of the space that is searched.
            pool: Candidates of that space.
            whole: Costs of the space of the run.
            finalists: Records of trained networks.
            why: Reason why there is no answer; empty if there is one.
        """
        of_run = tuple(Constraint(whole.metrics[c.metric.name], c.bound, c.sense) for c in limits)
        if why:
            return Solution(name, of_run, why=why)
        evaluation = self.problem(limits).evaluate(pool)
        row = int(np.lexsort((evaluation.G.sum(axis=1), evaluation.F[:, 0]))[0])
        genome, loss = pool[row : row + 1], float(evaluation.F[row, 0])
        genome = genome if self.narrowing is None else self.narrowing.widen(genome)
        slope, intercept = self.report["error_law"]
        keeps = np.ones(len(self.pairs), bool)
        for limit in of_run:
            keeps &= limit.violation(np.asarray(limit.metric(self.pairs), np.float64)) <= 0
        return Solution(
            name,
            of_run,
            whole.encoding.decode(genome)[0],
            loss,
            float(np.clip(1 - np.exp(intercept) * loss**slope, 0, 1)),
            {cost: float(metric(genome)[0]) for cost, metric in whole.metrics.items()},
            float(self.nearness(genome)[0]),
            int(keeps.sum()),
            bool(self.nearness.outside(genome)[0]) or not keeps.any(),
            *best_trained(finalists, whole, of_run),
        )


def _inside(narrowing: Narrowing, genomes: Genomes) -> Genomes:
    """Those of some genomes of the whole space that are in the part, as genomes of the part."""
    narrow, inside = narrowing.narrow(genomes)
    return np.asarray(narrow[inside])


def _of_searches(run: ReadRun) -> Genomes:
    """Candidates that the searches of the run found; none if it has not searched yet."""
    stage, none = run.stages["search"], np.zeros((0, run.encoding.n_genes), np.int16)
    if not stage.begun or not stage.done:
        return none
    fronts = [Front.load(stage.checked(f"{name}.json")) for name in ("best", "front", "random")]
    own = [candidate for front in fronts for candidate in front.candidates]
    return np.asarray(run.encoding.encode(own, check=False)) if own else none
