"""``apq-tune profile``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from apq_tune.cli.fleet import out_file
from apq_tune.cli.options import MINUTES, SEED
from apq_tune.cli.values import Place, number_option
from apq_tune.inputs import ranges

if TYPE_CHECKING:
    from rich.console import Console

    from apq_tune.deploy.profiling import OnVisit

RUNTIMES = ("onnxruntime-cpu",)

BUSY = 0.5
"""Average number of busy processors before the measurement from which a warning is printed."""


@click.command()
@click.option("--space", metavar="SPACE", help="Name of a shipped search space, or a YAML file.")
@click.option(
    "--on",
    "runtime",
    type=click.Choice(RUNTIMES),
    default=RUNTIMES[0],
    show_default=True,
    help="Runtime that is measured, on this machine.",
)
@number_option("--threads", ranges.CPUS, 1, "Threads of the runtime.")
@MINUTES
@number_option(
    "--networks", ranges.NETWORKS, 40, "Random networks that are measured as a whole, to correct sums of operations."
)
@SEED
@click.option(
    "--export-ops",
    type=Place(),
    metavar="DIR",
    help="Write a folder of ONNX files with a script that measures them on another device; nothing is measured here.",
)
@click.option(
    "--collect",
    type=Place(),
    metavar="DIR",
    help="Folder of --export-ops with the results that its script has measured.",
)
@out_file(".csv", required=False)
def profile(
    space: str | None,
    runtime: str,  # noqa: ARG001
    threads: int,
    minutes: float | None,
    networks: int,
    seed: int,
    export_ops: Path | None,
    collect: Path | None,
    out: Path | None,
) -> None:
    """Measure a table of latencies for --table.

    Every operation of the networks of SPACE is measured by itself, in 8-bit integers (latency_ms) and in full precision
    (fp32_latency_ms). Random networks are measured as a whole to correct the sums of operations. With --minutes the
    most informative operations are measured first, and the others are predicted by a regression, whose error is
    printed.

    On a phone or a board: --export-ops writes a folder with a script that needs only Python and onnxruntime; copy it to
    the device, run python measure.py there, copy it back, and give --collect.

    Interrupt the command at any moment: the same command goes on where it stopped.
    """
    _check(space, export_ops, collect, out)

    from apq_tune.deploy import profiling
    from apq_tune.deploy.profile import write_table
    from apq_tune.deploy.profile_folder import collect as collect_from
    from apq_tune.report.screen import Screen
    from apq_tune.space.files import load_network_space

    console = Screen()
    loaded = None if space is None else load_network_space(space)
    if export_ops is not None:
        assert loaded is not None
        items = profiling.export_ops(loaded, export_ops, threads=threads, networks=networks, seed=seed)
        again = f"--collect {export_ops} --out table.csv"
        console.print(
            f"{export_ops}: {len(items)} files; copy the folder to the device, run python measure.py there (--minutes "
            f"M limits its time), copy the folder back, and give: apq-tune profile {again}",
            soft_wrap=True,
        )
        return
    assert out is not None
    if collect is not None:
        lines = tuple(write_table(collect_from(collect, loaded), out))
    else:
        assert loaded is not None
        _tell_load(console)
        with _progress_bar(console, minutes) as on_visit:
            lines = profiling.profile(
                loaded, out, threads=threads, minutes=minutes, networks=networks, seed=seed, on_visit=on_visit
            )
    for line in lines:
        console.print(line, soft_wrap=True)
    console.print(f"Files: {out}, {out.with_suffix('.profile.json')}; use it as --table {out}", soft_wrap=True)


def _check(space: str | None, export_ops: Path | None, collect: Path | None, out: Path | None) -> None:
    """Refuse options that do not go together.

    Raises:
        click.UsageError: If they do not.
    """
    if export_ops is not None and (collect is not None or out is not None):
        raise click.UsageError("--export-ops writes a folder and measures nothing; leave --collect and --out for later")
    if collect is None and space is None:
        raise click.UsageError("give --space, the name of a search space such as digits, or --collect DIR")
    if export_ops is None and out is None:
        raise click.UsageError("give --out, the table to write, such as --out table.csv")
    if collect is not None and (given := _given("runtime", "threads", "minutes", "networks", "seed")):
        raise click.UsageError(f"--collect reads what was measured; leave {given} out, which --export-ops has fixed")
    if export_ops is not None and (given := _given("minutes")):
        raise click.UsageError(f"--export-ops measures nothing; give {given} to measure.py on the device")


def _given(*names: str) -> str:
    """First of some options that the command line has; empty if it has none of them."""
    context = click.get_current_context()
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if parameter.name in names and source is ParameterSource.COMMANDLINE:
            return parameter.opts[0]
    return ""


@contextlib.contextmanager
def _progress_bar(console: Console, minutes: float | None) -> Iterator[OnVisit]:
    """Progress bar of visits, or of the minutes that they may take."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from apq_tune.deploy.measure import REPEATS

    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("measure", total=None)

        def on_visit(n_visits: int, n_begun: int, n_files: int, seconds: float) -> None:
            done, total = (n_visits, n_files * REPEATS) if minutes is None else (seconds, 60 * minutes)
            progress.update(task, completed=done, total=total, description=f"measure {n_begun} of {n_files} files")

        yield on_visit


def _tell_load(console: Console) -> None:
    """Warn if other programs keep the processors busy, where the system says so."""
    try:
        load = os.getloadavg()[0]
    except (AttributeError, OSError):
        return
    if load > BUSY:
        console.print(
            f"warning: other programs keep {load:.1f} processors busy, so latencies will be too large", soft_wrap=True
        )
