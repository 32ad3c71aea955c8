"""The command line. Commands import heavy libraries only when they run, so that ``--help`` is quick."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence

import click

from apq_tune import __version__
from apq_tune.cli.compare import compare
from apq_tune.cli.devices import devices
from apq_tune.cli.ending import one_line_errors, say
from apq_tune.cli.estimate import estimate
from apq_tune.cli.export import evaluate, export
from apq_tune.cli.model import model
from apq_tune.cli.predictor import predictor
from apq_tune.cli.profile import profile
from apq_tune.cli.refine import refine
from apq_tune.cli.report import report
from apq_tune.cli.run import run
from apq_tune.cli.search import score, search
from apq_tune.cli.settings import settings
from apq_tune.cli.solve import solve
from apq_tune.cli.spaces import cost, describe, spaces
from apq_tune.cli.sweep import sweep
from apq_tune.cli.transfer import transfer
from apq_tune.cli.versus import joint_vs_staged

RESUMABLE = ("run", "refine", "solve", "joint-vs-staged", "sweep", "compare", "profile")
"""Commands that keep finished parts; the others write nothing until they end."""

GOES_ON = "the same command goes on where it stopped"
STARTS_ANEW = "nothing was kept; the same command starts from the beginning"


class _Commands(click.Group):
    """Group of all commands; after an interruption it prints how the command can go on."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command that was given."""
        try:
            return super().invoke(ctx)
        except (click.Abort, KeyboardInterrupt):
            say(f"interrupted; {GOES_ON if ctx.invoked_subcommand in RESUMABLE else STARTS_ANEW}")
            sys.exit(130)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="apq-tune")
def cli() -> None:
    """Search network architecture, channel pruning and bit-widths together."""


for command in (
    run,
    refine,
    solve,
    export,
    evaluate,
    estimate,
    report,
    joint_vs_staged,
    search,
    sweep,
    compare,
    score,
    describe,
    spaces,
    devices,
    model,
    cost,
    profile,
    transfer,
    predictor,
    settings,
):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: run a command; errors are one line on stderr, see :func:`~apq_tune.cli.ending.one_line_errors`.

    Args:
        arguments: Command line; ``None`` for that of the process.
    """
    os.environ.pop("MPLBACKEND", None)  # a notebook's, which may be absent here; pictures are only written to files
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^")  # Ray prints paragraphs on dead workers
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may not be encodable
        sys.stdout.reconfigure(errors="backslashreplace")
    with one_line_errors():
        cli(arguments, standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
