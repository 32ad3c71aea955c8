"""Costs against a slow count from first principles, and against enumeration."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from apq_tune import Candidate, NetworkEncoding, SearchSpace, cost_models
from apq_tune.cost import CostModel, bit_ops, macs, peak_activation_bytes, weight_bytes
from apq_tune.network.network import ops as ops_of

METRICS = ("macs", "bit_ops", "weight_bytes", "peak_activation_bytes")


class Conv(NamedTuple):
    """What a convolution is, for the reference below."""

    n_in: int
    n_out: int
    kernel: int
    depthwise: bool
    size: int  # of its input
    out: int
    w_bits: int
    a_bits: int


def convolved(size: int, kernel: int, stride: int) -> int:
    """Side of the output of a convolution that is padded by half its kernel."""
    return (size + 2 * (kernel // 2) - kernel) // stride + 1


def reference(space: SearchSpace, candidate: Candidate) -> dict[str, float]:
    """All four costs, counted convolution by convolution and tensor by tensor."""
    fixed = space.fixed_bits
    size = convolved(space.input.size, space.stem.kernel_size, space.stem.stride)
    stem_in = space.input.channels
    convs = [Conv(stem_in, space.stem.channels, space.stem.kernel_size, False, space.input.size, size, fixed, fixed)]
    peaks = [stem_in * space.input.size**2 * fixed + space.stem.channels * size**2 * fixed]
    width = space.stem.channels
    for stage, blocks in zip(space.stages, candidate.stages, strict=True):
        for position, block in enumerate(blocks):
            stride = stage.stride if position == 0 else 1
            out = convolved(size, block.kernel_size, stride)
            middle = block.channels
            convs.append(Conv(width, middle, 1, False, size, size, block.pw_w_bits, block.pw_a_bits))
            convs.append(Conv(middle, middle, block.kernel_size, True, size, out, block.dw_w_bits, block.dw_a_bits))
            convs.append(Conv(middle, stage.channels, 1, False, out, out, block.pw_w_bits, block.pw_a_bits))
            block_input = width * size**2 * fixed
            expanded = middle * size**2 * block.dw_a_bits
            filtered = middle * out**2 * block.pw_a_bits
            block_output = stage.channels * out**2 * fixed
            waiting = block_input if stride == 1 and width == stage.channels else 0
            peaks += [block_input + expanded, waiting + expanded + filtered, waiting + filtered + block_output]
            width, size = stage.channels, out
    convs.append(Conv(width, space.head.channels, 1, False, size, size, fixed, fixed))
    peaks.append((width + space.head.channels) * size**2 * fixed)
    convs.append(Conv(space.head.channels, space.classes, 1, False, 1, 1, fixed, fixed))
    peaks.append((space.head.channels + space.classes) * fixed)
    counts = dict.fromkeys(METRICS, 0.0)
    for conv in convs:
        n_macs = n_weights = 0
        for _ in range(conv.n_out):
            seen_by_one_output = conv.kernel**2 * (1 if conv.depthwise else conv.n_in)
            n_weights += seen_by_one_output
            n_macs += seen_by_one_output * conv.out * conv.out
        counts["macs"] += n_macs
        counts["bit_ops"] += n_macs * conv.w_bits * conv.a_bits
        counts["weight_bytes"] += n_weights * conv.w_bits / 8 + conv.n_out * (4 + 4)  # int32 bias, 32-bit rescaling
    counts["peak_activation_bytes"] = max(peaks) / 8
    return counts


@given(seed=st.integers(0, 2**32 - 1))
def test_costs_of_random_candidates_equal_the_slow_count_exactly(either: NetworkEncoding, seed: int) -> None:
    genomes = either.sample(5, np.random.default_rng(seed))
    expected = [reference(either.space, candidate) for candidate in either.decode(genomes)]
    for model in cost_models(either):
        assert model(genomes).tolist() == [counts[model.name] for counts in expected]


@pytest.mark.parametrize("stride", [1, 2])
def test_costs_equal_the_slow_count_where_sizes_are_odd(tiny_space: SearchSpace, stride: int) -> None:
    data = tiny_space.model_dump(mode="json", exclude_none=True)
    data["input"]["size"] = 19
    data["stem"]["stride"] = stride
    encoding = NetworkEncoding(SearchSpace.from_dict(data))
    genomes = encoding.sample(50, np.random.default_rng(0))
    expected = [reference(encoding.space, candidate) for candidate in encoding.decode(genomes)]
    for model in cost_models(encoding):
        assert model(genomes).tolist() == [counts[model.name] for counts in expected]


def test_peak_of_digits_is_not_always_that_of_the_fixed_part(
    encoding: NetworkEncoding, rng: np.random.Generator
) -> None:
    assert len(np.unique(peak_activation_bytes(encoding)(encoding.sample(200, rng)))) > 20


def test_macs_and_weights_of_the_smallest_network_are_counted_by_hand(tiny: NetworkEncoding) -> None:
    smallest = tiny.encode([tiny.extremes()[0]])
    stem, head, classifier = 3 * 8 * 9 * 64, 16 * 24 * 16, 24 * 4
    first = 8 * 8 * 64 + 8 * 9 * 64 + 8 * 8 * 64
    second = 8 * 8 * 64 + 8 * 9 * 16 + 8 * 16 * 16
    assert macs(tiny)(smallest).tolist() == [stem + first + second + head + classifier]
    weights = 3 * 8 * 9 + (8 * 8 + 8 * 9 + 8 * 8) + (8 * 8 + 8 * 9 + 8 * 16) + 16 * 24 + 24 * 4
    n_outputs = 8 + (8 + 8 + 8) + (8 + 8 + 16) + 24 + 4
    assert weight_bytes(tiny)(smallest).tolist() == [weights + 8 * n_outputs]


@pytest.mark.parametrize("make", [macs, bit_ops, weight_bytes, peak_activation_bytes])
def test_reachable_is_the_smallest_and_the_largest_of_the_enumeration(
    tiny: NetworkEncoding, everything: np.ndarray, make: type[CostModel]
) -> None:
    model = make(tiny)
    values = model(everything)
    assert model.reachable() == (values.min(), values.max())
    assert values.min() < values.max()


def test_reachable_respects_forbidden_rules(tiny_space: SearchSpace) -> None:
    data = tiny_space.model_dump(mode="json", exclude_none=True)
    data["forbidden"] = [{"kernel_size": 5}, {"pw_w_bits": 2}]
    encoding = NetworkEncoding(SearchSpace.from_dict(data))
    for model in cost_models(encoding):
        values = model(encoding.enumerate())
        assert model.reachable() == (values.min(), values.max())


def test_costs_ignore_inert_genes(either: NetworkEncoding, rng: np.random.Generator) -> None:
    genomes = either.sample(200, rng)
    filled = either.fill_inert(genomes, rng)
    assert (filled != genomes).any()
    for model in cost_models(either):
        np.testing.assert_array_equal(model(filled), model(genomes))


def test_four_bits_instead_of_eight_divide_the_searched_bit_ops_by_four(
    encoding: NetworkEncoding, rng: np.random.Generator
) -> None:
    networks = encoding.decode(encoding.sample(50, rng))
    model = bit_ops(encoding)
    fixed = 64 * (9 * 1 * 16 * 64 + 32 * 64 * 16 + 64 * 10)  # stem, head and classifier of digits at 8 x 8 bits
    eight, four = (model(encoding.encode([n.with_bits(b) for n in networks])) - fixed for b in (8, 4))
    np.testing.assert_array_equal(eight, 4 * four)


def test_bits_change_bit_ops_bytes_and_memory_but_not_macs(encoding: NetworkEncoding) -> None:
    largest = encoding.extremes()[1]
    genomes = encoding.encode([largest.with_bits(8), largest.with_bits(2)])
    for model in cost_models(encoding):
        at_eight, at_two = model(genomes)
        assert at_two == at_eight if model.name == "macs" else at_two < at_eight


def test_cost_models_are_named_and_have_units(encoding: NetworkEncoding) -> None:
    assert [(model.name, model.unit) for model in cost_models(encoding)] == [
        ("macs", "MACs"),
        ("bit_ops", "BitOps"),
        ("weight_bytes", "bytes"),
        ("peak_activation_bytes", "bytes"),
    ]


def test_ops_of_a_candidate_come_in_the_order_of_the_forward_pass(tiny: NetworkEncoding) -> None:
    ops = ops_of(tiny.space.network.at(tiny.space.values_of(tiny.extremes()[1])))
    assert [(op.in_channels, op.out_channels, op.kernel_size, op.groups) for op in ops] == [
        (3, 8, 3, 1),
        *[(8, 24, 1, 1), (24, 24, 5, 24), (24, 8, 1, 1)] * 2,
        *[(8, 24, 1, 1), (24, 24, 3, 24), (24, 16, 1, 1)],
        (16, 24, 1, 1),
        (24, 4, 1, 1),
    ]
    assert [(op.in_size, op.out_size) for op in ops] == [(8, 8)] * 8 + [(8, 4)] + [(4, 4)] * 2 + [(1, 1)]
