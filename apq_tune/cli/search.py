"""``apq-tune search`` and ``score``, which use a predictor and cost models and train nothing."""

from __future__ import annotations

from pathlib import Path

import click

from apq_tune.cli.costs import BUDGETS, CONSTRAINTS, DEVICE_COSTS, TABLES, checked_costs, tell_notes
from apq_tune.cli.devices import DEVICE_PRESET, narrowed, preset_of
from apq_tune.cli.fleet import out_file, out_folder
from apq_tune.cli.options import (
    EVALUATIONS,
    EXTRAPOLATE,
    FRONT,
    OBJECTIVE,
    PREDICTOR,
    SAMPLERS,
    SEED,
    SPACE,
    metric_names,
)
from apq_tune.cli.values import Place, number_option
from apq_tune.inputs import ranges


@click.command()
@SPACE
@PREDICTOR
@TABLES
@CONSTRAINTS
@BUDGETS
@DEVICE_PRESET
@OBJECTIVE
@FRONT
@click.option(
    "--sampler",
    type=click.Choice((*SAMPLERS, "milp")),
    help="Search algorithm.  [default: evolution for one objective, or milp where all metrics are sums over few genes; "
    "nsga2 for a front]",
)
@EVALUATIONS
@number_option(
    "--islands",
    ranges.COUNT,
    None,
    "Populations that evolve side by side.  [default: one for every 100,000 evaluations]",
)
@number_option(
    "--patience",
    ranges.EVALUATIONS,
    None,
    "Stop after this number of evaluations without a better front.  [default: never]",
)
@click.option(
    "--start",
    type=Place(),
    help="Candidates to evaluate first (.json, .jsonl or .csv).  [default: those with uniform bit-widths]",
)
@EXTRAPOLATE
@SEED
@out_folder("nothing is written")
def search(
    space: str,
    predictor: Path | None,
    tables: tuple[Path, ...],
    constraints: tuple[str, ...],
    budgets: tuple[str, ...],
    device_preset: str | None,
    objective: str | None,
    front: str | None,
    sampler: str | None,
    evaluations: int,
    islands: int | None,
    patience: int | None,
    start: Path | None,
    extrapolate: bool,
    seed: int,
    out: Path | None,
) -> None:
    """Search SPACE with a predictor, without training.

    SPACE is the name of a shipped search space, a YAML file, or a file of named choices. The result is the best
    candidate by --objective, or a Pareto front with --front. It keeps all limits.

    Where all metrics are sums over few genes, such as costs and tables of layers, --sampler milp solves the problem by
    integer programs: no other candidate is better.

    The directory gets front.json, front.csv and, for a front, front.png.
    """
    from rich.progress import Progress

    from apq_tune.errors import ProblemError
    from apq_tune.network.network import has_network
    from apq_tune.problem.costs import Costs
    from apq_tune.problem.device import limit_texts
    from apq_tune.problem.limits import as_texts
    from apq_tune.problem.metrics import all_metrics, load_metrics, problem_of, restrict_to_measured
    from apq_tune.report.screen import Screen
    from apq_tune.report.tables import print_front, save_front
    from apq_tune.searchers import ALGORITHMS, MILP
    from apq_tune.searchers import search as run_search
    from apq_tune.space.encodings import encoding_of
    from apq_tune.space.files import load_space
    from apq_tune.space.narrowing import candidates_run
    from apq_tune.space.notation import candidate_from, read_candidates
    from apq_tune.store.lock import own

    if objective is not None and front is not None:
        raise click.UsageError("give --objective or --front, not both")
    whole = load_space(space)
    preset = preset_of(device_preset, whole)
    encoding = encoding_of(narrowed(whole, preset))
    from_files = load_metrics(encoding, predictor, tables)
    wanted = metric_names(front, "--front") if front is not None else metric_names(objective, "--objective")
    metrics = all_metrics(encoding, from_files, [*wanted, *constraints])
    if budgets and not has_network(encoding.space):
        raise click.UsageError(
            f"--budget {budgets[0]}: {encoding.name} has no networks; give --constraint 'METRIC<=NUMBER'"
        )
    by_rule = [text for name in budgets for text in as_texts(Costs(encoding, metrics).budget(name))]
    inside, message = restrict_to_measured(encoding, predictor, extrapolate=extrapolate)
    problem = problem_of(inside, metrics, wanted, [*constraints, *by_rule, *limit_texts(preset)])
    tell_notes(limit.metric for limit in problem.constraints)
    algorithm = ALGORITHMS[sampler]() if sampler and sampler != MILP else sampler
    initial = None
    if start is not None:
        given = [candidate_from(entry, whole) for entry in read_candidates(start, whole)]
        if preset is not None and preset != getattr(whole, "device", None):
            given = candidates_run(preset, encoding.space, given)
        initial = inside.encode(given)
    console = Screen()
    if message:
        console.print(message)
    if out is not None:
        lock = own(out)
        save_front(None, out)  # refuse a folder that cannot be written before any work
    if objective is None and front is None and predictor is None:
        raise click.UsageError(
            "nothing says what to optimize: give --predictor, --objective such as macs, or --front such as macs,bit_ops"
        )
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("search", total=evaluations)
        try:
            found = run_search(
                problem,
                algorithm,
                n_evaluations=evaluations,
                seed=seed,
                initial=initial,
                islands=islands,
                patience=patience,
                progress=lambda done: progress.update(task, completed=done),
            )
        except ProblemError as error:
            also = "" if inside is encoding else ", or search outside of what was measured, with --extrapolate"
            raise ProblemError(f"{error}{also}") from None
    named = {
        metric.name for metric in (*(o.metric for o in problem.objectives), *(c.metric for c in problem.constraints))
    }
    print_front(found, [name for name in metrics if name in named or name in from_files], console)
    if out is not None:
        save_front(found, out)
        console.print(f"Files in {out}: front.json, front.csv" + (", front.png" if len(found.objectives) > 1 else ""))
        lock.release()


