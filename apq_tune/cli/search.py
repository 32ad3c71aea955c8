"""``apq-tune search`` and ``score``: answers from a predictor and cost tables, without training anything."""

from __future__ import annotations

from pathlib import Path

import click

from apq_tune.cli.costs import BUDGET, LIMITS, TABLES
from apq_tune.cli.values import Number, Place
from apq_tune.inputs import ranges


def metric_names(text: str | None, option: str) -> list[str]:
    """The metrics that an option names; none if it is not given.

    Raises:
        click.UsageError: if a name is empty or comes twice.
    """
    names = [] if text is None else [part.strip() for part in text.split(",")]
    if "" in names:
        raise click.UsageError(f"{option} {text!r}: a name is empty; give names of metrics, such as macs,bit_ops")
    if len(set(names)) < len(names):
        raise click.UsageError(f"{option} {text!r}: a metric comes twice; give each once")
    if option == "--objective" and len(names) > 1:
        raise click.UsageError(f"--objective {text!r} names several metrics; trade them off with --front")
    return names


SPACE = click.option(
    "--space",
    "space_name",
    required=True,
    help="Name of a shipped space, a YAML file, or a file of named choices.",
)
EXTRAPOLATE = click.option(
    "--extrapolate", is_flag=True, help="Search outside of what the predictor's pairs measured, too."
)
PREDICTOR = click.option(
    "--predictor", type=Place(), help="Ours (.npz), or a published APQ or once-for-all checkpoint."
)


@click.command()
@SPACE
@PREDICTOR
@TABLES
@LIMITS
@BUDGET
@click.option("--objective", help="Metric to improve.  [default: the predictor's]")
@click.option(
    "--front", "axes", metavar="METRIC,METRIC", help="Trade metrics off instead, such as latency_ms,accuracy."
)
@click.option("--sampler", type=click.Choice(["evolution", "nsga2", "random"]), help="[default: what fits]")
@click.option("--evaluations", type=Number(ranges.EVALUATIONS), default=20_000, show_default=True)
@click.option(
    "--islands",
    type=Number(ranges.COUNT),
    help="Populations that evolve side by side.  [default: one for every 100,000 evaluations]",
)
@click.option(
    "--patience", type=Number(ranges.EVALUATIONS), help="Stop when so many evaluations left the front unchanged."
)
@click.option(
    "--start",
    type=Place(),
    help="Candidates to evaluate first (.json, .jsonl or .csv).  [default: uniform bit-widths]",
)
@EXTRAPOLATE
@click.option("--seed", type=Number(ranges.SEED), default=0, show_default=True)
@click.option("--out", type=Place(), help="Folder for front.json, front.csv and front.png.")
def search(
    space_name: str,
    predictor: Path | None,
    tables: tuple[Path, ...],
    limits: tuple[str, ...],
    budget: str | None,
    objective: str | None,
    axes: str | None,
    sampler: str | None,
    evaluations: int,
    islands: int | None,
    patience: int | None,
    start: Path | None,
    extrapolate: bool,
    seed: int,
    out: Path | None,
) -> None:
    """Find the best candidate under limits, or a front, with a predictor and cost models."""
    from rich.progress import Progress

    from apq_tune.errors import ProblemError
    from apq_tune.problem.costs import Costs, as_texts
    from apq_tune.problem.metrics import all_metrics, load_metrics, problem_of, stay_measured
    from apq_tune.report.screen import Screen
    from apq_tune.report.tables import print_front, save_front
    from apq_tune.searchers import ALGORITHMS
    from apq_tune.searchers import search as run_search
    from apq_tune.space.choices import ChoiceEncoding
    from apq_tune.space.network_encoding import encoding_of
    from apq_tune.space.notation import candidate_from, read_candidates
    from apq_tune.space.search_space import SearchSpace
    from apq_tune.store.lock import own

    if objective is not None and axes is not None:
        raise click.UsageError("give --objective or --front, not both")
    encoding = encoding_of(SearchSpace.load(space_name))
    from_files = load_metrics(encoding, predictor, tables)
    metrics = all_metrics(encoding, from_files)
    if budget and isinstance(encoding, ChoiceEncoding):
        raise click.UsageError(f"--budget {budget}: {encoding.name} has no networks; give --limit METRIC=NUMBER")
    wanted = metric_names(axes, "--front") if axes is not None else metric_names(objective, "--objective")
    by_rule = as_texts(Costs(encoding, metrics).budget(budget)) if budget else []
    inside, told = stay_measured(encoding, predictor, extrapolate=extrapolate)
    problem = problem_of(inside, metrics, wanted, [*limits, *by_rule])
    algorithm = ALGORITHMS[sampler]() if sampler else None
    initial = None
    if start is not None:
        given = read_candidates(start, encoding.space)
        initial = inside.encode([candidate_from(entry, encoding.space) for entry in given])
    console = Screen()
    if told:
        console.print(told)
    if out is not None:
        lock = own(out)
        save_front(None, out)  # refuse a folder that cannot be written before any work
    if objective is None and axes is None and predictor is None:
        raise click.UsageError(
            "what to improve is not said: give --predictor, --objective such as macs, or --front such as macs,bit_ops"
        )
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("search", total=evaluations)
        try:
            front = run_search(
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
            also = "" if inside is encoding else ", or search outside of what was measured with --extrapolate"
            raise ProblemError(f"{error}{also}") from None
    named = {
        metric.name for metric in (*(o.metric for o in problem.objectives), *(c.metric for c in problem.constraints))
    }
    print_front(front, [name for name in metrics if name in named or name in from_files], console)
    if out is not None:
        save_front(front, out)
        console.print(f"Files in {out}: front.json, front.csv" + (", front.png" if len(front.objectives) > 1 else ""))
        lock.release()


@click.command()
@SPACE
@PREDICTOR
@TABLES
@click.option("--candidates", type=Place(), required=True, help=".json, .jsonl or .csv.")
@click.option("--out", type=Place(), required=True, help=".csv or .json.")
@click.option("--skip-invalid", is_flag=True, help="Name invalid candidates and go on.")
def score(
    space_name: str,
    predictor: Path | None,
    tables: tuple[Path, ...],
    candidates: Path,
    out: Path,
    skip_invalid: bool,
) -> None:
    """Score given candidates, in our notation or the published one, with every metric."""
    from apq_tune.problem.metrics import all_metrics, load_metrics, score_candidates
    from apq_tune.report.tables import write_frame
    from apq_tune.space.network_encoding import encoding_of
    from apq_tune.space.notation import read_candidates
    from apq_tune.space.search_space import SearchSpace

    if out.suffix not in (".csv", ".json"):
        raise click.UsageError(f"--out {str(out)!r}: give a name that ends in .csv or .json")
    encoding = encoding_of(SearchSpace.load(space_name))
    metrics = all_metrics(encoding, load_metrics(encoding, predictor, tables))
    entries = read_candidates(candidates, encoding.space)
    frame, refused = score_candidates(encoding, metrics, entries, skip_invalid=skip_invalid)
    for line in refused:
        click.echo(f"skipped: {line}", err=True)
    write_frame(frame, out)
    click.echo(f"{len(frame)} candidates scored, {len(refused)} skipped: {out}")
