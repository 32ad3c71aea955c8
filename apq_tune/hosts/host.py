"""Inspection of the Ray Tune experiment that calls a searcher, as Tune does not pass its scheduler to searchers."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ray.tune.schedulers import (
    HyperBandForBOHB,
    HyperBandScheduler,
    PopulationBasedTraining,
    PopulationBasedTrainingReplay,
)
from ray.tune.search import Searcher
from ray.tune.search.repeater import Repeater

from apq_tune.errors import ProblemError


class Host(NamedTuple):
    """Experiment that calls a searcher.

    Attributes:
        metric: Argument ``metric`` of ``TuneConfig`` or ``tune.run``.
        mode: Argument ``mode`` of ``TuneConfig`` or ``tune.run``.
        scheduler: Scheduler; the innermost one if schedulers are nested.
        wrappers: Searchers that wrap the called one, the outermost first.
    """

    metric: str | None = None
    mode: str | None = None
    scheduler: Any = None
    wrappers: tuple[Searcher, ...] = ()


def calling() -> Host:
    """Find the experiment on the call stack of this thread; an empty one if there is none."""
    found: dict[str, Any] = {}
    wrappers: list[Searcher] = []
    frame = sys._getframe(1)
    while frame is not None:
        own = frame.f_locals.get("self")
        if isinstance(own, Searcher) and hasattr(own, "searcher") and all(own is not other for other in wrappers):
            wrappers.append(own)
        if frame.f_code.co_name == "run" and frame.f_globals.get("__name__") == "ray.tune.tune":
            found = {name: frame.f_locals.get(name) for name in ("metric", "mode", "scheduler")}
            break
        frame = frame.f_back  # type: ignore[assignment]
    while (inner := getattr(found.get("scheduler"), "_base_scheduler", None)) is not None:
        found["scheduler"] = inner
    return Host(**found, wrappers=tuple(reversed(wrappers)))


def check_goal(metric: str | None, mode: str | None, goals: Mapping[str, str], whose: str = "") -> None:
    """Refuse a metric or a mode that contradicts the problem.

    Args:
        metric: Metric given to Tune, if any.
        mode: ``"min"``, ``"max"``, or ``None`` if not given.
        goals: Mode of each objective by reported name.
        whose: Prefix of the message that says where metric and mode were given.

    Raises:
        ProblemError: If metric or mode contradicts the problem; the message names both.
    """
    names = list(goals)
    if metric is not None and [metric] != names:
        raise ProblemError(
            f"{whose}metric is {metric!r}, the problem improves {names}; leave metric and mode of Tune out"
        )
    against = [name for name, own in goals.items() if mode is not None and mode != own]
    if against:
        way = {"min": "minimizes", "max": "maximizes"}[goals[against[0]]]
        raise ProblemError(
            f"{whose}mode is {mode!r}, the problem {way} {against[0]}; give {goals[against[0]]!r}, or leave it out"
            if len(goals) == 1
            else f"{whose}mode is {mode!r}, the problem {way} {against[0]}; leave metric and mode of Tune out"
        )


def check_scheduler(scheduler: Any, goals: Mapping[str, str], wrappers: Sequence[Searcher]) -> None:
    """Refuse a scheduler that is not supported or that optimizes in the wrong direction.

    Raises:
        ProblemError: If the scheduler cannot be used; the message names an alternative.
    """
    name = type(scheduler).__name__
    if isinstance(scheduler, PopulationBasedTraining | PopulationBasedTrainingReplay):
        raise ProblemError(
            f"{name} puts another candidate and its weights into a trial, so that no result is of the candidate that "
            "ApqSearch proposed; take ASHAScheduler, or leave search_alg out and mutate no genes"
        )
    if isinstance(scheduler, HyperBandForBOHB) and any(isinstance(one, Repeater) for one in wrappers):
        raise ProblemError(f"{name} pauses trials, of which Repeater knows nothing; take one of the two")
    metric: str = getattr(scheduler, "_metric", None) or ""
    mode = getattr(scheduler, "_mode", None)
    if metric in goals and mode is not None and mode != goals[metric]:
        check_goal(None, mode, {metric: goals[metric]}, f"{name}: ")


def check_mutations(scheduler: Any, genes: Mapping[str, Any]) -> None:
    """Refuse population-based training that mutates genes, as weights of one candidate do not fit another.

    Raises:
        ProblemError: If a gene is mutated; the message names it.
    """
    mutated = set(getattr(scheduler, "_hyperparam_mutations", None) or {})
    mutated |= set(getattr(scheduler, "_hyperparam_bounds", None) or {})
    if wrong := [name for name in genes if name in mutated]:
        raise ProblemError(
            f"{type(scheduler).__name__} changes {wrong[0]!r}, which is a gene: weights of one candidate do not fit "
            "another; let it change settings of the training, such as learning_rate"
        )


def check_waiting(scheduler: Any) -> None:
    """Refuse Tune's synchronous HyperBand, which can leave a trial paused that nothing wakes, so that Tune never ends.

    ``HyperBandScheduler`` stops the trials that are paused at ``max_t`` when the last one of their bracket reports. It
    overlooks those whose checkpoint is still being saved (``_Bracket.cleanup_full`` reads the status alone), and all of
    them if the last one ends by itself or fails (``on_trial_remove``). ``HyperBandForBOHB`` looks again when nothing
    runs.

    Raises:
        ProblemError: If the scheduler can wait for ever; the message names an alternative.
    """
    if isinstance(scheduler, HyperBandScheduler) and not isinstance(scheduler, HyperBandForBOHB):
        raise ProblemError(
            f"{type(scheduler).__name__} can wait for ever for a trial that it paused, as it overlooks trials whose "
            "checkpoint is still being saved when their bracket ends; take ASHAScheduler or HyperBandForBOHB"
        )


def trials_in(folder: Path) -> set[str] | None:
    """Ids of the trials in the state file of an experiment's folder; ``None`` if there is no such file."""
    states = sorted(folder.glob("experiment_state-*.json"), key=lambda file: file.stat().st_mtime)
    return set(re.findall(r'\\?"trial_id\\?": \\?"(\w+)', states[-1].read_text("utf-8"))) if states else None
