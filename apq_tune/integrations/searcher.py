"""``ApqSearch``: a Ray Tune searcher that hosts our searchers, or any Optuna sampler, on a problem."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import ray
from optuna.samplers import BaseSampler
from ray import cloudpickle
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch
from ray.tune.search.variant_generator import parse_spec_vars

from apq_tune.candidate import Candidate, Choice
from apq_tune.errors import CandidateError, ProblemError
from apq_tune.front import Axis, Front
from apq_tune.integrations.asktell import AskTell
from apq_tune.pareto import is_non_dominated
from apq_tune.problem import Problem, constraint_name, reported_name

STATE = ("_problem", "_sampler", "_warm", "_seed", "_most", "_study")
"""What is saved."""


class ApqSearch(Searcher):
    """Proposes candidates of a problem to ``tune.run`` or ``tune.Tuner``, and learns what trials report.

    Unlike Ray's ``OptunaSearch`` it tells constraints, takes several objectives and warm starts of these, never tries a
    candidate twice, and gives every trial the state that it deserves: failed if it raised, lacks an objective or
    reports NaN; pruned if a scheduler stopped its training.

        objective = APQObjective(problem)
        tune.run(objective, config=space.to_tune(), search_alg=ApqSearch(problem), num_samples=200)

    Leave ``metric`` and ``mode`` of Tune alone: the problem knows them. Trials run ``max_concurrent`` at once, by
    default one on each CPU of the cluster. Results repeat with ``max_concurrent=1`` only.
    """

    def __init__(
        self,
        problem: Problem,
        sampler: BaseSampler | None = None,
        *,
        warm_start: Front | pd.DataFrame | None = None,
        max_concurrent: int | None = None,
        seed: int = 0,
    ) -> None:
        """Take a problem and a way to search.

        Args:
            problem: what ``APQObjective`` reports on.
            sampler: any of Optuna's; by default our evolution for one objective, our NSGA-II for several.
            warm_start: known candidates: a front, or rows with ``candidate_json`` (or ``candidate``, JSON) and a column
                for each objective and each metric of a constraint.
            max_concurrent: trials at once.
            seed: of the default sampler.

        Raises:
            ProblemError: if ``max_concurrent`` makes no sense, or a warm start lacks a column.
            CandidateError: if a warm start has a candidate that is not in the space.
        """
        super().__init__()
        if max_concurrent is not None and max_concurrent < 1:
            raise ProblemError(f"max_concurrent is {max_concurrent}; give at least 1, or leave it out")
        self._problem, self._sampler, self._seed = problem, sampler, seed
        self._warm = _known(problem, warm_start)
        self._most = max_concurrent
        self._study: AskTell | None = None

    def _begin(self, config: Mapping[str, Any]) -> AskTell:
        genes = self._problem.encoding.space.genes
        flat = dict(config)
        _, domains, grids = parse_spec_vars(flat)
        if grids:
            raise ProblemError(f"{'/'.join(grids[0][0])}: a grid cannot be searched; give tune.choice")
        open_names = {path[0] for path, _ in domains}
        fixed = {name: value for name, value in flat.items() if name not in open_names}
        others = {name: value for name, value in flat.items() if name in open_names and name not in genes}
        for name, value in fixed.items():
            if name in genes and value not in genes[name]:
                raise CandidateError(f"config: {name} is {value!r}; choose one of {list(genes[name])}")
        study = AskTell(
            self._problem.encoding,
            [objective.direction for objective in self._problem.objectives],
            self._sampler,
            others=OptunaSearch.convert_search_space(others) if others else {},
            fixed=fixed,
            seed=self._seed,
        )
        for known in self._warm:
            study.add(**known)
        return study

    @property
    def _asked(self) -> AskTell:
        if self._study is None:
            self._study = self._begin({})
        return self._study

    def set_search_properties(
        self,
        metric: str | None,
        mode: str | None,  # noqa: ARG002
        config: dict[str, Any],
        **_: Any,
    ) -> bool:
        """Take over Tune's ``param_space``; genes that are missing in it are searched, values in it are fixed.

        Raises:
            ProblemError: if Tune was given a metric of its own.
        """
        names = [reported_name(objective.metric) for objective in self._problem.objectives]
        if metric is not None and [metric] != names:
            raise ProblemError(f"metric is {metric!r}, the problem improves {names}; leave metric and mode of Tune out")
        if self._study is None:
            self._study = self._begin(config)
        return True

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """Tune's ``max_concurrent_trials``."""
        self._most = max_concurrent
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """A configuration; ``None`` while enough trials run; ``FINISHED`` when the space is exhausted."""
        if self._most is None:
            self._most = max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]
        if self._asked.n_running >= self._most:
            return None
        config = self._asked.ask(trial_id)
        return Searcher.FINISHED if config is None else config  # type: ignore[return-value]

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """An epoch of a training."""
        if "epoch" in result:
            self._asked.report(trial_id, float(result.get(self._names[0], math.nan)), int(result["epoch"]))

    @property
    def _names(self) -> list[str]:
        return [reported_name(objective.metric) for objective in self._problem.objectives]

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The end of a trial, whatever it was."""
        study, result = self._asked, result or {}
        if not study.is_running(trial_id):
            self._reconcile(result, error)
            return
        if error or not result:
            study.tell(trial_id, "failed", said={"reason": "the trial raised, or was lost; see Tune's error.txt"})
            return
        stopped = int(result.get("epoch", 0)) < int(result.get("epochs", 0))
        values, violations, said = self._told(result)
        study.tell(trial_id, "pruned" if stopped else "complete", values, violations, said)

    def _told(self, result: Mapping[str, Any]) -> tuple[list[float], dict[str, float], dict[str, Any]]:
        names = [constraint_name(constraint) for constraint in self._problem.constraints]
        violations = {name: float(result[name]) for name in names if name in result}
        reported = [reported_name(metric) for metric in self._problem.metrics]
        kept = (*reported, *names, "violation", "candidate", "fidelity", "seconds", "epoch")
        said = {name: result[name] for name in kept if name in result}
        return [float(result[name]) for name in self._names if name in result], violations, said

    def _reconcile(self, result: Mapping[str, Any], error: bool) -> None:
        """A trial that we do not know: Tune restored it, and it is younger than what we had saved."""
        values, violations, said = self._told(result)
        config = result.get("config")
        if not error and config and len(values) == len(self._names) and not any(map(math.isnan, values)):
            self._asked.add(config, values, violations, said)

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each trial that was run: state, metrics by name, candidate, parameters."""
        return self._asked.to_dataframe()

    def front(self) -> Front:
        """The feasible non-dominated candidates of all completed trials, warm start included.

        Raises:
            ProblemError: if there is none yet.
        """
        names = [reported_name(metric) for metric in self._problem.metrics]
        rows = [
            trial.user_attrs
            for trial in self._asked.trials()
            if trial.state.name == "COMPLETE" and all(value <= 0 for value in trial.constraints.values())
        ]
        rows = [row for row in rows if all(name in row for name in names)]
        if not rows:
            raise ProblemError("no trial was completed that keeps the constraints; run more, or relax a bound")
        metrics = pd.DataFrame(rows)[names]
        signs = [1.0 if objective.direction == "minimize" else -1.0 for objective in self._problem.objectives]
        F = metrics[self._names].to_numpy(np.float64) * signs
        best = np.flatnonzero(is_non_dominated(F))
        best = best[np.lexsort(F[best].T[::-1])]
        return Front(
            tuple(_candidate(rows[i]["candidate"]) for i in best),
            metrics.iloc[best].reset_index(drop=True),
            tuple(
                Axis(name, objective.metric.unit, objective.direction)
                for name, objective in zip(self._names, self._problem.objectives, strict=True)
            ),
            {
                "space": self._problem.encoding.name,
                "constraints": [str(constraint) for constraint in self._problem.constraints],
                "algorithm": repr(self._asked.study.sampler),
                "n_evaluations": len(self._asked.trials()),
                "seed": self._seed,
            },
        )

    def export(self, storage: str, name: str) -> Any:
        """Copy all trials to an Optuna study, for ``optuna-dashboard STORAGE``; see ``AskTell.export``."""
        return self._asked.export(storage, name)

    @property
    def study(self) -> Any:
        """The Optuna study, as its sampler sees it."""
        return self._asked.study

    def save(self, checkpoint_path: str) -> None:
        """Write everything to a file; Tune does so as it goes."""
        state = {name: getattr(self, name) for name in STATE}
        Path(checkpoint_path).write_bytes(cloudpickle.dumps(state))  # type: ignore[no-untyped-call]

    def restore(self, checkpoint_path: str) -> None:
        """Inverse of ``save``; trials that Tune does not remember are failed, nobody would ever tell of them."""
        path = Path(checkpoint_path)
        for name, value in cloudpickle.loads(path.read_bytes()).items():
            setattr(self, name, value)
        if self._study is not None and (remembered := _trials_of(path.parent)) is not None:
            self._study.give_up("lost when the experiment was interrupted", remembered)


