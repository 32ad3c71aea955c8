"""Zero-cost proxies (Abdelfattah 2021): statistics of a network on one batch, without training it.

They rank networks before anything is trained, or bit policies together with the bits of the layers (EMQ, Dong 2023).
What they are worth is measured in ``benchmarks/proxy_agreement.py``; the number of parameters or of MACs is often as
good and costs nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from apq_tune.errors import ProblemError
from apq_tune.space.encoding import Genomes
from apq_tune.space.encodings import encoding_of
from apq_tune.supernet.defaults import plain_torch
from apq_tune.supernet.evaluate import subnet_from
from apq_tune.supernet.hessian import readable
from apq_tune.supernet.interfaces import AnySubnet, AnySupernet
from apq_tune.supernet.kinds import untrained_supernet
from apq_tune.supernet.quantize import ActivationQuantizer

OfLayers = Literal["snip", "grad_norm", "fisher", "synflow"]

OF_LAYERS: tuple[str, ...] = get_args(OfLayers)
"""Statistics that each layer has."""

PROXIES = (*OF_LAYERS, "jacob_cov")

EPSILON = 1e-5
"""Added to the eigenvalues of correlations (Mellor 2020)."""


def with_gradients(
    subnet: AnySubnet, images: Tensor, labels: Tensor
) -> dict[str, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Weights of each layer and what it reads, each with the gradient of the cross-entropy by it, by the layer's name.

    Args:
        subnet: Network in evaluation mode, run in full precision.
        images: Images on its device, shape ``(n, channels, h, w)``.
        labels: Their labels, shape ``(n,)``.
    """
    modules, quantizers = subnet.weighted(), subnet.input_quantizers()
    with torch.enable_grad(), readable(set(quantizers.values())) as read:
        loss = functional.cross_entropy(subnet(images, quantize=False), labels)
        weights = [module.weight for module in modules.values()]
        inputs = [read[quantizers[name]] for name in modules]
        found = torch.autograd.grad(loss, [*weights, *inputs], allow_unused=True, materialize_grads=True)
    parts = zip(modules, weights, found, inputs, found[len(weights) :], strict=False)
    return {name: (w.detach(), dw, a.detach(), da) for name, w, dw, a, da in parts}


@plain_torch()
def layer_statistics(subnet: AnySubnet, images: Tensor, labels: Tensor) -> dict[str, dict[str, float]]:
    """Statistics of each layer with weights, in full precision; batch norm is folded.

    Args:
        subnet: Network in evaluation mode.
        images: Images on its device, shape ``(n, channels, h, w)``.
        labels: Their labels, shape ``(n,)``.

    Returns:
        By name of the statistic and of the layer, with the cross-entropy ``L``: ``snip``, the sum of ``|w dL/dw|``
        (Lee 2019); ``grad_norm``, the norm of ``dL/dw``; ``fisher``, the sum over the channels of the layer's input of
        half the mean square, over images, of ``a dL/da`` (Theis 2018); ``synflow``, see ``synflow``.
    """
    statistics: dict[str, dict[str, float]] = {"snip": {}, "grad_norm": {}, "fisher": {}}
    for name, (w, dw, a, da) in with_gradients(subnet, images, labels).items():
        statistics["snip"][name] = float((w * dw).abs().sum().double())
        statistics["grad_norm"][name] = float(dw.norm().double())
        of_channels = (a * da).double().reshape(*a.shape[:2], -1).sum(-1) * len(images)
        statistics["fisher"][name] = float(of_channels.square().sum()) / (2 * len(images))
    return statistics | {"synflow": synflow(subnet, images)}


