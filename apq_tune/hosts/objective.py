"""``APQObjective``: a trainable for Ray Tune and an objective function for Optuna."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from apq_tune.errors import ApqError, ProblemError
from apq_tune.problem.metric import Floats, TrainedMetric, reported_name
from apq_tune.problem.problem import Constraint, Problem

CHECKPOINT, CANDIDATE = "training.pt", "candidate.json"
"""Files of a trial's checkpoint: the state of its training, and its candidate."""


class TrainingPruned(Exception):  # noqa: N818
    """Raised inside a training to end it when Optuna prunes the trial."""


class APQObjective:
    """Objective function of a problem, for trials of Ray Tune and Optuna.

    Use it as ``tune.run(APQObjective(problem), config=space.to_tune())``, ``tune.Tuner(APQObjective(problem), ...)`` or
    ``study.optimize(APQObjective(problem))``. A trial reports all metrics of the problem, with their units in the
    names; ``violation`` (0 if feasible) and the violation of each constraint; ``candidate`` as JSON; ``fidelity``, a
    description of the evaluation; and ``seconds``.

    A metric that trains (``QATLoss``) reports after each epoch, in Tune with a checkpoint, so that schedulers and
    pruners can stop a trial and a trial can resume after a crash. Metrics that run networks are not evaluated for
    infeasible candidates, whose objectives are infinite (with ``epoch`` 0 if they would have been trained).

    While Ray is running, the problem, with its weights and data, is put into the object store once per session, and
    only a reference is pickled with the trainable.

    Attributes:
        problem: Problem to evaluate.
    """

    __name__ = "APQObjective"  # Tune names experiments after it

    def __init__(self, problem: Problem) -> None:
        """Check the problem.

        Raises:
            ProblemError: If several metrics train, or one that trains is not an objective.
        """
        self._problem: Problem | None = problem
        self._reference: Any = None  # to the problem in the object store
        self._session = ""  # Ray session in which the reference is valid
        trained = [metric.name for metric in problem.metrics if isinstance(metric, TrainedMetric)]
        named = {objective.metric.name for objective in problem.objectives}
        if len(trained) > 1 or not named.issuperset(trained):
            raise ProblemError(f"{', '.join(trained)}: give at most one metric that trains, as an objective")

    @property
    def problem(self) -> Problem:
        """Problem to evaluate, fetched from the object store on first use."""
        if self._problem is None:
            from apq_tune.hosts.ray import get

            self._problem = get(self._reference)
        return self._problem

    @property
    def directions(self) -> list[Literal["minimize", "maximize"]]:
        """Directions of the objectives, for ``optuna.create_study(directions=...)``."""
        return [objective.direction for objective in self.problem.objectives]

    @property
    def metric(self) -> list[str]:
        """Reported names of the objectives; if there is one, this is the ``metric`` of Tune."""
        return [reported_name(objective.metric) for objective in self.problem.objectives]

    @property
    def mode(self) -> list[str]:
        """``mode`` of Tune (``"min"`` or ``"max"``) of each objective."""
        return [objective.direction[:3] for objective in self.problem.objectives]

    def __reduce__(self) -> tuple[Callable[..., APQObjective], tuple[Any, ...]]:
        if self._problem is not None and "ray" in sys.modules:
            if "ray.tune" in sys.modules:  # Tune pickles a trainable before the first trial
                from apq_tune.hosts.host import calling, check_mutations, check_waiting

                scheduler = calling().scheduler
                check_mutations(scheduler, self._space.parameters)
                check_waiting(scheduler)
            from apq_tune.hosts.ray import put, session

            if self._session != (now := session()):  # objects of another session are gone
                self._reference, self._session = put(self._problem), now
        if self._reference is not None:
            return _from_reference, (self._reference,)
        return APQObjective, (self.problem,)

    def __deepcopy__(self, _: dict[int, Any]) -> APQObjective:
        """Copy with the same problem, as a reference would not outlive the session of Ray."""
        return APQObjective(self.problem)

    def __call__(self, trial: Any) -> Any:
        """Evaluate one trial.

        Args:
            trial: Configuration (from Tune, or any mapping with a value for each gene), or an Optuna trial.

        Returns:
            Metrics for a configuration, unless a training has reported them; values of the objectives for an Optuna
            trial.

        Raises:
            CandidateError: If a configuration is not a candidate.
            ProblemError: If a metric is not finite; the message names it and the candidate. An Optuna trial fails
                instead, with the message as its user attribute ``reason``.
        """
        return self._tune(trial) if isinstance(trial, Mapping) else self._optuna(trial)

    def _tune(self, config: Mapping[str, Any]) -> dict[str, Any] | None:
        from apq_tune.hosts import ray

        candidate = self._space.from_config(config)
        reported = False

        def step(_: int, metrics: dict[str, Any], state: Callable[[], bytes]) -> None:
            nonlocal reported
            reported = True
            ray.report(metrics, {CHECKPOINT: state(), CANDIDATE: candidate.to_json().encode()})

        files = ray.restored() if self._trained else {}
        if files.get(CANDIDATE, candidate.to_json().encode()) != candidate.to_json().encode():
            raise ProblemError(
                "Tune restored a checkpoint of another candidate, whose weights do not fit this one: a scheduler may "
                "change settings of a training, such as learning_rate, but no genes"
            )
        metrics = self.evaluate(candidate, config, step, files.get(CHECKPOINT))
        return None if reported else metrics

    def _optuna(self, trial: Any) -> float | list[float]:
        study = getattr(trial, "study", None)
        if study is not None and [d.name.lower() for d in study.directions] != self.directions:
            raise ProblemError(
                f"the study's directions are {[d.name.lower() for d in study.directions]}, the problem's "
                f"{self.directions}; use optuna.create_study(directions=objective.directions)"
            )
        candidate = self._space.suggest(trial)

        def step(epoch: int, metrics: dict[str, Any], _: Callable[[], bytes]) -> None:
            if len(self.metric) > 1:
                return  # Optuna prunes only in single-objective studies
            trial.report(metrics[self.metric[0]], epoch)
            if trial.should_prune():
                raise TrainingPruned

        try:
            metrics = self.evaluate(candidate, trial.params, step)
        except TrainingPruned:
            from apq_tune.hosts.asktell import prune

            prune()
        except ApqError as error:
            trial.set_user_attr("reason", str(error))
            return float("nan") if len(self.metric) == 1 else [float("nan")] * len(self.metric)
        for name in self.problem.constraint_names:
            trial.set_constraint(name, metrics[name])
        for name, value in metrics.items():
            trial.set_user_attr(name, value)
        values = [metrics[name] for name in self.metric]
        return values[0] if len(values) == 1 else values

    @property
    def _space(self) -> Any:
        return self.problem.encoding.space

    @property
    def _trained(self) -> TrainedMetric | None:
        return next((metric for metric in self.problem.metrics if isinstance(metric, TrainedMetric)), None)

    @property
    def _limits(self) -> list[Constraint]:
        """Constraints that are checked before anything costly is evaluated."""
        return [own for own in self.problem.constraints if not getattr(own.metric, "costly", False)]

    def evaluate(
        self,
        candidate: Any,
        config: Mapping[str, Any] | None = None,
        step: Callable[[int, dict[str, Any], Callable[[], bytes]], None] | None = None,
        checkpoint: bytes | None = None,
    ) -> dict[str, Any]:
        """Evaluate one candidate.

        Args:
            candidate: Candidate of the problem's search space.
            config: Configuration of the trial, which may contain training settings.
            step: Callback after each epoch of a training, with the epoch, the metrics and a checkpoint function.
            checkpoint: Checkpoint of the training to resume from.

        Returns:
            All values that a trial reports, by name.

        Raises:
            ProblemError: If a metric is not finite; the message names it and the candidate.
        """
        problem, start = self.problem, time.monotonic()
        genomes = problem.encoding.encode([candidate])
        costly = {metric.name: metric for metric in problem.metrics if getattr(metric, "costly", False)}
        values = _first(problem.measure([m for m in problem.metrics if m.name not in costly], genomes))
        fidelity = {getattr(metric, "fidelity", "") for metric in problem.metrics} - {""}
        known: dict[str, Any] = {
            "candidate": candidate.to_json(),
            "fidelity": ", ".join(sorted(fidelity)) or "computed",
        }

        def metrics() -> dict[str, Any]:
            own = {reported_name(metric): values[metric.name] for metric in problem.metrics}
            named = zip(problem.constraint_names, problem.constraints, strict=True)
            violations = {name: _violation(constraint, values) for name, constraint in named}
            total = {"violation": float(sum(max(value, 0.0) for value in violations.values()))}
            return own | violations | total | known | {"seconds": time.monotonic() - start}

        if any(_violation(constraint, values) > 0 for constraint in self._limits):
            worst = {o.metric.name: np.inf if o.direction == "minimize" else -np.inf for o in problem.objectives}
            values |= {name: float(worst.get(name, np.nan)) for name in costly}
            known["fidelity"] = "not run: breaks a constraint" if costly else known["fidelity"]
            if (untrained := self._trained) is not None:  # schedulers need the number of epochs
                known.update(epoch=0, epochs=untrained.adjusted(config or {}).epochs)
            return metrics()
        trained = self._trained
        others = [metric for metric in costly.values() if not isinstance(metric, TrainedMetric)]
        values |= _first(problem.measure(others, genomes))
        if trained is not None:
            own = trained.adjusted(config or {})
            known["fidelity"] = own.fidelity

            def report(epoch: int, scores: Mapping[str, float], state: Callable[[], bytes]) -> None:
                if not np.isfinite(scores[own.name]):
                    raise ProblemError(
                        f"{own.name} is {scores[own.name]} after epoch {epoch} for candidate {candidate}"
                    )
                values[own.name] = scores[own.name]
                known.update({"loss_nats" if name == "loss" else name: value for name, value in scores.items()})
                known.update(epoch=epoch, epochs=own.epochs)
                if step is not None:
                    step(epoch, metrics(), state)

            own.train(candidate, report, checkpoint)
            if own.name not in values:
                raise ProblemError(f"the training of {own.name} reported nothing; let it report its last epoch again")
        return metrics()


def _first(columns: Mapping[str, Floats]) -> dict[str, float]:
    return {name: float(column[0]) for name, column in columns.items()}


def _violation(constraint: Constraint, values: Mapping[str, float]) -> float:
    """Violation of a constraint; infinite if its metric was not evaluated."""
    value = values[constraint.metric.name]
    return float(constraint.violation(np.array([value]))[0]) if np.isfinite(value) else np.inf


def _from_reference(reference: Any) -> APQObjective:
    objective = APQObjective.__new__(APQObjective)
    objective._problem, objective._reference, objective._session = None, reference, ""
    return objective
