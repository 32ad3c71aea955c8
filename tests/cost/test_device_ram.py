"""RAM of devices: against a simulation of buffers that are allocated and freed, exhaustive placement, and CMSIS-NN."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from apq_tune import NetworkEncoding, SearchSpace
from apq_tune.cost import named_cost, peak_activation_bytes
from apq_tune.cost.cmsis_nn import Extension, scratch_bytes
from apq_tune.cost.device_ram import BUFFERS, TENSORS
from apq_tune.cost.shares import layer_costs
from apq_tune.network.layer import IMAGE, Layer, Op, Tensor, add, conv
from apq_tune.network.liveness import BufferModel, live_bits
from tests.cost.test_device_costs import traced
from tests.tracing.zoo import ZOO

NAMES = tuple(BUFFERS)
FLOW = ("add", "multiply", "function", "norm", "affine", "flatten")
"""Kinds that write over an input, as the docstring of the model says it."""


def n_bytes(tensor: Tensor) -> int:
    """Whole bytes of a tensor, counted value by value."""
    values = tensor.channels * tensor.size * (tensor.size if tensor.width is None else tensor.width)
    return int(values) * (1 if tensor.bits <= 8 else 2)


class Pool:
    """Memory in which buffers are allocated and freed one by one."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}
        self.peak = 0

    def allocate(self, name: str, size: int) -> None:
        assert name not in self.sizes
        self.sizes[name] = size
        self.peak = max(self.peak, sum(self.sizes.values()))

    def free(self, names: Sequence[str]) -> None:
        for name in names:
            del self.sizes[name]


def simulated(
    layers: Sequence[Layer], image: Tensor, scratch: Callable[[Layer], float], order: Callable[[list[str]], list[str]]
) -> dict[str, int]:
    """Bytes in memory while each layer runs, by running it; ``order`` says in which order dead buffers are freed."""
    pool, found = Pool(), dict[str, int]()
    owner = {IMAGE: IMAGE}  # buffer of each tensor
    pool.allocate(IMAGE, n_bytes(image))
    for number, layer in enumerate(layers):
        later = {name for other in layers[number + 1 :] for name in other.inputs}
        able = layer.inputs[: 2 if layer.kind == "add" else 1 if layer.kind in FLOW else 0]
        taken = next((name for name in able if name not in later), None)
        pool.allocate("scratch", int(scratch(layer)))
        if taken is None:
            pool.allocate(layer.name, n_bytes(layer.output))
            owner[layer.name] = layer.name
        found[layer.name] = sum(pool.sizes.values())
        pool.free(["scratch"])
        if taken is not None:
            pool.sizes[layer.name] = n_bytes(layer.output)
            pool.free([taken])
            owner[layer.name] = layer.name
        pool.free(order([name for name in pool.sizes if name not in later]))
    assert pool.peak == max(found.values())
    return found


def scratch_of(name: str) -> Callable[[Layer], float]:
    """Scratch of a layer in bytes, for one of the costs."""
    extensions: dict[str, Extension] = {"cmsis_nn_ram_bytes": "DSP", "cmsis_nn_mve_ram_bytes": "MVE"}
    extension = extensions.get(name)
    return lambda layer: 0.0 if extension is None else float(scratch_bytes(layer, extension))


