"""One network of the space of a traced model, readable: what its genes choose, by the user's names."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from apq_tune.errors import CandidateError
from apq_tune.inputs.ranges import shown
from apq_tune.space.sparsities import as_share

KEYS = ("skipped", "widths", "w_bits", "a_bits")
"""Keys of a candidate as plain data, besides ``resolution``; ``skipped`` tells it from other kinds of candidates."""

SPARSITY = "sparsity"
"""Key of the sparsities, which candidates of spaces without a choice of them do not have."""

Pairs = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class ModelCandidate:
    """Part of a traced model and its bits; equal networks are equal objects.

    Only what the space leaves open is named, and only of what is there.

    Attributes:
        skipped: Names of the residual blocks that are left out, in the order of the model.
        widths: Channels of the first maker of each group of coupled channels, by name of the group.
        w_bits: Bits of the weights of layers, by name.
        a_bits: Bits of their inputs, by name.
        resolution: Pixels along a side of the input, where the space offers several; else ``None``.
        sparsity: Shares of zeros among the weights of layers, by name.
    """

    skipped: tuple[str, ...]
    widths: Pairs
    w_bits: Pairs
    a_bits: Pairs
    resolution: int | None = None
    sparsity: tuple[tuple[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data: ``skipped``, ``widths``, ``w_bits``, ``a_bits``; ``sparsity`` and ``resolution`` if open."""
        data: dict[str, Any] = {"skipped": list(self.skipped)}
        data |= {"widths": dict(self.widths), "w_bits": dict(self.w_bits), "a_bits": dict(self.a_bits)}
        data |= {SPARSITY: dict(self.sparsity)} if self.sparsity else {}
        return data | ({} if self.resolution is None else {"resolution": [self.resolution]})

    @classmethod
    def from_dict(cls, data: Any) -> ModelCandidate:
        """Inverse of ``to_dict``.

        Raises:
            CandidateError: If keys are missing or unknown, or values are not positive integers (shares) by name.
        """
        if not isinstance(data, Mapping) or set(data) - {"resolution", SPARSITY} != set(KEYS):
            got = sorted(map(str, data)) if isinstance(data, Mapping) else type(data).__name__
            raise CandidateError(f"a candidate of a model has the keys {list(KEYS)}, got {got}")
        skipped = data["skipped"]
        if not isinstance(skipped, list | tuple) or not all(isinstance(name, str) for name in skipped):
            raise CandidateError(f"skipped: {shown(skipped)} is not a list of names of blocks")
        if len(set(skipped)) < len(skipped):
            raise CandidateError(f"skipped: {shown(list(skipped))} names a block twice")
        size = data.get("resolution", [None])
        size = size if isinstance(size, list | tuple) else [size]
        if len(size) != 1 or not (size[0] is None or _is_count(size[0])):
            raise CandidateError(f"resolution: {shown(data['resolution'])} is not one number; give a list of one")
        widths, w_bits, a_bits = (_pairs(name, data[name]) for name in KEYS[1:])
        return cls(tuple(skipped), widths, w_bits, a_bits, size[0], _shares(data.get(SPARSITY, {})))

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self.to_dict())

    def __str__(self) -> str:
        """Compact form: blocks that are left out, widths, and bits of layers, equal neighbours as ``w4a8x3``."""
        chosen = {"w": dict(self.w_bits), "a": dict(self.a_bits), "s": dict(self.sparsity)}
        layers = dict.fromkeys(name for own in chosen.values() for name in own)
        bits = ["".join(f"{letter}{own[name]}" for letter, own in chosen.items() if name in own) for name in layers]
        parts = [] if self.resolution is None else [f"r{self.resolution}"]
        parts += ["without " + " ".join(self.skipped)] if self.skipped else []
        parts += [_runs(str(channels) for _, channels in self.widths), _runs(bits)]
        return " | ".join(part for part in parts if part)

    short_name = "network"

    @property
    def short(self) -> str:
        """Number of blocks that are left out, mean bits, and resolution, such as ``2 skipped, w3.5 a6.1``."""
        said = [f"{len(self.skipped)} skipped"] if self.skipped else []
        means = [
            f"{letter}{np.mean([bits for _, bits in own]):.1f}"
            for letter, own in (("w", self.w_bits), ("a", self.a_bits))
            if own
        ]
        if self.sparsity:
            means.append(f"s{np.mean([share for _, share in self.sparsity]):.2f}")
        said += [" ".join(means)] if means else []
        said += [] if self.resolution is None else [f"at {self.resolution}"]
        return ", ".join(said) or "whole"


def _pairs(name: str, data: Any) -> Pairs:
    if not isinstance(data, Mapping):
        raise CandidateError(f"{name}: {shown(data)} is no mapping from names to numbers")
    for key, value in data.items():
        if not isinstance(key, str) or not _is_count(value):
            raise CandidateError(f"{name}: {key!r}: {shown(value)} is not a positive integer; give one")
    return tuple((key, int(value)) for key, value in data.items())


def _shares(data: Any) -> tuple[tuple[str, Any], ...]:
    if not isinstance(data, Mapping):
        raise CandidateError(f"{SPARSITY}: {shown(data)} is no mapping from names to shares of zeros")
    for key, value in data.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not isinstance(key, str) or not number or not 0 <= value < 1:
            raise CandidateError(f"{SPARSITY}: {key!r}: {shown(value)} is no share of zeros; give 0 to below 1")
    return tuple((key, as_share(value)) for key, value in data.items())


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _runs(texts: Iterable[str]) -> str:
    """Texts separated by spaces, equal neighbours once with their number."""
    runs = ((text, len(list(run))) for text, run in itertools.groupby(texts))
    return " ".join(text if n == 1 else f"{text}x{n}" for text, n in runs)
