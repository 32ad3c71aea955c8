"""Tensors of the layers of candidates in a supernet, of which proxies are evolved."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from apq_tune.predict.expressions import LayerTensors
from apq_tune.space.encoding import Genomes
from apq_tune.space.encodings import encoding_of
from apq_tune.supernet.candidate_statistics import architectures, layers_with_weights
from apq_tune.supernet.defaults import plain_torch
from apq_tune.supernet.evaluate import subnet_from
from apq_tune.supernet.interfaces import AnySubnet, AnySupernet
from apq_tune.supernet.zero_cost import with_gradients


@plain_torch()
def tensors_of(subnet: AnySubnet, images: Tensor, labels: Tensor) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Tensors of each layer with weights, in full precision, by the name of the layer and of the tensor.

    See ``predict.expressions.TENSORS``; batch norm is folded.

    Args:
        subnet: Network in evaluation mode.
        images: Images on its device, shape ``(n, channels, h, w)``.
        labels: Their labels, shape ``(n,)``.
    """
    tensors = {}
    for name, (w, dw, a, da) in with_gradients(subnet, images, labels).items():
        own = {"weight": w, "gradient": dw, "activation": _rms(a), "activation_gradient": _rms(da)}
        tensors[name] = {key: value.double().cpu().numpy().ravel() for key, value in own.items()}
    return tensors


def _rms(values: Tensor) -> Tensor:
    """Root mean square of each channel over images and pixels, shape ``(channels,)``."""
    return values.double().reshape(*values.shape[:2], -1).square().mean((0, 2)).sqrt()


def candidate_tensors(network: AnySupernet, genomes: Genomes, images: Tensor, labels: Tensor) -> LayerTensors:
    """Tensors of the layers of candidates; those of candidates of the same architecture are there once.

    All weights of all architectures are in memory, in double precision: this is for hundreds of small networks.

    Args:
        network: Supernet, trained or not, of whose weights each candidate has its part.
        genomes: Candidates, shape ``(n, n_genes)``.
        images: Images on the device of the network, shape ``(m, channels, h, w)``; batch norm is estimated on them.
        labels: Their labels, shape ``(m,)``.
    """
    space, encoding = network.space, encoding_of(network.space)
    layers = layers_with_weights(space)
    place = {name: number for number, name in enumerate(layers)}
    entries = np.full((len(genomes), len(layers)), -1)
    bits = np.zeros(entries.shape)
    tensors: list[Mapping[str, NDArray[np.float64]]] = []
    known: dict[bytes, dict[str, int]] = {}
    for row, (candidate, key) in enumerate(
        zip(encoding.decode(genomes), architectures(encoding, genomes), strict=True)
    ):
        if key not in known:
            subnet = subnet_from(network, candidate, images, quantize=False).eval()
            own = tensors_of(subnet, images, labels)
            known[key] = {name: number for number, name in enumerate(own, start=len(tensors))}
            tensors += own.values()
        for layer in space.network.at(space.values_of(candidate)):
            if layer.op is not None:
                entries[row, place[layer.name]] = known[key][layer.name]
                bits[row, place[layer.name]] = layer.op.w_bits + layer.op.a_bits
    return LayerTensors.of(layers, tensors, entries, bits)
