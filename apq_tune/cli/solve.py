"""``apq-tune solve``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from apq_tune.cli.costs import BUDGETS, CONSTRAINTS, TABLES, all_constraints
from apq_tune.cli.devices import DEVICE_PRESET
from apq_tune.cli.fleet import command_line, device_options, host_options, out_folder
from apq_tune.cli.options import EVALUATIONS, SEED
from apq_tune.cli.values import Place

if TYPE_CHECKING:
    from apq_tune.hosts.executor import Kind


@click.command()
@click.argument("run", type=Place())
@CONSTRAINTS
@BUDGETS
@click.option(
    "--budgets",
    "sweeps",
    multiple=True,
    metavar="METRIC=NUMBER,NUMBER",
    help="Limits to answer one by one, such as 'flash=100kB,150kB,200kB'; given for several costs, every combination. "
    "Repeatable.",
)
@DEVICE_PRESET
@TABLES
@EVALUATIONS
@SEED
@click.option("--finetune", is_flag=True, help="Train the answers by QAT, as the run trains its finalists.")
@out_folder("RUN/solve")
@device_options
@host_options
def solve(
    run: Path,
    constraints: tuple[str, ...],
    budgets: tuple[str, ...],
    sweeps: tuple[str, ...],
    device_preset: str | None,
    tables: tuple[Path, ...],
    evaluations: int,
    seed: int,
    finetune: bool,
    out: Path | None,
    device: str,
    gpus_per_trial: float | None,
    num_cpus: int | None,
    executor: Kind | None,
    address: str | None,
) -> None:
    """Answer new limits from a finished RUN, in seconds.

    RUN is the directory of the run. Nothing is measured again: its predictors say which network has the least loss
    within the limits, and it is marked where they are asked outside of what they learned. With --finetune the networks
    are trained and measured.

    The limits are those of the run, unless --constraint, --budget or --budgets is given, and those of a
    --device-preset. A --table is read in addition to those of the run. A limit that no network can keep is named, and
    the others are answered.

    The directory gets answers.csv and answers.png and, with --finetune, the trained networks, which apq-tune export
    takes. Interrupt the command at any moment: trained networks are kept.
    """
    from rich.progress import Progress

    from apq_tune.pipeline.reading import read_run
    from apq_tune.pipeline.solve import solve as answer
    from apq_tune.pipeline.solved import SolvedFolder
    from apq_tune.problem.costs import Costs
    from apq_tune.report.screen import Screen
    from apq_tune.report.solved import write_solved
    from apq_tune.store.directory import kept_tables

    read = read_run(run, "predictors")
    console, out, texts = Screen(), out or run / "solve", constraints
    if constraints or budgets:
        strict = device_preset is None  # of the whole space the device runs a part
        costs = Costs.of(read.encoding, [*kept_tables(run), *tables], constraints, strict=strict)
        texts = all_constraints(costs, constraints, budgets)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("search", total=None)
        found = answer(
            run,
            texts,
            budgets=sweeps,
            tables=tables,
            device_preset=device_preset,
            n_evaluations=evaluations,
            seed=seed,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
        folder = SolvedFolder(out, found, tables=tables, command=command_line())
        if finetune:
            training = progress.add_task("finetune (QAT)", total=None)
            found = folder.finetune(
                device=device,
                gpus=gpus_per_trial,
                executor=executor,
                address=address,
                num_cpus=num_cpus,
                tell=lambda done, total: progress.update(training, completed=done, total=total),
            )
    alone = found.answers[0] if len(found.answers) == 1 else None
    weights = folder.weights(alone.name) if alone is not None and alone.scores else None
    write_solved(found, read.settings, out, console, weights)
