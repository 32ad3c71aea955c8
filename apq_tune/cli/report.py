"""``apq-tune report``."""

from __future__ import annotations

from pathlib import Path

import click

from apq_tune.cli.values import Place


@click.command()
@click.argument("run", type=Place())
def report(run: Path) -> None:
    """Write the HTML report of finished results again.

    RUN is the directory of a run, of a refinement, or of a method (run --method). Writes report.html, a page that needs
    no connection, the table of all evaluated candidates (candidates.csv), and Optuna studies of them (study.log, for
    optuna-dashboard). Nothing is trained, and the images need not be there.
    """
    from apq_tune.report.html import write_report

    names = write_report(run)
    click.echo(f"Files in {run}: {', '.join(names)}")
