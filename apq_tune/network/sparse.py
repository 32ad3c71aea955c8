"""Sparse weights as numbers: how many of a layer's weights are kept, and how many bits they take in a format.

Numbers may be broadcastable arrays. Sparsity is the share of weights that are zero. With groups of one weight it is
unstructured: any weights may be zero. With groups of M consecutive input channels, at most N weights of each group are
kept (N:M, Mishra 2021), and the sparsity is 1 - N / M; a group that is not whole keeps up to N of what it has.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np

from apq_tune.errors import RunError

DIGITS = 4
"""Decimal places to which the sparsity of a pattern is rounded."""


class Pattern(NamedTuple):
    """N:M sparsity: at most ``kept`` of ``group`` consecutive weights are not zero."""

    kept: int
    group: int

    @classmethod
    def of(cls, text: str) -> Pattern:
        """Read a pattern such as ``2:4``.

        Raises:
            RunError: If it is none.
        """
        match = re.fullmatch(r"(\d+):(\d+)", text.strip())
        if match is None or not 0 < int(match[1]) < int(match[2]):
            raise RunError(f"sparsity is {text!r}; give a share such as 0.9, or a pattern N:M with 0 < N < M, as 2:4")
        return cls(int(match[1]), int(match[2]))

    @property
    def sparsity(self) -> float:
        """Share of zeros."""
        return round(1 - self.kept / self.group, DIGITS)


def n_kept(n_weights: Any, n_inputs: Any, sparsity: Any, group: int) -> Any:
    """Number of weights of a layer that are kept.

    Args:
        n_weights: Number of weights.
        n_inputs: Number of input channels of each output channel.
        sparsity: Share of zeros.
        group: Number of consecutive input channels of a group; 1 for unstructured sparsity.
    """
    if group == 1:
        return _whole(n_weights - np.rint(n_weights * np.asarray(sparsity, np.float64)))
    kept = kept_of_group(sparsity, group)
    return n_weights // n_inputs * (n_inputs // group * kept + np.minimum(n_inputs % group, kept))


def kept_of_group(sparsity: Any, group: int) -> Any:
    """Number of weights that are kept of each group, N of N:M."""
    return _whole(np.rint((1 - np.asarray(sparsity, np.float64)) * group))


def stored_bits(n_weights: Any, n_inputs: Any, bits: Any, sparsity: Any, group: int) -> Any:
    """Bits of the weights of a layer: as a bitmap, or N:M values with their places, or all of them if that is less.

    Args:
        n_weights: Number of weights.
        n_inputs: Number of input channels of each output channel.
        bits: Bits of a weight.
        sparsity: Share of zeros.
        group: Number of consecutive input channels of a group; 1 for unstructured sparsity.
    """
    if group == 1:
        sparse = bitmap_bits(n_weights, n_kept(n_weights, n_inputs, sparsity, group), bits)
    else:
        n_groups = n_weights // n_inputs * -(-n_inputs // group)
        sparse = pattern_bits(n_groups, kept_of_group(sparsity, group), group, bits)
    return np.minimum(sparse, n_weights * bits)


def bitmap_bits(n_weights: Any, kept: Any, bits: Any) -> Any:
    """Bits of a bit for each weight, and the values of those that are kept."""
    return n_weights + kept * bits


def pattern_bits(n_groups: Any, kept: Any, group: int, bits: Any) -> Any:
    """Bits of N values for each group, each with its place (2 bits in 2:4)."""
    return n_groups * kept * (bits + (group - 1).bit_length())


def _whole(numbers: Any) -> Any:
    return int(numbers) if np.ndim(numbers) == 0 else np.asarray(numbers, np.int64)
