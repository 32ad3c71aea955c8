"""Optuna studies of candidates that were evaluated elsewhere, for optuna-dashboard."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.study import StudyDirection

from apq_tune.hosts.export import LISTED
from apq_tune.space.parameters import Space


class EvaluatedCandidate(NamedTuple):
    """Evaluation of a candidate.

    Attributes:
        candidate: The candidate.
        values: Values of the objectives.
        violations: Violation of each constraint by name, 0 or less if it is kept.
        attributes: Further scores and notes by name.
    """

    candidate: Any
    values: tuple[float, ...]
    violations: Mapping[str, float]
    attributes: Mapping[str, Any]


class EvaluatedStudy(NamedTuple):
    """Evaluations of one kind, which may be compared with each other.

    Attributes:
        name: Name of the study.
        objectives: Names of the objectives, all of which are minimised.
        trials: Evaluations.
    """

    name: str
    objectives: tuple[str, ...]
    trials: Sequence[EvaluatedCandidate]


class JournalInMemory(BaseJournalBackend):
    """Journal that is written into a file at once: Optuna's own file is locked and flushed for every trial."""

    def __init__(self) -> None:
        self._logs: list[dict[str, Any]] = []

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Entries from a number on."""
        return self._logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append entries."""
        self._logs += json.loads(json.dumps(logs))

    def to_text(self) -> str:
        """Content of the journal file."""
        return "".join(json.dumps(entry, separators=(",", ":")) + "\n" for entry in self._logs)


def journal_of(space: Space, studies: Sequence[EvaluatedStudy]) -> str:
    """Studies as the content of a journal file of Optuna, which optuna-dashboard opens.

    Args:
        space: Search space of the candidates; every gene is a parameter.
        studies: Studies to write.
    """
    distributions: dict[str, BaseDistribution] = {
        name: CategoricalDistribution(values) for name, values in space.parameters.items()
    }
    journal = JournalInMemory()
    storage = JournalStorage(journal)
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        for study in studies:
            directions = [StudyDirection.MINIMIZE] * len(study.objectives)
            made = optuna.create_study(storage=storage, study_name=study.name, directions=directions)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                made.set_metric_names(list(study.objectives))
            made.add_trials([_trial(space, one, distributions) for one in study.trials])
    finally:
        optuna.logging.set_verbosity(before)
    return journal.to_text()


def _trial(
    space: Space, one: EvaluatedCandidate, distributions: dict[str, BaseDistribution]
) -> optuna.trial.FrozenTrial:
    return optuna.trial.create_trial(
        values=list(one.values),
        params=space.values_of(one.candidate),
        distributions=distributions,
        user_attrs=dict(one.attributes),
        system_attrs={LISTED: list(one.violations.values())} if one.violations else {},
        constraints=dict(one.violations),
    )
