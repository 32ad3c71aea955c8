"""The analytic BitFusion model: laws on any op, closed forms where one limit rules, errors on the published table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from apq_tune import NetworkEncoding, SearchSpace
from apq_tune.cost.bitfusion import (
    bitfusion_energy_mj,
    bitfusion_latency_ms,
    op_energy_mj,
    op_latency_ms,
)
from apq_tune.cost.formats import load_cost_table
from apq_tune.network.layer import Op
from apq_tune.network.network import ops

COSTS = (op_latency_ms, op_energy_mj)
BITS = st.integers(2, 8)
CHANNELS = st.integers(1, 1200)
SIZES = st.integers(1, 112)
KERNELS = st.sampled_from([1, 3, 5, 7])


def dense(in_channels: int, out_channels: int, size: int, kernel_size: int, w_bits: int, a_bits: int) -> Op:
    return Op(in_channels, out_channels, kernel_size, 1, size, size, w_bits, a_bits)


def depthwise(channels: int, size: int, kernel_size: int, stride: int, w_bits: int, a_bits: int) -> Op:
    return Op(channels, channels, kernel_size, channels, size * stride, size, w_bits, a_bits, stride)


OPS = st.one_of(
    st.builds(dense, CHANNELS, CHANNELS, SIZES, KERNELS, BITS, BITS),
    st.builds(depthwise, CHANNELS, SIZES, KERNELS, st.sampled_from([1, 2]), BITS, BITS),
)


def dense_24(channels: int, kernel_size: int, w_bits: int, size: int) -> Op:
    return dense(channels, 24, size, kernel_size, w_bits, 6)


def single(channels: int, kernel_size: int, w_bits: int, size: int) -> Op:
    return depthwise(channels, size, kernel_size, 1, w_bits, 6)


def wider(op: Op, more: int) -> list[Op]:
    if op.groups == 1:
        return [op._replace(in_channels=op.in_channels + more), op._replace(out_channels=op.out_channels + more)]
    channels = op.in_channels + more
    return [op._replace(in_channels=channels, out_channels=channels, groups=channels)]


@pytest.mark.parametrize("cost", COSTS)
@given(op=OPS)
def test_a_cost_is_positive_and_finite(cost: Callable[[Op], Any], op: Op) -> None:
    assert 0 < cost(op) < np.inf


@pytest.mark.parametrize("cost", COSTS)
@given(op=OPS, more=BITS)
def test_more_bits_never_cost_less(cost: Callable[[Op], Any], op: Op, more: int) -> None:
    for name in ("a_bits", "w_bits"):
        assert cost(op._replace(**{name: max(more, getattr(op, name))})) >= cost(op) * (1 - 1e-12)


@pytest.mark.parametrize("cost", COSTS)
@given(op=OPS, more=st.integers(1, 300))
def test_more_channels_never_cost_less(cost: Callable[[Op], Any], op: Op, more: int) -> None:
    for other in wider(op, more):
        assert cost(other) >= cost(op) * (1 - 1e-12)


@given(op=OPS, more=st.integers(1, 50))
def test_more_pixels_never_take_less_time_nor_less_energy_in_a_dense_convolution(op: Op, more: int) -> None:
    size = op.out_size + more
    other = op._replace(in_size=size * op.stride, out_size=size)
    assert op_latency_ms(other) >= op_latency_ms(op)
    if op.groups == 1:
        assert op_energy_mj(other) >= op_energy_mj(op)


def test_bits_that_need_the_same_bricks_compute_alike() -> None:
    """Closed form where computing takes longer than the DRAM: 16 rows, 32 columns, a pixel and a tap a cycle."""
    for a_bits, in_a_cycle in {2: 4, 3: 2, 4: 2, 5: 1, 6: 1, 7: 1, 8: 1}.items():
        cycles = op_latency_ms(dense(512, 32, 28, 5, 8, a_bits)) * 500e3
        computing = 28**2 * 5**2 * (512 / (16 * in_a_cycle))
        assert computing <= cycles <= computing + (2**18 + 3 * 24_700) / 192


def test_latency_where_dram_rules_is_every_tensor_once() -> None:
    """Weights and inputs once and 32-bit sums twice; 192 bits a cycle at 500 MHz."""
    bits = 16 * 64 * 4 + 112**2 * 16 * 4 + 2 * 112**2 * 64 * 32
    assert op_latency_ms(dense(16, 64, 112, 1, 4, 4)) == pytest.approx(bits / 192 / 500e3)


@pytest.mark.parametrize("cost", COSTS)
@given(data=st.data())
def test_arrays_give_what_numbers_give(cost: Callable[[Op], Any], data: st.DataObject) -> None:
    channels, kernels, bits = (
        data.draw(st.lists(strategy, min_size=2, max_size=2)) for strategy in (CHANNELS, KERNELS, BITS)
    )
    size = data.draw(SIZES)
    c, k, b = np.ix_(np.array(channels), np.array(kernels), np.array(bits))
    for arrays, number in ((Op(c, 24, k, 1, size, size, b, 6), dense_24), (Op(c, c, k, c, size, size, b, 6), single)):
        costs = np.broadcast_to(cost(arrays), (2, 2, 2))
        each = [cost(number(c, k, b, size)) for c in channels for k in kernels for b in bits]
        np.testing.assert_allclose(costs.ravel(), each, rtol=1e-12)


def test_a_network_costs_the_sum_of_its_ops(either: NetworkEncoding, rng: np.random.Generator) -> None:
    genomes = either.sample(20, rng)
    models = (bitfusion_latency_ms(either), "latency_ms", "ms"), (bitfusion_energy_mj(either), "energy_mj", "mJ")
    for (model, name, unit), cost in zip(models, COSTS, strict=True):
        assert (model.name, model.unit) == (name, unit)
        networks = [ops(either.space.network.at(either.space.values_of(c))) for c in either.decode(genomes)]
        sums = [sum(map(cost, network)) for network in networks]
        np.testing.assert_allclose(model(genomes), sums, rtol=1e-12)


def test_networks_cost_what_the_published_table_says(shared_data: Callable[[str], Path]) -> None:
    """Fixed parts are left out on both sides: the table does not say what its own are made of."""
    table = load_cost_table(shared_data("apq/BitFusion_new.b1.dict"))
    encoding = NetworkEncoding(SearchSpace.load("apq_mobilenet"))
    fixed = ops(encoding.space.network.fixed_layers(encoding.space.resolutions[-1]))
    ours = bitfusion_latency_ms(encoding), bitfusion_energy_mj(encoding)
    for seed in range(10):
        genomes = encoding.sample(300, np.random.default_rng(seed))
        for number, (theirs, model, cost) in enumerate(zip(table.models(encoding), ours, COSTS, strict=True)):
            expected = theirs(genomes) - table.fixed[0][number]
            actual = model(genomes) - sum(cost(op) for op in fixed)
            assert spearmanr(actual, expected).statistic >= 0.99
            assert np.median(np.abs(actual / expected - 1)) <= 0.05


@pytest.mark.parametrize(("number", "bound"), [(0, 0.03), (1, 0.06)])
def test_the_median_op_of_each_kind_costs_what_the_published_table_says(
    shared_data: Callable[[str], Path], number: int, bound: float
) -> None:
    table = load_cost_table(shared_data("apq/BitFusion_new.b1.dict"))
    errors: dict[tuple[bool, int], list[float]] = {}
    for key, values in list(table.convs.items())[::7]:
        in_channels, out_channels, in_size, kernel_size, stride, groups, w_bits, a_bits = key
        out = -(-in_size // stride)
        op = Op(in_channels, out_channels, kernel_size, groups, in_size, out, w_bits, a_bits, stride)
        errors.setdefault((groups > 1, kernel_size), []).append(abs(COSTS[number](op) / values[number] - 1))
    assert set(errors) == {(False, 1), (True, 3), (True, 5), (True, 7)}
    assert max(np.median(error) for error in errors.values()) <= bound
