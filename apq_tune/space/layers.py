"""The networks of a search space that is read from YAML: stem, blocks by their type, head, pooling, classifier."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np

from apq_tune.network.layer import IMAGE, Layer, Numbers, Op, Tensor, add, conv, linear
from apq_tune.network.network import Network, Part, Switch
from apq_tune.space.geometry import out_size
from apq_tune.space.slots import Skeleton


def layers_of(space: Skeleton, genes: Mapping[str, tuple[int, ...]]) -> Network:
    """Describe all networks of a search space.

    Args:
        space: Search space.
        genes: Values of its genes by name, in the order of the genome.
    """
    parts = [Part("stem", (), partial(_stem, space))]
    if space.first is not None:
        parts.append(Part("first", (), partial(_first, space)))
    for number in range(len(space.slots)):
        parts.append(_block(space, number, parts[-1].name))
    parts += [Part("head", (), partial(_head, space, parts[-1].name)), Part("pool", (), partial(_pool, space))]
    if space.head.features is not None:
        parts.append(Part("features", (), partial(_features, space)))
    parts.append(Part("classifier", (), partial(_classifier, space, parts[-1].name)))
    size_gene = "resolution" if len(space.resolutions) > 1 else None
    return Network(genes, space.resolutions, size_gene, space.input.channels, space.fixed_bits, tuple(parts))


def _block(space: Skeleton, number: int, source: str) -> Part:
    """One block as a function of its choices."""
    slot = space.slots[number]
    fields = space.fields(slot)
    widths = tuple(axis for axis, field in enumerate(fields) if field.kind == "width")
    return Part(
        name=slot.name,
        genes=tuple(f"{slot.name} {field.name}" for field in fields),
        describe=partial(_block_layers, space, number, source),
        switch=Switch(f"depth {slot.stage + 1}", slot.position + 1),
        passes=source,
        allowed=np.expand_dims(space.allowed(slot), widths),
    )


def _block_layers(space: Skeleton, number: int, source: str, size: int, *values: Numbers) -> tuple[Layer, ...]:
    slot = space.slots_at(size)[number]
    return space.type_of(slot).layers(slot, space.fixed_bits, source, *values)


def _stem(space: Skeleton, size: int) -> tuple[Layer, ...]:
    stem, bits = space.stem, space.fixed_bits
    after = out_size(size, stem.stride)
    op = Op(space.input.channels, stem.channels, stem.kernel_size, 1, size, after, bits, bits, stem.stride)
    return (conv("stem", IMAGE, op, bits, stem.activation),)


def _first(space: Skeleton, size: int) -> tuple[Layer, ...]:
    first, bits, c = space.first, space.fixed_bits, space.stem.channels
    assert first is not None
    size = out_size(size, space.stem.stride)
    depthwise = Op(c, c, first.kernel_size, c, size, size, bits, bits)
    layers = (
        conv("first.depthwise", "stem", depthwise, bits, first.activation),
        conv("first.project", "first.depthwise", Op(c, first.channels, 1, 1, size, size, bits, bits), bits),
    )
    if first.channels != c:
        return layers
    return (*layers, add("first.add", "first.project", "stem", layers[-1].output))


def _head(space: Skeleton, source: str, size: int) -> tuple[Layer, ...]:
    last, head, bits = space.slots_at(size)[-1], space.head, space.fixed_bits
    op = Op(last.out_channels, head.channels, 1, 1, last.out_size, last.out_size, bits, bits)
    return (conv("head", source, op, bits, head.activation),)


def _pool(space: Skeleton, _size: int) -> tuple[Layer, ...]:
    return (Layer("pool", "pool", ("head",), Tensor(space.head.channels, 1, space.fixed_bits), in_place=True),)


def _features(space: Skeleton, _size: int) -> tuple[Layer, ...]:
    head, bits = space.head, space.fixed_bits
    assert head.features is not None
    op = Op(head.channels, head.features, 1, 1, 1, 1, bits, bits)
    return (linear("features", "pool", op, bits, head.activation),)


def _classifier(space: Skeleton, source: str, _size: int) -> tuple[Layer, ...]:
    bits = space.fixed_bits
    op = Op(space.head.features or space.head.channels, space.classes, 1, 1, 1, 1, bits, bits)
    return (linear("classifier", source, op, bits),)
