"""The command line. Heavy imports happen inside commands, so that ``--help`` is quick."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from apq_tune import __version__
from apq_tune.cli.compare import compare
from apq_tune.cli.predictor import predictor
from apq_tune.cli.refine import refine
from apq_tune.cli.run import run
from apq_tune.cli.search import score, search
from apq_tune.cli.settings import settings
from apq_tune.cli.spaces import cost, space, spaces
from apq_tune.cli.sweep import sweep
from apq_tune.cli.transfer import transfer
from apq_tune.cli.versus import baseline, joint_vs_staged
from apq_tune.errors import ApqError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="apq-tune")
def cli() -> None:
    """Find a network's architecture, channel pruning and per-layer bit-widths together."""


for command in (
    run,
    refine,
    baseline,
    joint_vs_staged,
    search,
    sweep,
    compare,
    score,
    space,
    spaces,
    cost,
    transfer,
    predictor,
    settings,
):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: one line on stderr for what a user can mend, 1 or 2 as exit status, 130 when interrupted.

    Args:
        arguments: instead of those of the process.
    """
    try:
        cli(arguments, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted; the same command goes on where it stopped", err=True)
        sys.exit(130)
    except ApqError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
