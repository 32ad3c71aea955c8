"""Parsing of quantities such as ``200kB``, ``8.4 ms`` or ``5M`` into the unit of a metric."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping

from apq_tune.errors import ProblemError

NUMBER = re.compile(r"([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(.*)", re.DOTALL)

COUNTS: dict[str, float] = {"": 1, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9}
"""Suffixes of counts (MACs, BitOps) and of bytes, with their factors."""

UNITS: Mapping[str, Mapping[str, float]] = {
    "bytes": COUNTS
    | {"B": 1, "bytes": 1, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9}
    | {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30},
    "ms": {"": 1, "ns": 1e-6, "us": 1e-3, "µs": 1e-3, "ms": 1, "s": 1e3},
    "mJ": {"": 1, "nJ": 1e-6, "uJ": 1e-3, "µJ": 1e-3, "mJ": 1, "J": 1e3},
    "fraction": {"": 1, "%": 1e-2},
    "nats": {"": 1},
    "percent": {"": 1},
}
"""Suffixes and their factors by the unit of a metric. kB is 1,000 bytes and KiB 1,024 bytes (IEC 80000-13)."""


def read_quantity(text: str, unit: str) -> float:
    """Parse a quantity.

    Args:
        text: Number, optionally followed by a unit or a prefix.
        unit: Unit of the result. For a unit that is not in ``UNITS``, prefixes of counts are accepted, with or without
            the name of the unit.

    Returns:
        Finite amount in ``unit``.

    Raises:
        ProblemError: If the text is not a finite number or has another unit (lower-case ``kb`` would mean bits); the
            message lists the accepted suffixes.
    """
    known = UNITS.get(unit) or COUNTS | {prefix + unit: factor for prefix, factor in COUNTS.items()}
    match = NUMBER.fullmatch(text.strip())
    number = float(match[1]) if match else math.nan
    if match is None or not math.isfinite(number):
        raise ProblemError(f"{text.strip()!r} is not a finite number; write, for instance, {_example(unit)}")
    if match[2] not in known:
        allowed = ", ".join(name for name in known if name)
        near = difflib.get_close_matches(match[2], known, 1, 0.5)
        hint = f", such as {match[1]}{near[0]}" if near else ""
        raise ProblemError(
            f"{match[2]!r} in {text.strip()!r} is not a unit of {unit or 'a plain number'}; write a plain number, or "
            f"one with {allowed}{hint}"
            if allowed
            else f"{match[2]!r} in {text.strip()!r} is not a unit of {unit}; write a plain number"
        )
    value = number * known[match[2]]
    if not math.isfinite(value):
        raise ProblemError(f"{text.strip()!r} is too large; give a finite number")
    return value


def _example(unit: str) -> str:
    return {"bytes": "200kB", "ms": "8.4ms", "mJ": "5mJ", "fraction": "0.9"}.get(unit, "2e6")
