"""``apq-tune transfer``: finetune a predictor, such as a published one, on the user's measured candidates."""

from __future__ import annotations

from pathlib import Path

import click

from apq_tune.cli.fleet import out_file
from apq_tune.cli.options import COLUMN, PAIRS, PERCENT, PREDICTOR_HELP, SEED
from apq_tune.cli.values import Place


@click.command()
@click.argument("space", required=False)
@click.option("--predictor", type=Place(), required=True, help=PREDICTOR_HELP)
@PAIRS
@COLUMN
@PERCENT
@SEED
@out_file(".npz")
def transfer(
    space: str | None,
    predictor: Path,
    pairs: Path,
    column: str | None,
    percent: bool,
    seed: int,
    out: Path,
) -> None:
    """Finetune a predictor on measured candidates of SPACE.

    SPACE is the name of a search space or a YAML file; without it, the space that the predictor was made for is
    taken. A predictor that knows no bit-widths gets them as additional inputs.

    A predictor that is fitted to the measurements alone is scored as well; if it is better, use apq-tune predictor fit.
    """
    from apq_tune.predict import transfer as run_transfer
    from apq_tune.predict.files import measured_in, predictor_bytes
    from apq_tune.problem.metrics import describe_constant, load_start, read_pairs
    from apq_tune.report.tables import write_bytes
    from apq_tune.space.files import load_space
    from apq_tune.space.measured import measured_values

    start = load_start(predictor, None if space is None else load_space(space))
    measured, is_loss = read_pairs(pairs, start.encoding.space, column=column, percent=percent)
    report, transferred = run_transfer(start, measured, seed, log=is_loss)
    known = measured_in(predictor, start.encoding)  # a start that does not say has learned all of its space
    inside = None if known is None else known | measured_values(start.encoding, measured.genomes)
    write_bytes(predictor_bytes(transferred, inside), out)
    for name, agreement in report.items():
        click.echo(
            f"{name}: Kendall tau {agreement.kendall_tau:.3f}, pairwise accuracy {agreement.pairwise_accuracy:.3f}"
        )
    click.echo(f"cross-validated on {len(measured.target)} pairs; the new predictor knows all of them: {out}")
    if message := describe_constant(start.encoding, measured.genomes):
        click.echo(message)
