"""``ApqSearch``: a Ray Tune searcher that hosts our searchers, or any Optuna sampler, on a problem."""

from __future__ import annotations

import dataclasses
import math
import os
import re
import warnings
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import ray
from optuna.samplers import BaseSampler
from ray import cloudpickle
from ray.tune.search import Searcher
from ray.tune.search.repeater import Repeater

from apq_tune.errors import ProblemError
from apq_tune.hosts.asktell import AskTell
from apq_tune.hosts.export import check_place
from apq_tune.hosts.host import calling, check_goal, check_scheduler
from apq_tune.hosts.param_space import read_param_space
from apq_tune.hosts.results import config_of, read_result, why_none
from apq_tune.hosts.warm_start import read_candidate, read_warm_start
from apq_tune.problem.front import Axis, Front
from apq_tune.problem.pareto import is_non_dominated
from apq_tune.problem.problem import Problem, TrainedMetric, reported_name

STATE = (
    "_problem",
    "_sampler",
    "_warm",
    "_seed",
    "_most",
    "_study",
    "_space",
    "_paused",
    "_last",
    "_repeated",
    "_metric",
)
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
            sampler: any of Optuna's; by default ``ModelSampler`` if a metric has to train or to run a network, else our
                evolution for one objective and our NSGA-II for several (``docs/guides/samplers.md``).
            warm_start: known candidates: a front, or rows with ``candidate_json`` (or ``candidate``, JSON) and a column
                for each objective and each metric of a constraint.
            max_concurrent: trials at once.
            seed: of the default sampler.

        Raises:
            ProblemError: if an argument makes no sense, or a warm start lacks a column.
            CandidateError: if a warm start has a candidate that is not in the space.
        """
        super().__init__()
        _check_arguments(problem, sampler, max_concurrent, seed)
        self._problem, self._sampler, self._seed = problem, sampler, int(seed)
        self._warm = read_warm_start(problem, warm_start)
        self._most = max_concurrent
        self._study: AskTell | None = None
        self._space = read_param_space({}, {})
        self._paused: set[str] = set()
        self._last: dict[str, dict[str, Any]] = {}  # result of each trial that runs
        self._repeated = self._is_checked = False

    def _begin(self, config: Mapping[str, Any]) -> AskTell:
        genes = self._problem.encoding.space.parameters
        self._space = read_param_space(config, genes, _settings(self._problem))
        study = AskTell(
            self._problem.encoding,
            [objective.direction for objective in self._problem.objectives],
            self._sampler or _default_sampler(self._problem, self._seed),
            others=self._space.others,
            fixed=self._space.fixed,
            choices=self._space.choices,
            seed=self._seed,
        )
        left_out = sum(not study.add(*known) for known in self._warm)
        if left_out:
            said = f"{left_out} of {len(self._warm)} candidates of the warm start contradict param_space"
            if left_out == len(self._warm):
                raise ProblemError(f"{said}; leave warm_start out, or fix fewer genes")
            warnings.warn(f"{said}, and are left out", stacklevel=2)
        return study

    @property
    def _asked(self) -> AskTell:
        if self._study is None:
            self._study = self._begin({})
        return self._study

    @property
    def _goals(self) -> dict[str, str]:
        """Reported name of each objective -> Tune's mode."""
        return {reported_name(objective.metric): objective.direction[:3] for objective in self._problem.objectives}

    def _check_host(self) -> None:
        """Refuse what Tune was asked for beside us, if it cannot be.

        Raises:
            ProblemError: naming it.
        """
        host = calling()
        check_goal(host.metric, host.mode, self._goals)
        check_scheduler(host.scheduler, self._goals, host.wrappers)
        if any(isinstance(wrapper, Repeater) for wrapper in host.wrappers):
            if len(self._names) > 1:
                raise ProblemError(
                    f"Repeater hands on the mean of one metric, the problem improves {self._names}; leave Repeater out"
                )
            for searcher in (self, *host.wrappers):
                searcher._metric = self._names[0]  # whose mean it takes; it asks the searcher within
            self._repeated = True

    def set_search_properties(
        self,
        metric: str | None,
        mode: str | None,
        config: dict[str, Any],
        **_: Any,
    ) -> bool:
        """Take over Tune's ``param_space``: values fix a gene, ``tune.choice`` narrows it, what is missing is searched.

        Entries that are no genes are the user's own: domains, nested ones as well, are searched beside the genes.

        Raises:
            ProblemError: if Tune was given a metric or a mode that is not the problem's, a scheduler that cannot serve,
                or a parameter that cannot be searched.
            CandidateError: if a gene has no such value, or a name is one of a gene but for a slip.
        """
        check_goal(metric, mode, self._goals)
        self._check_host()
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
        if not self._is_checked:  # before the first trial; with an empty param_space Tune asks for nothing else
            self._check_host()
            self._is_checked = True
        if self._asked.n_running - len(self._paused) >= self._most:
            return None
        config = self._asked.ask(trial_id)
        return Searcher.FINISHED if config is None else self._space.nested(config)  # type: ignore[return-value]

    def on_pause(self, trial_id: str) -> None:
        """BOHB's scheduler holds a trial: another one may run in its place."""
        self._paused.add(trial_id)

    def on_unpause(self, trial_id: str) -> None:
        """It runs again."""
        self._paused.discard(trial_id)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """An epoch of a training."""
        self._last[trial_id] = result
        told = result.get(self._names[0], math.nan)
        if "epoch" in result and isinstance(told, Real):
            self._asked.report(trial_id, float(told), int(result["epoch"]))

    @property
    def _names(self) -> list[str]:
        return [reported_name(objective.metric) for objective in self._problem.objectives]

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The end of a trial, whatever it was; of one that Tune tried again, or restored, the last counts."""
        last = self._last.pop(trial_id, {})
        study, result = self._asked, result or ({} if error else last)  # Tune ends a paused trial without a result
        self._paused.discard(trial_id)
        if self._repeated:  # an error of one repetition is that of the last, the mean is of the others
            error = error and not math.isfinite(result.get(self._names[0], math.nan))
        config = config_of(result) or study.config_of(trial_id)
        if error or not result:
            if study.is_running(trial_id):
                study.tell(trial_id, "failed", said={"reason": "the trial raised, or was lost; see Tune's error.txt"})
            return
        told = read_result(self._problem, result, config or None)
        if study.is_running(trial_id):
            study.tell(trial_id, *told)
        elif config:
            study.revise(trial_id, config, *told)

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
            raise ProblemError(why_none(self._problem, self._asked.trials()))
        metrics = pd.DataFrame(rows)[names]
        signs = [1.0 if objective.direction == "minimize" else -1.0 for objective in self._problem.objectives]
        F = metrics[self._names].to_numpy(np.float64) * signs
        best = np.flatnonzero(is_non_dominated(F))
        best = best[np.lexsort(F[best].T[::-1])]
        return Front(
            tuple(read_candidate(rows[i]["candidate"]) for i in best),
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

    def export(self, storage: str | os.PathLike[str], name: str) -> Any:
        """Copy all trials to an Optuna study, for ``optuna-dashboard STORAGE``.

        Args:
            storage: a URL such as ``"sqlite:///runs.db"``, or a path: SQLite if it ends with ``.db`` or ``.sqlite``,
                else a journal file, which is written much faster.
            name: of the new study.

        Raises:
            StudyError: if there is a study of that name, or the storage cannot be used.
        """
        return self._asked.export(storage, name)

    @staticmethod
    def check_export(storage: str | os.PathLike[str], name: str | None = None) -> None:
        """See before the search whether ``export`` will work.

        Raises:
            StudyError: as ``export`` would.
        """
        check_place(storage, name)

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


def _default_sampler(problem: Problem, seed: int) -> BaseSampler | None:
    """Trials that cost minutes are few, and a model finds more in few; the others' own default is quicker."""
    if not any(isinstance(metric, TrainedMetric) or getattr(metric, "costly", False) for metric in problem.metrics):
        return None
    from apq_tune.hosts.optuna_model import ModelSampler

    return ModelSampler(problem=problem, seed=seed)


