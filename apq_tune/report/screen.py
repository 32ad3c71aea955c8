"""The terminal, however narrow or odd: no figure is cut, and brackets in names are brackets."""

from __future__ import annotations

import os
from typing import Any

from rich.console import Console, ConsoleDimensions
from rich.table import Table

NARROWEST, WIDEST = 20, 1000
"""Columns; outside of these, what a terminal or ``COLUMNS`` says is not believed."""


class Screen(Console):
    """Rich's console for our text and tables.

    Text is printed as it is, without markup. Tables may be wider than the terminal, which then breaks their lines: a
    cut figure would be read as another one.
    """

    def __init__(self) -> None:
        """On stdout; ``COLUMNS`` decides the width where it is a number that makes sense."""
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
        """Of the terminal, as far as that makes sense."""
        width, height = super().size
        return ConsoleDimensions(min(max(width, NARROWEST), WIDEST), max(height, 1))

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._width, self._height = new_size

    def print(self, *objects: Any, **options: Any) -> None:
        """As Rich does, with every column of a table wide enough for its longest word."""
        for table in objects:
            if isinstance(table, Table):
                for column in table.columns:
                    words = [column.header, *column.cells]
                    column.min_width = max(_longest_word(str(cell)) for cell in words)
                options.setdefault("crop", False)
        super().print(*objects, **options)


def _longest_word(text: str) -> int:
    return max((len(word) for word in text.split()), default=1)
