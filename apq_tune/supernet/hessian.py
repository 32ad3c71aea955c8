"""Sensitivity of a network to bits by the curvature of its loss (HAWQ-V2, Dong 2020).

Quantizing a tensor by an error ``d`` raises the loss by about ``d' H d / 2``. With the mean eigenvalue of the Hessian
``H`` in place of all of them, this is proportional to the trace of ``H`` over the number of its rows, times the squared
norm of ``d``. The traces are estimated by Hutchinson's method: the mean of ``v' H v`` over random signs ``v``. One
product of the Hessian with signs of all layers together estimates the traces of all of them, as signs of different
layers are independent. Traces of activations are those of single images, averaged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from apq_tune.cost.layer_table import Bits, LayerTable
from apq_tune.methods.bit_program import one_gene_lower, open_bits
from apq_tune.space.gene import BIT_KINDS, Kind
from apq_tune.supernet.defaults import plain_torch
from apq_tune.supernet.graph_subnet import FoldedWeights
from apq_tune.supernet.interfaces import AnySubnet, HasWeights
from apq_tune.supernet.quantize import ActivationQuantizer, quantize_weight
from apq_tune.supernet.sensitivity import encoded

PROBES = 16
"""Number of vectors of random signs; with 16, layers are ranked as with 24 but for a tenth of their pairs."""

AT_ONCE = 32
"""Images at a time, whose activations are kept for the second derivative."""

GRADIENT, PRODUCT = 3.0, 4.0
"""Cost of a gradient, and of a product of the Hessian after it, in forward passes: each convolution is computed once in
a forward pass, two more times by the gradient, and twice for each of these two by the second derivative."""


class Traces(NamedTuple):
    """Estimates of traces of Hessians over their number of rows, one for each probe.

    Attributes:
        weights: Of the weights of a layer, by its name, shape ``(probes,)``.
        inputs: Of what the quantizer of the input of a layer yields, by the name of the layer.
    """

    weights: Mapping[str, NDArray[np.float64]]
    inputs: Mapping[str, NDArray[np.float64]]


def forward_passes(n_images: int, kinds: Sequence[Kind], probes: int = PROBES) -> float:
    """Cost of the traces on some images, in forward passes of one image.

    Args:
        n_images: Number of images.
        kinds: ``w_bits``, ``a_bits`` or both, as in ``traces``.
        probes: Number of probes.
    """
    return n_images * (GRADIENT + PRODUCT * probes) * len(kinds)


@plain_torch()
def traces(
    subnet: AnySubnet,
    images: Tensor,
    labels: Tensor,
    kinds: Sequence[Kind],
    *,
    probes: int = PROBES,
    seed: int = 0,
) -> Traces:
    """Estimate the mean eigenvalues of the Hessians of the cross-entropy in full precision.

    Args:
        subnet: Network in evaluation mode.
        images: Images on its device, shape ``(n, channels, h, w)``.
        labels: Their labels, shape ``(n,)``.
        kinds: ``w_bits`` for the weights, ``a_bits`` for the inputs of layers with weights, or both.
        probes: Number of probes.
        seed: Seed of the random signs.
    """
    signs = torch.Generator(images.device).manual_seed(seed)
    modules, quantizers = subnet.weighted(), subnet.input_quantizers()
    found: dict[str, dict[str, NDArray[np.float64]]] = {"w_bits": {}, "a_bits": {}}
    for x, y in zip(torch.split(images, AT_ONCE), torch.split(labels, AT_ONCE), strict=True):
        for kind in kinds:
            with readable(set(quantizers.values())) as read:
                loss = functional.cross_entropy(subnet(x, quantize=False), y, reduction="sum")
            if kind == "w_bits":
                tensors = {name: module.weight for name, module in modules.items()}
                rows = {name: len(images) * weight.numel() for name, weight in tensors.items()}
            else:
                tensors = {name: read[quantizer] for name, quantizer in quantizers.items()}
                rows = {name: len(images) * inputs[0].numel() for name, inputs in tensors.items()}
            for name, products in _products(loss, tensors, probes, signs).items():
                before = found[kind].setdefault(name, np.zeros(probes))
                found[kind][name] = before + products / rows[name]
    return Traces(found["w_bits"], found["a_bits"])


def _products(
    loss: Tensor, tensors: Mapping[str, Tensor], probes: int, signs: torch.Generator
) -> dict[str, NDArray[np.float64]]:
    """``v' H v`` of each tensor for each vector of random signs, shape ``(probes,)``."""
    distinct = list({id(tensor): tensor for tensor in tensors.values()}.values())
    gradients = torch.autograd.grad(loss, distinct, create_graph=True, allow_unused=True, materialize_grads=True)
    values: dict[int, list[float]] = {id(tensor): [] for tensor in distinct}
    for _ in range(probes):
        vectors = [
            torch.randint(0, 2, tensor.shape, generator=signs, device=tensor.device).to(tensor.dtype) * 2 - 1
            for tensor in distinct
        ]
        total = torch.stack([(g * v).sum() for g, v in zip(gradients, vectors, strict=True)]).sum()
        if total.requires_grad:
            products = torch.autograd.grad(
                total, distinct, retain_graph=True, allow_unused=True, materialize_grads=True
            )
        else:  # a loss that is linear in all of them
            products = tuple(map(torch.zeros_like, distinct))
        for tensor, vector, product in zip(distinct, vectors, products, strict=True):
            values[id(tensor)].append(float((vector * product).sum().double()))
    return {name: np.array(values[id(tensor)], np.float64) for name, tensor in tensors.items()}


