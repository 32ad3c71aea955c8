"""``apq-tune joint-vs-staged``, and what it shares with ``apq-tune run --method``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from apq_tune.cli.costs import BUDGET_NAMES, BUDGETS, CONSTRAINTS, TABLES, tell_notes
from apq_tune.cli.devices import DEVICE_PRESET, narrowed, preset_of
from apq_tune.cli.fleet import command_line, device_options, host_options, out_folder, progress_bar
from apq_tune.cli.options import DATA_ROOT, SEEDS, SETTINGS, assigned, data_option, once
from apq_tune.cli.own_model import ModelChoice, model_options
from apq_tune.cli.values import number_option
from apq_tune.inputs import ranges

if TYPE_CHECKING:
    from apq_tune.hosts.executor import Kind
    from apq_tune.pipeline.opened_model import OpenedModel
    from apq_tune.problem.costs import Costs
    from apq_tune.space.network_space import NetworkSpace
    from apq_tune.studies.fleet import Fleet
    from apq_tune.studies.versus import Spend, VersusTask
    from apq_tune.supernet.device import Device

NAMES = (
    "joint",
    "joint-levels",
    "staged",
    "staged-haq",
    "amc-haq",
    "staged-bits-first",
    "sensitivity",
    "hawq",
    "size-rank",
    "uniform",
    "uniform-8",
    "uniform-4",
    "uniform-wa",
    "proxyless",
    "fbnet",
    "proxyless-amc-haq",
    "random",
    "magnitude",
    "paper",
    "predictor",
    "refined",
)
OWN = "constraints"
"""Name of the budget of the user's own constraints."""

Command = TypeVar("Command", bound=Callable[..., Any])


def spend_options(command: Command) -> Command:
    """Add the options of the spend of every method."""
    for option in (
        number_option(
            "--images", ranges.IMAGES, 2000, "Images on which candidates are first evaluated in the supernet."
        ),
        number_option(
            "--repeats", ranges.ROUNDS, 3, "Trainings of the chosen network, whose test scores are averaged."
        ),
        number_option("--final-steps", ranges.STEPS, 180, "Steps of the longest QAT, by which the network is chosen."),
        number_option("--short-steps", ranges.STEPS, 20, "Steps of the shortest QAT."),
        number_option("--short", ranges.SHORT, 24, "Candidates that each method trains with the shortest QAT."),
        number_option("--proxy", ranges.PROXY, 300, "Candidates that each method evaluates in the supernet."),
    ):
        command = option(command)
    return command


