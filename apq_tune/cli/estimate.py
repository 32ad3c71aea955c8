"""``apq-tune estimate``."""

from __future__ import annotations

from pathlib import Path

import click

from apq_tune.cli.values import Place
from apq_tune.deploy.formats import VELA_ACCELERATORS


@click.command()
@click.argument("file", type=Place())
@click.option(
    "--accelerator",
    type=click.Choice(VELA_ACCELERATORS),
    required=True,
    metavar="NAME",
    help=f"Accelerator and its number of MACs a cycle: {', '.join(VELA_ACCELERATORS)}.",
)
@click.option(
    "--system-config",
    metavar="NAME",
    help="Clock and bandwidths: a section of Vela's file, such as Ethos_U55_High_End_Embedded.  [default: Vela's "
    "choice for the accelerator]",
)
@click.option(
    "--memory-mode",
    metavar="NAME",
    help="Memories for weights and activations: a section of Vela's file, such as Shared_Sram or Sram_Only.  [default: "
    "Vela's choice]",
)
@click.option(
    "--json",
    "json_file",
    type=Place(),
    metavar="FILE",
    help="JSON file to which all results are written.",
)
def estimate(
    file: Path, accelerator: str, system_config: str | None, memory_mode: str | None, json_file: Path | None
) -> None:
    """Estimate cycles and memory of FILE on Ethos-U.

    FILE is a .tflite file of apq-tune export or of another program. Arm's compiler Vela, which is in the extra [vela],
    compiles it and says how many cycles one inference takes, and how much SRAM and flash; nothing is measured.
    """
    from apq_tune.deploy.vela import vela_estimate
    from apq_tune.report.estimated import print_estimate
    from apq_tune.report.screen import Screen
    from apq_tune.store.files import to_json, write_atomically

    if json_file is not None and json_file.suffix != ".json":
        raise click.UsageError(f"--json {str(json_file)!r}: give a name that ends in .json")
    found = vela_estimate(file, accelerator, system=system_config, memory_mode=memory_mode)
    print_estimate(found, Screen())
    if json_file is not None:
        write_atomically(json_file, to_json(found.to_dict()))