@contextlib.contextmanager
def readable(quantizers: set[ActivationQuantizer]) -> Iterator[dict[ActivationQuantizer, Tensor]]:
    """Keep what quantizers yield, each as a tensor of its own, by which the loss can be differentiated."""
    read: dict[ActivationQuantizer, Tensor] = {}

    def keep(module: nn.Module, _: Any, output: Tensor) -> Tensor:
        own = output.view_as(output) if output.requires_grad else output.detach().requires_grad_()
        read[cast(ActivationQuantizer, module)] = own
        return own

    hooks = [quantizer.register_forward_hook(keep) for quantizer in quantizers]
    try:
        yield read
    finally:
        for hook in hooks:
            hook.remove()


@plain_torch()
def hessian_table(
    subnet: AnySubnet,
    images: Tensor,
    labels: Tensor,
    *,
    kinds: Sequence[Kind] = BIT_KINDS,
    probes: int = PROBES,
    seed: int = 0,
) -> dict[int, NDArray[np.float64]]:
    """Sensitivity of each bit-width of each open gene: mean trace times squared error, summed over the gene's layers.

    Args:
        subnet: Network with calibrated or learned quantizers, in evaluation mode; its bits do not matter.
        images: Images on its device, shape ``(n, channels, h, w)``.
        labels: Their labels, shape ``(n,)``.
        kinds: Kinds of the genes that are asked for: bits of weights, of inputs, or both.
        probes: Number of probes.
        seed: Seed of the random signs.

    Returns:
        Nats above the most bits, up to a factor that all genes have in common, shape ``(n_values,)`` by index of the
        gene.
    """
    encoding, genome = encoded(subnet)
    genes = [int(gene) for gene in open_bits(encoding, genome) if encoding.genes[gene].kind in kinds]
    omega = _Omega.of(subnet, images, labels, kinds, probes=probes, seed=seed)
    genomes, cells = one_gene_lower(encoding, genome)
    top, *lower = (
        {layer.name: layer.op for layer in subnet.space.network.at(subnet.space.values_of(candidate)) if layer.op}
        for candidate in encoding.decode(genomes)
    )
    table = {gene: np.zeros(int(encoding.n_choices[gene])) for gene in genes}
    for (gene, value), ops in zip(cells, lower, strict=True):
        for name, op in ops.items() if gene in table else ():
            w, a = (
                (cast(int, op.w_bits), cast(int, top[name].w_bits)),
                (cast(int, op.a_bits), cast(int, top[name].a_bits)),
            )
            if w[0] != w[1]:
                table[gene][value] += omega.of_weights(name, w[0]) - omega.of_weights(name, w[1])
            if a[0] != a[1]:
                table[gene][value] += omega.of_inputs(name, a[0]) - omega.of_inputs(name, a[1])
    return table