@click.command("joint-vs-staged")
@click.argument("target", metavar="SPACE|RUN", required=False)
@data_option("the data set of SPACE")
@model_options
@click.option(
    "--method",
    "methods",
    multiple=True,
    type=click.Choice(NAMES),
    callback=once,
    help="Search method, as joint-vs-staged compares them at equal spend. Repeatable.  [default: all]",
)
@BUDGETS
@CONSTRAINTS
@DEVICE_PRESET
@TABLES
@SEEDS
@number_option("--first-seed", ranges.SEED, 0, "First of the seeds; the others follow it.")
@SETTINGS
@DATA_ROOT
@spend_options
@out_folder()
@device_options
@host_options
def joint_vs_staged(
    target: str | None,
    data: str | None,
    source: str | None,
    weights: Path | None,
    shape: str | None,
    keep: tuple[str, ...],
    choices: Path | None,
    mean: str | None,
    std: str | None,
    methods: tuple[str, ...],
    budgets: tuple[str, ...],
    constraints: tuple[str, ...],
    device_preset: str | None,
    tables: tuple[Path, ...],
    seeds: int,
    first_seed: int,
    assignments: tuple[str, ...],
    data_root: Path | None,
    out: Path,
    device: str,
    gpus_per_trial: float | None,
    num_cpus: int | None,
    executor: Kind | None,
    address: str | None,
    **spend: int,
) -> None:
    """Compare joint search with staged search at equal spend.

    Further methods are searches with uniform bit-widths, random search, and the literal protocol of Wang 2020.

    SPACE is the name of a shipped search space or a YAML file: two supernets are trained for every seed. RUN is the
    directory of a finished run: its supernets are taken, with their one seed. With --model and --data the space is that
    of a trained network of your own, whose weights every seed begins with.

    Every method searches under every --budget and, if there is any --constraint, under all constraints together.
    Without either, all budgets are taken. Flash and RAM of a --device-preset are limits beside all of them, and alone
    if there are no others.

    Interrupt the command at any moment: the same command goes on where it stopped. Seeds, methods and budgets may be
    added to it.
    """
    from apq_tune.data import taken
    from apq_tune.pipeline.finished import load_supernets
    from apq_tune.pipeline.settings import RunSettings
    from apq_tune.problem.costs import Costs
    from apq_tune.problem.device import limit_texts
    from apq_tune.report.versus import write_versus
    from apq_tune.space.encodings import encoding_of
    from apq_tune.store.directory import kept_tables
    from apq_tune.studies import versus
    from apq_tune.supernet.device import device_of

    own_model = ModelChoice(source, weights, shape, keep, choices, mean, std)
    target = _checked_target(target, own_model, data)
    checked, where = versus.Spend.checked(**spend), device_of(device)
    chosen = list(methods or NAMES)
    preset = preset_of(device_preset)
    changes = assigned(assignments)
    is_run = target != "" and (Path(target) / "run.json").exists()
    given = [name for name in ("assignments", "seeds", "first_seed", "data_root") if _is_given(name)]
    if is_run and given:
        raise click.UsageError("--set, --seeds, --first-seed and --data-root go with a SPACE; a RUN has its own")
    if "seed" in changes:
        raise click.UsageError("--set seed: the seeds of a comparison are chosen by --first-seed and --seeds")
    space: NetworkSpace
    opened: OpenedModel | None = None
    if is_run:
        trained = load_supernets(target)
        space, settings = trained.space, trained.settings
        runs = {settings.seed: Path(target).absolute()}
    else:
        space, opened = _space_of(target, own_model, data)
        preset = preset_of(device_preset, space)
        space = narrowed(space, preset)
        settings = RunSettings().updated(changes)
        folder = out.absolute() / "runs"
        runs = {seed: versus.run_path(folder, seed) for seed in seeds_from(first_seed, seeds)}
    all_tables = [*(kept_tables(Path(target)) if is_run else []), *tables]
    costs = Costs.of(encoding_of(narrowed(space, preset)), all_tables, constraints)
    memory = limit_texts(preset)
    named = budgets or (() if constraints or memory else BUDGET_NAMES)
    targets = limits_of(costs, named, constraints, memory)
    possible = possible_methods(chosen, costs, targets)
    own = {OWN: targets.get(OWN, [])}
    basis = basis_of(costs, all_tables, checked, own, settings.model_dump(mode="json", exclude={"seed"}))
    basis |= {"run": str(Path(target).absolute()) if is_run else None}
    basis |= {} if opened is None else {"weights": opened.digest}
    fleet = fleet_of(out, "joint-vs-staged", basis, executor=executor, address=address, num_cpus=num_cpus)
    if not is_run:
        for line in (*taken(space), *(() if opened is None else (opened.line,))):
            screen().print(line, markup=False, soft_wrap=True)
        items = {f"supernets-{seed:03d}": seed for seed in runs}
        with progress_bar(screen(), "supernets") as on_done:
            fleet.run(
                versus.train_run,
                versus.SupernetTrainings(
                    space, changes, folder, data_root, where, None if opened is None else opened.weights
                ),
                items,
                on_done,
                where,
                gpus_per_trial,
            )
    tasks = [versus.VersusTask(name, budget, seed) for seed in runs for budget in targets for name in possible[budget]]
    results = search_all(fleet, tasks, runs, targets, checked, costs, where, gpus=gpus_per_trial)
    write_versus(tasks, results, targets, costs, out, screen())


def _checked_target(target: str | None, own: ModelChoice, data: str | None) -> str:
    """The argument, empty with a model of the user.

    Raises:
        click.UsageError: If there is neither, or an option that goes with the other one.
    """
    own.check(target, data)
    if own.source is None:
        if target is None:
            raise click.UsageError("neither SPACE, RUN nor --model; write a search space such as digits")
        for option, value in (("--data", data), ("--weights", own.weights)):
            if value is not None:
                raise click.UsageError(f"{option} goes with --model; add that, or leave it out")
    return target or ""


def _space_of(target: str, own: ModelChoice, data: str | None) -> tuple[NetworkSpace, OpenedModel | None]:
    """The search space, and the model of the user if there is one."""
    from apq_tune.space.files import load_network_space

    if own.source is None:
        return load_network_space(target), None
    opened = own.open(str(data))
    return opened.space, opened


