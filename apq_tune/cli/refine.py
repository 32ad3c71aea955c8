"""``apq-tune refine``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from apq_tune.cli.costs import BUDGETS, CONSTRAINTS, TABLES, all_constraints
from apq_tune.cli.devices import DEVICE_PRESET, preset_of
from apq_tune.cli.fleet import command_line, device_options, host_options, out_folder
from apq_tune.cli.options import SEED
from apq_tune.cli.values import Place, number_option
from apq_tune.inputs import ranges

if TYPE_CHECKING:
    from apq_tune.hosts.executor import Kind


@click.command()
@click.argument("run", type=Place())
@number_option(
    "--rounds", ranges.ROUNDS, 3, "Number of rounds; each proposes candidates, trains them and corrects the predictor."
)
@number_option("--batch", ranges.PER_ROUND, 8, "Candidates that a round trains.")
@number_option("--epochs", ranges.EPOCHS, 2, "Epochs of QAT in the rounds.")
@number_option("--final-epochs", ranges.EPOCHS, 6, "Epochs of the longest QAT, by which the network is chosen.")
@number_option(
    "--survivors", ranges.COUNT, None, "Candidates of the rounds that are trained for longer.  [default: half of them]"
)
@SEED
@CONSTRAINTS
@BUDGETS
@DEVICE_PRESET
@TABLES
@out_folder("RUN/refine")
@device_options
@host_options
def refine(
    run: Path,
    rounds: int,
    batch: int,
    epochs: int,
    final_epochs: int,
    survivors: int | None,
    seed: int,
    constraints: tuple[str, ...],
    budgets: tuple[str, ...],
    device_preset: str | None,
    tables: tuple[Path, ...],
    out: Path | None,
    device: str,
    gpus_per_trial: float | None,
    num_cpus: int | None,
    executor: Kind | None,
    address: str | None,
) -> None:
    """Go on from a finished RUN with real QAT in the loop.

    RUN is the directory of the run. Each round trains a diverse batch of promising candidates briefly and corrects the
    predictor with the losses. The best half is then trained for longer, until few are left; the longest training alone
    decides.

    The limits are those of the run, unless --constraint or --budget is given, and those of a --device-preset. A --table
    is read in addition to those of the run.

    Interrupt the command at any moment: the same command goes on where it stopped.
    """
    from apq_tune.pipeline.finished import open_run
    from apq_tune.problem.costs import Costs
    from apq_tune.problem.device import limit_texts
    from apq_tune.refine.refine import Refinement
    from apq_tune.refine.settings import RefineSettings
    from apq_tune.report.html import add_page
    from apq_tune.report.progress import RichListener
    from apq_tune.report.refined import write_refined
    from apq_tune.space.encodings import encoding_of
    from apq_tune.store.directory import kept_tables

    texts, preset = None, preset_of(device_preset)
    if constraints or budgets or preset is not None:
        opened = open_run(run, ("predictors",))
        encoding, strict = encoding_of(opened.space), preset is None  # of the whole space the device runs a part
        costs = Costs.of(encoding, [*kept_tables(run), *tables], constraints, strict=strict)
        given = constraints or budgets
        own = all_constraints(costs, constraints, budgets) if given else opened.settings.constraints
        texts = (*own, *limit_texts(preset))
    settings = RefineSettings.checked(
        seed=seed,
        rounds=rounds,
        batch=batch,
        epochs=epochs,
        final_epochs=final_epochs,
        survivors=survivors,
        constraints=texts,
        device_preset=preset,
    )
    out = out or run / "refine"
    with RichListener() as listener:
        refinement = Refinement(
            run,
            settings,
            out,
            tables=tables,
            executor=executor,
            address=address,
            num_cpus=num_cpus,
            device=device,
            gpus=gpus_per_trial,
            command=command_line(),
            listener=listener,
        )
        refined = refinement.run()
    write_refined(refined, out, listener.console)
    add_page(out, listener.console)
