"""``apq-tune sweep``: the best candidates for many devices and limits at once."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from apq_tune.cli.costs import BUDGETS, METRICS
from apq_tune.cli.fleet import fleet_options, names, progress_bar
from apq_tune.cli.search import EXTRAPOLATE, PREDICTOR, SPACE, metric_names
from apq_tune.cli.values import Number
from apq_tune.inputs import ranges

SAMPLERS = ("evolution", "nsga2", "random")


@click.command()
@SPACE
@PREDICTOR
@click.option(
    "--table",
    "tables",
    multiple=True,
    metavar="NAME=PATH",
    help="Cost table of a device (as for search); repeatable, also for one device.  [default: analytic models]",
)
@click.option(
    "--limits",
    multiple=True,
    metavar="METRIC=NUMBER,NUMBER",
    help="Upper bounds, such as latency_ms=6,8,10 or flash=100kB,200kB; of several metrics, every combination. METRIC "
    f"is one of {METRICS}, or a column of --table.",
)
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    type=click.Choice(BUDGETS),
    help="Limits by a rule, as for run; repeatable. Each is searched under beside what --limits says.",
)
@click.option("--objective", help="Metric to improve.  [default: the predictor's]")
@click.option(
    "--front", "axes", metavar="METRIC,METRIC", help="Trade metrics off instead, such as latency_ms,accuracy."
)
@click.option(
    "--samplers", help=f"Out of {', '.join(SAMPLERS)}.  [default: evolution,random; for --front nsga2,random]"
)
@click.option(
    "--evaluations", type=Number(ranges.EVALUATIONS), default=20_000, show_default=True, help="Of each search."
)
@click.option("--seeds", type=Number(ranges.SEEDS), default=3, show_default=True, help="How many.")
@EXTRAPOLATE
@fleet_options
def sweep(
    space_name: str,
    predictor: Path | None,
    tables: tuple[str, ...],
    limits: tuple[str, ...],
    budgets: tuple[str, ...],
    objective: str | None,
    axes: str | None,
    samplers: str | None,
    evaluations: int,
    seeds: int,
    extrapolate: bool,
    out: Path,
    resume: bool,
    address: str | None,
    num_cpus: int | None,
) -> None:
    """Search once for every device, limit, sampler and seed, each search a Ray Tune trial.

    Interrupt it at any moment; the same command with --resume goes on where it stopped.
    """
    if objective is not None and axes is not None:
        raise click.UsageError("give --objective or --front, not both")
    chosen = names(
        ("nsga2,random" if axes is not None else "evolution,random") if samplers is None else samplers,
        SAMPLERS,
        "--samplers",
    )

    from apq_tune.problem.metrics import stay_measured
    from apq_tune.report.screen import Screen
    from apq_tune.report.sweep import write_sweep
    from apq_tune.space.choices import ChoiceSpace
    from apq_tune.space.network_encoding import encoding_of
    from apq_tune.space.search_space import SearchSpace
    from apq_tune.store.directory import digest
    from apq_tune.studies import sweep as plan
    from apq_tune.studies.fleet import Fleet

    paths = plan.read_tables(tables)
    encoding = encoding_of(SearchSpace.load(space_name))
    metrics = plan.device_metrics(encoding, predictor, paths)
    wanted = tuple(metric_names(axes, "--front") if axes is not None else metric_names(objective, "--objective"))
    inside, told = stay_measured(encoding, predictor, extrapolate=extrapolate)
    asked = plan.Sweep(inside, metrics, wanted, evaluations, out.absolute() / "checkpoints")
    targets = plan.read_limits(limits, next(iter(metrics.values()))) if limits or not budgets else []
    tasks = plan.tasks_of(asked, targets, chosen, seeds, budgets)
    basis = {
        "space": space.to_dict() if isinstance(space := encoding.space, ChoiceSpace) else space.model_dump(mode="json"),
        "predictor": digest(predictor),
        "tables": {name: [digest(path) for path in own] for name, own in paths.items()},
        "limits": targets,
        "budgets": budgets,
        "objectives": wanted,
        "samplers": chosen,
        "evaluations": evaluations,
        "seeds": seeds,
    }
    if told:  # of predictors that do not remember their pairs nothing is asked
        basis["extrapolate"] = extrapolate
    command = shlex.join(["apq-tune", *sys.argv[1:]])
    fleet = Fleet(out, "sweep", basis, resume=resume, command=command, address=address, num_cpus=num_cpus)
    console = Screen()
    if told:
        console.print(told)
    with progress_bar(console, "searches") as on_done:
        results = fleet.run(plan.run_task, asked, {task.key: task for task in tasks}, on_done)
    write_sweep(asked, tasks, results, out, console)
