"""Ask-and-tell interface to an Optuna study, whose trials are identified by external keys.

It works with any Optuna sampler and adds what samplers leave to the caller: candidates are never repeated, constraints
are reported through Optuna's constraint interface, and the final state of every trial tells what happened to it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, NoReturn

import numpy as np
import optuna
import pandas as pd
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from apq_tune.errors import CandidateError, StudyError
from apq_tune.hosts.export import write_study
from apq_tune.hosts.narrowed import NarrowedEncoding
from apq_tune.hosts.optuna import EvolutionSampler, NSGA2Sampler
from apq_tune.hosts.optuna_population import PopulationSampler
from apq_tune.hosts.trial_parameters import TrialParameters
from apq_tune.space.encoding import Encoding

MAX_DUPLICATES = 5
"""Number of known candidates that a sampler may propose in a row before a random new one is taken instead. TPE, whose
proposals take longest, would exhaust any number in a small space."""

MAX_DRAWS = 1000
"""Number of random candidates that are drawn to find a new one."""

MAX_ENUMERATED = 50_000
"""Number of combinations of genes up to which a space is enumerated to find the remaining candidates."""

Outcome = Literal["complete", "pruned", "failed"]
STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


def prune() -> NoReturn:
    """End the current Optuna trial as pruned."""
    raise optuna.TrialPruned


class _Running(NamedTuple):
    """Trial that was asked for and whose result is not known yet."""

    trial: Trial
    genome: bytes  # canonical


class AskTell:
    """Optuna study of one experiment.

    Attributes:
        study: Underlying study; its trials with the user attribute ``duplicate`` were never run.
    """

    def __init__(
        self,
        encoding: Encoding,
        directions: Sequence[str],
        sampler: BaseSampler | None = None,
        *,
        others: Mapping[str, BaseDistribution] | None = None,
        fixed: Mapping[str, Any] | None = None,
        choices: Mapping[str, Sequence[Any]] | None = None,
        seed: int = 0,
    ) -> None:
        """Create the study.

        Args:
            encoding: Encoding of the search space.
            directions: ``"minimize"`` or ``"maximize"`` for each objective.
            sampler: Any Optuna sampler; by default ``EvolutionSampler`` for one objective and ``NSGA2Sampler`` for
                several.
            others: Distributions of further parameters, with which candidates may be repeated.
            fixed: Values of genes or other parameters that are not sampled.
            choices: Allowed values of genes that are restricted.
            seed: Seed of the default sampler and of the random candidates that replace duplicates.

        Raises:
            CandidateError: If no candidate of the space has the remaining values.
        """
        fixed = dict(fixed or {})
        own = {name: (value,) for name, value in fixed.items() if name in encoding.space.parameters}
        kept = dict(choices or {}) | own
        narrowed = NarrowedEncoding(encoding, kept) if kept else None
        self._encoding: Any = encoding if narrowed is None else narrowed
        if narrowed is not None and isinstance(sampler, PopulationSampler):
            sampler = sampler.within(narrowed)
        if sampler is None:
            ours = EvolutionSampler if len(directions) == 1 else NSGA2Sampler
            sampler = ours(space=self._encoding, seed=seed)  # type: ignore[arg-type]
        self._whole = encoding
        self._parameters = TrialParameters(
            encoding, self._encoding, fixed, others or {}, ordinal=not isinstance(sampler, PopulationSampler)
        )
        self._rng = np.random.default_rng(seed)
        self._running: dict[str, _Running] = {}
        self._known: dict[bytes, int | None] = {}  # canonical genome -> number of its finished trial
        self._ended: dict[str, int] = {}  # key -> number
        self._replaced: set[int] = set()  # numbers of trials that were told, then tried again with success
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study: Study = optuna.create_study(
            directions=[StudyDirection[direction.upper()] for direction in directions], sampler=sampler
        )
        optuna.logging.set_verbosity(verbosity)

    @property
    def n_running(self) -> int:
        """Number of trials that were asked for and whose results are not known yet."""
        return len(self._running)

    def ask(self, key: str) -> dict[str, Any] | None:
        """Start a trial.

        Args:
            key: Key under which the result will be told.

        Returns:
            Configuration of a new candidate; ``None`` if no new one was found.
        """
        for _ in range(MAX_DUPLICATES):
            trial = self.study.ask(self._parameters.distributions)
            config = self._parameters.config(trial.params)
            try:
                genome = self._parameters.genome(config)
            except CandidateError:  # repaired to a value that may not be tried
                trial.set_user_attr("duplicate", True)
                self.study.tell(trial, state=TrialState.FAIL)
                continue
            if self._parameters.others or genome not in self._known:
                return self._begin(key, trial, config, genome)
            self._tell_duplicate(trial, genome)
        for drawn in self._draws():
            genome = bytes(drawn.tobytes())
            if self._parameters.others or genome not in self._known:
                (candidate,) = self._encoding.decode(drawn[None])
                config = self._encoding.space.to_config(candidate) | self._parameters.fixed
                self.study.enqueue_trial(self._parameters.params(config))
                trial = self.study.ask(self._parameters.distributions)
                return self._begin(key, trial, config | self._parameters.config(trial.params), genome)
        return None

    def _draws(self) -> Iterator[NDArray[np.int16]]:
        """Random canonical genomes, followed by all genomes if the space can be enumerated."""
        for _ in range(MAX_DRAWS):
            yield self._encoding.sample(1, self._rng)[0]
        if math.prod(self._encoding.n_choices.tolist()) <= MAX_ENUMERATED:
            yield from self._rng.permutation(self._encoding.enumerate())

    def _begin(self, key: str, trial: Trial, config: dict[str, Any], genome: bytes) -> dict[str, Any]:
        self._running[key] = _Running(trial, genome)
        self._known.setdefault(genome, None)
        return config

    def _tell_duplicate(self, trial: Trial, genome: bytes) -> None:
        """Tell the known result of a duplicate, or a failure if its first trial is running or has failed."""
        trial.set_user_attr("duplicate", True)
        number = self._known[genome]
        before = None if number is None else self.study.get_trials(deepcopy=False)[number]
        if before is None or before.state != TrialState.COMPLETE:
            self.study.tell(trial, state=TrialState.FAIL)
            return
        for name, value in before.constraints.items():
            trial.set_constraint(name, value)
        self.study.tell(trial, before.values)

    def is_running(self, key: str) -> bool:
        """Whether the result of the trial with this key is pending."""
        return key in self._running

    def report(self, key: str, value: float, step: int) -> None:
        """Report an intermediate value; ignored if there are several objectives, as Optuna does not support it."""
        if key in self._running and len(self.study.directions) == 1 and math.isfinite(value):
            self._running[key].trial.report(value, step)

    def tell(
        self,
        key: str,
        outcome: Outcome,
        values: Sequence[float] = (),
        violations: Mapping[str, float] | None = None,
        said: Mapping[str, Any] | None = None,
    ) -> None:
        """Finish a trial.

        Args:
            key: Key of a running trial.
            outcome: Final state. A complete trial with missing or NaN values is changed to a failed one.
            values: Values of the objectives.
            violations: Violations by constraint name, feasible where ``<= 0``.
            said: User attributes of the trial: metrics, or the ``reason`` of a failure.
        """
        trial, genome = self._running.pop(key)
        said = dict(said or {})
        if outcome == "complete" and (len(values) < len(self.study.directions) or any(map(math.isnan, values))):
            outcome, said["reason"] = "failed", f"objectives are {list(values)}"
        if outcome == "pruned" and len(self.study.directions) > 1:
            outcome, said["reason"] = "failed", "stopped early"  # Optuna prunes studies of one objective only
        for name, violation in (violations or {}).items():
            if not math.isnan(violation):
                trial.set_constraint(name, violation)
        for name, value in said.items():
            trial.set_user_attr(name, _plain(value))
        self.study.tell(trial, list(values) if outcome == "complete" else None, state=STATES[outcome])
        self._known[genome] = self._ended[key] = trial.number

    def revise(
        self,
        key: str,
        config: Mapping[str, Any],
        outcome: Outcome,
        values: Sequence[float],
        violations: Mapping[str, float] | None = None,
        said: Mapping[str, Any] | None = None,
    ) -> None:
        """Record the result of a trial that was retried after its end, or that was never asked for.

        Only complete results are recorded. They replace the earlier trial with the same key, or else a failed trial of
        the same candidate.

        Raises:
            CandidateError: If the configuration is not a candidate of the space.
        """
        is_whole = len(values) == len(self.study.directions) and not any(map(math.isnan, values))
        if outcome != "complete" or not is_whole:
            return
        before = self._ended.get(key)
        params = self._parameters.params(self._parameters.chosen(config))
        trials = self.study.get_trials(deepcopy=False)
        failed = (t.number for t in trials if t.state == TrialState.FAIL and t.params == params)
        before = next(failed, None) if before is None else before
        if self.add(config, values, violations, said):
            self._ended[key] = len(trials)
            self._replaced |= set() if before is None else {before}

    def config_of(self, key: str) -> dict[str, Any]:
        """Configuration of the trial with this key; empty if there is none."""
        if key in self._running:
            return self._parameters.config(self._running[key].trial.params)
        if key in self._ended:
            return self._parameters.config(self.study.get_trials(deepcopy=False)[self._ended[key]].params)
        return {}

    def add(
        self,
        config: Mapping[str, Any],
        values: Sequence[float],
        violations: Mapping[str, float] | None = None,
        said: Mapping[str, Any] | None = None,
    ) -> bool:
        """Add a completed trial that was run elsewhere, as for a warm start.

        Returns:
            Whether the trial was added; it is skipped if it contradicts fixed or restricted parameters.

        Raises:
            StudyError: If values are missing or NaN.
            CandidateError: If the configuration is not a candidate of the space.
        """
        if len(values) != len(self.study.directions) or any(map(math.isnan, values)):
            raise StudyError(
                f"objectives of a known candidate are {list(values)}; give {len(self.study.directions)} numbers"
            )
        self._whole.encode([self._parameters.candidate(config)])  # raises if it is not a candidate of the whole space
        try:
            config = self._parameters.chosen(config)
        except CandidateError:
            return False
        genome = self._parameters.genome(config)
        self.study.add_trial(
            optuna.trial.create_trial(
                values=list(values),
                params=self._parameters.params(config),
                distributions={n: d for n, d in self._parameters.distributions.items() if n in config},
                user_attrs={name: _plain(value) for name, value in (said or {}).items()},
                constraints={name: float(value) for name, value in (violations or {}).items()},
            )
        )
        self._known[genome] = self.study.get_trials(deepcopy=False)[-1].number
        return True

    def give_up(self, reason: str = "lost", but: Collection[str] = ()) -> None:
        """Mark running trials as failed; their candidates may be proposed again.

        Args:
            reason: Reason of the failure.
            but: Keys of trials that continue.
        """
        for key in [key for key in self._running if key not in but]:
            genome = self._running[key].genome
            self.tell(key, "failed", said={"reason": reason})
            self._known.pop(genome, None)

    def trials(self) -> list[FrozenTrial]:
        """Trials that were run, here or elsewhere, with the actual values of their parameters."""
        shown = []
        for trial in self.study.get_trials():
            if not trial.user_attrs.get("duplicate") and trial.number not in self._replaced:
                self._parameters.reveal(trial)
                shown.append(trial)
        return shown

    def to_dataframe(self) -> pd.DataFrame:
        """Table with one row per trial: ``number``, ``state``, ``value_i``, constraints, attributes and parameters."""
        rows = []
        for trial in self.trials():
            values = {f"value_{i}": value for i, value in enumerate(trial.values or ())}
            constraints = {f"constraint {name}": value for name, value in trial.constraints.items()}
            row = {"number": trial.number, "state": trial.state.name} | values | constraints
            rows.append(row | trial.user_attrs | self._parameters.fixed | trial.params)
        return pd.DataFrame(rows)

    def export(self, place: str | os.PathLike[str], name: str) -> Study:
        """Copy finished trials to a new study in a storage; see ``write_study``."""
        finished = [trial for trial in self.trials() if trial.state.is_finished()]
        return write_study(place, name, self.study.directions, finished)


def _plain(value: Any) -> Any:
    """Convert a value to plain JSON types."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(name): _plain(own) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(own) for own in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
