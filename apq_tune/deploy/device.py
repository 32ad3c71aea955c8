"""Networks that were found, on a device."""

from __future__ import annotations

from apq_tune.errors import DeviceError
from apq_tune.space.device import DevicePreset
from apq_tune.space.device_rules import check_network
from apq_tune.supernet.found_network import FoundNetwork


def check_found(preset: DevicePreset, network: FoundNetwork) -> None:
    """Refuse a network that a device does not run or has no memory for.

    Args:
        preset: Preset of the device.
        network: Trained network of a run.

    Raises:
        DeviceError: If there is a layer that it does not run, or weights or activations need more memory than it has;
            the message names the layer and the rule, or both sizes.
    """
    try:
        check_network(preset, network.layers)
    except DeviceError as error:
        raise DeviceError(f"{network.name}: {error}") from None
    for cost, n_bytes in preset.limits.items():
        if (needed := network.costs[cost].value) > n_bytes:
            raise DeviceError(
                f"{network.name}: {cost} is {needed:.0f}, but {preset.name} has {n_bytes} bytes; take a smaller "
                "network, or another device"
            )
