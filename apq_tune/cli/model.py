"""``apq-tune model inspect``, which shows what can be chosen in a model of your own."""

from __future__ import annotations

import re
from pathlib import Path

import click

from apq_tune.cli.costs import DEVICE_COSTS, checked_costs
from apq_tune.cli.own_model import INPUT, KEEP, WEIGHTS, image_shape


@click.group()
def model() -> None:
    """Look at a model of your own before a search."""


@model.command()
@click.argument("source", metavar="MODEL")
@click.option("--input", "shape", required=True, metavar="C,H,W", help=INPUT)
@WEIGHTS
@KEEP
@click.option("--step", type=click.IntRange(1), default=8, show_default=True, help="Distance of widths in channels.")
@DEVICE_COSTS
def inspect(
    source: str, shape: str, weights: Path | None, keep: tuple[str, ...], step: int, device_costs: tuple[str, ...]
) -> None:
    """Show what can be chosen in MODEL, and what cannot and why.

    That is: groups of coupled channels with their widths, residual blocks that can be left out, locked channels,
    operations of no known kind, and the range of each cost.

    MODEL is PACKAGE.MODULE:FACTORY, FILE.py:FACTORY or FILE.pt2 of torch.export; a factory may have plain arguments:
    'net.py:build(classes=10)'.
    """
    sizes, asked = (1, *image_shape(shape)), checked_costs(device_costs)

    from apq_tune.problem.costs import with_built_in
    from apq_tune.problem.metrics import load_metrics
    from apq_tune.report.model_tables import blocks_table, groups_table, locked_table, opaque_table, summary
    from apq_tune.report.screen import Screen
    from apq_tune.report.tables import ranges_table
    from apq_tune.space.encodings import encoding_of
    from apq_tune.space.model_space import ModelSpace
    from apq_tune.tracing.model_files import trace_source

    graph = trace_source(source, sizes, weights)
    name = re.sub(r"\W+", "_", source.rpartition(":")[2].partition("(")[0] or source).strip("_")
    space = ModelSpace.of_graph(graph, name=name or "model", keep=keep, step=step)
    console = Screen()
    console.print(summary(space), soft_wrap=True)
    for table in (groups_table(space), blocks_table(space), locked_table(space), opaque_table(space.graph)):
        if table.row_count:
            console.print(table)
    encoding = encoding_of(space)
    console.print(ranges_table(with_built_in(load_metrics(encoding, None, ()), encoding, asked)))
