"""``apq-tune spaces``, ``space`` and ``cost audit``, which describe search spaces and cost tables."""

from __future__ import annotations

from pathlib import Path

import click

from apq_tune.cli.costs import DEVICE_COSTS, TABLES, checked_costs
from apq_tune.cli.devices import DEVICE_PRESET, narrowed, preset_of
from apq_tune.cli.options import SPACE


@click.command()
def spaces() -> None:
    """List the search spaces that ship with the package."""
    from apq_tune.space.search_space import SearchSpace
    from apq_tune.space.shipped import known_spaces

    for name in known_spaces():
        space = SearchSpace.load(name)
        networks, all_bits, blocks = space.log10_size(bits=False), space.log10_size(), len(space.network.searched)
        click.echo(f"{name}: 10^{networks:.1f} networks, 10^{all_bits:.1f} with bits, {blocks} blocks")


@click.command("space")
@SPACE
@DEVICE_PRESET
@TABLES
@DEVICE_COSTS
def describe(space: str, device_preset: str | None, tables: tuple[Path, ...], device_costs: tuple[str, ...]) -> None:
    """Describe SPACE: its size, choices and ranges of costs.

    SPACE is the name of a shipped search space or a YAML file. With --device-preset, what the device runs of it.
    """
    from apq_tune.problem.costs import with_built_in
    from apq_tune.problem.metrics import load_metrics
    from apq_tune.report.screen import Screen
    from apq_tune.report.tables import choices_table, ranges_table
    from apq_tune.space.encodings import encoding_of
    from apq_tune.space.files import load_network_space

    asked = checked_costs(device_costs)
    encoding = encoding_of(narrowed(load_network_space(space), preset_of(device_preset)))
    console, loaded = Screen(), encoding.space
    console.print(
        f"{loaded.name}: 10^{loaded.log10_size(bits=False):.2f} networks, 10^{loaded.log10_size():.2f} with bits; "
        f"{encoding.n_genes} genes, {encoding.n_arch_features} + {encoding.n_bit_features} features; "
        f"input {loaded.input.channels} x {' / '.join(map(str, loaded.resolutions))} pixels, {loaded.classes} classes"
    )
    console.print(choices_table(loaded))
    console.print(ranges_table(with_built_in(load_metrics(encoding, None, tables), encoding, asked)))


@click.group()
def cost() -> None:
    """Check cost tables."""


@cost.command()
@SPACE
@TABLES
def audit(space: str, tables: tuple[Path, ...]) -> None:
    """Check that each --table covers SPACE.

    SPACE is the name of a shipped search space or a YAML file. Shown are missing entries, entries that get cheaper
    with more bits, ranges, and the share of each part of the network.
    """
    from apq_tune.cost import load_cost_table
    from apq_tune.errors import TableError
    from apq_tune.report.screen import Screen
    from apq_tune.report.tables import print_audit
    from apq_tune.space.encodings import encoding_of
    from apq_tune.space.files import load_network_space

    if not tables:
        raise click.UsageError("give --table, once or more")
    encoding, uncovered = encoding_of(load_network_space(space)), []
    for table in tables:
        loaded = load_cost_table(table)
        print_audit(loaded, encoding, Screen())
        if missing := loaded.missing(encoding.space):
            uncovered.append(f"{table} does not cover {space}: {len(missing)} ops are missing; measure them")
    if uncovered:
        raise TableError("; ".join(uncovered))