def _trials_of(folder: Path) -> set[str] | None:
    """Ids of the trials that Tune had written down in an experiment's folder; ``None`` if it is none."""
    states = sorted(folder.glob("experiment_state-*.json"), key=lambda file: file.stat().st_mtime)
    return set(re.findall(r'\\?"trial_id\\?": \\?"(\w+)', states[-1].read_text("utf-8"))) if states else None


def _candidate(text: str) -> Candidate | Choice:
    data = json.loads(text)
    return Choice.from_dict(data) if "choices" in data else Candidate.from_dict(data)


def _known(problem: Problem, given: Front | pd.DataFrame | None) -> list[dict[str, Any]]:
    """Arguments of ``AskTell.add``."""
    if given is None:
        return []
    frame = given.to_dataframe() if isinstance(given, Front) else given
    column = next((name for name in ("candidate_json", "candidate") if name in frame), None)
    needed = [o.metric for o in problem.objectives] + [c.metric for c in problem.constraints]
    names = {metric.name: reported_name(metric) for metric in needed}
    missing = [] if column else ["candidate_json"]
    missing += [new for old, new in names.items() if old not in frame and new not in frame]
    if missing:
        raise ProblemError(f"warm start lacks {missing}; it has {list(frame.columns)}")
    values = {old: frame[new if new in frame else old].to_numpy(np.float64) for old, new in names.items()}
    known = []
    for row, text in enumerate(frame[column]):
        own = {old: float(column[row]) for old, column in values.items()}
        violations = {
            constraint_name(c): float(c.violation(np.array([own[c.metric.name]]))[0]) for c in problem.constraints
        }
        candidate = _candidate(text)
        said = {names[old]: value for old, value in own.items()} | violations
        known.append(
            {
                "config": problem.encoding.space.to_config(candidate),
                "values": [own[objective.metric.name] for objective in problem.objectives],
                "violations": violations,
                "said": said | {"candidate": candidate.to_json(), "fidelity": "warm start"},
            }
        )
    return known
