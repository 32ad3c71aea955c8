"""Device presets as text."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from apq_tune.space.device import DevicePreset, OpKind, OpRule
from apq_tune.space.device_rules import NAMES
from apq_tune.space.network_space import NetworkSpace


def device_line(whole: NetworkSpace, part: NetworkSpace) -> str:
    """Line on what a device leaves of a space.

    Args:
        whole: Search space.
        part: The space as narrowed for a device.
    """
    preset = part.device
    assert preset is not None
    memory = [f"{what} {_size(own.bytes)}" for what, own in (("flash", preset.flash), ("RAM", preset.ram)) if own]
    limits = f"; {' and '.join(memory)} are limits" if memory else ""
    sizes = f"10^{part.log10_size():.1f} of 10^{whole.log10_size():.1f} networks with bits"
    return f"device: {preset.name} ({preset.title}) runs {sizes}{limits}"


def print_presets(presets: Sequence[DevicePreset], console: Console) -> None:
    """Print one row for each preset."""
    table = Table("name", "device", "weights", "inputs", "flash", "RAM")
    for preset in presets:
        rules = _rules(preset)
        weights = sorted({bits for rule in rules for bits in rule.weights})
        inputs = sorted({bits for rule in rules for bits in rule.inputs})
        memory = [_size(preset.limits.get(name)) for name in ("weight_bytes", "peak_activation_bytes")]
        table.add_row(preset.name, preset.title, _numbers(weights), _numbers(inputs), *memory)
    console.print(table)
    console.print(
        "Weights and inputs in bits, of any kind of layer; apq-tune devices NAME shows the rules.", soft_wrap=True
    )


def print_preset(preset: DevicePreset, console: Console) -> None:
    """Print all that a preset says, with its sources."""
    console.print(f"{preset.name}: {preset.title}", soft_wrap=True)
    for kind, name in NAMES.items():
        rule = preset.rule(kind)
        console.print(f"  {name}: {'not run' if rule is None else rule}{_source(preset, rule)}", soft_wrap=True)
    for end in ("first", "last"):
        rule = getattr(preset.ops, end)
        if rule is not None:
            console.print(f"  {end} layers: {rule}{_source(preset, rule)}", soft_wrap=True)
    for what, memory in (("flash", preset.flash), ("RAM", preset.ram)):
        if memory is not None:
            source = memory.source or preset.source
            console.print(f"  {what}: {_size(memory.bytes)}{f' ({source})' if source else ''}", soft_wrap=True)
    if preset.cost_model is not None:
        source = preset.cost_model.source
        console.print(f"  cost model: {preset.cost_model.name}{f' ({source})' if source else ''}", soft_wrap=True)
    if preset.functions is not None:
        console.print(f"  activation functions: {', '.join(preset.functions) or 'none'}", soft_wrap=True)
    console.print(f"  files: {', '.join(preset.files) or 'none of those that apq-tune export writes'}", soft_wrap=True)
    if preset.unsearched:
        said = ", ".join(preset.unsearched)
        console.print(f"  not searched: {said}, which no search space offers; they are left out", soft_wrap=True)
    for note in preset.notes:
        console.print(f"  note: {note}", soft_wrap=True)


def _rules(preset: DevicePreset) -> list[OpRule]:
    kinds: tuple[OpKind, ...] = tuple(NAMES)
    found = [preset.rule(kind) for kind in kinds]
    return [rule for rule in (*found, preset.ops.first, preset.ops.last) if rule is not None]


def _source(preset: DevicePreset, rule: OpRule | None) -> str:
    source = preset.source if rule is None else rule.source or preset.source
    return f" ({source})" if source else ""


def _numbers(values: Sequence[int]) -> str:
    whole = list(range(values[0], values[-1] + 1))
    return f"{values[0]} to {values[-1]}" if len(values) > 3 and list(values) == whole else ", ".join(map(str, values))


def _size(n_bytes: int | None) -> str:
    """Bytes as text; binary units where they come out even."""
    if n_bytes is None:
        return "-"
    for unit, size in (("MiB", 2**20), ("KiB", 2**10), ("MB", 10**6), ("kB", 10**3)):
        if n_bytes >= size and n_bytes % size == 0:
            return f"{n_bytes // size} {unit}"
    return f"{n_bytes} bytes"
