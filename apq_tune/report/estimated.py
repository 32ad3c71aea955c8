"""Estimates of exported files in words."""

from __future__ import annotations

from rich.console import Console

from apq_tune.deploy.vela import VelaEstimate
from apq_tune.report.limits import amount


def print_estimate(found: VelaEstimate, console: Console) -> None:
    """Print what Vela says of a file, beside what the search promised."""
    how = f"{found.accelerator}, {found.system}, {found.memory_mode}"
    lines = [
        f"{found.path} on {how}, as Vela {found.version} estimates it",
        f"  {found.cycles:,} cycles, {found.milliseconds:.4g} ms for one image",
        f"  SRAM {amount(found.sram, 'bytes')}{_promised(found, 'peak_activation_bytes')}",
    ]
    share = f" ({found.compressed / found.weights:.0%})" if found.weights else ""
    for name, n_bytes in (("DRAM", found.dram), ("flash", found.flash)):
        if n_bytes:
            lines.append(f"  {name} {amount(n_bytes, 'bytes')}{_promised(found, 'weight_bytes')}")
    lines += [
        f"  weights of {amount(found.weights, 'bytes')} are compressed to {amount(found.compressed, 'bytes')}{share}",
        f"  {found.on_npu} of {found.on_npu + found.on_cpu} operators run on the accelerator",
    ]
    if found.on_cpu:
        lines.append("  the others run on the processor, whose time is not in the estimate")
    for line in lines:
        console.print(line, soft_wrap=True)


def _promised(found: VelaEstimate, cost: str) -> str:
    """What the search promised, if the file says so."""
    if found.about is None or cost not in found.about.costs:
        return ""
    return f"; the search promised {cost} of {amount(found.about.costs[cost].value, 'bytes')}"
