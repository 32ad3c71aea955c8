"""What commands that run a fleet of searches share: options, progress, and what to do when interrupted."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

from apq_tune.cli.values import Number, Place
from apq_tune.inputs import ranges

if TYPE_CHECKING:
    from rich.console import Console

Command = TypeVar("Command", bound=Callable[..., Any])


ADDRESS = "Ray cluster to join: its head's, or auto for the one on this machine.  [default: none, this machine alone]"


def fleet_options(command: Command) -> Command:
    """Add ``--out``, ``--resume``, ``--address`` and ``--num-cpus``."""
    for option in (
        click.option("--num-cpus", type=Number(ranges.CPUS), help="Trials at once.  [default: all processors]"),
        click.option("--address", metavar="HOST:PORT|auto", help=ADDRESS),
        click.option("--resume", is_flag=True, help="Go on with what an interrupted run left in --out."),
        click.option("--out", type=Place(), required=True, help="Folder; each search is kept."),
    ):
        command = option(command)
    return command


def names(text: str, known: tuple[str, ...], option: str) -> list[str]:
    """Read a comma-separated choice of known names.

    Raises:
        click.UsageError: naming the unknown one, or the one that comes twice.
    """
    chosen = [part.strip() for part in text.split(",")]
    for name in chosen:
        if name not in known:
            raise click.UsageError(f"{option}: unknown {name!r}; known: {', '.join(known)}")
        if chosen.count(name) > 1:
            raise click.UsageError(f"{option}: {name!r} comes twice; give it once")
    return chosen


@contextlib.contextmanager
def progress_bar(console: Console, title: str) -> Iterator[Callable[[int, int], None]]:
    """Show how many searches are done; when interrupted, say how to go on and exit with 130."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task(title, total=None)
            yield lambda done, total: progress.update(task, completed=done, total=total)
    except KeyboardInterrupt:
        click.echo("interrupted; the same command with --resume goes on where it stopped", err=True)
        sys.exit(130)
