"""Limits of a device: the memory that its preset says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from apq_tune.cost.models import cost_models
from apq_tune.errors import ReachError
from apq_tune.problem.metric import Metric
from apq_tune.problem.problem import Constraint
from apq_tune.space.device import DevicePreset
from apq_tune.space.encodings import encoding_of

if TYPE_CHECKING:
    from apq_tune.space.network_space import NetworkSpace


def limit_texts(preset: DevicePreset | None) -> tuple[str, ...]:
    """Limits of a device as text; none without a device.

    Of several limits on a cost the tightest one holds, so that tighter ones of the user stay.
    """
    return () if preset is None else tuple(f"{name}<={n_bytes}" for name, n_bytes in preset.limits.items())


def device_limits(space: NetworkSpace, metrics: Iterable[Metric] = ()) -> tuple[Constraint, ...]:
    """Limits of the device that a space was narrowed for, for ``Problem``; none if it was not.

    Args:
        space: Search space; see ``NetworkSpace.narrowed``.
        metrics: Metrics of the problem; costs that are among them are taken from there.

    Raises:
        ReachError: If no network of the space fits into the memory of the device.
    """
    if space.device is None:
        return ()
    models: dict[str, Metric] = {model.name: model for model in cost_models(encoding_of(space))}
    models |= {metric.name: metric for metric in metrics}
    limits = tuple(Constraint(models[name], float(n_bytes)) for name, n_bytes in space.device.limits.items())
    try:
        for limit in limits:
            limit.check_reachable()
    except ReachError as error:
        raise ReachError(f"{space.device.name}: {error}, or a smaller space") from None
    return limits
