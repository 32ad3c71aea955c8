"""``apq-tune predictor``: fit a predictor to measured candidates, and compare the forms of predictors on a run."""

from __future__ import annotations

from pathlib import Path

import click

from apq_tune.cli.fleet import out_file
from apq_tune.cli.options import COLUMN, PAIRS, PERCENT, SEED, SPACE
from apq_tune.cli.values import Place, number_option
from apq_tune.inputs import ranges

PLAIN = ("gp", "mean", "ordinal", "ridge", "scratch")
"""The names of ``PlainForm``, the default first; written out, since the import would slow ``--help``."""

LOSSES = ("mse", "pairwise", "diffkendall")
"""The names of ``Loss``, the default first; written out for the same reason."""


@click.group()
def predictor() -> None:
    """Fit predictors to measured candidates, and compare them."""


@predictor.command()
@click.argument("run", type=Place())
@number_option("--splits", ranges.SPLITS, 5, "Number of random splits.")
@SEED
def report(run: Path, splits: int, seed: int) -> None:
    """Compare all forms of predictors on a finished RUN.

    RUN is the directory of the run, whose measured candidates are used.

    Shown by the number of quantized candidates that a predictor learns from: Kendall tau, pairwise accuracy, error and
    the coverage of intervals. RUN gets a CSV file and a picture.
    """
    from rich.progress import Progress

    from apq_tune.pipeline.predictor_report import report_predictors
    from apq_tune.report.predictors import write_predictor_report
    from apq_tune.report.screen import Screen

    console = Screen()
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("fitting predictors", total=None)
        found = report_predictors(
            run,
            n_splits=splits,
            seed=seed,
            advance=lambda done, total: progress.update(task, completed=done, total=total),
        )
    write_predictor_report(found, run, console)


@predictor.command()
@SPACE
@PAIRS
@COLUMN
@PERCENT
@click.option(
    "--form", type=click.Choice(PLAIN), default=PLAIN[0], show_default=True, help="Form of the predictor to save."
)
@click.option(
    "--loss",
    type=click.Choice(LOSSES),
    default=LOSSES[0],
    show_default=True,
    help="What the form scratch minimises: errors, or errors in the order of pairs.",
)
@SEED
@out_file(".npz")
def fit(space: str, pairs: Path, column: str | None, percent: bool, form: str, loss: str, seed: int, out: Path) -> None:
    """Fit a predictor to measured candidates of SPACE.

    SPACE is the name of a shipped search space, a YAML file, or a file of named choices. All forms are cross-validated;
    the one that --form names is saved. To finetune an existing predictor instead, use apq-tune transfer.
    """
    if loss != LOSSES[0] and form != "scratch":
        raise click.UsageError(f"--loss {loss}: form {form} has a closed solution; give --form scratch, too")
    from apq_tune.predict import agreement, held_out, plain_forms
    from apq_tune.predict.files import predictor_bytes
    from apq_tune.predict.pairs import n_networks
    from apq_tune.problem.metrics import describe_constant, read_pairs
    from apq_tune.report.tables import write_bytes
    from apq_tune.space.encodings import encoding_of
    from apq_tune.space.files import load_space
    from apq_tune.space.measured import measured_values

    encoding = encoding_of(load_space(space))
    measured, is_loss = read_pairs(pairs, encoding.space, column=column, percent=percent)
    forms = plain_forms(log=is_loss, loss=loss)  # type: ignore[arg-type]  # one of LOSSES
    chosen = next(name for name in forms if name == form)
    inside = measured_values(encoding, measured.genomes)
    write_bytes(predictor_bytes(forms[chosen](encoding, measured, seed), inside), out)
    for name, learn in forms.items():
        scores = agreement(held_out(learn, encoding, measured, seed), measured.target, log=is_loss)
        click.echo(
            f"{name}: Kendall tau {scores.kendall_tau:.3f}, pairwise accuracy {scores.pairwise_accuracy:.3f}"
            + (" (saved)" if name == form else "")
        )
    n = n_networks(measured)
    n_shown = f"{len(measured.target)} pairs" + (f" of {n} candidates" if n < len(measured.target) else "")
    click.echo(f"cross-validated on {n_shown}; the new predictor knows all of them: {out}")
    if message := describe_constant(encoding, measured.genomes):
        click.echo(message)
