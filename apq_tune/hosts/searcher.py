"""``ApqSearch``: a Ray Tune searcher for problems, based on the samplers of this package or of Optuna."""

from __future__ import annotations

import dataclasses
import math
import os
import warnings
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import pandas as pd
import ray
from optuna.samplers import BaseSampler
from ray import cloudpickle
from ray.tune.search import Searcher
from ray.tune.search.repeater import Repeater

from apq_tune.errors import ProblemError
from apq_tune.hosts.asktell import AskTell
from apq_tune.hosts.export import check_place
from apq_tune.hosts.host import calling, check_goal, check_scheduler, check_waiting, trials_in
from apq_tune.hosts.param_space import read_param_space
from apq_tune.hosts.results import config_of, front_of_trials, read_result
from apq_tune.hosts.warm_start import read_warm_start
from apq_tune.problem.front import Front
from apq_tune.problem.metric import TrainedMetric, reported_name
from apq_tune.problem.problem import Problem

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
"""Attributes that are saved and restored."""


class ApqSearch(Searcher):
    """Searcher for ``tune.run`` and ``tune.Tuner`` that proposes candidates of a problem.

    Unlike Ray's ``OptunaSearch``, it supports constraints, several objectives and warm starts with several objectives,
    and never repeats a candidate. Trials that raise, lack an objective or report NaN are recorded as failed, those
    that a scheduler stops as pruned.

        objective = APQObjective(problem)
        tune.run(objective, config=space.to_tune(), search_alg=ApqSearch(problem), num_samples=200)

    ``metric`` and ``mode`` of Tune need not be given, as the problem defines them. Results are reproducible only with
    ``max_concurrent=1``.
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
        """Create the searcher.

        Args:
            problem: Problem that trials evaluate, usually by ``APQObjective``.
            sampler: Any Optuna sampler. By default ``ModelSampler`` if a metric trains or runs networks, otherwise
                ``EvolutionSampler`` for one objective and ``NSGA2Sampler`` for several (``docs/guides/samplers.md``).
            warm_start: Known candidates: a front, or a table with ``candidate_json`` (or ``candidate`` in JSON) and a
                column for each objective and each constrained metric.
            max_concurrent: Maximum number of concurrent trials; by default one per CPU of the cluster.
            seed: Seed of the default sampler.

        Raises:
            ProblemError: If an argument is invalid or the warm start lacks a column.
            CandidateError: If the warm start has a candidate that is not in the search space.
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
        """``mode`` of Tune of each objective, by reported name."""
        return {reported_name(objective.metric): objective.direction[:3] for objective in self._problem.objectives}

    def _check_host(self) -> None:
        """Refuse settings of the calling experiment that are not supported.

        Raises:
            ProblemError: If metric, mode, scheduler or a wrapping searcher is not supported; the message names it.
        """
        host = calling()
        check_goal(host.metric, host.mode, self._goals)
        check_scheduler(host.scheduler, self._goals, host.wrappers)
        check_waiting(host.scheduler)
        if any(isinstance(wrapper, Repeater) for wrapper in host.wrappers):
            if len(self._names) > 1:
                raise ProblemError(
                    f"Repeater hands on the mean of one metric, the problem improves {self._names}; leave Repeater out"
                )
            for searcher in (self, *host.wrappers):
                searcher._metric = self._names[0]  # the metric that Repeater averages, which it reads here
            self._repeated = True

    def set_search_properties(
        self,
        metric: str | None,
        mode: str | None,
        config: dict[str, Any],
        **_: Any,
    ) -> bool:
        """Set the ``param_space`` of Tune.

        A value fixes a gene, ``tune.choice`` restricts it, and missing genes are searched over all their values. Other
        entries are further parameters, whose domains, nested ones included, are searched together with the genes.

        Raises:
            ProblemError: If metric or mode of Tune contradicts the problem, the scheduler is not supported, or a
                parameter cannot be searched.
            CandidateError: If a gene has an invalid value, or a name is a misspelt gene.
        """
        check_goal(metric, mode, self._goals)
        self._check_host()
        if self._study is None:
            self._study = self._begin(config)
        return True

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """Set the ``max_concurrent_trials`` of Tune."""
        self._most = max_concurrent
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Suggest a configuration; ``None`` while enough trials run, ``FINISHED`` when the space is exhausted."""
        if self._most is None:
            self._most = max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]
        if not self._is_checked:  # with an empty param_space Tune calls nothing else before the first trial
            self._check_host()
            self._is_checked = True
        if self._asked.n_running - len(self._paused) >= self._most:
            return None
        config = self._asked.ask(trial_id)
        return Searcher.FINISHED if config is None else self._space.nested(config)  # type: ignore[return-value]

    def on_pause(self, trial_id: str) -> None:
        """Record that a scheduler (BOHB) paused a trial, so that another one may run."""
        self._paused.add(trial_id)

    def on_unpause(self, trial_id: str) -> None:
        """Record that a paused trial runs again."""
        self._paused.discard(trial_id)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record an intermediate result."""
        self._last[trial_id] = result
        told = result.get(self._names[0], math.nan)
        if "epoch" in result and isinstance(told, Real):
            self._asked.report(trial_id, float(told), int(result["epoch"]))

    @property
    def _names(self) -> list[str]:
        return [reported_name(objective.metric) for objective in self._problem.objectives]

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Record the end of a trial; if Tune retries or restores it, the last result counts."""
        last = self._last.pop(trial_id, {})
        study, result = self._asked, result or ({} if error else last)  # Tune ends a paused trial without a result
        self._paused.discard(trial_id)
        if self._repeated:  # the error is that of the last repetition, the mean that of the others
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
        """Table with one row per trial: state, metrics, candidate and parameters."""
        return self._asked.to_dataframe()

    def front(self) -> Front:
        """Front of the feasible candidates of all completed trials, the warm start included.

        Raises:
            ProblemError: If there is no feasible candidate; the message says why.
        """
        study = self._asked
        return front_of_trials(self._problem, study.trials(), repr(study.study.sampler), self._seed)

    def export(self, storage: str | os.PathLike[str], name: str) -> Any:
        """Copy all finished trials to a new Optuna study, for ``optuna-dashboard STORAGE``.

        Args:
            storage: URL such as ``"sqlite:///runs.db"``, or path of an SQLite file (suffix ``.db`` or ``.sqlite``) or
                of a journal file, which is written much faster.
            name: Name of the new study.

        Returns:
            The new study.

        Raises:
            StudyError: If there is a study of that name, or the storage cannot be used.
        """
        return self._asked.export(storage, name)

    @staticmethod
    def check_export(storage: str | os.PathLike[str], name: str | None = None) -> None:
        """Check before a search whether ``export`` will work.

        Raises:
            StudyError: If there is a study of that name, or the storage cannot be used.
        """
        check_place(storage, name)

    @property
    def study(self) -> Any:
        """Underlying Optuna study, as its sampler sees it."""
        return self._asked.study

    def save(self, checkpoint_path: str) -> None:
        """Save the state of the searcher to a file; Tune calls this periodically."""
        state = {name: getattr(self, name) for name in STATE}
        Path(checkpoint_path).write_bytes(cloudpickle.dumps(state))  # type: ignore[no-untyped-call]

    def restore(self, checkpoint_path: str) -> None:
        """Restore the saved state; running trials that Tune does not know are recorded as failed."""
        path = Path(checkpoint_path)
        for name, value in cloudpickle.loads(path.read_bytes()).items():
            setattr(self, name, value)
        if self._study is not None and (remembered := trials_in(path.parent)) is not None:
            self._study.give_up("lost when the experiment was interrupted", remembered)


def _default_sampler(problem: Problem, seed: int) -> BaseSampler | None:
    """``ModelSampler`` if a metric is expensive, as models are better in few trials; otherwise ``None``."""
    if not any(isinstance(metric, TrainedMetric) or getattr(metric, "costly", False) for metric in problem.metrics):
        return None
    from apq_tune.hosts.optuna_model import ModelSampler

    return ModelSampler(problem=problem, seed=seed)


def _check_arguments(problem: Any, sampler: Any, max_concurrent: Any, seed: Any) -> None:
    """Refuse invalid arguments of ``ApqSearch``."""
    if not isinstance(problem, Problem):
        raise ProblemError(f"problem is {str(problem)[:60]!r}; give a Problem(space, [Objective(...)])")
    if not isinstance(sampler, BaseSampler | None):
        raise ProblemError(f"sampler is {str(sampler)[:60]!r}; give one of optuna.samplers, or of ours")
    if not isinstance(seed, Integral) or seed < 0:
        raise ProblemError(f"seed is {seed!r}; give a whole number from 0")
    if max_concurrent is not None and not (isinstance(max_concurrent, Integral) and int(max_concurrent) >= 1):
        raise ProblemError(f"max_concurrent is {max_concurrent!r}; give at least 1, or leave it out")


def _settings(problem: Problem) -> list[str]:
    """Names of the training settings that a configuration may contain."""
    trainings = (getattr(metric, "training", None) for metric in problem.metrics if isinstance(metric, TrainedMetric))
    return [field.name for one in trainings if dataclasses.is_dataclass(one) for field in dataclasses.fields(one)]
