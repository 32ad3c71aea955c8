"""The command line. Heavy imports happen inside commands, so that ``--help`` is quick."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from apq_tune import __version__
from apq_tune.errors import ApqError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="apq-tune")
def cli() -> None:
    """Find a network's architecture, channel pruning and per-layer bit-widths together."""


@cli.command()
@click.argument("space")
@click.option("--out", type=click.Path(path_type=Path), help="Run directory.  [default: runs/SPACE]")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Same seed, same result.")
@click.option(
    "--constraint",
    "constraints",
    multiple=True,
    metavar="TEXT",
    help="Such as 'bit_ops<=25%' (of the largest network at its most bits) or 'weight_bytes<=20000'; repeatable.  "
    "[default: bit_ops<=25%]",
)
@click.option("--num-cpus", type=click.IntRange(min=1), help="Trials at once.  [default: all processors]")
@click.option("--address", help="Ray cluster to join, such as 'auto'.  [default: this machine alone]")
@click.option(
    "--set", "assignments", multiple=True, metavar="NAME=VALUE", help="Change a setting, such as final.epochs=20."
)
def run(
    space: str,
    out: Path | None,
    seed: int,
    constraints: tuple[str, ...],
    num_cpus: int | None,
    address: str | None,
    assignments: tuple[str, ...],
) -> None:
    """Search SPACE from end to end: a shipped space such as 'digits', or a YAML file.

    Interrupt it at any moment; the same command goes on where it stopped.
    """
    from apq_tune.space import SearchSpace

    loaded = SearchSpace.load(space)
    changes: dict[str, object] = {"seed": seed} | ({"constraints": list(constraints)} if constraints else {})
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise click.UsageError(f"--set {assignment!r} has no '='; write NAME=VALUE, such as final.epochs=20")
        changes[name.strip()] = value
    out = out or Path("runs") / loaded.name

    from apq_tune.pipeline.run import PipelineRun
    from apq_tune.pipeline.settings import Settings
    from apq_tune.report.progress import RichListener
    from apq_tune.report.results import write_report

    with RichListener() as listener:
        pipeline = PipelineRun(
            loaded,
            Settings().updated(changes),
            out,
            address=address,
            num_cpus=num_cpus,
            command=shlex.join(["apq-tune", *sys.argv[1:]]),
            listener=listener,
        )
        outcome = pipeline.run()
    write_report(outcome, out, listener.console)


@cli.command()
def spaces() -> None:
    """List the search spaces that ship with the package, and their sizes."""
    from apq_tune.space import SearchSpace, known_spaces

    for name in known_spaces():
        space = SearchSpace.load(name)
        networks, all_bits = space.log10_size(bits=False), space.log10_size()
        click.echo(f"{name}: 10^{networks:.1f} networks, 10^{all_bits:.1f} with bits, {len(space.slots)} blocks")


def main() -> None:
    """Entry point: one line on stderr for what a user can mend, 1 or 2 as exit status, 130 when interrupted."""
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted; the same command goes on where it stopped", err=True)
        sys.exit(130)
    except ApqError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
