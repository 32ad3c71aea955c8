"""``apq-tune compare``: samplers of this package, of Optuna, and random search on one problem, over seeds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from apq_tune.cli.costs import CONSTRAINTS, TABLES, tell_notes
from apq_tune.cli.devices import DEVICE_PRESET, narrowed, preset_of
from apq_tune.cli.fleet import command_line, host_options, out_folder, progress_bar
from apq_tune.cli.options import FRONT, PREDICTOR, SEEDS, metric_names, samplers_option
from apq_tune.cli.values import Number, Place
from apq_tune.inputs import ranges

if TYPE_CHECKING:
    from apq_tune.hosts.executor import Kind
    from apq_tune.problem.lookup import Missing

SAMPLERS = (
    "model",
    "nsga2",
    "evolution",
    "random",
    "ddpg",
    "milp",
    "optuna-nsga2",
    "optuna-tpe",
    "optuna-gp",
    "optuna-nsga3",
    "optuna-random",
)


@click.command()
@click.argument("space", required=False)
@PREDICTOR
@TABLES
@CONSTRAINTS
@DEVICE_PRESET
@FRONT
@click.option(
    "--lookup",
    type=Place(),
    help="CSV file with a row for every candidate, instead of SPACE; columns that are not objectives are choices.",
)
@click.option("--maximize", multiple=True, metavar="COLUMN", help="Column of --lookup to maximize. Repeatable.")
@click.option("--minimize", multiple=True, metavar="COLUMN", help="Column of --lookup to minimize. Repeatable.")
@click.option(
    "--choice",
    "choices",
    multiple=True,
    metavar="COLUMN",
    help="Column of --lookup that is a choice, if not all of them are. Repeatable.",
)
@click.option(
    "--ignore",
    multiple=True,
    metavar="COLUMN",
    help="Column of --lookup that is neither choice nor metric. Repeatable.",
)
@click.option(
    "--missing",
    type=click.Choice(["nearest", "gp", "ridge"]),
    help="Model that fills in combinations of choices that --lookup lacks.  [default: none may be missing]",
)
@samplers_option(SAMPLERS, "all; milp where all metrics are sums over few genes")
@click.option(
    "--at",
    metavar="NUMBER,NUMBER",
    default="200,1000",
    show_default=True,
    help="Numbers of distinct candidates at which samplers are compared; the last one is the budget of each search.",
)
@click.option(
    "--cap",
    "caps",
    multiple=True,
    metavar="SAMPLER=NUMBER",
    help="Number of candidates after which a sampler stops; its curve ends there. Repeatable.  [default: "
    "optuna-gp=100, ddpg=400]",
)
@SEEDS
@out_folder()
@host_options
def compare(
    space: str | None,
    predictor: Path | None,
    tables: tuple[Path, ...],
    constraints: tuple[str, ...],
    device_preset: str | None,
    front: str | None,
    lookup: Path | None,
    maximize: tuple[str, ...],
    minimize: tuple[str, ...],
    choices: tuple[str, ...],
    ignore: tuple[str, ...],
    missing: Missing | None,
    samplers: tuple[str, ...],
    at: str,
    caps: tuple[str, ...],
    seeds: int,
    out: Path,
    num_cpus: int | None,
    executor: Kind | None,
    address: str | None,
) -> None:
    """Compare samplers by the fronts that they find.

    The problem is SPACE (the name of a shipped search space, a YAML file, or a file of named choices with a --table of
    genes) with --front, or a table of measured candidates, --lookup, with --maximize and --minimize. All objectives are
    black boxes to all samplers but milp, which solves problems whose metrics are sums over few genes exactly. Fronts
    are compared by hypervolume, and the best sampler for each number of evaluations is named in the end.

    Interrupt the command at any moment: the same command goes on where it stopped.
    """
    if (lookup is None) == (space is None):
        raise click.UsageError("give SPACE, with --front, or --lookup, with --maximize and --minimize")
    if lookup is None and front is None:
        raise click.UsageError("SPACE needs --front, such as --front accuracy,latency_ms")
    of_lookup = (maximize, minimize, choices, ignore, missing)
    unused = (predictor, tables, front, device_preset) if lookup is not None else of_lookup
    if any(value not in (None, ()) for value in unused):
        raise click.UsageError(
            "--lookup goes with --maximize, --minimize, --choice, --ignore and --missing; --predictor, --table, "
            "--front and --device-preset with SPACE"
        )
    if seeds < ranges.COMPARED_SEEDS.low:
        raise click.UsageError(f"--seeds {seeds}: a comparison needs {ranges.COMPARED_SEEDS.low} or more")
    count = Number(ranges.EVALUATIONS)
    try:
        counts = sorted({count.convert(part.strip(), None, None) for part in at.split(",")})
    except click.BadParameter as error:
        raise click.UsageError(f"--at {at!r}: {error.message}; write such as 200,1000") from None
    ends = _caps(caps, SAMPLERS)

    from apq_tune.problem.device import limit_texts
    from apq_tune.problem.lookup import describe_estimates, load_lookup
    from apq_tune.problem.metrics import all_metrics, load_metrics, problem_of
    from apq_tune.report.compare import write_comparison
    from apq_tune.report.screen import Screen
    from apq_tune.searchers import MILP
    from apq_tune.searchers.additive import additive_metrics
    from apq_tune.space.encodings import encoding_of
    from apq_tune.space.files import load_space
    from apq_tune.store.folder import digest
    from apq_tune.studies import compare as plan
    from apq_tune.studies.fleet import Fleet

    loaded = None
    if lookup is not None:
        problem = load_lookup(
            lookup, maximize, minimize, constraints=constraints, choices=list(choices), ignore=ignore, missing=missing
        )
    else:
        loaded = load_space(str(space))
        preset = preset_of(device_preset, loaded)
        loaded = narrowed(loaded, preset)
        encoding = encoding_of(loaded)
        wanted = metric_names(front, "--front")
        metrics = all_metrics(encoding, load_metrics(encoding, predictor, tables), [*wanted, *constraints])
        problem = problem_of(encoding, metrics, wanted, [*constraints, *limit_texts(preset)])
        tell_notes(limit.metric for limit in problem.constraints)
    why = additive_metrics(problem)[1]
    if why and MILP in samplers:
        raise click.UsageError(f"--sampler milp: {why}")
    chosen = list(samplers or (name for name in SAMPLERS if name != MILP or not why))
    basis = {
        "space": loaded.to_record() if loaded is not None else None,
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
    if message := describe_estimates(problem):
        basis |= {"missing": missing}
    if choices or ignore:
        basis |= {"choices": list(problem.encoding.space.choices)}
    fleet = Fleet(
        out, "comparison", basis, command=command_line(), executor=executor, address=address, num_cpus=num_cpus
    )
    contest = plan.Contest(problem, counts[-1], {**plan.CAPS, **ends})
    entries = [plan.CompareTask(sampler, seed) for sampler in chosen for seed in range(seeds)]
    console = Screen()
    with progress_bar(console, "searches") as on_done:
        results = fleet.run(plan.run_entry, contest, {entry.key: entry for entry in entries}, on_done)
    if message:
        console.print(message)
    write_comparison(contest, entries, results, counts, out, console)


def _caps(given: tuple[str, ...], known: tuple[str, ...]) -> dict[str, int]:
    """Parse ``SAMPLER=NUMBER`` into numbers by sampler."""
    caps = {}
    for text in given:
        name, _, number = text.partition("=")
        if name not in known or not number.isdecimal() or int(number) < 1:
            raise click.UsageError(f"--cap {text!r}: give SAMPLER=NUMBER, such as optuna-gp=100; {', '.join(known)}")
        caps[name] = int(number)
    return caps
