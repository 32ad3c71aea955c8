"""``apq-tune run``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from apq_tune.cli.costs import BUDGETS, CONSTRAINTS, TABLES, all_constraints
from apq_tune.cli.devices import DEVICE_PRESET, preset_of
from apq_tune.cli.fleet import command_line, device_options, host_options, out_folder
from apq_tune.cli.method import DEFAULT, METHOD_NAMES, check_possible, search_with
from apq_tune.cli.options import DATA_ROOT, MINUTES, SEED, SETTINGS, assigned, data_option
from apq_tune.cli.own_model import ModelChoice, model_options

if TYPE_CHECKING:
    from apq_tune.data.choice import Complaint
    from apq_tune.hosts.executor import Kind
    from apq_tune.space.network_space import NetworkSpace

PAPER = {"quantized.epochs": 0, "predictor": "transferred", "fallback": False, "pair_bits": "alike"}
"""Settings of the protocol of the paper: the quantized supernet is the full-precision one with calibrated clip values,
the bits of pairs are drawn independently for each layer, and the predictor has no fallback."""


@click.command()
@click.argument("space", required=False)
@data_option("the data set of SPACE")
@model_options
@out_folder("runs/SPACE, runs/DIR with --data, or runs/FACTORY with --model")
@SEED
@CONSTRAINTS
@BUDGETS
@DEVICE_PRESET
@TABLES
@DATA_ROOT
@click.option(
    "--method",
    type=click.Choice(METHOD_NAMES),
    default=DEFAULT,
    show_default=True,
    help="Search method, as joint-vs-staged compares them at equal spend.",
)
@click.option(
    "--protocol",
    type=click.Choice(["ladder", "paper"]),
    default="ladder",
    show_default=True,
    help="paper: the literal protocol of Wang 2020, with QAT from full-precision weights and a transferred predictor.",
)
@MINUTES
@SETTINGS
@device_options
@host_options
def run(
    space: str | None,
    data: str | None,
    source: str | None,
    weights: Path | None,
    shape: str | None,
    keep: tuple[str, ...],
    choices: Path | None,
    mean: str | None,
    std: str | None,
    out: Path | None,
    seed: int,
    constraints: tuple[str, ...],
    budgets: tuple[str, ...],
    device_preset: str | None,
    tables: tuple[Path, ...],
    data_root: Path | None,
    method: str,
    protocol: str,
    minutes: float | None,
    assignments: tuple[str, ...],
    device: str,
    gpus_per_trial: float | None,
    num_cpus: int | None,
    executor: Kind | None,
    address: str | None,
) -> None:
    """Search for a network in SPACE and train it.

    With --model the search space is a trained network of your own: widths of its layers, its residual blocks, and bits.
    Its weights are where the training begins.

    SPACE is the name of a shipped search space, such as 'digits' (apq-tune spaces lists them), or a YAML file. It may
    be left out if --data is given: then the shipped space is taken whose image size is nearest to that of the images.

    Without --constraint, --budget and a --device-preset that has flash or RAM, the limit is bit_ops<=25%. Given several
    of them, the network keeps all.

    With another --method the same supernets are searched by it, with as many measurements and trainings of the same
    lengths; its networks, its front and the files of the best one are written to a folder of --out that has its name.

    With --minutes some training steps are timed first, and epochs and numbers of measurements chosen to fit.

    Interrupt the command at any moment: the same command goes on where it stopped.
    """
    from apq_tune.errors import ReachError
    from apq_tune.inputs.checkpoints import read_state
    from apq_tune.pipeline.reach import complaints, with_others
    from apq_tune.problem.costs import Costs
    from apq_tune.problem.device import limit_texts
    from apq_tune.report.devices import device_line
    from apq_tune.space.encodings import encoding_of
    from apq_tune.space.files import load_network_space

    if data is not None and not data.strip():
        raise click.UsageError(f"--data {data!r} is not a folder; give a folder, . for the current one, or a name")
    own = ModelChoice(source, weights, shape, keep, choices, mean, std)
    own.check(space, data)
    if space is None and data is None:
        raise click.UsageError("neither SPACE nor --data; write a search space such as digits, or --data DIR")
    if method != DEFAULT and protocol == "paper":
        raise click.UsageError(f"--protocol paper goes with --method {DEFAULT}; --method paper searches as it does")
    loaded = None if space is None else load_network_space(space)
    notes: tuple[str, ...] = ()
    state: Mapping[str, Any] | None = None
    preset = preset_of(device_preset, loaded)
    constraints = (*constraints, *limit_texts(preset))
    complain = complaints(constraints, budgets, tables, preset)
    if weights is not None and source is None:
        state = read_state(weights)
    if source is not None:
        loaded, state, *lines = own.open(str(data))
        notes = tuple(lines)
    elif data is not None:
        loaded, notes = _chosen(data, loaded, complain if constraints or budgets or preset else None)
    assert loaded is not None
    if preset is not None:
        whole, loaded = loaded.whole, loaded.narrowed(preset)
        notes = (*notes, device_line(whole, loaded))
    changes: dict[str, object] = {"seed": seed} | ({} if minutes is None else {"minutes": minutes})
    if constraints or budgets:
        try:
            costs = Costs.of(encoding_of(loaded), tables, constraints)
            changes["constraints"] = list(all_constraints(costs, constraints, budgets))
        except ReachError as error:
            if source is not None:  # no other space has this model
                raise
            raise with_others(error, loaded, complain) from None
    changes |= (PAPER if protocol == "paper" else {}) | assigned(assignments)
    named = loaded.name if data is None or source is not None else Path(data).absolute().name
    out = out or Path("runs") / named

    from apq_tune.deploy.load import load_network
    from apq_tune.pipeline.plain_files import write_plain
    from apq_tune.pipeline.run import PipelineRun
    from apq_tune.report.html import add_page
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
            gpus=gpus_per_trial,
            executor=executor,
            address=address,
            num_cpus=num_cpus,
            command=command_line(),
            listener=listener,
            notes=notes,
            weights=state,
        )
        for line in pipeline.taken:
            listener.console.print(line, markup=False, soft_wrap=True)
        if method == DEFAULT:
            outcome = pipeline.run()
        else:
            check_possible(pipeline, method)
            pipeline.run_until("quantized_supernet")
    if method == DEFAULT:
        write_report(outcome, out, listener.console)
        add_page(out, listener.console)
        if pipeline.model is not None and outcome.weights is not None:
            files = write_plain(load_network(out), out)
            line = f"Plain module: {files.source.name}, weights {files.state.name} (full precision, batch norm folded)"
            listener.console.print(line, markup=False, soft_wrap=True)
    else:
        search_with(pipeline, method, out, gpus=gpus_per_trial, num_cpus=num_cpus, executor=executor, address=address)


def _chosen(data: str, space: NetworkSpace | None, complain: Complaint | None) -> tuple[NetworkSpace, tuple[str, ...]]:
    """Choose a search space for the data, with lines that explain the choice.

    Raises:
        click.UsageError: If the data has no name.
    """
    from apq_tune.data import choose_space

    if not data.strip():
        raise click.UsageError(
            "--data is empty; write a folder of images or the name of a data set ('.' for this folder)"
        )
    choice = choose_space(data, space, complain)
    return choice.space, (choice.reason,)