@click.command()
@SPACE
@PREDICTOR
@TABLES
@DEVICE_COSTS
@DEVICE_PRESET
@click.option("--candidates", type=Place(), required=True, help="Candidates to score (.json, .jsonl or .csv).")
@click.option("--skip-invalid", is_flag=True, help="Skip candidates that are not in SPACE, and say why.")
@out_file(".csv", ".json")
def score(
    space: str,
    predictor: Path | None,
    tables: tuple[Path, ...],
    device_costs: tuple[str, ...],
    device_preset: str | None,
    candidates: Path,
    skip_invalid: bool,
    out: Path,
) -> None:
    """Compute every metric of given candidates of SPACE.

    SPACE is the name of a shipped search space, a YAML file, or a file of named choices. Candidates may be in the
    notation of apq-tune or of the published programs. With --device-preset, one that the device does not run or has no
    memory for is refused, or skipped with --skip-invalid.
    """
    from apq_tune.problem.metrics import all_metrics, load_metrics, score_candidates
    from apq_tune.report.tables import write_frame
    from apq_tune.space.encodings import encoding_of
    from apq_tune.space.files import load_space
    from apq_tune.space.notation import read_candidates

    asked = checked_costs(device_costs)
    loaded = load_space(space)
    encoding = encoding_of(narrowed(loaded, preset_of(device_preset)))
    metrics = all_metrics(encoding, load_metrics(encoding, predictor, tables), asked)
    entries = read_candidates(candidates, loaded)
    frame, refused = score_candidates(encoding, metrics, entries, skip_invalid=skip_invalid)
    for line in refused:
        click.echo(f"skipped: {line}", err=True)
    write_frame(frame, out)
    click.echo(f"{len(frame)} candidates scored, {len(refused)} skipped: {out}")