@plain_torch()
def layer_omegas(
    subnet: AnySubnet, images: Tensor, labels: Tensor, *, probes: int = PROBES, seed: int = 0
) -> LayerTable:
    """Omega of each layer by the bits of its weights and of its input (HAWQ-V2, Dong 2020), as a table.

    As a metric (``LayerTable.metric``) it is the sum over the layers of a candidate, of which those that the network
    does not have must be given by hand.

    Args:
        subnet: Network with calibrated or learned quantizers, in evaluation mode; its bits do not matter.
        images: Images on its device, shape ``(n, channels, h, w)``.
        labels: Their labels, shape ``(n,)``.
        probes: Number of probes.
        seed: Seed of the random signs.
    """
    encoding, genome = encoded(subnet)
    omega = _Omega.of(subnet, images, labels, BIT_KINDS, probes=probes, seed=seed)
    genomes, _ = one_gene_lower(encoding, genome)
    rows: dict[str, dict[Bits, float]] = {}
    for candidate in encoding.decode(genomes):
        for layer in subnet.space.network.at(subnet.space.values_of(candidate)):
            if layer.op is None:
                continue
            own, w, a = rows.setdefault(layer.name, {}), int(layer.op.w_bits), int(layer.op.a_bits)
            if layer.name in omega.weights and (w, None) not in own:
                own[w, None] = omega.of_weights(layer.name, w)
            if layer.name in omega.inputs and (None, a) not in own:
                own[None, a] = omega.of_inputs(layer.name, a)
    return LayerTable("omega", rows)


class _Omega(NamedTuple):
    """Mean eigenvalues of Hessians, and what is quantized.

    Attributes:
        weights: Mean eigenvalues of the weights of each layer; none if no bits of weights are open.
        inputs: Those of the inputs.
        modules: Layers with weights.
        quantizers: Quantizers of their inputs.
        read: What these quantize, for the first images.
    """

    weights: Mapping[str, float]
    inputs: Mapping[str, float]
    modules: Mapping[str, HasWeights]
    quantizers: Mapping[str, ActivationQuantizer]
    read: Mapping[ActivationQuantizer, Tensor]

    @classmethod
    def of(
        cls, subnet: AnySubnet, images: Tensor, labels: Tensor, kinds: Sequence[Kind], *, probes: int, seed: int
    ) -> _Omega:
        encoding, genome = encoded(subnet)
        there = open_kinds(encoding.genes[int(gene)].kind for gene in open_bits(encoding, genome))
        means = traces(subnet, images, labels, [kind for kind in there if kind in kinds], probes=probes, seed=seed)
        modules, quantizers = subnet.weighted(), subnet.input_quantizers()
        with torch.no_grad(), readable(set(quantizers.values())) as read:
            subnet(images[:AT_ONCE], quantize=False)
        return cls(_positive(means.weights), _positive(means.inputs), modules, quantizers, read)

    def of_weights(self, name: str, bits: int) -> float:
        """Mean eigenvalue times the squared error of the weights of a layer."""
        return self.weights[name] * _weight_error(self.modules[name], bits)

    def of_inputs(self, name: str, bits: int) -> float:
        """Mean eigenvalue times the squared error of the input of a layer."""
        quantizer = self.quantizers[name]
        return self.inputs[name] * _input_error(quantizer, self.read[quantizer], bits)


def open_kinds(kinds: Any) -> tuple[Kind, ...]:
    """Those of the kinds of bits that occur."""
    there = set(kinds)
    return tuple(kind for kind in BIT_KINDS if kind in there)


def _positive(samples: Mapping[str, NDArray[np.float64]]) -> dict[str, float]:
    """Means over probes; where noise makes one negative, the smallest positive one, as no layer is of no matter."""
    means = {name: float(own.mean()) for name, own in samples.items()}
    least = min((mean for mean in means.values() if mean > 0), default=0.0)
    return {name: max(mean, least) for name, mean in means.items()}


@torch.no_grad()
def _weight_error(module: HasWeights, bits: int) -> float:
    factor = module.factor(bits) if isinstance(module, FoldedWeights) else None
    return float((quantize_weight(module.weight, bits, factor) - module.weight).square().sum().double())


@torch.no_grad()
def _input_error(quantizer: ActivationQuantizer, x: Tensor, bits: int) -> float:
    """Squared error of the input of a layer, for one image."""
    return float((quantizer(x, bits) - x).square().sum().double()) / len(x)
