"""``apq-tune sweep``: searches for many deployment targets and limits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from apq_tune.cli.costs import BUDGETS, CONSTRAINTS, tell_notes
from apq_tune.cli.devices import DEVICE_PRESET, narrowed, preset_of
from apq_tune.cli.fleet import command_line, host_options, out_folder, progress_bar
from apq_tune.cli.options import (
    EVALUATIONS,
    EXTRAPOLATE,
    FRONT,
    OBJECTIVE,
    PREDICTOR,
    SAMPLERS,
    SEEDS,
    SPACE,
    metric_names,
    samplers_option,
)

if TYPE_CHECKING:
    from apq_tune.hosts.executor import Kind


@click.command()
@SPACE
@PREDICTOR
@click.option(
    "--target",
    "targets",
    multiple=True,
    metavar="NAME=PATH",
    help="Deployment target: a name and the path of its cost table. Repeatable; a name may have several tables.  "
    "[default: the built-in cost models]",
)
@CONSTRAINTS
@BUDGETS
@DEVICE_PRESET
@OBJECTIVE
@FRONT
@samplers_option(SAMPLERS, "evolution and random; with --front nsga2 and random")
@EVALUATIONS
@SEEDS
@EXTRAPOLATE
@out_folder()
@host_options
def sweep(
    space: str,
    predictor: Path | None,
    targets: tuple[str, ...],
    constraints: tuple[str, ...],
    budgets: tuple[str, ...],
    device_preset: str | None,
    objective: str | None,
    front: str | None,
    samplers: tuple[str, ...],
    evaluations: int,
    seeds: int,
    extrapolate: bool,
    out: Path,
    num_cpus: int | None,
    executor: Kind | None,
    address: str | None,
) -> None:
    """Search SPACE for every target, limit, sampler and seed.

    SPACE is the name of a shipped search space, a YAML file, or a file of named choices.

    A --constraint may have several bounds, such as 'latency_ms<=6,8,10': each is searched under, and of several
    metrics every combination. Each --budget is searched under by itself, with the numbers of each target.

    A --device-preset holds for all of them, beside their own limits.

    Interrupt the command at any moment: the same command goes on where it stopped.
    """
    if objective is not None and front is not None:
        raise click.UsageError("give --objective or --front, not both")
    chosen = list(samplers) or ["nsga2" if front is not None else "evolution", "random"]

    from apq_tune.problem.limits import read_combinations
    from apq_tune.problem.metrics import restrict_to_measured
    from apq_tune.report.screen import Screen
    from apq_tune.report.sweep import write_sweep
    from apq_tune.space.encodings import encoding_of
    from apq_tune.space.files import load_space
    from apq_tune.store.folder import digest
    from apq_tune.studies import sweep as plan
    from apq_tune.studies.fleet import Fleet

    paths = plan.read_tables(targets)
    loaded = load_space(space)
    preset = preset_of(device_preset, loaded)
    encoding = encoding_of(narrowed(loaded, preset))
    wanted = tuple(metric_names(front, "--front") if front is not None else metric_names(objective, "--objective"))
    metrics = plan.device_metrics(encoding, predictor, paths, [*wanted, *constraints])
    inside, message = restrict_to_measured(encoding, predictor, extrapolate=extrapolate)
    asked = plan.Sweep(inside, metrics, wanted, evaluations, out.absolute() / "checkpoints")
    known = next(iter(metrics.values()))
    combined = read_combinations(known, constraints) if constraints or not budgets else []
    memory = {} if preset is None else preset.limits
    limits = [plan.within(plan.bounds_of(combination), memory) for combination in combined]
    named = {limit.metric.name for combination in combined for limit in combination}
    tell_notes(metric for own in metrics.values() for name, metric in own.items() if name in named)
    tasks = plan.tasks_of(asked, limits, chosen, seeds, budgets, memory)
    basis = {
        "space": encoding.space.to_record(),
        "predictor": digest(predictor),
        "tables": {name: [digest(path) for path in files] for name, files in paths.items()},
        "limits": limits,
        "budgets": budgets,
        "objectives": wanted,
        "samplers": chosen,
        "evaluations": evaluations,
        "seeds": seeds,
    }
    if message:  # predictors that do not record their pairs do not restrict the space
        basis["extrapolate"] = extrapolate
    fleet = Fleet(out, "sweep", basis, command=command_line(), executor=executor, address=address, num_cpus=num_cpus)
    console = Screen()
    if message:
        console.print(message)
    with progress_bar(console, "searches") as on_done:
        results = fleet.run(plan.run_task, asked, {task.key: task for task in tasks}, on_done)
    write_sweep(asked, tasks, results, out, console)
