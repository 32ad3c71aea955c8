"""Bits of stored sparse weights, exactly, from the mask of the weights that are not zero."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import RunError
from apq_tune.network import sparse

StorageFormat = Literal["dense", "bitmap", "run_length", "n_of_m"]
"""How weights are stored: all of them; a bit for each weight and the values that are not zero; each of these values
behind the number of zeros before it; or N values for each M weights and their places."""

RUN_BITS = 4
"""Bits of a number of zeros, as in EIE (Han 2016)."""


def bitmap_bits(kept: NDArray[np.bool_], bits: int) -> int:
    """Bits of a layer as a bitmap and the values that are not zero.

    Args:
        kept: Mask of the weights that are not zero, in the order in which they are stored.
        bits: Bits of a value.
    """
    return int(sparse.bitmap_bits(kept.size, kept.sum(), bits))


def run_length_bits(kept: NDArray[np.bool_], bits: int, run_bits: int = RUN_BITS) -> int:
    """Bits of a layer as pairs of a number of zeros and the value behind them.

    A run of ``2^run_bits`` zeros or more has pairs whose value is zero in it (Han 2016); zeros at the end need none.

    Args:
        kept: Mask of the weights that are not zero, in the order in which they are stored.
        bits: Bits of a value.
        run_bits: Bits of a number of zeros.
    """
    places = np.flatnonzero(kept)
    runs = np.diff(places, prepend=-1) - 1
    pairs = len(places) + int((runs >> run_bits).sum())
    return pairs * (bits + run_bits)


def n_of_m_bits(kept: NDArray[np.bool_], bits: int, pattern: tuple[int, int]) -> int:
    """Bits of a layer with N values for each M consecutive weights, each with its place (2 bits in 2:4, Mishra 2021).

    Args:
        kept: Mask of the weights that are not zero, groups one behind the other.
        bits: Bits of a value.
        pattern: N and M.

    Raises:
        RunError: If a group has more than N weights that are not zero, or the last one is not whole.
    """
    n, m = pattern
    if kept.size % m or int(kept.reshape(-1, m).sum(1).max(initial=0)) > n:
        raise RunError(f"weights are not {n}:{m} sparse; store them as a bitmap")
    return int(sparse.pattern_bits(kept.size // m, n, m, bits))


def stored_bits(
    kept: NDArray[np.bool_], bits: int, storage: StorageFormat, pattern: tuple[int, int] | None = None
) -> int:
    """Bits of the weights of a layer in a format.

    Args:
        kept: Mask of the weights that are not zero, shape ``(out, in, ...)``; input channels are stored last, so that
            they are consecutive.
        bits: Bits of a value.
        storage: Format. In ``n_of_m``, the last group of an output is filled up with zeros; layers that are not N:M
            sparse, or would take more bits than all of their weights, are stored densely.
        pattern: N and M.

    Raises:
        RunError: If ``n_of_m`` has no pattern.
    """
    flat = np.moveaxis(kept, 1, -1).reshape(-1)
    if storage == "bitmap":
        return bitmap_bits(flat, bits)
    if storage == "run_length":
        return run_length_bits(flat, bits)
    if storage == "n_of_m":
        if pattern is None:
            raise RunError("storage is 'n_of_m'; give its pattern, such as (2, 4)")
        n, m = pattern
        rows = np.moveaxis(kept, 1, -1).reshape(-1, kept.shape[1])
        groups = np.pad(rows, ((0, 0), (0, -rows.shape[1] % m))).reshape(-1, m)
        if groups.sum(1).max(initial=0) <= n:
            return min(n_of_m_bits(groups.reshape(-1), bits, pattern), flat.size * bits)
    return flat.size * bits
