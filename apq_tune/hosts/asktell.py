"""An Optuna study that is asked and told from outside, by keys of whoever runs the trials.

It hosts any Optuna sampler and sees to what samplers do not: candidates never come twice, constraints are told as such,
and every trial ends in a state that says what happened.
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
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from apq_tune.errors import CandidateError, StudyError
from apq_tune.hosts.export import write_study
from apq_tune.hosts.narrowed import NarrowedEncoding
from apq_tune.hosts.optuna import EvolutionSampler, NSGA2Sampler, PopulationSampler
from apq_tune.space.encoding import Encoding

MAX_DUPLICATES = 5
"""How often a sampler may propose what is known already before a random new candidate takes its place; TPE, which needs
longest for a proposal, would use up any number in a small space."""

MAX_DRAWS = 1000
"""Random candidates drawn to find one that is new; then the space counts as exhausted."""

MAX_ENUMERATED = 50_000
"""Combinations of genes up to which what is left in a space is looked for one by one."""

Outcome = Literal["complete", "pruned", "failed"]
STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


def prune() -> NoReturn:
    """Inside an Optuna trial: end it as pruned."""
    raise optuna.TrialPruned


class _Running(NamedTuple):
    """A trial that was asked for and not yet told."""

    trial: Trial
    genome: bytes  # canonical


class AskTell:
    """The study of one experiment.

    Attributes:
        study: as Optuna sees it; of its trials those with the user attribute ``duplicate`` were never run.
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
        """Begin.

        Args:
            encoding: of the search space.
            directions: ``"minimize"`` or ``"maximize"`` for each objective.
            sampler: any of Optuna's; by default our evolution for one objective, our NSGA-II for several.
            others: parameters of the user's own beside the genes. Candidates may then come twice.
            fixed: values of parameters, genes or others, that are not to be sampled.
            choices: gene -> the values that may be tried, where these are not all.
            seed: of the default sampler, and of random candidates in place of duplicates.

        Raises:
            CandidateError: if the space allows nothing of what is left.
        """
        self._whole, self._fixed = encoding, dict(fixed or {})
        own = {name: (value,) for name, value in self._fixed.items() if name in encoding.space.parameters}
        kept = dict(choices or {}) | own
        narrowed = NarrowedEncoding(encoding, kept) if kept else None
        self._encoding: Any = encoding if narrowed is None else narrowed
        if narrowed is not None and isinstance(sampler, PopulationSampler):
            sampler = sampler.within(narrowed)
        if sampler is None:
            ours = EvolutionSampler if len(directions) == 1 else NSGA2Sampler
            sampler = ours(space=self._encoding, seed=seed)  # type: ignore[arg-type]
        # Other samplers can use the order of numbers, which categories would hide from them.
        self._ordinal = not isinstance(sampler, PopulationSampler)
        genes = self._encoding.space.parameters
        self._genes = {name: values for name, values in genes.items() if name not in self._fixed}
        self._others = {name: value for name, value in (others or {}).items() if name not in self._fixed}
        self._distributions = {name: self._shown(values) for name, values in self._genes.items()} | self._others
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

    def _shown(self, values: tuple[Any, ...]) -> BaseDistribution:
        if self._ordinal and all(isinstance(value, int | float) for value in values):
            return IntDistribution(0, len(values) - 1)
        return CategoricalDistribution(values)

    def _config(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters of a trial -> names and real values."""
        config = dict(self._fixed)
        for name, value in params.items():
            is_index = isinstance(self._distributions.get(name), IntDistribution) and name in self._genes
            config[name] = self._genes[name][value] if is_index else value
        return config

    def _params(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Inverse of ``_config``."""
        params = {}
        for name, distribution in self._distributions.items():
            if name in config:
                is_index = isinstance(distribution, IntDistribution) and name in self._genes
                params[name] = self._genes[name].index(config[name]) if is_index else config[name]
        return params

    def _chosen(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A configuration from outside, each value as our parameters have it.

        Raises:
            CandidateError: if it is no candidate of the space, or one that may not be tried.
        """
        candidate = self._candidate(config)
        self._encoding.encode([candidate])
        return {**config, **self._encoding.space.to_config(candidate)}

    def _candidate(self, config: Mapping[str, Any]) -> Any:
        space = self._whole.space
        return space.from_config({name: config[name] for name in space.parameters if name in config})

    def _genome(self, config: Mapping[str, Any]) -> bytes:
        """The canonical genome of a configuration: what tells candidates apart."""
        return bytes(self._encoding.encode([self._candidate(config)])[0].tobytes())

    @property
    def n_running(self) -> int:
        """Trials that were asked for and not yet told."""
        return len(self._running)

    def ask(self, key: str) -> dict[str, Any] | None:
        """A configuration that was not tried yet; ``None`` if there is none left.

        Args:
            key: by which the trial will be told.
        """
        for _ in range(MAX_DUPLICATES):
            trial = self.study.ask(self._distributions)
            config = self._config(trial.params)
            try:
                genome = self._genome(config)
            except CandidateError:  # what the space allows nearest to it may not be tried
                trial.set_user_attr("duplicate", True)
                self.study.tell(trial, state=TrialState.FAIL)
                continue
            if self._others or genome not in self._known:
                return self._begin(key, trial, config, genome)
            self._tell_duplicate(trial, genome)
        for drawn in self._draws():
            genome = bytes(drawn.tobytes())
            if self._others or genome not in self._known:
                (candidate,) = self._encoding.decode(drawn[None])
                config = self._encoding.space.to_config(candidate) | self._fixed
                self.study.enqueue_trial(self._params(config))
                trial = self.study.ask(self._distributions)
                return self._begin(key, trial, config | self._config(trial.params), genome)
        return None

    def _draws(self) -> Iterator[NDArray[np.int16]]:
        """Random canonical genomes, and after these all there are, if they can be counted."""
        for _ in range(MAX_DRAWS):
            yield self._encoding.sample(1, self._rng)[0]
        if math.prod(self._encoding.n_choices.tolist()) <= MAX_ENUMERATED:
            yield from self._rng.permutation(self._encoding.enumerate())

    def _begin(self, key: str, trial: Trial, config: dict[str, Any], genome: bytes) -> dict[str, Any]:
        self._running[key] = _Running(trial, genome)
        self._known.setdefault(genome, None)
        return config

    def _tell_duplicate(self, trial: Trial, genome: bytes) -> None:
        """Tell the sampler what is known; a candidate whose trial still runs, or failed, is told as failed."""
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
        """Whether a trial was asked for under this key and not yet told."""
        return key in self._running

    def report(self, key: str, value: float, step: int) -> None:
        """An intermediate value; kept for studies of one objective, Optuna knows none for several."""
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
        """End a trial.

        Args:
            key: of a running trial.
            outcome: how it ended. Values that are missing or NaN make a complete trial a failed one.
            values: of the objectives.
            violations: constraint -> violation, feasible where ``<= 0``.
            said: to remember with the trial: metrics, or the ``reason`` of a failure.
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
        """A trial that ended outside: one that was told and then tried again, or that we never knew of.

        Only one that was completed says more than what is known; it takes the place of what was told before, under its
        key or, if that was a failure, of the same candidate.

        Raises:
            CandidateError: if the configuration is no candidate of the space.
        """
        is_whole = len(values) == len(self.study.directions) and not any(map(math.isnan, values))
        if outcome != "complete" or not is_whole:
            return
        before = self._ended.get(key)
        params = self._params(self._chosen(config))
        trials = self.study.get_trials(deepcopy=False)
        failed = (t.number for t in trials if t.state == TrialState.FAIL and t.params == params)
        before = next(failed, None) if before is None else before
        if self.add(config, values, violations, said):
            self._ended[key] = len(trials)
            self._replaced |= set() if before is None else {before}

    def config_of(self, key: str) -> dict[str, Any]:
        """The configuration of a trial that was asked for; empty if there was none."""
        if key in self._running:
            return self._config(self._running[key].trial.params)
        if key in self._ended:
            return self._config(self.study.get_trials(deepcopy=False)[self._ended[key]].params)
        return {}

    def add(
        self,
        config: Mapping[str, Any],
        values: Sequence[float],
        violations: Mapping[str, float] | None = None,
        said: Mapping[str, Any] | None = None,
    ) -> bool:
        """A trial that was run elsewhere: warm start, several objectives and constraints included.

        Returns:
            Whether it was taken: one that contradicts what is fixed or narrowed is passed over.

        Raises:
            StudyError: if values are missing or NaN.
            CandidateError: if the configuration is no candidate of the space.
        """
        if len(values) != len(self.study.directions) or any(map(math.isnan, values)):
            raise StudyError(
                f"objectives of a known candidate are {list(values)}; give {len(self.study.directions)} numbers"
            )
        self._whole.encode([self._candidate(config)])  # no candidate at all is an error
        try:
            config = self._chosen(config)
        except CandidateError:
            return False
        genome = self._genome(config)
        self.study.add_trial(
            optuna.trial.create_trial(
                values=list(values),
                params=self._params(config),
                distributions={n: d for n, d in self._distributions.items() if n in config},
                user_attrs={name: _plain(value) for name, value in (said or {}).items()},
                constraints={name: float(value) for name, value in (violations or {}).items()},
            )
        )
        self._known[genome] = self.study.get_trials(deepcopy=False)[-1].number
        return True

    def give_up(self, reason: str = "lost", but: Collection[str] = ()) -> None:
        """Fail every trial that still runs, but those given, with a reason: nothing stays RUNNING for ever.

        Their candidates may be asked for again.
        """
        for key in [key for key in self._running if key not in but]:
            genome = self._running[key].genome
            self.tell(key, "failed", said={"reason": reason})
            self._known.pop(genome, None)

    def trials(self) -> list[FrozenTrial]:
        """Those that were run, here or elsewhere, parameters by their real values."""
        shown = []
        for trial in self.study.get_trials():
            if not trial.user_attrs.get("duplicate") and trial.number not in self._replaced:
                config = {name: value for name, value in self._config(trial.params).items() if name in trial.params}
                real = {name: CategoricalDistribution(values) for name, values in self._genes.items()} | self._others
                trial.params = config
                trial.distributions = {name: real[name] for name in config}
                shown.append(trial)
        return shown

    def to_dataframe(self) -> pd.DataFrame:
        """One row a trial: ``number``, ``state``, objectives as ``value_i``, what was said, and all parameters."""
        rows = []
        for trial in self.trials():
            values = {f"value_{i}": value for i, value in enumerate(trial.values or ())}
            constraints = {f"constraint {name}": value for name, value in trial.constraints.items()}
            row = {"number": trial.number, "state": trial.state.name} | values | constraints
            rows.append(row | trial.user_attrs | self._fixed | trial.params)
        return pd.DataFrame(rows)

    def export(self, place: str | os.PathLike[str], name: str) -> Study:
        """Copy the trials that were run to a study in a storage; see ``write_study``."""
        finished = [trial for trial in self.trials() if trial.state.is_finished()]
        return write_study(place, name, self.study.directions, finished)


def _plain(value: Any) -> Any:
    """A value as JSON can hold it."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(name): _plain(own) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(own) for own in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
