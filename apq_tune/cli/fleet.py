"""Options for executors, devices and output, and a progress bar for many searches."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

from apq_tune.cli.values import Place, number_option
from apq_tune.inputs import ranges

if TYPE_CHECKING:
    from rich.console import Console

Command = TypeVar("Command", bound=Callable[..., Any])


def host_options(command: Command) -> Command:
    """Add ``--num-cpus``, ``--executor`` and ``--address``."""
    for option in (
        click.option(
            "--address",
            metavar="HOST:PORT|auto",
            help="Ray cluster to join: the address of its head, or auto for the one on this machine.  [default: none, "
            "only this machine is used]",
        ),
        click.option(
            "--executor",
            type=click.Choice(["local", "ray"]),
            help="Where the work is done: processes of this machine, or Ray tasks.  [default: ray with --address or "
            "RAY_ADDRESS, else local]",
        ),
        number_option(
            "--num-cpus", ranges.CPUS, None, "Most networks or searches at once.  [default: one for each processor]"
        ),
    ):
        command = option(command)
    return command


def device_options(command: Command) -> Command:
    """Add ``--device`` and ``--gpus-per-trial``."""
    for option in (
        number_option(
            "--gpus-per-trial",
            ranges.GPUS,
            None,
            "GPUs of each training or search; 0.5 puts two on one GPU.  [default: those at work share all GPUs]",
        ),
        click.option(
            "--device",
            type=click.Choice(["auto", "cpu", "cuda"]),
            default="auto",
            show_default=True,
            help="Where networks are trained and measured; auto takes a GPU if there is one.",
        ),
    ):
        command = option(command)
    return command


def out_folder(default: str | None = None) -> Callable[[Command], Command]:
    """``--out`` of a command that writes a directory.

    Args:
        default: What is taken without it, in words; ``None`` if it is required.
    """
    note = "" if default is None else f"  [default: {default}]"
    return click.option(
        "--out", type=Place(), metavar="DIR", required=default is None, help=f"Directory for the results.{note}"
    )


def out_file(*suffixes: str, required: bool = True) -> Callable[[Command], Command]:
    """``--out`` of a command that writes one file, with one of these suffixes.

    Args:
        suffixes: Suffixes that the name may have.
        required: Whether the command always writes the file.
    """
    known = " or ".join(suffixes)

    def checked(ctx: click.Context, param: click.Parameter, value: Any) -> Any:  # noqa: ARG001
        if value is not None and value.suffix not in suffixes:
            raise click.BadParameter(f"{str(value)!r}: give a name that ends in {known}")
        return value

    return click.option(
        "--out",
        type=Place(),
        metavar="FILE",
        required=required,
        callback=checked,
        help=f"File for the results; its name ends in {known}.",
    )


def command_line() -> str:
    """Command line as typed, for the record."""
    return shlex.join(["apq-tune", *sys.argv[1:]])


@contextlib.contextmanager
def progress_bar(console: Console, title: str) -> Iterator[Callable[[int, int], None]]:
    """Show the number of finished searches; after an interruption print how to resume and exit with status 130."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task(title, total=None)
            yield lambda done, total: progress.update(task, completed=done, total=total)
    except KeyboardInterrupt:
        click.echo("interrupted; the same command goes on where it stopped", err=True)
        sys.exit(130)
