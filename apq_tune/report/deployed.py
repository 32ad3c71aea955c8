"""Exported files in words: what was written, and what it scores."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console

from apq_tune.deploy.evaluate import FileScores
from apq_tune.deploy.export import ExportedFile
from apq_tune.deploy.exported import Kernels
from apq_tune.deploy.file_memory import MemoryLimit
from apq_tune.deploy.onnx_session import EXACT, saturates
from apq_tune.report.limits import amount
from apq_tune.supernet.found_network import CostValue, FoundNetwork

SATURATION = (
    "This processor lacks VNNI: in a session of your own, set the option {}=1, or sums of products of bytes saturate."
)
"""Note on processors on which onnxruntime needs the option that it is formatted with."""

NAMED = 3
"""Number of floating-point steps that are named."""

ADDED = {
    "onnx": "the graph and metadata, and whole bytes for narrower weights if they are unpacked",
    "torch": "the program, metadata and whole bytes for narrower weights",
    "tflite": "the graph, scales, metadata, and whole bytes for narrower weights that are not int4",
    "c": "C source code; the comment at its head states the flash that it needs",
}
"""What files of each format hold beside the parameters of their network."""


def print_exported(network: FoundNetwork, exported: ExportedFile, console: Console) -> None:
    """Print what was written, its size beside the promised ``weight_bytes``, and its agreement with the network."""
    agreement = exported.agreement
    console.print(f"{exported.path}: {network.name}, {network.candidate}", soft_wrap=True)
    console.print(f"  {_size(exported.format, exported.n_bytes, exported.promised, network.costs)}", soft_wrap=True)
    for line in memory_lines(network, exported):
        console.print(f"  {line}", soft_wrap=True)
    console.print(f"  {_input(exported.reads[0], exported.reads[1], network.preprocessing.size)}", soft_wrap=True)
    console.print(
        f"  chooses the same class as the network for {agreement.share:.2%} of {agreement.n} {agreement.images}",
        soft_wrap=True,
    )
    if exported.exact is not None:
        console.print(
            f"  and as its integer program for {exported.exact.share:.2%}: in a deep network single roundings change "
            "what follows, and the network as it was trained adds up in floating point",
            soft_wrap=True,
        )
    console.print(f"  {_kernels(exported)}", soft_wrap=True)


def memory_lines(network: FoundNetwork, exported: ExportedFile) -> list[str]:
    """Memory that a file takes on a device, beside its limits."""
    by_size = sorted(exported.memory_limits, key=lambda limit: -limit.n_bytes)
    limits, (flash, arena) = {limit.memory: limit for limit in by_size}, exported.memory
    lines = [f"flash: {amount(flash, 'bytes')} of constants{_share(flash, limits.get('flash'))}; code comes on top"]
    ram = limits.get("ram")
    if arena is not None:
        top = "the kernels' sums, image, logits and stack come on top"
        lines.append(f"RAM: an arena of {amount(arena, 'bytes')}{_share(arena, ram)}; {top}")
    elif ram is not None:
        counted = network.costs[ram.cost].value
        said = f"{ram.cost} of {amount(counted, 'bytes')}{_share(counted, ram)}"
        lines.append(f"RAM: the search promised {said}; what runs the file lays it out")
    return [*lines, *(f"OVER the limits of its search: {said}" for said in exported.over_search)]


def _share(taken: float, limit: MemoryLimit | None) -> str:
    """What is taken of a limit, as ``, 58% of the 80 kB of cortex_m_1mb``."""
    if limit is None:
        return ""
    over = " OVER" if taken > limit.n_bytes else ""
    whose = f"of {limit.device}" if limit.device is not None else "that the search was limited to"
    return f", {100 * taken / limit.n_bytes:.0f}%{over} of the {amount(limit.n_bytes, 'bytes')} {whose}"


def print_evaluation(found: FileScores, console: Console) -> None:
    """Print the accuracy of a file, its agreement with the simulation, its size and its operators."""
    low, high = (100 * end for end in found.interval)
    console.print(f"{found.path} on {found.n} test images of {found.data}", soft_wrap=True)
    console.print(f"  {_input(*found.reads)}", soft_wrap=True)
    five = "" if found.top_5 is None else f", top-5 {100 * found.top_5:.2f}%"
    console.print(
        f"  accuracy {100 * found.accuracy:.2f}% (95% interval {low:.2f} to {high:.2f}%){five}, loss {found.loss:.4f}",
        soft_wrap=True,
    )
    if found.measured is not None:
        console.print(f"  measured after training: {100 * found.measured:.2f}%", soft_wrap=True)
    if found.agreement is None or found.simulated is None:
        console.print(f"  simulation: {found.simulation}", soft_wrap=True)
    else:
        console.print(
            f"  simulation, {found.simulation}: the same class for {found.agreement:.2%} of the images, accuracy "
            f"{100 * found.simulated:.2f}%",
            soft_wrap=True,
        )
    if "weight_bytes" in found.costs:
        size = _size(found.format, found.n_bytes, found.costs["weight_bytes"].value, found.costs)
        console.print(f"  {size}", soft_wrap=True)
    else:
        console.print(f"  size {amount(found.n_bytes, 'bytes')}", soft_wrap=True)
    if "peak_activation_bytes" in found.costs:
        peak = found.costs["peak_activation_bytes"].value
        console.print(
            f"  peak activation memory {amount(peak, 'bytes')} (estimate, activations packed at their bits)",
            soft_wrap=True,
        )
    if found.kernels is not None:
        console.print(f"  {_operators(found.kernels)}", soft_wrap=True)


def _input(channels: int, reads: int, size: int) -> str:
    """Images that a file reads, and how they are made of preprocessed ones."""
    made = "" if reads == size else f", of preprocessed ones of {size} x {size} by antialiased bilinear interpolation"
    return f"reads images of {channels} x {reads} x {reads}{made}"


def _size(kind: str, n_bytes: float, promised: float, costs: Mapping[str, CostValue]) -> str:
    sparse = "sparse_macs" in costs and costs["sparse_macs"].value < costs["macs"].value
    weights = "weights, of sparse layers without their zeros" if sparse else "weights"
    zeros = "; it holds zeros as other weights, gzip and the like take most of them out" if sparse else ""
    return (
        f"size {amount(n_bytes, 'bytes')}; the search promised weight_bytes of {amount(promised, 'bytes')} (packed "
        f"{weights}, scales and biases), to which the file adds {ADDED[kind]}{zeros}"
    )


def _operators(kernels: Kernels) -> str:
    total = kernels.integer + kernels.floating
    return f"{kernels.integer} of {total} operators with weights run in integers in onnxruntime on this machine"


def _listed(float_steps: tuple[str, ...]) -> str:
    """Steps that stay in floating point, the first ones by name."""
    n, named = len(float_steps), ", ".join(float_steps[:NAMED])
    more = f" and {n - NAMED} more" if n > NAMED else ""
    return f"{n} step{'s stay' if n > 1 else ' stays'} in floating point ({named}{more})"


def _narrow(packed: int, whole: int) -> str:
    """How weights of fewer than 8 bits are stored."""
    parts = [f"of {packed} layers are int4"] if packed else []
    parts += [f"of {whole} layers with fewer than 8 bits are stored in bytes"] if whole else []
    return f"; weights {' and '.join(parts)}" if parts else ""


def _kernels(exported: ExportedFile) -> str:
    if exported.format == "c":
        return "all layers run in integers"
    if exported.format == "tflite":
        return f"all layers run in integers, each within one level of the integer program{_narrow(*exported.narrow)}"
    if exported.format == "torch":
        return "computes integers exactly in floating-point arithmetic, so its logits are those of an integer runtime"
    assert exported.kernels is not None
    float_steps = f"; {_listed(exported.float_steps)}" if exported.float_steps else ""
    note = f". {SATURATION.format(EXACT)}" if saturates() else ""
    return f"{_operators(exported.kernels)}{float_steps}{note}"
