"""Bytes of sparse weights against encodings that are decoded again, and work against a plain count."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from apq_tune import ApqError, SearchSpace
from apq_tune.cost import cost_models
from apq_tune.space.encodings import encoding_of
from apq_tune.sparsity.footprint import footprint
from apq_tune.sparsity.formats import bitmap_bits, n_of_m_bits, run_length_bits, stored_bits
from apq_tune.sparsity.sparsifier import Sparsifier
from apq_tune.supernet.evaluate import subnet_from
from apq_tune.supernet.kinds import supernet_of
from tests.conftest import TINY
from tests.tracing.zoo import ResNet


def written(numbers: list[tuple[int, int]]) -> str:
    """Numbers of given bits, one behind the other."""
    return "".join(format(number, f"0{bits}b") for number, bits in numbers)


def as_bitmap(values: NDArray[np.int64], bits: int) -> str:
    return written([(int(v != 0), 1) for v in values] + [(int(v), bits) for v in values if v])


def as_runs(values: NDArray[np.int64], bits: int, run_bits: int) -> str:
    pairs, zeros, longest = [], 0, 2**run_bits - 1
    for value in values.tolist():
        if value == 0 and zeros < longest:
            zeros += 1
            continue
        pairs += [(zeros, run_bits), (value, bits)]  # the value is zero where a run is too long
        zeros = 0
    while pairs and pairs[-1][0] == 0:  # zeros at the end
        pairs = pairs[:-2]
    return written(pairs)


def of_runs(text: str, n: int, bits: int, run_bits: int) -> list[int]:
    values: list[int] = []
    for start in range(0, len(text), bits + run_bits):
        zeros, value = text[start : start + run_bits], text[start + run_bits : start + run_bits + bits]
        values += [0] * int(zeros, 2) + [int(value, 2)]
    return values + [0] * (n - len(values))


@pytest.mark.parametrize("density", [0.0, 0.01, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("bits", [2, 8])
def test_bits_by_formula_are_those_of_an_encoding(density: float, bits: int, rng: np.random.Generator) -> None:
    values = rng.integers(1, 2**bits, 1000) * (rng.random(1000) < density)
    assert bitmap_bits(values != 0, bits) == len(as_bitmap(values, bits))
    for run_bits in (1, 2, 4, 7):
        text = as_runs(values, bits, run_bits)
        assert of_runs(text, 1000, bits, run_bits) == values.tolist()
        assert run_length_bits(values != 0, bits, run_bits) == len(text)


def test_masks_of_trained_patterns_are_stored_as_values_and_places() -> None:
    torch.manual_seed(0)
    model = nn.Conv2d(8, 3, 3)
    Sparsifier(model, "2:4").finish()
    kept = (model.weight != 0).numpy()
    text = ""
    for out in kept.transpose(0, 2, 3, 1).reshape(-1, 4):
        text += written([(7, 8), (int(place), 2)][i] for place in np.flatnonzero(out) for i in (0, 1))
    assert stored_bits(kept, 8, "n_of_m", (2, 4)) == len(text) == 3 * 9 * 2 * 2 * (8 + 2)
    assert stored_bits(kept, 8, "n_of_m", (1, 4)) == kept.size * 8
    with pytest.raises(ApqError, match="not 1:4 sparse"):
        n_of_m_bits(kept.transpose(0, 2, 3, 1).reshape(-1), 8, (1, 4))
    with pytest.raises(ApqError, match="give its pattern"):
        stored_bits(kept, 8, "n_of_m")


@pytest.mark.parametrize("groups", [1, 4])
def test_work_of_a_module_is_that_of_a_plain_count(groups: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=groups),
        nn.BatchNorm2d(8),
        nn.ConvTranspose2d(8, 4, 2, 2),
        nn.Flatten(),
        nn.Linear(144, 5),
    )
    example = torch.rand(1, 4, 5, 6)
    with FlopCounterMode(display=False) as counter:
        model(example)
    dense = footprint(model, example, storage="dense")
    n_parameters = sum(parameter.numel() for parameter in model.parameters())
    assert dense.dense_macs == dense.macs == counter.get_total_flops() / 2
    assert dense.weight_bytes == dense.dense_bytes == 4 * n_parameters
    assert (dense.speed_up, dense.compression, dense.sparsity) == (1, 1, 0)
    Sparsifier(model, 0.7, at_most={"0": 0.0}).finish()
    sparse = footprint(model, example)
    shares = [float((part.weight != 0).float().mean()) for part in (model[0], model[2], model[4])]
    assert sparse.macs == pytest.approx(sum(s * row.macs for s, row in zip(shares, dense.layers, strict=True)))
    weights = sum(model[place].weight.numel() for place in (0, 2, 4))
    nonzero = sum(int((model[place].weight != 0).sum()) for place in (0, 2, 4))
    assert sparse.weight_bytes == 4 * (n_parameters - weights) + weights / 8 + nonzero * 4
    assert sparse.sparsity == pytest.approx(0.7, abs=1e-3)
    assert model.training


def test_size_of_a_found_network_is_that_of_its_cost_where_nothing_is_pruned() -> None:
    torch.manual_seed(0)
    space = SearchSpace.from_dict(TINY)
    encoding = encoding_of(space)
    candidate = encoding.extremes()[1]
    subnet = subnet_from(supernet_of(space), candidate, torch.rand(16, 3, 8, 8), quantize=True)
    genome = encoding.encode([candidate])
    costs = {model.name: float(model(genome)[0]) for model in cost_models(encoding)}
    dense = footprint(subnet, storage="dense")
    assert dense.weight_bytes == dense.dense_bytes == costs["weight_bytes"]
    assert dense.dense_macs == costs["macs"]
    Sparsifier(subnet, 0.9).finish()
    sparse = footprint(subnet)
    assert sparse.sparsity >= 0.9 - 1e-3
    bits = {layer.name: int(layer.op.w_bits) for layer in subnet.layers if layer.op is not None}
    own = sum(row.weights + row.kept * bits[row.name] for row in sparse.layers) / 8
    assert sparse.weight_bytes == dense.other_bytes + own
    assert sparse.compression == dense.weight_bytes / sparse.weight_bytes > 2


def test_footprints_that_cannot_be_counted_are_refused() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.linear(x, self.inner.weight)

    with pytest.raises(ApqError, match="inner: its multiply-accumulates cannot be counted"):
        footprint(Functional(), torch.rand(1, 3))
    with pytest.raises(ApqError, match="example is missing"):
        footprint(nn.Linear(3, 3))
    with pytest.raises(ApqError, match="storage is 'zip'"):
        footprint(nn.Linear(3, 3), torch.rand(1, 3), storage="zip")


def test_layers_that_run_twice_count_twice() -> None:
    model = ResNet(1)
    model.layer1.append(model.layer1[0])
    once = {row.name: row.macs for row in footprint(ResNet(1), torch.rand(1, 3, 16, 16)).layers}
    twice = {row.name: row.macs for row in footprint(model, torch.rand(1, 3, 16, 16)).layers}
    assert {name for name in once if twice[name] == 2 * once[name]} == {"layer1.0.conv1", "layer1.0.conv2"}
