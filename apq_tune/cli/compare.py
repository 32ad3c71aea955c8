"""``apq-tune compare``: our samplers, Optuna's and random search on one problem, over seeds."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from apq_tune.cli.costs import LIMITS, TABLES
from apq_tune.cli.fleet import fleet_options, names, progress_bar
from apq_tune.cli.search import PREDICTOR, metric_names
from apq_tune.cli.values import Number, Place
from apq_tune.inputs import ranges

if TYPE_CHECKING:
    from apq_tune.problem.lookup import Missing

SAMPLERS = (
    "model",
    "nsga2",
    "evolution",
    "random",
    "optuna-nsga2",
    "optuna-tpe",
    "optuna-gp",
    "optuna-nsga3",
    "optuna-random",
)


@click.command()
@click.option("--space", "space_name", help="Name of a shipped space, or a YAML file; or give --lookup.")
@PREDICTOR
@TABLES
@LIMITS
@click.option("--front", "axes", metavar="METRIC,METRIC", help="What to trade off, such as accuracy,latency_ms.")
@click.option(
    "--lookup",
    type=Place(),
    help="Instead of a space: CSV with a row for every candidate; columns that are no objectives are choices.",
)
@click.option("--maximize", multiple=True, metavar="COLUMN", help="Objective of --lookup; repeatable.")
@click.option("--minimize", multiple=True, metavar="COLUMN", help="Objective of --lookup; repeatable.")
@click.option("--choices", "choice_columns", metavar="COLUMN,COLUMN", help="Of --lookup; other columns are ignored.")
@click.option("--ignore", multiple=True, metavar="COLUMN", help="Of --lookup, neither choice nor metric; repeatable.")
@click.option(
    "--missing",
    type=click.Choice(["nearest", "gp", "ridge"]),
    help="What answers for combinations that --lookup lacks.  [default: none may be missing]",
)
@click.option("--samplers", default=",".join(SAMPLERS), show_default=True)
@click.option("--at", default="200,1000", show_default=True, help="Distinct candidates scored; the last is the budget.")
@click.option(
    "--cap",
    "caps",
    multiple=True,
    metavar="SAMPLER=NUMBER",
    help="Candidates after which a sampler ends; its curve ends there, too.  [default: optuna-gp=100]",
)
@click.option("--seeds", type=Number(ranges.COMPARED_SEEDS), default=10, show_default=True, help="How many.")
@fleet_options
def compare(
    space_name: str | None,
    predictor: Path | None,
    tables: tuple[Path, ...],
    limits: tuple[str, ...],
    axes: str | None,
    lookup: Path | None,
    maximize: tuple[str, ...],
    minimize: tuple[str, ...],
    choice_columns: str | None,
    ignore: tuple[str, ...],
    missing: Missing | None,
    samplers: str,
    at: str,
    caps: tuple[str, ...],
    seeds: int,
    out: Path,
    resume: bool,
    address: str | None,
    num_cpus: int | None,
) -> None:
    """Compare samplers on one problem by the hypervolume that they reach; each sampler and seed is one trial.

    All objectives count as unknown, to our samplers as to Optuna's. At its end it says which sampler to take for how
    many evaluations.

    Interrupt it at any moment; the same command with --resume goes on where it stopped.
    """
    if (lookup is None) == (space_name is None):
        raise click.UsageError("give --space, with --front, or --lookup, with --maximize and --minimize")
    if lookup is None and axes is None:
        raise click.UsageError("--space needs --front, such as --front accuracy,latency_ms")
    of_lookup = (maximize, minimize, choice_columns, ignore, missing)
    unused = (predictor, tables, axes) if lookup is not None else of_lookup
    if any(value not in (None, ()) for value in unused):
        raise click.UsageError(
            "--lookup goes with --maximize, --minimize, --choices, --ignore and --missing; --predictor, --table and "
            "--front with --space"
        )
    chosen = names(samplers, SAMPLERS, "--samplers")
    count = Number(ranges.EVALUATIONS)
    try:
        counts = sorted({count.convert(part.strip(), None, None) for part in at.split(",")})
    except click.BadParameter as error:
        raise click.UsageError(f"--at {at!r}: {error.message}; write such as 200,1000") from None
    ends = _caps(caps, SAMPLERS)

    from apq_tune.problem.costs import with_built_in
    from apq_tune.problem.lookup import load_lookup, told_of
    from apq_tune.problem.metrics import load_metrics, problem_of
    from apq_tune.report.compare import write_comparison
    from apq_tune.report.screen import Screen
    from apq_tune.space.network_encoding import NetworkEncoding
    from apq_tune.space.search_space import SearchSpace
    from apq_tune.store.directory import digest
    from apq_tune.studies import compare as plan
    from apq_tune.studies.fleet import Fleet

    space, columns = None, list[str]()
    if lookup is not None:
        columns = [name.strip() for name in (choice_columns or "").split(",") if name.strip()]
        problem = load_lookup(
            lookup, maximize, minimize, limits=limits, choices=columns, ignore=ignore, missing=missing
        )
    else:
        space = SearchSpace.load(str(space_name))
        encoding = NetworkEncoding(space)
        metrics = with_built_in(load_metrics(encoding, predictor, tables), encoding)
        problem = problem_of(encoding, metrics, metric_names(axes, "--front"), limits)
    basis = {
        "space": space.model_dump(mode="json") if space is not None else None,
        "lookup": digest(lookup),
        "predictor": digest(predictor),
        "tables": [digest(path) for path in tables],
        "objectives": [f"{objective.direction} {objective.metric.name}" for objective in problem.objectives],
        "limits": [str(constraint) for constraint in problem.constraints],
        "samplers": chosen,
        "at": counts,
        "seeds": seeds,
    }
    if ends:
        basis |= {"caps": ends}
    if told := told_of(problem):
        basis |= {"missing": missing}
    if columns or ignore:
        basis |= {"choices": list(problem.encoding.space.choices)}
    command = shlex.join(["apq-tune", *sys.argv[1:]])
    fleet = Fleet(out, "comparison", basis, resume=resume, command=command, address=address, num_cpus=num_cpus)
    contest = plan.Contest(problem, counts[-1], {**plan.CAPS, **ends})
    entries = [plan.CompareTask(sampler, seed) for sampler in chosen for seed in range(seeds)]
    console = Screen()
    with progress_bar(console, "searches") as on_done:
        results = fleet.run(plan.run_entry, contest, {entry.key: entry for entry in entries}, on_done)
    if told:
        console.print(told)
    write_comparison(contest, entries, results, counts, out, console)


def _caps(given: tuple[str, ...], known: tuple[str, ...]) -> dict[str, int]:
    """``SAMPLER=NUMBER`` -> sampler -> number."""
    caps = {}
    for text in given:
        name, _, number = text.partition("=")
        if name not in known or not number.isdecimal() or int(number) < 1:
            raise click.UsageError(f"--cap {text!r}: give SAMPLER=NUMBER, such as optuna-gp=100; {', '.join(known)}")
        caps[name] = int(number)
    return caps
