"""Types of numbers and paths on the command line; numbers are read and checked like those of ``--set``."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from apq_tune.errors import DocumentError
from apq_tune.inputs.documents import load_yaml
from apq_tune.inputs.ranges import Range, Whole, shown

Command = TypeVar("Command", bound=Callable[..., Any])

LONGEST_NAME = 255
"""Longest name of a file that common file systems allow, in bytes."""


class Number(click.ParamType):  # type: ignore[type-arg]
    """A number in a range; ``1e3`` counts as a whole number."""

    def __init__(self, allowed: Range) -> None:
        """Accept numbers in the range ``allowed``."""
        self.allowed = allowed
        self.name = "integer" if isinstance(allowed, Whole) else "number"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:  # noqa: ARG002
        """The range as ``1..100``, which ``--help`` shows after the option."""
        return f"{self.allowed.low}..{self.allowed.high}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Read the number.

        Raises:
            click.BadParameter: If it is not a number in the range; the message has range and value.
        """
        try:
            return self.allowed.check(load_yaml(value, "number") if isinstance(value, str) else value)
        except (ValueError, DocumentError):
            self.fail(f"give {self.allowed}, got {shown(value)}", param, ctx)


def number_option(name: str, allowed: Range, default: float | None, text: str) -> Callable[[Command], Command]:
    """Declare an option that takes a number.

    Args:
        name: Name of the option, such as ``--seed``.
        allowed: Range of the number.
        default: Number that is taken without the option and shown by ``--help``; ``None`` if there is none.
        text: Help text.
    """
    settings: dict[str, Any] = {} if default is None else {"default": default, "show_default": True}
    return click.option(name, type=Number(allowed), help=text, **settings)


class Place(click.ParamType):  # type: ignore[type-arg]
    """A path of a file or folder, which need not exist yet."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Check the path.

        Raises:
            click.BadParameter: If it is empty, which would mean the current folder, or not a valid path.
        """
        text = str(value)
        if not text.strip():
            self.fail(f"{text!r} is not a path; give one, or . for the current folder", param, ctx)
        if "\0" in text:
            self.fail(f"{text!r} holds a NUL character, which no path may", param, ctx)
        longest = max(Path(text).parts, key=lambda part: len(os.fsencode(part)), default="")
        if len(os.fsencode(longest)) > LONGEST_NAME:
            self.fail(f"{shown(longest)} is longer than {LONGEST_NAME} bytes; choose a shorter name", param, ctx)
        return Path(text)
