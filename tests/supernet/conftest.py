"""Fixtures of supernets."""

from __future__ import annotations

import pytest
from torch import Tensor

from apq_tune.supernet import folded
from apq_tune.supernet.quantize import quantize_weight


@pytest.fixture
def exact_biases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folded networks without the rounding of their biases, which elastic ones, whose batch norm is apart, lack."""

    def quantized(weight: Tensor, bias: Tensor, bits: int | None, _: object) -> tuple[Tensor, Tensor]:
        return quantize_weight(weight, bits), bias

    monkeypatch.setattr(folded, "quantized", quantized)
