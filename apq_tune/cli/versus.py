"""``apq-tune baseline`` and ``apq-tune joint-vs-staged``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from apq_tune.cli.costs import BUDGETS, LIMITS, TABLES
from apq_tune.cli.fleet import fleet_options, names, progress_bar
from apq_tune.cli.run import device_option
from apq_tune.cli.values import Number, Place
from apq_tune.inputs import ranges

if TYPE_CHECKING:
    from apq_tune.problem.costs import Costs
    from apq_tune.studies.fleet import Fleet
    from apq_tune.studies.versus import Spend, VersusTask
    from apq_tune.supernet.metrics import Device

NAMES = ("joint", "staged", "staged-haq", "uniform", "uniform-wa", "random", "paper")
OWN = "constraints"
"""Name of the budget that the user's own constraints are."""

Command = TypeVar("Command", bound=Callable[..., Any])


def spend_options(command: Command) -> Command:
    """Add what every method may spend."""
    for option in (
        click.option(
            "--images",
            type=Number(ranges.IMAGES),
            default=2000,
            show_default=True,
            help="Search images of the first looks.",
        ),
        click.option(
            "--repeats",
            type=Number(ranges.ROUNDS),
            default=3,
            show_default=True,
            help="Trainings of the winner, for its test.",
        ),
        click.option(
            "--final-steps", type=Number(ranges.STEPS), default=180, show_default=True, help="Of the QAT that decides."
        ),
        click.option(
            "--short-steps", type=Number(ranges.STEPS), default=20, show_default=True, help="Of each short QAT."
        ),
        click.option(
            "--short", type=Number(ranges.SHORT), default=24, show_default=True, help="Short QAT runs of each method."
        ),
        click.option(
            "--proxy",
            type=Number(ranges.PROXY),
            default=300,
            show_default=True,
            help="Supernet evaluations of each method.",
        ),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("run", type=Place())
@click.option("--method", type=click.Choice(NAMES), required=True)
@LIMITS
@click.option("--budget", type=click.Choice(BUDGETS), help="Instead of constraints: limits by a rule.")
@TABLES
@click.option("--seed", type=Number(ranges.SEED), help="[default: that of the run]")
@spend_options
@device_option
@fleet_options
def baseline(
    run: Path,
    method: str,
    limits: tuple[str, ...],
    budget: str | None,
    tables: tuple[Path, ...],
    seed: int | None,
    device: str,
    out: Path,
    resume: bool,
    address: str | None,
    num_cpus: int | None,
    **spend: int,
) -> None:
    """Search with one method on the supernets of the directory RUN of a run.

    uniform: best architecture and channels at one width; uniform-wa: at one for weights and one for activations;
    staged: architecture, then channels, then one width per layer; staged-haq: then one for weights and one for
    activations; random: best of as many; paper: the literal protocol, without a quantized supernet; joint: ours.
    """
    from apq_tune.pipeline.finished import load_supernets
    from apq_tune.problem.costs import Costs
    from apq_tune.space.network_encoding import NetworkEncoding
    from apq_tune.store.directory import kept_tables
    from apq_tune.studies.versus import Spend, VersusTask
    from apq_tune.supernet.metrics import device_of

    if bool(limits) == (budget is not None):
        raise click.UsageError("give --constraint, once or more, or --budget")
    checked, where = Spend.checked(**spend), device_of(device)
    trained = load_supernets(run)
    all_tables = [*kept_tables(run), *tables]
    costs = Costs.of(NetworkEncoding(trained.space), all_tables)
    targets = limits_of(costs, [budget] if budget is not None else [], limits)
    task = VersusTask(method, budget or OWN, trained.settings.seed if seed is None else seed)
    basis = _basis(costs, all_tables, checked, targets, trained.settings.model_dump(mode="json"))
    basis |= {"run": str(run.absolute())}
    fleet = _fleet(out, "baseline", basis, resume=resume, address=address, num_cpus=num_cpus)
    results = _finish(fleet, [task], {task.seed: run.absolute()}, targets, checked, costs, where, out, keep=True)

    from apq_tune.report.baseline import write_baseline

    constraints = tuple(costs.limits(targets[task.budget]))
    write_baseline(task, results, constraints, fleet.weights(task.key), checked, out, _console())


@click.command("joint-vs-staged")
@click.argument("target", metavar="SPACE|RUN")
@click.option("--methods", default=",".join(NAMES), show_default=True)
@click.option("--budgets", default=",".join(BUDGETS), show_default=True, help="Limits by a rule; '' for none of them.")
@LIMITS
@TABLES
@click.option("--seeds", type=Number(ranges.SEEDS), help="How many, of a SPACE.  [default: 5]")
@click.option("--first-seed", type=Number(ranges.SEED), help="Of a SPACE.  [default: 0]")
@click.option("--set", "assignments", multiple=True, metavar="NAME=VALUE", help="A setting of each seed's run.")
@click.option("--data-root", type=Place(), help="Folder with the files of data sets, of a SPACE.")
@spend_options
@device_option
@fleet_options
def joint_vs_staged(
    target: str,
    methods: str,
    budgets: str,
    limits: tuple[str, ...],
    tables: tuple[Path, ...],
    seeds: int | None,
    first_seed: int | None,
    assignments: tuple[str, ...],
    data_root: Path | None,
    device: str,
    out: Path,
    resume: bool,
    address: str | None,
    num_cpus: int | None,
    **spend: int,
) -> None:
    """Compare joint search with staged search and other rivals, each with the same budget.

    Of a SPACE the supernets of every seed are trained first; a RUN gives its own, and one seed. Then every method
    searches under every budget. More seeds, methods or named budgets can be added later with
    --resume.
    """
    from apq_tune.cli.run import assigned
    from apq_tune.data import taken
    from apq_tune.pipeline.finished import load_supernets
    from apq_tune.pipeline.settings import RunSettings
    from apq_tune.problem.costs import Costs
    from apq_tune.space.network_encoding import NetworkEncoding
    from apq_tune.space.search_space import SearchSpace
    from apq_tune.store.directory import kept_tables
    from apq_tune.studies import versus
    from apq_tune.supernet.metrics import device_of

    checked, where = versus.Spend.checked(**spend), device_of(device)
    chosen = names(methods, NAMES, "--methods")
    named = names(budgets, BUDGETS, "--budgets") if budgets else []
    if not named and not limits:
        raise click.UsageError("give --budgets or --constraint")
    changes = assigned(assignments)
    is_run = (Path(target) / "run.json").exists()
    if is_run and (changes or seeds is not None or first_seed is not None or data_root):
        raise click.UsageError("a RUN has its own; --set, --seeds, --first-seed and --data-root go with a SPACE")
    if "seed" in changes:
        raise click.UsageError("--set seed: the seeds of a comparison are said by --first-seed and --seeds")
    if is_run:
        trained = load_supernets(target)
        space, settings = trained.space, trained.settings
        runs = {settings.seed: Path(target).absolute()}
    else:
        space, settings = SearchSpace.load_network(target), RunSettings().updated(changes)
        folder = out.absolute() / "runs"
        runs = {
            seed: versus.run_path(folder, seed) for seed in seeds_from(first_seed or 0, 5 if seeds is None else seeds)
        }
    all_tables = [*(kept_tables(Path(target)) if is_run else []), *tables]
    costs = Costs.of(NetworkEncoding(space), all_tables)
    targets = limits_of(costs, named, limits)
    own = {OWN: targets.get(OWN, [])}
    basis = _basis(costs, all_tables, checked, own, settings.model_dump(mode="json", exclude={"seed"}))
    basis |= {"run": str(Path(target).absolute()) if is_run else None}
    fleet = _fleet(out, "joint-vs-staged", basis, resume=resume, address=address, num_cpus=num_cpus)
    if not is_run:
        for line in taken(space):
            _console().print(line, markup=False, soft_wrap=True)
        items = {f"supernets-{seed:03d}": seed for seed in runs}
        with progress_bar(_console(), "supernets") as on_done:
            fleet.run(
                versus.train_run,
                versus.SupernetTrainings(space, changes, folder, data_root, where),
                items,
                on_done,
                where,
            )
    tasks = [versus.VersusTask(method, budget, seed) for seed in runs for budget in targets for method in chosen]
    _finish(fleet, tasks, runs, targets, checked, costs, where, out)


def seeds_from(first: int, n: int) -> range:
    """Consecutive seeds.

    Raises:
        click.UsageError: if the last is none any more.
    """
    if first + n - 1 > ranges.SEED.high:
        raise click.UsageError(f"--first-seed {first} --seeds {n}: the largest seed is {ranges.SEED.high}")
    return range(first, first + n)


def limits_of(costs: Costs, budgets: list[str], limits: tuple[str, ...]) -> dict[str, list[str]]:
    """Budget -> limits as text, those of the user's own last."""
    from apq_tune.problem.costs import as_texts

    return {name: as_texts(costs.budget(name)) for name in budgets} | (
        {OWN: as_texts(costs.limits(limits))} if limits else {}
    )


def _basis(
    costs: Costs, tables: list[Path], spend: Spend, limits: Mapping[str, list[str]], settings: Any
) -> dict[str, Any]:
    """All that a task's result depends on beside its key, which names method, budget and seed."""
    from apq_tune.store.directory import digest

    space = costs.encoding.space.model_dump(mode="json")
    basis = {"space": space, "settings": settings, "spend": spend.model_dump(), "limits": dict(limits)}
    return basis | ({"tables": [digest(table) for table in tables]} if tables else {})


def _fleet(out: Path, kind: str, basis: Mapping[str, Any], **options: Any) -> Fleet:
    from apq_tune.studies.fleet import Fleet

    return Fleet(out, kind, basis, command=shlex.join(["apq-tune", *sys.argv[1:]]), **options)


def _finish(
    fleet: Fleet,
    tasks: list[VersusTask],
    runs: Mapping[int, Path],
    limits: Mapping[str, list[str]],
    spend: Spend,
    costs: Costs,
    device: Device,
    out: Path,
    *,
    keep: bool = False,
) -> dict[str, Any]:
    from apq_tune.report.versus import write_versus
    from apq_tune.studies.versus import VersusShared, run_task

    console = _console()
    shared = VersusShared(dict(runs), dict(limits), spend, fleet.checkpoints, costs, device, keep)
    with progress_bar(console, "searches") as on_done:
        results = fleet.run(run_task, shared, {task.key: task for task in tasks}, on_done, device)
    write_versus(tasks, results, limits, out, console)
    return results


def _console() -> Any:
    from apq_tune.report.screen import Screen

    return Screen()
