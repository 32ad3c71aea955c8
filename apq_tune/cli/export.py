"""``apq-tune export`` and ``apq-tune evaluate``."""

from __future__ import annotations

from pathlib import Path

import click

from apq_tune.cli.devices import DEVICE_PRESET, preset_of
from apq_tune.cli.fleet import out_file
from apq_tune.cli.options import DATA_ROOT, data_option
from apq_tune.cli.values import Place
from apq_tune.deploy.formats import FORMATS, SUFFIXES, ExportFormat


@click.command()
@click.argument("run", type=Place())
@click.option(
    "--candidate",
    metavar="ID",
    default="chosen",
    show_default=True,
    help="Name of the network in the table of results, such as best, front_1 or 2-05; chosen is the network that the "
    "command chose.",
)
@click.option(
    "--format",
    "kind",
    type=click.Choice(FORMATS),
    help="onnx: quantized ONNX for integer runtimes; torch: a program of torch.export; c: one C99 file with plain "
    "kernels; tflite: TensorFlow Lite in int8, needs the extra [tflite].  [default: by the suffix of --out]",
)
@click.option(
    "--unpacked",
    is_flag=True,
    help="Store each weight of ONNX and TensorFlow Lite in a byte, for programs that do not read packed ones.",
)
@DEVICE_PRESET
@click.option(
    "--over-limits",
    is_flag=True,
    help="Keep the file although it takes more flash or RAM than the device has, such as the reference of a port.",
)
@out_file(*SUFFIXES)
def export(
    run: Path,
    candidate: str,
    kind: ExportFormat | None,
    unpacked: bool,
    device_preset: str | None,
    over_limits: bool,
    out: Path,
) -> None:
    """Export a trained network of RUN as one file.

    The file is ONNX, torch, C or TensorFlow Lite. RUN is the directory of a run, of a refinement, or of a method (run
    --method). Before the file is kept, it is run on search images and must predict the same classes as the network.
    What it takes of flash and RAM is told beside the limits of the search. With --device-preset, a network that the
    device does not run is refused, as is a file that it has no memory for.
    """
    from apq_tune.deploy.export import check_target
    from apq_tune.deploy.export import export as write
    from apq_tune.deploy.load import open_networks
    from apq_tune.report.deployed import print_exported
    from apq_tune.report.screen import Screen

    kind = kind or SUFFIXES[out.suffix]
    check_target(out, kind)
    networks = open_networks(run)
    preset, network = preset_of(device_preset), networks.load(candidate)
    exported = write(
        network,
        out,
        kind,
        packed=not unpacked,
        device=preset,
        over_limits=over_limits,
        data_root=networks.data_root,
    )
    if preset is not None and kind not in preset.files:
        click.echo(
            f"{preset.name}: its tools read {' or '.join(preset.files) or 'other files'}, not {kind}; convert it"
        )
    print_exported(network, exported, Screen())


@click.command()
@click.argument("file", type=Place())
@data_option("that of FILE or of its run")
@DATA_ROOT
@click.option(
    "--run",
    type=Place(),
    metavar="RUN",
    help="Directory that FILE was exported from, with whose network it is compared.  [default: the folder around FILE, "
    "if it is that directory]",
)
@click.option(
    "--json",
    "json_file",
    type=Place(),
    metavar="FILE",
    help="JSON file to which all results are written.",
)
def evaluate(file: Path, data: str | None, data_root: Path | None, run: Path | None, json_file: Path | None) -> None:
    """Run an exported FILE on test images.

    FILE is an .onnx, .pt2, .c or .tflite file of apq-tune export, or an ONNX or TensorFlow Lite file of another program
    that maps images to the logits of their classes. Prints its accuracy, its agreement with the network that it was
    exported from, and its size. Files ending in .pt2 and .c contain code that is executed: evaluate only those that you
    trust.
    """
    from apq_tune.deploy.evaluate import evaluate as run_file
    from apq_tune.report.deployed import print_evaluation
    from apq_tune.report.screen import Screen
    from apq_tune.store.files import to_json, write_atomically

    if data is not None and not data.strip():
        raise click.UsageError(f"--data {data!r} is not a folder; give a folder, . for the current one, or a name")
    if json_file is not None and json_file.suffix != ".json":
        raise click.UsageError(f"--json {str(json_file)!r}: give a name that ends in .json")
    found = run_file(file, data=data, data_root=data_root, run=run)
    print_evaluation(found, Screen())
    if json_file is not None:
        write_atomically(json_file, to_json(found.to_dict()))
