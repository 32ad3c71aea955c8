"""``apq-tune transfer``: from a published full-precision predictor to one of the user's own quantized networks."""

from __future__ import annotations

from pathlib import Path

import click

from apq_tune.cli.values import Number, Place
from apq_tune.inputs import ranges


@click.command()
@click.option("--predictor", type=Place(), required=True, help="To start from.")
@click.option(
    "--pairs",
    type=Place(),
    required=True,
    help="CSV of candidates (as for score) with a column 'accuracy' (fraction) or 'loss' (nats).",
)
@click.option("--column", metavar="NAME", help="Of the measurements, if it is called otherwise, as 'Top-1 Acc (%)'.")
@click.option("--percent", is_flag=True, help="Accuracies are percentages.")
@click.option("--space", "space_name", help="[default: the one that the predictor was made for]")
@click.option("--seed", type=Number(ranges.SEED), default=0, show_default=True)
@click.option("--out", type=Place(), required=True, help="New predictor, .npz.")
def transfer(
    predictor: Path,
    pairs: Path,
    column: str | None,
    percent: bool,
    space_name: str | None,
    seed: int,
    out: Path,
) -> None:
    """Finetune a predictor on pairs of candidate and measurement; the bits' input is added if it has none.

    Beside it stands what the pairs alone give; if that is better, use 'apq-tune predictor fit'.
    """
    from apq_tune.predict import transfer as run_transfer
    from apq_tune.predict.files import measured_in, predictor_bytes
    from apq_tune.problem.metrics import load_start, read_pairs, tell_constant
    from apq_tune.report.tables import write_bytes
    from apq_tune.space.measured import measured_values
    from apq_tune.space.search_space import SearchSpace

    if out.suffix != ".npz":
        raise click.UsageError(f"--out {str(out)!r}: give a name that ends in .npz")
    start = load_start(predictor, None if space_name is None else SearchSpace.load(space_name))
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
    if told := tell_constant(start.encoding, measured.genomes):
        click.echo(told)
