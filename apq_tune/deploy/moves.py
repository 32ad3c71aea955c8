"""Rules in NumPy of steps that move or select values without arithmetic; see ``MoveStep``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq_tune.deploy.program import MoveStep

Settings = Mapping[str, Any]
Pair = tuple[int, int]


def moved(step: MoveStep, x: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Output of a step.

    Args:
        step: Step.
        x: Levels or real values of its input, shape ``(n, ...)``.
        shape: Shape of its output without the batch.
    """
    if step.kind == "flatten":
        return x.reshape(len(x), *shape)
    return _MOVES[step.kind](x, step.settings)


def padded(x: NDArray[Any], padding: tuple[int, int, int, int], value: float) -> NDArray[Any]:
    """Images with rows and columns of a value above, left, below and right."""
    top, left, bottom, right = padding
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=value)


def windows(
    x: NDArray[Any], kernel: Pair, stride: Pair, dilation: Pair = (1, 1)
) -> Iterator[tuple[Pair, NDArray[Any]]]:
    """Places in a kernel, row by row, each with what all windows have there, shape ``(n, channels, h, w)``."""
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    height, width = ((n - r) // s + 1 for n, r, s in zip(x.shape[2:], reach, stride, strict=True))
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            rows = slice(i * dilation[0], i * dilation[0] + stride[0] * (height - 1) + 1, stride[0])
            columns = slice(j * dilation[1], j * dilation[1] + stride[1] * (width - 1) + 1, stride[1])
            yield (i, j), x[:, :, rows, columns]


def _slice(x: NDArray[Any], settings: Settings) -> NDArray[Any]:
    return x[:, settings["start"] : settings["stop"]]


def _select(x: NDArray[Any], settings: Settings) -> NDArray[Any]:
    return x[:, list(settings["indices"])]


def _shuffle(x: NDArray[Any], settings: Settings) -> NDArray[Any]:
    n, channels, *pixels = x.shape
    groups = settings["groups"]
    return x.reshape(n, groups, channels // groups, *pixels).swapaxes(1, 2).reshape(x.shape)


def _max_pool(x: NDArray[Any], settings: Settings) -> NDArray[Any]:
    least = np.iinfo(x.dtype).min if np.issubdtype(x.dtype, np.integer) else -np.inf
    kernel, stride, dilation = (settings[key] for key in ("kernel", "stride", "dilation"))
    parts = windows(padded(x, settings["padding"], least), kernel, stride, dilation)
    return np.asarray(np.maximum.reduce([window for _, window in parts]))


def _pad(x: NDArray[Any], settings: Settings) -> NDArray[Any]:
    value, channels = settings.get("value", 0), settings.get("channels", (0, 0))
    x = padded(x, settings["padding"], value)
    return np.pad(x, ((0, 0), tuple(channels), (0, 0), (0, 0)), constant_values=value)


def _upsample(x: NDArray[Any], settings: Settings) -> NDArray[Any]:
    factor = settings["factor"]
    return x.repeat(factor, axis=2).repeat(factor, axis=3)


def _permute(x: NDArray[Any], settings: Settings) -> NDArray[Any]:
    return x.transpose(0, *(axis + 1 for axis in settings["order"]))


_MOVES: Mapping[str, Callable[[NDArray[Any], Settings], NDArray[Any]]] = {
    "slice": _slice,
    "select": _select,
    "shuffle": _shuffle,
    "max_pool": _max_pool,
    "pad": _pad,
    "upsample": _upsample,
    "permute": _permute,
}
