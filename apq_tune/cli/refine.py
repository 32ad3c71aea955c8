"""``apq-tune refine``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from apq_tune.cli.costs import BUDGET, LIMITS, TABLES, all_limits
from apq_tune.cli.fleet import ADDRESS
from apq_tune.cli.values import Number, Place
from apq_tune.inputs import ranges


@click.command()
@click.argument("run", type=Place())
@click.option(
    "--rounds", type=Number(ranges.ROUNDS), default=3, show_default=True, help="Of proposing, training and learning."
)
@click.option("--batch", type=Number(ranges.PER_ROUND), default=8, show_default=True, help="Candidates in each round.")
@LIMITS
@BUDGET
@TABLES
@click.option("--epochs", type=Number(ranges.EPOCHS), default=2, show_default=True, help="Of QAT in the rounds.")
@click.option(
    "--final-epochs", type=Number(ranges.EPOCHS), default=6, show_default=True, help="Of the QAT that decides."
)
@click.option(
    "--survivors", type=Number(ranges.COUNT), help="Candidates that leave the rounds.  [default: half of them]"
)
@click.option("--seed", type=Number(ranges.SEED), default=0, show_default=True, help="Same seed, same result.")
@click.option("--out", type=Place(), help="Directory of the refinement.  [default: RUN/refine]")
@click.option("--num-cpus", type=Number(ranges.CPUS), help="Trials at once.  [default: all processors]")
@click.option("--address", metavar="HOST:PORT|auto", help=ADDRESS)
@click.option(
    "--gpus-per-trial",
    type=Number(ranges.GPUS),
    default=0,
    show_default=True,
    help="Train on GPUs; 0.5 puts two trials on one.",
)
def refine(
    run: Path,
    rounds: int,
    batch: int,
    limits: tuple[str, ...],
    budget: str | None,
    tables: tuple[Path, ...],
    epochs: int,
    final_epochs: int,
    survivors: int | None,
    seed: int,
    out: Path | None,
    num_cpus: int | None,
    address: str | None,
    gpus_per_trial: float,
) -> None:
    """Search on from the directory RUN of a run, with real QAT in the loop.

    Each round trains a diverse batch of promising candidates briefly and teaches the predictor what came out; the best
    half goes on to longer QAT, and only the longest decides. Limits are those of the run unless --constraint or
    --budget is given; a --table is added to those of the run. Interrupt it at any moment; the same command goes on.
    """
    from apq_tune.pipeline.finished import open_run
    from apq_tune.problem.costs import Costs
    from apq_tune.refine.refine import Refinement
    from apq_tune.refine.settings import RefineSettings
    from apq_tune.report.progress import RichListener
    from apq_tune.report.refined import write_refined
    from apq_tune.space.network_encoding import NetworkEncoding
    from apq_tune.store.directory import kept_tables

    texts = None
    if limits or budget:
        opened = open_run(run, ("predictors",))
        texts = all_limits(Costs.of(NetworkEncoding(opened.space), [*kept_tables(run), *tables]), limits, budget)
    settings = RefineSettings.checked(
        seed=seed,
        rounds=rounds,
        batch=batch,
        epochs=epochs,
        final_epochs=final_epochs,
        survivors=survivors,
        constraints=texts,
    )
    out = out or run / "refine"
    with RichListener() as listener:
        refinement = Refinement(
            run,
            settings,
            out,
            tables=tables,
            address=address,
            num_cpus=num_cpus,
            gpus=gpus_per_trial,
            command=shlex.join(["apq-tune", *sys.argv[1:]]),
            listener=listener,
        )
        refined = refinement.run()
    write_refined(refined, out, listener.console)
