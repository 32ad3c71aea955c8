"""Spaces of named choices without a network, and their genomes."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from apq_tune.errors import CandidateError, SpaceError
from apq_tune.space.candidate import Configuration, plain_value
from apq_tune.space.gene import Gene
from apq_tune.space.parameters import Space

MOST_VALUES = 2**15 - 1
"""Maximum number of values of a choice, since genes are 16-bit integers."""


@dataclass(frozen=True)
class ChoiceSpace(Space):
    """Named choices without a network: a table-driven benchmark, or a problem of the user's own.

    Attributes:
        name: Name of the search space.
        choices: Values of each choice by name, in order.
    """

    name: str
    choices: Mapping[str, tuple[Any, ...]]

    def __post_init__(self) -> None:
        """Check the choices, and convert their values to plain ones; see ``plain_value``."""
        if not isinstance(self.choices, Mapping):
            raise SpaceError(f"{self.name}: choices are a {type(self.choices).__name__}; give names with their values")
        if not self.choices:
            raise SpaceError(f"{self.name}: has no choices; give at least one name with its values")
        object.__setattr__(self, "choices", {name: self._plain(name, own) for name, own in self.choices.items()})

    def _plain(self, name: Any, values: Any) -> tuple[Any, ...]:
        if not isinstance(name, str) or not name.strip():
            raise SpaceError(
                f"{self.name}: the name {name!r} is not text; files hold names as text only: give {str(name)!r}"
            )
        if isinstance(values, str | bytes | Mapping | set | frozenset) or not isinstance(values, Iterable):
            remedy = "[...]" if isinstance(values, Mapping | set | frozenset) else f"[{values!r}]"
            raise SpaceError(f"{self.name}: {name} is {values!r}; give a list of values, such as {remedy}")
        listed = list(values)
        if not listed:
            raise SpaceError(f"{self.name}: {name} has no values; give at least one")
        if len(listed) > MOST_VALUES:
            raise SpaceError(
                f"{self.name}: {name} has {len(listed)} values; give at most {MOST_VALUES}, or wider steps"
            )
        try:
            plain = tuple(plain_value(value) for value in listed)
        except CandidateError as error:
            raise SpaceError(f"{self.name}: {name}: {error}") from None
        if len(set(plain)) < len(plain):
            first = next(value for place, value in enumerate(plain) if value in plain[:place])
            raise SpaceError(f"{self.name}: {name} has a value twice: {first!r} (True counts as 1); keep one")
        return plain

    def to_dict(self) -> dict[str, Any]:
        """Content of a file of choices as read by ``SearchSpace.load``."""
        return {"name": self.name, "choices": {name: list(values) for name, values in self.choices.items()}}

    def to_record(self) -> dict[str, Any]:
        """Plain data to which the records of commands are compared."""
        return self.to_dict()

    @functools.cached_property
    def genes(self) -> tuple[Gene, ...]:
        """The choices, of which nothing but their values is known."""
        return tuple(Gene(name, "choice", values) for name, values in self.choices.items())

    def candidate_of(self, values: Mapping[str, Any]) -> Configuration:
        """The candidate with these values."""
        return Configuration(tuple((name, plain_value(values[name])) for name in self.choices))

    def values_of(self, candidate: Configuration) -> dict[str, Any]:
        """Values of a candidate by name."""
        return dict(candidate.values)
