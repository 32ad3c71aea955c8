"""Weights that can be pruned, in any torch module."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import nn
from torch.nn.utils import parametrize

from apq_tune.errors import ModelError
from apq_tune.supernet.interfaces import AnySubnet

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
WEIGHT = "weight"


class WeightedLayer(NamedTuple):
    """Weight of a convolution or linear layer.

    Attributes:
        name: Name of the layer; of several that share a weight the first one's.
        modules: All modules with this weight.
        weight: Weight, shape ``(out, in / groups, ...)``; ``(in, out / groups, ...)`` in transposed convolutions.
    """

    name: str
    modules: tuple[nn.Module, ...]
    weight: nn.Parameter

    def in_groups_of(self, group: int) -> bool:
        """Whether consecutive input channels can be divided into groups of a size."""
        return not isinstance(self.modules[0], TRANSPOSED) and self.weight.shape[1] % group == 0


def weighted_layers(module: nn.Module) -> list[WeightedLayer]:
    """Layers whose weights have two or more dimensions, tables of embeddings left out.

    They stand in the order of the forward pass in networks of this package, elsewhere in that in which the module's
    ``__init__`` makes them.

    Raises:
        ModelError: If a weight is parametrized already or not yet initialised, or if there are none.
    """
    named: Any = module.weighted().items() if isinstance(module, AnySubnet) else module.named_modules()
    found: dict[int, WeightedLayer] = {}
    for name, part in named:
        if parametrize.is_parametrized(part, WEIGHT):
            raise ModelError(
                f"{name or type(part).__name__}: its weight is parametrized already; apply this first "
                "(torch.nn.utils.parametrize.remove_parametrizations)"
            )
        weight = getattr(part, WEIGHT, None)
        if not isinstance(weight, nn.Parameter) or isinstance(part, (nn.Embedding, nn.EmbeddingBag)):
            continue
        if isinstance(weight, nn.UninitializedParameter):
            raise ModelError(f"{name}: its weight has no shape yet; run the model once on an example")
        if weight.ndim < 2:
            continue
        before = found.get(id(weight))
        if before is None:
            found[id(weight)] = WeightedLayer(name or type(part).__name__, (part,), weight)
        elif part not in before.modules:
            found[id(weight)] = before._replace(modules=(*before.modules, part))
    if not found:
        raise ModelError(
            f"{type(module).__name__}: has no layer with a weight of two or more dimensions; give a network of "
            "convolutions or linear layers"
        )
    return list(found.values())


def ends_of(module: nn.Module) -> dict[str, float]:
    """Largest sparsity of the first and the last layer: the first stays dense, the last one to 80% (Gale 2019)."""
    layers = weighted_layers(module)
    return {layers[-1].name: 0.8, layers[0].name: 0.0}


def largest_sparsities(layers: Sequence[WeightedLayer], at_most: Mapping[str, float]) -> list[float]:
    """Largest sparsity of each layer.

    Args:
        layers: Layers.
        at_most: Largest sparsity by a pattern of names as in file names; later patterns go before earlier ones.

    Raises:
        ModelError: If a pattern fits no layer, or a sparsity is not from 0 to 1.
    """
    for pattern, value in at_most.items():
        if not 0 <= value <= 1:
            raise ModelError(f"at_most: {pattern!r} has {value!r}; give a share from 0 to 1")
        if not any(fnmatch.fnmatchcase(layer.name, pattern) for layer in layers):
            known = ", ".join(layer.name for layer in layers)
            raise ModelError(f"at_most: {pattern!r} fits no layer; layers: {known}")
    largest = []
    for layer in layers:
        own = [value for pattern, value in at_most.items() if fnmatch.fnmatchcase(layer.name, pattern)]
        largest.append(own[-1] if own else 1.0)
    return largest
