"""Sparsities to choose from, as users write them: shares of zeros, or N:M patterns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator

from apq_tune.errors import RunError
from apq_tune.inputs.ranges import shown
from apq_tune.network.sparse import Pattern

MOST_INPUTS = 16
"""Most inputs in a group of a pattern."""

REMEDY = "give shares of zeros from 0 to below 1 such as [0, 0.5], or 0 and N:M patterns in quotes such as [0, '2:4']"


class Sparsities(NamedTuple):
    """Sparsities of the weights of a layer.

    Attributes:
        values: Shares of zeros, from the most to the fewest, so that networks grow with the gene as in all others.
        group: M of the patterns; 1 for unstructured sparsity.
    """

    values: tuple[Any, ...] = (0,)
    group: int = 1


def sparsities(given: Sequence[Any]) -> Sparsities:
    """Read a list of sparsities.

    Raises:
        ValueError: If one is not possible, or shares and patterns of several M are mixed.
    """
    if not given:
        raise ValueError("has no values; give at least one")
    shares, groups = set(), set()
    for value in given:
        share, group = _read(value)
        shares.add(share)
        groups.add(group)
    groups.discard(0)
    if len(groups) > 1:
        raise ValueError(f"{list(given)} mixes shares and patterns, or several M; {REMEDY}")
    if len(shares) < len(given):
        raise ValueError(f"{list(given)} has a sparsity twice; keep one")
    return Sparsities(tuple(sorted(shares, reverse=True)), next(iter(groups), 1))


def _read(value: Any) -> tuple[Any, int]:
    """Share of zeros and size of the groups of a value, 0 for any."""
    if isinstance(value, str):
        try:
            pattern = Pattern.of(value)
        except RunError:
            raise ValueError(f"{shown(value)} is no sparsity; {REMEDY}") from None
        if pattern.group > MOST_INPUTS:
            raise ValueError(f"{shown(value)} has groups of more than {MOST_INPUTS} inputs; give smaller ones")
        return pattern.sparsity, pattern.group
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"{shown(value)} is no sparsity; {REMEDY}")
    return as_share(value), 1 if value else 0


def as_share(value: float) -> Any:
    """A share of zeros as genes have it."""
    return float(value) if value else 0


def _checked(given: tuple[Any, ...]) -> tuple[Any, ...]:
    sparsities(given)
    return given


SparsityChoice = Annotated[tuple[Any, ...], AfterValidator(_checked)]
"""List of sparsities as it is written, checked."""
