"""Operations of ATen that move values: parts, pools, views, other orders and sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from apq_tune.tracing.aten_layers import pair
from apq_tune.tracing.calls import Call, Draft, Output, Result, Rule
from apq_tune.tracing.simplify import reshape


def _concat(call: Call) -> Result:
    parts = call.x
    if len(parts) == 1:
        return parts[0] if isinstance(parts[0], Output) else None
    if not all(isinstance(part, Output) for part in parts):
        return None
    return Draft("concat", parts) if call["dim"] in (1, -len(call.shape)) else None


def _axis(call: Call, dim: int) -> int:
    """Axis without the batch (-1: the batch) of a dimension that may be negative."""
    n_axes = len(call.x.shape) + 1
    return (dim + n_axes) % n_axes - 1


def _part(x: Output, start: int, stop: int) -> Draft | Output:
    """Slice of the first axis."""
    return x if (start, stop) == (0, x.shape[0]) else Draft("slice", [x], {"start": start, "stop": stop})


def _slice(call: Call) -> Result:
    x: Output = call.x
    axis = _axis(call, call["dim"])
    size = x.shape[axis] if axis >= 0 else 0
    start, stop, step = slice(call["start"], call["end"], call["step"]).indices(size)
    if axis < 0:
        whole = call["start"] in (None, 0) and call["end"] in (None, 2**63 - 1) and call["step"] == 1
        return x if whole else None
    if (start, stop, step) == (0, size, 1):
        return x
    if axis == 0:
        if step == 1:
            return _part(x, start, stop)
        return Draft("select", [x], {"indices": list(range(start, stop, step))})
    if len(x.shape) == 3 and start == 0 and stop == size:  # every step-th row or column
        stride = [step, 1] if axis == 1 else [1, step]
        own = {"kernel": [1, 1], "stride": stride, "padding": [0, 0, 0, 0], "dilation": [1, 1]}
        return Draft("max_pool", [x], own)
    return None


def _split(call: Call) -> Result:
    x = call.x
    if _axis(call, call["dim"]) != 0:
        return None
    size = x.shape[0]
    if call.name == "chunk":
        step = math.ceil(size / call["chunks"])
        sizes = [step] * (size // step) + ([size % step] if size % step else [])
    elif isinstance(call["split_size"], int):
        step = call["split_size"]
        sizes = [step] * (size // step) + ([size % step] if size % step else [])
    else:
        sizes = list(call["split_sizes"] or call["split_size"])
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    return [_part(x, end - own, end) for end, own in zip(ends, sizes, strict=True)]


def _narrow(call: Call) -> Result:
    if _axis(call, call["dim"]) != 0 or not isinstance(call["start"], int) or call["start"] < 0:
        return None
    return _part(call.x, call["start"], call["start"] + call["length"])


def _mean(call: Call) -> Result:
    x, dims = call.x, call["dim"]
    if len(x.shape) != 3 or not dims or call["dtype"] is not None:
        return None
    if sorted(_axis(call, dim) for dim in dims) != [1, 2]:
        return None
    return Draft("mean", [x], {"keep": bool(call["keepdim"])})


def _largest(call: Call) -> Result:
    x, dims = call.x, call["dim"]
    if len(x.shape) != 3 or sorted(_axis(call, dim) for dim in dims) != [1, 2] or not call["keepdim"]:
        return None
    return _whole_max(x)


def _whole_max(x: Output) -> Draft:
    """Largest value of all pixels."""
    own: dict[str, Any] = {"kernel": list(x.shape[1:]), "stride": list(x.shape[1:]), "padding": [0, 0, 0, 0]}
    return Draft("max_pool", [x], {**own, "dilation": [1, 1], "adaptive": True})


def _adaptive_pool(call: Call) -> Result:
    x: Output = call.x
    if len(x.shape) != 3:
        return None
    inner, outer = x.shape[1:], call.shape[1:]
    is_mean = "avg" in call.name
    if outer == (1, 1):
        return Draft("mean", [x], {"keep": True}) if is_mean else _whole_max(x)
    if inner == outer:
        return x
    if any(size % out for size, out in zip(inner, outer, strict=True)):
        return None
    kernel = [size // out for size, out in zip(inner, outer, strict=True)]
    own: dict[str, Any] = {"kernel": kernel, "stride": kernel, "padding": [0, 0, 0, 0], "adaptive": True}
    own |= {"count_padding": True} if is_mean else {"dilation": [1, 1]}
    return Draft("avg_pool" if is_mean else "max_pool", [x], own)


def _pool(call: Call) -> Result:
    x = call.x
    if len(x.shape) != 3:
        return None
    kernel = pair(call["kernel_size"])
    stride, padding = pair(call["stride"] or [], kernel), pair(call["padding"])
    is_max = "max" in call.name
    dilation = pair(call["dilation"]) if is_max else [1, 1]
    extra = [  # rows and columns that ceil_mode adds
        max((out - 1) * step + away * (size - 1) + 1 - (inner + 2 * pad), 0)
        for inner, out, size, step, pad, away in zip(
            x.shape[1:], call.shape[1:], kernel, stride, padding, dilation, strict=True
        )
    ]
    around = [*padding, padding[0] + extra[0], padding[1] + extra[1]]
    own: dict[str, Any] = {"kernel": kernel, "stride": stride, "padding": around}
    own |= {"ceil": True} if call["ceil_mode"] else {}
    if is_max:
        return Draft("max_pool", [x], {**own, "dilation": dilation})
    counted = bool(call["count_include_pad"])
    if call["divisor_override"] is not None or (counted and any(padding) and any(extra)):
        return None
    if tuple(kernel) == x.shape[1:] and not any(around):
        return Draft("mean", [x], {"keep": True})
    counted = counted and not any(extra)  # what ceil_mode adds is never counted
    return Draft("avg_pool", [x], {**own, "count_padding": counted})


def _reshape(call: Call) -> Result:
    """Views that keep the order of all values."""
    x: Output = call.x
    if x.shape == call.shape:
        return x
    flat = (math.prod(x.shape),)
    if call.shape == flat or (x.shape == flat and call.shape == (*flat, 1, 1)):
        return Draft("flatten", [x])
    return Draft("opaque", [x], reshape(call.shape))


def _permute(call: Call) -> Result:
    x: Output = call.x
    order = list(range(len(x.shape) + 1))
    if call.name in ("permute", "movedim") and call["dims"] is not None:
        order = [dim % len(order) for dim in call["dims"]]
    elif call.name == "transpose":
        one, other = call["dim0"] % len(order), call["dim1"] % len(order)
        order[one], order[other] = order[other], order[one]
    else:
        return None
    if order[0] != 0:
        return None
    own = [axis - 1 for axis in order[1:]]
    return x if own == sorted(own) else Draft("permute", [x], {"order": own})


def _pad(call: Call) -> Result:
    x: Output = call.x
    sizes, value = list(call["pad"]), call["value"] or 0
    if not any(sizes):
        return x
    plain = call.name == "constant_pad_nd" or call["mode"] == "constant"
    if len(x.shape) != 3 or not plain or len(sizes) not in (2, 4, 6) or min(sizes) < 0:
        return None
    left, right, top, bottom, *channels = (*sizes, 0, 0)[: max(len(sizes), 4)]
    settings: dict[str, Any] = {"padding": [top, left, bottom, right], "value": float(value)}
    return Draft("pad", [x], settings | ({"channels": channels} if any(channels) else {}))


def _upsample(call: Call) -> Result:
    x: Output = call.x
    if len(x.shape) != 3 or call["align_corners"]:
        return None
    factors = {out / size for out, size in zip(call.shape[1:], x.shape[1:], strict=True)}
    factor = next(iter(factors))
    if len(factors) > 1 or not factor.is_integer():
        return None
    if factor == 1:
        return x
    mode = "nearest" if "nearest" in call.name else "bilinear"
    return Draft("upsample", [x], {"factor": int(factor), "mode": mode})


def _same(call: Call) -> Result:
    x: Output = call.x
    return x


def _dropout(call: Call) -> Result:
    return None if call["train"] else _same(call)


def _cast(call: Call) -> Result:
    return _same(call) if call["dtype"] in (None, "float32") else None


SAME: Mapping[str, Rule] = {
    **dict.fromkeys(("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"), _dropout),
    **dict.fromkeys(("contiguous", "clone", "alias", "detach", "lift_fresh_copy", "identity"), _same),
    **dict.fromkeys(("to", "_to_copy", "type_as"), _cast),
}
"""Rules of operations that change no value, whatever the shape of their argument."""

SHAPES: Mapping[str, Rule] = {
    "slice": _slice,
    **dict.fromkeys(("chunk", "split", "split_with_sizes"), _split),
    "narrow": _narrow,
    "mean": _mean,
    "amax": _largest,
    **dict.fromkeys(("adaptive_avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d"), _adaptive_pool),
    **dict.fromkeys(("max_pool2d", "max_pool2d_with_indices", "avg_pool2d"), _pool),
    **dict.fromkeys(
        ("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as"),
        _reshape,
    ),
    **dict.fromkeys(("permute", "transpose", "movedim"), _permute),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    **dict.fromkeys(("upsample_nearest2d", "upsample_bilinear2d"), _upsample),
    **SAME,
}
"""Rules of operations whose first argument is a tensor, by name."""

LISTS: Mapping[str, Rule] = {"cat": _concat}
"""Rules of operations whose first argument is a list of tensors."""
