"""Output on terminals of any width: no number is cut, and brackets in names are printed as they are."""

from __future__ import annotations

import os
from typing import Any

from rich.console import Console, ConsoleDimensions
from rich.table import Table

NARROWEST, WIDEST = 20, 1000
"""Range of widths, in columns, that a terminal or ``COLUMNS`` may report; others are clipped to it."""


class Screen(Console):
    """Rich's console for our text and tables.

    Text is printed as it is, without markup. A table may be wider than the terminal, which then wraps its lines: a
    number that is cut would be read as another one.
    """

    def __init__(self) -> None:
        """Print on stdout, as wide as ``COLUMNS`` says if that is a valid width."""
        environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        columns = os.environ.get("COLUMNS", "")
        width = int(columns) if columns.isascii() and columns.isdigit() and len(columns) < 10 else 0
        super().__init__(
            highlight=False,
            markup=False,
            emoji=False,
            width=min(max(width, NARROWEST), WIDEST) if width else None,
            _environ=environment,
        )

    @property
    def size(self) -> ConsoleDimensions:
        """Size of the terminal, clipped to valid widths."""
        width, height = super().size
        return ConsoleDimensions(min(max(width, NARROWEST), WIDEST), max(height, 1))

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._width, self._height = new_size

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as Rich does, with every column of a table wide enough for its longest word."""
        for table in objects:
            if isinstance(table, Table):
                for column in table.columns:
                    words = [column.header, *column.cells]
                    column.min_width = max(_longest_word(str(cell)) for cell in words)
                options.setdefault("crop", False)
        super().print(*objects, **options)


def _longest_word(text: str) -> int:
    return max((len(word) for word in text.split()), default=1)