def random_network(rng: random.Random, n: int) -> tuple[list[Layer], Tensor]:
    """Random layers, of which any may read any earlier one of its shape."""
    image = Tensor(rng.choice([1, 3]), 8, 8)
    layers: list[Layer] = []
    shapes = {IMAGE: image}
    for number in range(n):
        name, kind = (
            f"l{number}",
            rng.choice(["conv", "conv", "depthwise", "add", "pool", "concat", "function", "max_pool"]),
        )
        source = rng.choice(list(shapes))
        shape, bits = shapes[source], rng.choice([2, 4, 8])
        if kind == "conv":
            outputs, kernel = rng.randint(1, 9), rng.choice([1, 3])
            op = Op(shape.channels, outputs, kernel, 1, shape.size, shape.size, rng.choice([4, 8]), 8)
            layer = conv(name, source, op, bits)
        elif kind == "depthwise":
            c = shape.channels
            layer = conv(name, source, Op(c, c, rng.choice([3, 5]), c, shape.size, shape.size, 8, 8), bits)
        elif kind == "pool":
            layer = Layer(name, "pool", (source,), Tensor(shape.channels, 1, bits), in_place=True)
        elif kind == "max_pool":
            layer = Layer(name, "max_pool", (source,), Tensor(shape.channels, -(-shape.size // 2), shape.bits))
        elif kind == "function":
            layer = Layer(name, "function", (source,), shape._replace(bits=bits), in_place=True)
        else:
            equal = [other for other, own in shapes.items() if own[:2] == shape[:2]]
            other = rng.choice(equal)
            if kind == "add":
                layer = add(name, source, other, shape._replace(bits=bits))
            else:
                both = Tensor(2 * shape.channels, shape.size, bits)
                layer = Layer(name, "concat", (source, other), both)
        layers.append(layer)
        shapes[name] = layer.output
    return layers, image


def in_bytes(layers: Sequence[Layer], image: Tensor, buffers: BufferModel) -> dict[str, float]:
    return {name: bits / 8 for name, bits in live_bits(layers, image, buffers).items()}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(40))
def test_random_networks_need_what_a_simulation_counts_in_any_order_of_frees(name: str, seed: int) -> None:
    rng = random.Random(seed)
    layers, image = random_network(rng, rng.randint(2, 14))
    scratch = scratch_of(name)
    expected = in_bytes(layers, image, BUFFERS[name])
    for shuffle in (list, lambda names: names[::-1], lambda names: rng.sample(names, len(names))):
        assert simulated(layers, image, scratch, shuffle) == expected


def residual_chain(rng: random.Random, n: int) -> tuple[list[Layer], Tensor]:
    """A chain of convolutions in which blocks of one or two add what they read."""
    c, size = rng.randint(1, 4), 4
    image = Tensor(c, size, 8)
    layers: list[Layer] = []
    source, number = IMAGE, 0
    while len(layers) < n:
        inner, outputs = rng.randint(1, 6), c if rng.random() < 0.7 else rng.randint(1, 6)
        first, second = f"a{number}", f"b{number}"
        layers.append(conv(first, source, Op(c, inner, 3, 1, size, size, 8, 8), 8))
        layers.append(conv(second, first, Op(inner, outputs, 1, 1, size, size, 8, 8), 8))
        last = second
        if outputs == c:
            last = f"add{number}"
            kept = source
            layers.append(add(last, *((second, kept) if rng.random() < 0.5 else (kept, second)), layers[-1].output))
        source, c, number = last, outputs, number + 1
    return layers, image


def least_arena(spans: Sequence[tuple[int, int, int]]) -> int:
    """Size of the smallest block for buffers with (first step, last step, size), over all orders of placing them."""
    best = sum(size for _, _, size in spans)
    for order in itertools.permutations(range(len(spans))):
        places: dict[int, int] = {}
        for one in order:
            first, last, size = spans[one]
            taken = sorted(
                (places[other], spans[other][2])
                for other in places
                if spans[other][0] <= last and first <= spans[other][1]
            )
            place = 0
            for low, own in taken:
                if place + size <= low:
                    break
                place = max(place, low + own)
            places[one] = place
        best = min(best, max(places[one] + spans[one][2] for one in places))
    return best


def spans_of(layers: Sequence[Layer], image: Tensor) -> list[tuple[int, int, int]]:
    """First and last step and size of every buffer, those that are written over by an addition included."""
    last = {name: number for number, layer in enumerate(layers) for name in layer.inputs}
    spans = {IMAGE: [0, last[IMAGE], n_bytes(image)]}
    owner = {IMAGE: IMAGE}
    for number, layer in enumerate(layers):
        end = last.get(layer.name, number)
        taken = next((name for name in layer.inputs if last[name] == number), None) if layer.kind == "add" else None
        if taken is None:
            owner[layer.name], spans[layer.name] = layer.name, [number, end, n_bytes(layer.output)]
        else:
            owner[layer.name] = owner[taken]
            spans[owner[taken]][1] = end
    return [(first, end, size) for first, end, size in spans.values()]


@pytest.mark.parametrize("seed", range(12))
def test_chains_with_residual_blocks_can_be_placed_without_gaps(seed: int) -> None:
    layers, image = residual_chain(random.Random(seed), 4)
    assert least_arena(spans_of(layers, image)) == max(in_bytes(layers, image, TENSORS).values())


def small_bits() -> NetworkEncoding:
    plain = SearchSpace.load("digits").model_dump(mode="json", exclude_none=True)
    plain["input"]["size"] = 16
    plain["choices"]["kernel_size"] = [3, 5]
    return NetworkEncoding(SearchSpace.from_dict(plain))


@pytest.mark.parametrize("name", NAMES)
def test_costs_are_the_largest_over_the_layers_of_each_candidate(name: str) -> None:
    encoding = small_bits()
    space, genomes = encoding.space, encoding.sample(60, np.random.default_rng(0))
    model = named_cost(name, encoding)
    expected = [
        max((layer_costs(name, space.network, space.values_of(candidate)) or {}).values())
        for candidate in encoding.decode(genomes)
    ]
    np.testing.assert_array_equal(model(genomes), expected)
    assert model.unit == "bytes"
    low, high = model.reachable()
    assert low <= min(expected) < max(expected) <= high


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "model_name", [name for name in ZOO if name in ("ds_cnn", "resnet14", "mobilenet_v2", "unet", "densenet", "senet")]
)
def test_costs_of_traced_models_are_the_largest_over_their_layers(name: str, model_name: str) -> None:
    encoding: Any = traced(model_name, w_bits=[4, 8], a_bits=[4, 8])
    space = encoding.space
    genomes = np.concatenate([encoding.sample(10, np.random.default_rng(0)), encoding.ends()])
    model = named_cost(name, encoding)
    found = model(genomes)
    for candidate, own in zip(encoding.decode(genomes), found, strict=True):
        layers = space.plan(candidate).layers
        image = space.network.image(32)
        costs = simulated(layers, image, scratch_of(name), list)
        assert own == max(costs.values())
    low, high = model.reachable()
    assert low <= found.min() <= found.max() <= high


@pytest.mark.parametrize("name", NAMES)
def test_sums_of_open_bits_are_the_costs_of_all_their_policies(name: str) -> None:
    encoding: Any = traced("resnet8", w_bits=[4, 8], a_bits=[8])
    genome, model = encoding.ends()[1], named_cost(name, encoding)
    open_genes = [place for place, gene in enumerate(encoding.genes) if gene.kind == "w_bits"][:6]
    sums = model.sums(genome, open_genes)
    rng = np.random.default_rng(0)
    for _ in range(20):
        own = genome.copy()
        for place in open_genes:
            own[place] = rng.integers(len(encoding.genes[place].values))
        total = max(
            fixed + sum(float(term.values[tuple(int(own[gene]) for gene in term.genes)]) for term in terms)
            for fixed, terms in sums
        )
        assert total == float(model(own[None])[0])


def test_whole_bytes_need_more_than_packed_bits_and_the_same_at_eight() -> None:
    encoding = small_bits()
    packed, whole = peak_activation_bytes(encoding), named_cost("device_ram_bytes", encoding)
    largest = encoding.extremes()[1]
    eight, two = encoding.encode([largest.with_bits(8), largest.with_bits(2)])
    assert whole(eight[None]) == whole(two[None])
    assert packed(two[None]) < whole(two[None]) and packed(eight[None]) <= whole(eight[None])


SCRATCH = [
    # kernel, groups, channels, out, stride, bits -> DSP, MVE by hand from CMSIS-NN's functions
    (Op(16, 8, 1, 1, 8, 8, 8, 8), 0, 0),
    (Op(3, 8, 3, 1, 8, 8, 8, 8), 4 * 28, 4 * 32),
    (Op(3, 8, 3, 1, 8, 8, 4, 8), 4 * 27, 4 * 32),
    (Op(16, 16, 3, 16, 8, 8, 8, 8), 0, 4 * 124 * 9),
    (Op(16, 16, 3, 16, 8, 8, 4, 8), 2 * 16 * 9, 4 * 124 * 9),
    (Op(16, 16, 5, 16, 8, 8, 8, 8), 2 * 16 * 25, 4 * 124 * 25),
    (Op(16, 8, 1, 1, 8, 4, 8, 8, 2), 0, 0),
]


@pytest.mark.parametrize(("op", "dsp", "mve"), SCRATCH)
def test_scratch_of_convolutions_is_that_of_cmsis_nn(op: Op, dsp: int, mve: int) -> None:
    layer = conv("layer", IMAGE, op, 8)
    assert float(scratch_bytes(layer, "DSP")) == dsp and float(scratch_bytes(layer, "MVE")) == mve


def test_scratch_equals_that_of_the_package_of_cmsis_nn() -> None:
    """On 2,000 random operations; ``pip install .`` in a checkout of ARM-software/CMSIS-NN has the package."""
    cmsis = pytest.importorskip("cmsis_nn", reason="CMSIS-NN's Python module is not installed")
    rng, same = random.Random(0), 0
    backends = {"DSP": cmsis.Backend.DSP, "MVE": cmsis.Backend.MVE}
    kinds = {4: cmsis.DataType.A8W4, 8: cmsis.DataType.A8W8}
    for _ in range(2000):
        kernel, stride, c = rng.choice([1, 3, 5, 7]), rng.choice([1, 1, 2]), rng.randint(2, 70)
        row, depthwise, w_bits = rng.random() < 0.3, rng.random() < 0.4, rng.choice([4, 8])
        height, width = (1 if row else rng.randint(7, 20)), rng.randint(7, 20)
        dilation, outputs = rng.choice([1, 1, 1, 2]), c if depthwise else rng.randint(2, 70)
        tall = 1 if row else kernel
        above, left = (0 if row else rng.choice([0, kernel // 2])), rng.choice([0, kernel // 2])
        out = [
            (side + 2 * pad - dilation * (k - 1) - 1) // stride + 1
            for side, pad, k in ((height, above, tall), (width, left, kernel))
        ]
        if min(out) < 1:
            continue
        op = Op(c, outputs, tall, c if depthwise else 1, height, out[0], w_bits, 8, stride)
        op = op._replace(
            kernel_width=kernel, in_width=width, out_width=out[1], padding=(above, left, above, left), dilation=dilation
        )
        for extension, backend in backends.items():
            shapes = [1, height, width, c], [1, *out, outputs], [above, left], [stride] * 2, [dilation] * 2
            if depthwise:
                theirs = cmsis.depthwise_conv_wrapper_buffer_size(
                    backend, kinds[w_bits], shapes[0], [1, tall, kernel, c], *shapes[1:], 1, 0, 0, -128, 127
                )
            else:
                theirs = cmsis.convolve_wrapper_buffer_size(
                    backend, kinds[w_bits], shapes[0], [outputs, tall, kernel, c], *shapes[1:], 0, 0, -128, 127
                )
            assert float(scratch_bytes(conv("layer", IMAGE, op, 8), extension)) == theirs, (op, extension)  # type: ignore[arg-type]
            same += 1
    assert same > 3000