def possible_methods(methods: Sequence[str], costs: Costs, limits: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Methods that can search under each budget, by its name; the others are named on the terminal with the reason.

    Raises:
        ProblemError: If there is none under any budget.
    """
    from apq_tune.errors import ProblemError
    from apq_tune.methods.registry import why_impossible

    found: dict[str, list[str]] = {}
    left_out: dict[tuple[str, str], list[str]] = {}  # budgets by method and reason
    for budget, texts in limits.items():
        reasons = {name: why_impossible(name, costs.encoding, costs.limits(texts)) for name in methods}
        found[budget] = [name for name, reason in reasons.items() if reason is None]
        for name, why in reasons.items():
            if why is not None:
                left_out.setdefault((name, why), []).append(budget)
    lines = [f"{name} is left out under {', '.join(under)}: {why}" for (name, why), under in left_out.items()]
    if lines and not any(found.values()):
        raise ProblemError(lines[0])
    for line in lines:
        screen().print(line, markup=False, soft_wrap=True)
    return found


def seeds_from(first: int, n: int) -> range:
    """Consecutive seeds.

    Raises:
        click.UsageError: If the last is none any more.
    """
    if first + n - 1 > ranges.SEED.high:
        raise click.UsageError(f"--first-seed {first} --seeds {n}: the largest seed is {ranges.SEED.high}")
    return range(first, first + n)


def _is_given(name: str) -> bool:
    """Whether the command line has the parameter."""
    return click.get_current_context().get_parameter_source(name) is not ParameterSource.DEFAULT


def limits_of(
    costs: Costs, budgets: Sequence[str], constraints: Sequence[str], memory: Sequence[str] = ()
) -> dict[str, list[str]]:
    """Limits of budgets as text, by name, the user's own constraints last; remarks on them are printed.

    Args:
        costs: Costs of the search space.
        budgets: Names of budgets.
        constraints: Constraints of the user.
        memory: Limits of the memory of a device, which hold beside all others.
    """
    from apq_tune.problem.limits import as_texts

    limits = {name: costs.budget(name) for name in budgets}
    limits |= {OWN: costs.limits(constraints)} if constraints or (memory and not budgets) else {}
    tell_notes(limit.metric for own in limits.values() for limit in own)
    return {name: as_texts(costs.limits([*as_texts(own), *memory]) if memory else own) for name, own in limits.items()}


def basis_of(
    costs: Costs, tables: list[Path], spend: Spend, limits: Mapping[str, list[str]], settings: Any
) -> dict[str, Any]:
    """Plain data that the results of tasks depend on, beside their method, budget and seed."""
    from apq_tune.store.folder import digest

    space = costs.encoding.space.to_record()
    basis = {"space": space, "settings": settings, "spend": spend.model_dump(), "limits": dict(limits)}
    return basis | ({"tables": [digest(table) for table in tables]} if tables else {})


def fleet_of(out: Path, kind: str, basis: Mapping[str, Any], **options: Any) -> Fleet:
    """Open or create a folder of searches; ``Fleet`` has the arguments."""
    from apq_tune.studies.fleet import Fleet

    return Fleet(out, kind, basis, command=command_line(), **options)


def search_all(
    fleet: Fleet,
    tasks: list[VersusTask],
    runs: Mapping[int, Path],
    limits: Mapping[str, list[str]],
    spend: Spend,
    costs: Costs,
    device: Device,
    *,
    gpus: float | None = None,
    keep: bool = False,
) -> dict[str, Any]:
    """Run the searches that are not done yet.

    Args:
        fleet: Folder of the searches.
        tasks: The searches.
        runs: Directory of the run whose supernets are searched, by seed.
        limits: Limits of each budget as text, by name.
        spend: What each search may spend.
        costs: Metrics that may be limited.
        device: Where networks are trained and measured.
        gpus: GPUs of each trial; ``None`` shares all of them among the trials at work.
        keep: Whether each result is that of a run, with baselines and the weights of the best network.

    Returns:
        Results of the tasks by key.
    """
    from apq_tune.studies.versus import VersusShared, run_task

    shared = VersusShared(dict(runs), dict(limits), spend, fleet.checkpoints, costs, device, keep)
    with progress_bar(screen(), "searches") as on_done:
        return fleet.run(run_task, shared, {task.key: task for task in tasks}, on_done, device, gpus)


def screen() -> Any:
    """The terminal."""
    from apq_tune.report.screen import Screen

    return Screen()
