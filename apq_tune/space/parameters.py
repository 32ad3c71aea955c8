"""Search spaces as parameters of hyperparameter optimizers, and candidates as their values.

Every gene is one categorical parameter whose choices are the gene's values in ascending order. All genes are always
there, those of blocks that depth switches off included: samplers that cross or model whole parameter sets can do
nothing with conditional ones.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from apq_tune.errors import CandidateError
from apq_tune.space.candidate import plain_value, same_value
from apq_tune.space.gene import Gene

CLOSE = 0.85
"""Share of letters in common (``difflib``) from which a name is taken for another one with a slip."""


class Suggests(Protocol):
    """What we need of an Optuna trial."""

    def suggest_categorical(self, name: str, choices: Any, /) -> Any:
        """One of the choices."""
        ...


class Space:
    """What search spaces inherit: the way to Ray Tune and Optuna, and back.

    A kind of space of one's own says its ``name``, its ``genes``, and how a candidate is made of values by name and
    taken apart again; one that has a ``network`` (``apq_tune.network``) gets costs. Candidates that are to be read from
    files are ``Configuration``s.
    """

    if TYPE_CHECKING:

        @property
        def name(self) -> str:
            """Name of the search space."""

    @property
    def genes(self) -> tuple[Gene, ...]:
        """What can be chosen, in the order of the genome."""
        raise NotImplementedError

    @functools.cached_property
    def parameters(self) -> Mapping[str, tuple[Any, ...]]:
        """Values of each gene by name, in the order of the genome."""
        return {gene.name: gene.values for gene in self.genes}

    def candidate_of(self, values: Mapping[str, Any]) -> Any:
        """The candidate with these values, one for each gene; inert genes are passed over."""
        raise NotImplementedError

    def values_of(self, candidate: Any) -> dict[str, Any]:
        """Inverse of ``candidate_of``; inert genes get their first value."""
        raise NotImplementedError

    def to_tune(self) -> dict[str, Any]:
        """Parameter space for ``tune.run(config=...)`` or ``Tuner(param_space=...)``: a ``tune.choice`` for each gene.

        Update the dictionary to fix a gene (``| {"depth 1": 2}``) or to add parameters of your own
        (``| {"learning_rate": tune.loguniform(1e-4, 1e-2)}``).
        """
        from ray import tune

        return {name: tune.choice(list(values)) for name, values in self.parameters.items()}

    def suggest(self, trial: Suggests, fixed: Mapping[str, Any] | None = None) -> Any:
        """Ask an Optuna trial for a candidate.

        Args:
            trial: Trial of ``study.optimize`` or ``study.ask``.
            fixed: Values of fixed genes by name, which are not suggested.

        Raises:
            CandidateError: If ``fixed`` names no gene, or a value that it cannot have.
        """
        fixed = fixed or {}
        for name in fixed:
            if name not in self.parameters:
                raise CandidateError(f"fixed: {name!r} is not a gene; known: {_some(self.parameters)}")
        asked = {}
        for name, values in self.parameters.items():
            if name in fixed:
                continue
            try:
                asked[name] = trial.suggest_categorical(name, values)
            except ValueError as error:
                raise CandidateError(
                    f"the study cannot take {name} from {list(values)} ({error}); it was made with another space, "
                    "make a new one"
                ) from None
        return self.from_config({**asked, **fixed})

    def from_config(self, config: Mapping[str, Any]) -> Any:
        """Candidate of the configuration of a trial.

        Forbidden combinations, which samplers may propose, are replaced by the nearest allowed ones, by the number of
        steps of the choices.

        Args:
            config: Value of each gene by name; other names are the user's own and are ignored.

        Raises:
            CandidateError: If a gene is missing or has a value that it cannot have, or if another name is so close
                to that of a gene that it is probably misspelt.
        """
        genes = self.parameters
        if len(config) > len(genes) or any(name not in config for name in genes):
            check_names([name for name in config if name not in genes], genes)
        values = {}
        for name, choices in genes.items():
            if name not in config:
                raise CandidateError(f"config: {name!r} is missing; start from to_tune(), which has every gene")
            values[name] = value_of(name, config[name], choices)
        return self.candidate_of(values)

    def to_config(self, candidate: Any) -> dict[str, Any]:
        """Inverse of ``from_config``, for warm starts (``points_to_evaluate``, ``study.enqueue_trial``).

        Raises:
            CandidateError: If the candidate is not in the space.
        """
        config = self.values_of(candidate)
        if self.from_config(config) != candidate:
            raise CandidateError(f"{candidate} is not in the space, or has a combination that it forbids")
        return config


def _known(name: str, value: Any) -> Any:
    """A value as choices hold it."""
    try:
        return plain_value(value)
    except CandidateError as error:
        raise CandidateError(f"config: {name}: {error}") from None


def value_of(name: str, given: Any, choices: Sequence[Any]) -> Any:
    """Choice that equals a given value, such as 2 for 2.0 or for NumPy's 2.

    Raises:
        CandidateError: If there is none.
    """
    value = _known(name, given)
    for choice in choices:
        if same_value(value, choice):
            return choice
    raise CandidateError(f"config: {name} is {given!r}; choose one of {list(choices)}")


def check_names(names: Iterable[str], known: Iterable[str]) -> None:
    """Refuse names that are probably misspelt gene names; other names are the user's own.

    Raises:
        CandidateError: If a name is probably misspelt; the message names the gene.
    """
    if (slip := _slip(tuple(map(str, names)), tuple(known))) is not None:
        given, meant = slip
        raise CandidateError(
            f"config: there is no {given!r}, did you mean {meant!r}? A name of your own must differ more"
        )


@functools.lru_cache(maxsize=64)
def _slip(names: tuple[str, ...], known: tuple[str, ...]) -> tuple[str, str] | None:
    """The first name that is close to a known one, and that one."""
    for name in names:
        if name in known:
            continue
        for form in (_letters, _words, _without_numbers):
            own = form(name)
            same = [other for other in known if own is not None and form(other) == own]
            if same:
                return name, difflib.get_close_matches(name, same, 1, 0.0)[0]
        if close := difflib.get_close_matches(name, known, 1, CLOSE):
            return name, close[0]
    return None


def _letters(name: str) -> str | None:
    return re.sub(r"[\W_]", "", name).lower() or None


def _words(name: str) -> tuple[str, ...] | None:
    return tuple(sorted(name.lower().split())) or None


def _without_numbers(name: str) -> str | None:
    """``None`` if there is no number, or nothing else."""
    rest = re.sub(r"\d+", "#", name)
    return rest if rest != name and re.search(r"[^\W\d_]{2}", rest) else None


def _some(names: Mapping[str, Any], n: int = 4) -> str:
    shown = ", ".join(map(repr, list(names)[:n]))
    return shown + (f", ... ({len(names)} in all)" if len(names) > n else "")
