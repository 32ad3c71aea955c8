"""Options that several commands share, each declared once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from apq_tune.cli.values import Place, number_option
from apq_tune.inputs import ranges

Command = TypeVar("Command", bound=Callable[..., Any])

SAMPLERS = ("evolution", "nsga2", "random", "ddpg")
"""Samplers that score thousands of candidates in a second."""

SPACE = click.argument("space", metavar="SPACE")

SEED = number_option("--seed", ranges.SEED, 0, "Seed of all random numbers; the same seed gives the same results.")

SEEDS = number_option("--seeds", ranges.SEEDS, 10, "Number of seeds; everything is repeated with each.")

PREDICTOR_HELP = "Predictor: a file of apq-tune (.npz), or a published checkpoint of APQ or once-for-all."
PREDICTOR = click.option("--predictor", type=Place(), help=PREDICTOR_HELP)

EXTRAPOLATE = click.option(
    "--extrapolate",
    is_flag=True,
    help="Also search values of genes that occur in none of the predictor's training pairs.",
)

OBJECTIVE = click.option("--objective", metavar="METRIC", help="Metric to optimize.  [default: the predictor's]")

FRONT = click.option(
    "--front",
    metavar="METRIC,METRIC",
    help="Metrics to trade off against each other, such as accuracy,latency_ms: the result is their Pareto front.",
)

EVALUATIONS = number_option(
    "--evaluations", ranges.EVALUATIONS, 10_000, "Number of candidates that each search evaluates."
)

PAIRS = click.option(
    "--pairs",
    type=Place(),
    required=True,
    help="CSV file of candidates and measurements: the columns of the candidates are those that score reads; the "
    "measured column is 'accuracy' (a fraction) or 'loss' (in nats).",
)

COLUMN = click.option(
    "--column", metavar="NAME", help="Name of the measured column if it is another one, such as 'Top-1 Acc (%)'."
)

PERCENT = click.option("--percent", is_flag=True, help="Measured accuracies are percentages.")

SETTINGS = click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="NAME=VALUE",
    help="Change a setting of the run, such as final.epochs=20; apq-tune settings lists them. Repeatable.",
)

MINUTES = number_option(
    "--minutes",
    ranges.MINUTES,
    None,
    "Minutes that the command may take; its work is chosen to fit.  [default: no limit]",
)

DATA_ROOT = click.option(
    "--data-root",
    type=Place(),
    metavar="DIR",
    help="Folder of downloaded data sets; what is missing there is downloaded.  [default: ~/.cache/apq_tune/data]",
)


def data_option(default: str) -> Callable[[Command], Command]:
    """``--data`` of a command that reads images.

    Args:
        default: Data set that is taken without it, in words.
    """
    return click.option(
        "--data",
        metavar="DIR",
        help="Folder of images, DIR/CLASS/IMAGE or DIR/train/CLASS/IMAGE, or the name of a data set.  "
        f"[default: {default}]",
    )


def samplers_option(known: Sequence[str], default: str) -> Callable[[Command], Command]:
    """``--sampler`` of a command that compares several.

    Args:
        known: Names that may be given.
        default: Which ones are compared without it, in words.
    """
    return click.option(
        "--sampler",
        "samplers",
        multiple=True,
        type=click.Choice(list(known)),
        callback=once,
        help=f"Search algorithm. Repeatable.  [default: {default}]",
    )


def once(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> tuple[str, ...]:  # noqa: ARG001
    """Refuse a name that is given twice.

    Raises:
        click.BadParameter: If a name is repeated.
    """
    for name in value:
        if value.count(name) > 1:
            raise click.BadParameter(f"{name!r} comes twice; give it once")
    return value


def assigned(assignments: tuple[str, ...]) -> dict[str, str]:
    """Read ``NAME=VALUE`` options.

    Raises:
        click.UsageError: If one has no ``=``.
    """
    changes = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise click.UsageError(f"--set {assignment!r} has no '='; write NAME=VALUE, such as final.epochs=20")
        if name.strip() in changes:
            raise click.UsageError(f"--set {name.strip()} comes twice; give it once")
        changes[name.strip()] = value
    return changes


def metric_names(text: str | None, option: str) -> list[str]:
    """The metrics that an option names; none if it is not given.

    Raises:
        click.UsageError: If a name is empty or comes twice.
    """
    names = [] if text is None else [part.strip() for part in text.split(",")]
    if "" in names:
        raise click.UsageError(f"{option} {text!r}: a name is empty; give names of metrics, such as macs,bit_ops")
    if len(set(names)) < len(names):
        raise click.UsageError(f"{option} {text!r}: a metric comes twice; give each once")
    if option == "--objective" and len(names) > 1:
        raise click.UsageError(f"--objective {text!r} names several metrics; trade them off with --front")
    return names
