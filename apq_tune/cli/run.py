"""``apq-tune run``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from apq_tune.cli.costs import BUDGET, LIMITS, TABLES, all_limits
from apq_tune.cli.fleet import ADDRESS
from apq_tune.cli.values import Number, Place
from apq_tune.inputs import ranges

if TYPE_CHECKING:
    from apq_tune.data.choice import Complaint
    from apq_tune.space.search_space import SearchSpace

PAPER = {"quantized.epochs": 0, "predictor": "transferred", "fallback": False, "pair_bits": "alike"}
"""Settings of the literal protocol: the second supernet is the first one, its clip values calibrated, the bits of pairs
are drawn layer by layer, and the predictor is used whether it is of use or not."""

device_option = click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where networks are trained; auto takes a GPU if there is one, and trials share it.",
)


@click.command()
@click.argument("space", required=False)
@click.option(
    "--data",
    metavar="DIR",
    help="Folder of images, DIR/CLASS/IMAGE or DIR/train/CLASS/IMAGE; or the name of a data set.  [default: SPACE's]",
)
@click.option("--out", type=Place(), help="Run directory.  [default: runs/SPACE or runs/DIR]")
@click.option("--seed", type=Number(ranges.SEED), default=0, show_default=True, help="Same seed, same result.")
@LIMITS
@BUDGET
@TABLES
@click.option(
    "--data-root",
    type=Place(),
    help="Folder with the files of data sets; what is missing is downloaded to it.  [default: ~/.cache/apq_tune/data]",
)
@device_option
@click.option(
    "--protocol",
    type=click.Choice(["ladder", "paper"]),
    default="ladder",
    show_default=True,
    help="paper: that of Wang 2020, literally: QAT from full-precision weights, a transferred predictor.",
)
@click.option(
    "--minutes",
    type=Number(ranges.MINUTES),
    help="That the run may take: trainings and numbers of measurements are fitted to it, by timing some steps.",
)
@click.option("--num-cpus", type=Number(ranges.CPUS), help="Trials at once.  [default: all processors]")
@click.option("--address", metavar="HOST:PORT|auto", help=ADDRESS)
@click.option(
    "--set", "assignments", multiple=True, metavar="NAME=VALUE", help="Change a setting, such as final.epochs=20."
)
def run(
    space: str | None,
    data: str | None,
    out: Path | None,
    seed: int,
    limits: tuple[str, ...],
    budget: str | None,
    tables: tuple[Path, ...],
    data_root: Path | None,
    device: str,
    protocol: str,
    minutes: float | None,
    num_cpus: int | None,
    address: str | None,
    assignments: tuple[str, ...],
) -> None:
    """Search SPACE from end to end: a shipped space such as 'digits', or a YAML file.

    Without --constraint and --budget the limit is bit_ops<=25%. With --data on your own images; without SPACE then in
    the shipped space whose image size is nearest to theirs.
    Interrupt it at any moment; the same command goes on where it stopped.
    """
    from apq_tune.errors import ReachError
    from apq_tune.pipeline.reach import complaints, with_others
    from apq_tune.problem.costs import Costs
    from apq_tune.space.network_encoding import NetworkEncoding
    from apq_tune.space.search_space import SearchSpace

    if data is not None and not data.strip():
        raise click.UsageError(f"--data {data!r} is no folder; give one, or . for the current one, or a name")
    if space is None and data is None:
        raise click.UsageError("neither SPACE nor --data; write a search space such as digits, or --data DIR")
    loaded = None if space is None else SearchSpace.load_network(space)
    notes: tuple[str, ...] = ()
    complain = complaints(limits, budget, tables)
    if data is not None:
        loaded, notes = _chosen(data, loaded, complain if limits or budget else None)
    assert loaded is not None
    changes: dict[str, object] = {"seed": seed} | ({} if minutes is None else {"minutes": minutes})
    if limits or budget:
        try:
            changes["constraints"] = list(all_limits(Costs.of(NetworkEncoding(loaded), tables), limits, budget))
        except ReachError as error:
            raise with_others(error, loaded, complain) from None
    changes |= (PAPER if protocol == "paper" else {}) | assigned(assignments)
    out = out or Path("runs") / (loaded.name if data is None else Path(data).absolute().name)

    from apq_tune.pipeline.run import PipelineRun
    from apq_tune.report.progress import RichListener
    from apq_tune.report.results import write_report

    with RichListener() as listener:
        pipeline = PipelineRun(
            loaded,
            None,
            out,
            changes=changes,
            tables=tables,
            data_root=data_root,
            device=device,
            address=address,
            num_cpus=num_cpus,
            command=shlex.join(["apq-tune", *sys.argv[1:]]),
            listener=listener,
            notes=notes,
        )
        for line in pipeline.taken:
            listener.console.print(line, markup=False, soft_wrap=True)
        outcome = pipeline.run()
    write_report(outcome, out, listener.console)


def _chosen(data: str, space: SearchSpace | None, complain: Complaint | None) -> tuple[SearchSpace, tuple[str, ...]]:
    """A space for the data, and why it was taken.

    Raises:
        click.UsageError: if the data has no name.
    """
    from apq_tune.data import choose_space

    if not data.strip():
        raise click.UsageError(
            "--data is empty; write a folder of images or the name of a data set ('.' for this folder)"
        )
    choice = choose_space(data, space, complain)
    return choice.space, (choice.reason,)


def assigned(assignments: tuple[str, ...]) -> dict[str, str]:
    """Read ``NAME=VALUE`` options.

    Raises:
        click.UsageError: if one has no ``=``.
    """
    changes = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise click.UsageError(f"--set {assignment!r} has no '='; write NAME=VALUE, such as final.epochs=20")
        if name.strip() in changes:
            raise click.UsageError(f"--set {name.strip()} comes twice; give it once")
        changes[name.strip()] = value
    return changes
