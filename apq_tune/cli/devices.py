"""``apq-tune devices``, and the option that names one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from apq_tune.space.device import DevicePreset
    from apq_tune.space.parameters import Space

DEVICE_PRESET = click.option(
    "--device-preset",
    metavar="NAME|FILE",
    help="Device that networks are for: bits, kernels and channels that it does not run are left out, and its flash "
    "and RAM are limits. A name of apq-tune devices, or a YAML file.",
)


def preset_of(name: str | None, space: Space | None = None) -> DevicePreset | None:
    """Preset of ``--device-preset``; without the option that of the file of a space, or ``None``.

    Raises:
        DeviceError: If it is unknown or invalid.
    """
    from apq_tune.space.device import load_preset

    return getattr(space, "device", None) if name is None else load_preset(name)


def narrowed(space: Space, preset: DevicePreset | None) -> Any:
    """Part of a space that a device runs; all of it without a device.

    Raises:
        click.UsageError: If the space has no networks.
        DeviceError: If nothing is left.
    """
    from apq_tune.space.network_space import NetworkSpace

    if preset is None:
        return space
    if not isinstance(space, NetworkSpace):
        raise click.UsageError(f"--device-preset {preset.name}: {space.name} has no networks; leave it out")
    return space.narrowed(preset)


@click.command()
@click.argument("device", required=False, metavar="[NAME|FILE]")
def devices(device: str | None) -> None:
    """List the device presets of the package, or show one.

    NAME is one of them; FILE is a YAML file of your own.
    """
    from apq_tune.report.devices import print_preset, print_presets
    from apq_tune.report.screen import Screen
    from apq_tune.space.device import known_presets, load_preset

    if device is None:
        print_presets([load_preset(name) for name in known_presets()], Screen())
    else:
        print_preset(load_preset(device), Screen())
