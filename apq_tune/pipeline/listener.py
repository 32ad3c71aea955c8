"""Listeners to the progress of a run or a refinement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Listener(Protocol):
    """Observer of the progress of a run."""

    def planned(self, seconds: Mapping[str, float], concurrency: int) -> None:
        """Receive the estimated seconds of the remaining stages with a number of free processors."""
        ...

    def stage(self, name: str, number: int, total: int) -> None:
        """A stage begins; several may run at once."""
        ...

    def advance(self, stage: str, done: int, total: int) -> None:
        """A stage has done some of its parts."""
        ...

    def finished(self, name: str, seconds: float, note: str) -> None:
        """The stage is done; the note says if nothing had to be done, or why it was done again."""
        ...
