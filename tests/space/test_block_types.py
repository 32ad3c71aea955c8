"""Spaces of residual blocks, of fused MBConv and of several types: what they offer, cost and refuse."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from apq_tune import Candidate, NetworkEncoding, SearchSpace, SpaceError, TableError, cost_models
from apq_tune.cost import CostTable
from apq_tune.space.fused_mbconv import FusedMBConv
from apq_tune.space.mbconv import Block
from apq_tune.space.residual import Residual

MIXED: dict[str, Any] = {
    "format": 1,
    "name": "mixed",
    "data": "digits",
    "input": {"channels": 1, "size": 8},
    "classes": 10,
    "stem": {"channels": 8},
    "stages": [
        {"channels": 8, "depth": [1, 2], "block": "residual", "kernel_size": [3, 5]},
        {"channels": 12, "stride": 2, "depth": [1, 2], "block": "fused_mbconv"},
        {"channels": 12, "depth": [1]},
        {"channels": 16, "stride": 2, "depth": [1], "block": "residual"},
    ],
    "head": {"channels": 16},
    "choices": {
        "kernel_size": [3],
        "expand_ratio": {"min_ratio": 1, "max_ratio": 2, "step": 8},
        "pw_w_bits": [2, 8],
        "pw_a_bits": [4, 8],
        "dw_w_bits": [2, 8],
        "dw_a_bits": [8],
        "conv1_w_bits": [2, 8],
        "conv1_a_bits": [4, 8],
        "conv2_w_bits": [3, 8],
        "conv2_a_bits": [2, 8],
        "fused_w_bits": [3, 8],
        "fused_a_bits": [4, 8],
    },
    "forbidden": [{"kernel_size": 5, "conv1_w_bits": 2}],
}


@pytest.fixture(scope="module")
def mixed() -> NetworkEncoding:
    return NetworkEncoding(SearchSpace.from_dict(MIXED))


def convolutions(block: Any, n_in: int, n_out: int, stride: int) -> list[tuple[int, ...]]:
    """(input channels, output channels, kernel, groups, stride, weight bits, input bits) of each, by hand."""
    k, c = block.kernel_size, block.channels
    if isinstance(block, Residual):
        return [
            (n_in, c, k, 1, stride, block.conv1_w_bits, block.conv1_a_bits),
            (c, n_out, k, 1, 1, block.conv2_w_bits, block.conv2_a_bits),
        ]
    if isinstance(block, FusedMBConv):
        return [
            (n_in, c, k, 1, stride, block.fused_w_bits, block.fused_a_bits),
            (c, n_out, 1, 1, 1, block.pw_w_bits, block.pw_a_bits),
        ]
    assert isinstance(block, Block)
    return [
        (n_in, c, 1, 1, 1, block.pw_w_bits, block.pw_a_bits),
        (c, c, k, c, stride, block.dw_w_bits, block.dw_a_bits),
        (c, n_out, 1, 1, 1, block.pw_w_bits, block.pw_a_bits),
    ]


def counted(candidate: Candidate) -> tuple[list[tuple[int, ...]], list[int]]:
    """All convolutions with the sides of their inputs, and the bits in memory while each of them runs."""
    convs, peaks = [(1, 8, 3, 1, 1, 8, 8, 8)], [(1 + 8) * 64 * 8]  # the last number is the side of the input
    width, size = 8, 8
    for stage, blocks in zip(MIXED["stages"], candidate.stages, strict=True):
        for position, block in enumerate(blocks):
            stride = stage.get("stride", 1) if position == 0 else 1
            stream = kept = width * size**2 * 8
            if stride > 1 or width != stage["channels"]:
                kept = 0
            own = convolutions(block, width, stage["channels"], stride)
            before = stream
            for number, conv in enumerate(own):
                convs.append((*conv, size))
                size = -(-size // conv[4])
                last = number == len(own) - 1
                after = conv[1] * size**2 * (8 if last else own[number + 1][6])
                peaks.append(before + after + (kept if number else 0))
                before = after
            width = stage["channels"]
    convs += [(width, 16, 1, 1, 1, 8, 8, size), (16, 10, 1, 1, 1, 8, 8, 1)]
    peaks += [(width + 16) * size**2 * 8, (16 + 10) * 8]
    return convs, peaks


def reference(candidate: Candidate) -> dict[str, float]:
    """All four costs, convolution by convolution and tensor by tensor."""
    convs, peaks = counted(candidate)
    counts = dict.fromkeys(("macs", "bit_ops", "weight_bytes"), 0.0)
    for n_in, n_out, kernel, groups, stride, w_bits, a_bits, side in convs:
        n_weights = kernel**2 * (n_in // groups) * n_out
        n_macs = n_weights * (-(-side // stride)) ** 2
        counts["macs"] += n_macs
        counts["bit_ops"] += n_macs * w_bits * a_bits
        counts["weight_bytes"] += n_weights * w_bits / 8 + n_out * 8
    return counts | {"peak_activation_bytes": max(peaks) / 8}


def test_costs_of_all_types_equal_a_plain_loop(mixed: NetworkEncoding) -> None:
    genomes = mixed.sample(200, np.random.default_rng(0))
    expected = [reference(candidate) for candidate in mixed.decode(genomes)]
    for model in cost_models(mixed):
        assert model(genomes).tolist() == [counts[model.name] for counts in expected]


def test_layers_are_those_of_the_blocks_and_store_what_the_next_one_reads(mixed: NetworkEncoding) -> None:
    for candidate in mixed.decode(mixed.sample(50, np.random.default_rng(2))):
        layers = [layer for layer in mixed.space.network.at(mixed.space.values_of(candidate)) if layer.op is not None]
        ops = [layer.op for layer in layers if layer.op is not None]
        shapes = [(o.in_channels, o.out_channels, o.kernel_size, o.groups, o.stride) for o in ops]
        assert [(*shape, o.w_bits, o.a_bits, o.in_size) for shape, o in zip(shapes, ops, strict=True)] == counted(
            candidate
        )[0]
        for layer, reader in itertools.pairwise(layers):
            inside = reader.inputs == (layer.name,) and layer.name[0].isdigit() and reader.name[:3] == layer.name[:3]
            assert layer.output.bits == (reader.op.a_bits if inside and reader.op is not None else 8)


def test_candidates_of_several_types_survive_genomes_files_and_samplers(mixed: NetworkEncoding) -> None:
    genomes = mixed.sample(50, np.random.default_rng(1))
    candidates = mixed.decode(genomes)
    np.testing.assert_array_equal(mixed.encode(candidates), genomes)
    for candidate in candidates:
        assert Candidate.from_json(candidate.to_json()) == candidate
        assert mixed.space.from_config(mixed.space.to_config(candidate)) == candidate
        assert not any(block.kernel_size == 5 and block.conv1_w_bits == 2 for block in candidate.stages[0])
    assert {type(stage[0]) for stage in candidates[0].stages} == {Residual, FusedMBConv, Block}


def test_a_block_for_the_whole_space_needs_only_its_own_bits(tmp_path: Path) -> None:
    data = copy.deepcopy(MIXED) | {"block": "residual", "forbidden": []}
    data["stages"] = [{"channels": 8, "depth": [1, 2]}]
    data["choices"] = {name: v for name, v in MIXED["choices"].items() if name[:2] not in ("pw", "dw", "fu")}
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(data))
    space = SearchSpace.load(path)
    assert SearchSpace.from_dict(yaml.safe_load(space.to_yaml())) == space
    assert [gene.name for gene in space.genes if gene.block == "1.2"] == [f"1.2 {name}" for name in Residual._fields]
    first, second = 2, 2 * 2 * 2 * 2 * 2
    assert space.size() == second + second**2 and space.size(bits=False) == first + first**2


def test_a_table_of_whole_inverted_bottlenecks_does_not_price_other_blocks(mixed: NetworkEncoding) -> None:
    key = (12, 16, 12, 4, 3, 1, 1, 0, 0, 0)  # of stage 3, a block of MBConv
    table = CostTable("t.csv", ("latency_ms",), {}, {key: (1.0,), (*key[:1], 24, *key[2:]): (2.0,)}, {0: (0.5,)})
    missing = table.missing(mixed.space)
    assert missing == [
        f"block {name}, which is not an inverted bottleneck" for name in ("1.1", "1.2", "2.1", "2.2", "4.1")
    ]
    with pytest.raises(
        TableError, match=r"5 ops of mixed are missing: block 1\.1, which is not an inverted bottleneck; "
    ):
        table.models(mixed)


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (("stages", 0, "block"), "resnet", r"stages\[0\]\.block: 'resnet' is not a type of block; choose one of"),
        (("choices", "conv2_w_bits"), None, r"choices\.conv2_w_bits: is missing; add it"),
        (
            ("stages", 2, "block"),
            "residual",
            r"choices\.dw_w_bits: no block of residual and fused_mbconv has it; remove",
        ),
        (("stages", 0, "squeeze_excite"), True, r"stages\[0\]\.squeeze_excite: residual blocks have none; remove it"),
        (("choices", "conv3_w_bits"), [8], r"choices\.conv3_w_bits: unknown key; remove it or correct its spelling"),
        (("forbidden", 0), {"dw_w_bits": 2, "conv1_w_bits": 2}, r"forbidden\[0\]: no block has all of"),
    ],
)
def test_what_no_block_can_be_is_refused(where: tuple[Any, ...], value: Any, said: str) -> None:
    data = copy.deepcopy(MIXED)
    *path, last = where
    part: Any = data
    for key in path:
        part = part[key]
    part[last] = value
    with pytest.raises(SpaceError, match=said):
        SearchSpace.from_dict(data)