@plain_torch()
def synflow(subnet: AnySubnet, images: Tensor) -> dict[str, float]:
    """Synaptic flow of each layer (Tanaka 2020): the sum of ``|w| dR/d|w|``, where ``R`` is the sum of the outputs.

    The network has the absolute values of its weights, no biases, and an image of ones. It is computed in double
    precision with ReLU in place of ReLU6, in whose networks everything would saturate and the flow be zero. In chains
    of layers it is the same in all of them.

    Args:
        subnet: Network, which stays as it is.
        images: Images of the shape that it reads.
    """
    own = copy.deepcopy(subnet, {id(subnet.space): subnet.space}).double().eval()
    modules = own.weighted()
    with torch.no_grad():
        for module in modules.values():
            module.weight.abs_()
            if module.bias is not None:
                module.bias.zero_()
    for quantizer in own.modules():
        if isinstance(quantizer, ActivationQuantizer) and quantizer.activation == "relu6":
            quantizer.activation = "relu"
    with torch.enable_grad():
        total = own(torch.ones_like(images[:1], dtype=torch.float64), quantize=False).sum()
        weights = [module.weight for module in modules.values()]
        found = torch.autograd.grad(total, weights, allow_unused=True, materialize_grads=True)
    return {name: float((w * dw).detach().sum()) for name, w, dw in zip(modules, weights, found, strict=True)}


@plain_torch()
def jacobian_covariance(subnet: AnySubnet, images: Tensor) -> float:
    """Score of how differently a network reads different images (Mellor 2020): more is better.

    It is ``-sum(log(v + k) + 1 / (v + k))`` over the eigenvalues ``v`` of the correlations between images of the
    gradients of the summed logits by the pixels.

    Args:
        subnet: Network in evaluation mode.
        images: Images on its device, shape ``(n, channels, h, w)``.

    Raises:
        ProblemError: If an image changes no output at all.
    """
    x = images.detach().clone().requires_grad_()
    with torch.enable_grad():
        (jacobian,) = torch.autograd.grad(subnet(x, quantize=False).sum(), [x])
    gradients = jacobian.flatten(1).double().cpu().numpy()
    if n := int((np.ptp(gradients, axis=1) == 0).sum()):
        raise ProblemError(f"jacob_cov: {n} of {len(images)} images change no output of a network; take another proxy")
    correlations = np.corrcoef(gradients)
    values = np.linalg.eigvalsh(np.atleast_2d(correlations)) + EPSILON
    return float(-(np.log(values) + 1 / values).sum())


@dataclass(frozen=True)
class ZeroCostProxy:
    """Zero-cost proxy of architectures, to be maximised; bits make no difference.

    Attributes:
        network: Supernet, trained or not, of whose weights each candidate has its part.
        proxy: ``"snip"``, ``"grad_norm"``, ``"fisher"`` or ``"synflow"``, the sum over layers of what
            ``layer_statistics`` has; or ``"jacob_cov"``, see ``jacobian_covariance``.
        images: Images on the device of the network, shape ``(n, channels, h, w)``; batch norm is estimated on them.
        labels: Their labels, shape ``(n,)``.
    """

    network: AnySupernet
    proxy: str
    images: Tensor
    labels: Tensor
    costly = True  # not evaluated for infeasible candidates

    def __post_init__(self) -> None:
        if self.proxy not in PROXIES:
            raise ProblemError(f"proxy is {self.proxy!r}; give one of {', '.join(PROXIES)}")

    @classmethod
    def untrained(cls, space: Any, proxy: str, images: Tensor, labels: Tensor, *, seed: int = 0) -> ZeroCostProxy:
        """Proxy with random weights.

        Args:
            space: Search space.
            proxy: Name of the proxy.
            images: Images, shape ``(n, channels, h, w)``.
            labels: Their labels, shape ``(n,)``.
            seed: Seed of the weights.
        """
        return cls(untrained_supernet(space, images.device, seed), proxy, images, labels)

    @property
    def name(self) -> str:
        """Name of the proxy."""
        return self.proxy

    @property
    def unit(self) -> str:
        """None."""
        return ""

    @plain_torch()
    def __call__(self, genomes: Genomes) -> NDArray[np.float64]:
        """Values of genomes of shape ``(n, n_genes)``, shape ``(n,)``."""
        values = []
        for candidate in encoding_of(self.network.space).decode(genomes):
            subnet = subnet_from(self.network, candidate, self.images, quantize=False).eval()
            values.append(self._of(subnet))
        return np.array(values, np.float64)

    def _of(self, subnet: AnySubnet) -> float:
        if self.proxy == "jacob_cov":
            return jacobian_covariance(subnet, self.images)
        found: Mapping[str, float]
        if self.proxy == "synflow":
            found = synflow(subnet, self.images)
        else:
            found = layer_statistics(subnet, self.images, self.labels)[self.proxy]
        return sum(found.values())