def _trials_of(folder: Path) -> set[str] | None:
    """Ids of the trials that Tune had written down in an experiment's folder; ``None`` if it is none."""
    states = sorted(folder.glob("experiment_state-*.json"), key=lambda file: file.stat().st_mtime)
    return set(re.findall(r'\\?"trial_id\\?": \\?"(\w+)', states[-1].read_text("utf-8"))) if states else None


def _check_arguments(problem: Any, sampler: Any, max_concurrent: Any, seed: Any) -> None:
    """Refuse what ``ApqSearch`` cannot be made of."""
    if not isinstance(problem, Problem):
        raise ProblemError(f"problem is {str(problem)[:60]!r}; give a Problem(space, [Objective(...)])")
    if not isinstance(sampler, BaseSampler | None):
        raise ProblemError(f"sampler is {str(sampler)[:60]!r}; give one of optuna.samplers, or of ours")
    if not isinstance(seed, Integral) or seed < 0:
        raise ProblemError(f"seed is {seed!r}; give a whole number from 0")
    if max_concurrent is not None and not (isinstance(max_concurrent, Integral) and int(max_concurrent) >= 1):
        raise ProblemError(f"max_concurrent is {max_concurrent!r}; give at least 1, or leave it out")


def _settings(problem: Problem) -> list[str]:
    """Names by which a configuration can set the training of a metric, as far as it tells them."""
    trainings = (getattr(metric, "training", None) for metric in problem.metrics if isinstance(metric, TrainedMetric))
    return [field.name for one in trainings if dataclasses.is_dataclass(one) for field in dataclasses.fields(one)]
