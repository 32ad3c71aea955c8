"""Zero-cost statistics and bits of the layers of candidates, as predictors and evolved proxies read them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from apq_tune.errors import ProblemError
from apq_tune.space.encoding import Genomes
from apq_tune.space.encodings import encoding_of
from apq_tune.space.gene import BIT_KINDS
from apq_tune.space.gene_encoding import GeneEncoding
from apq_tune.supernet.defaults import plain_torch
from apq_tune.supernet.evaluate import subnet_from
from apq_tune.supernet.interfaces import AnySupernet
from apq_tune.supernet.kinds import untrained_supernet
from apq_tune.supernet.zero_cost import OF_LAYERS, layer_statistics


@dataclass(frozen=True)
class CandidateStatistics:
    """Statistics and bits of each layer of candidates.

    Statistics are those of the weights that a candidate has in a supernet, in full precision. They take a forward and a
    backward pass for each architecture, which is kept: other bits of the same architecture cost nothing.

    Attributes:
        network: Supernet, trained or not.
        images: Images on the device of the network, shape ``(n, channels, h, w)``; batch norm is estimated on them.
        labels: Their labels, shape ``(n,)``.
        statistics: Statistics of ``layer_statistics``: ``"snip"``, ``"grad_norm"``, ``"fisher"``, ``"synflow"``.
    """

    network: AnySupernet
    images: Tensor
    labels: Tensor
    statistics: tuple[str, ...] = ("snip", "grad_norm", "synflow")
    _known: dict[bytes, dict[str, list[float]]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in self.statistics:
            if name not in OF_LAYERS:
                raise ProblemError(f"{name!r} is no statistic of layers; give one of {', '.join(OF_LAYERS)}")

    @classmethod
    def untrained(cls, space: Any, images: Tensor, labels: Tensor, *, seed: int = 0) -> CandidateStatistics:
        """Statistics of random weights.

        Args:
            space: Search space.
            images: Images, shape ``(n, channels, h, w)``.
            labels: Their labels, shape ``(n,)``.
            seed: Seed of the weights.
        """
        return cls(untrained_supernet(space, images.device, seed), images, labels)

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers with weights of the largest network."""
        return layers_with_weights(self.network.space)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the statistics, then ``w_bits`` and ``a_bits``."""
        return (*self.statistics, *BIT_KINDS)

    def __call__(self, genomes: Genomes) -> NDArray[np.float64]:
        """Statistics of genomes of shape ``(n, n_genes)``, shape ``(n, n_layers, n_columns)``.

        NaN for layers that a candidate lacks.
        """
        encoding, space = encoding_of(self.network.space), self.network.space
        place = {name: number for number, name in enumerate(self.layers)}
        values = np.full((len(genomes), len(place), len(self.columns)), np.nan)
        candidates = encoding.decode(genomes)
        for row, (candidate, key) in enumerate(zip(candidates, architectures(encoding, genomes), strict=True)):
            if key not in self._known:
                self._known[key] = self._of(candidate)
            found = self._known[key]
            for layer in space.network.at(space.values_of(candidate)):
                if layer.op is not None:
                    values[row, place[layer.name]] = [*found[layer.name], layer.op.w_bits, layer.op.a_bits]
        return values

    @plain_torch()
    def _of(self, candidate: Any) -> dict[str, list[float]]:
        subnet = subnet_from(self.network, candidate, self.images, quantize=False).eval()
        found = layer_statistics(subnet, self.images, self.labels)
        return {layer: [found[name][layer] for name in self.statistics] for layer in subnet.weighted()}


def layers_with_weights(space: Any) -> tuple[str, ...]:
    """Names of the layers with weights of the largest network, which are all that candidates have."""
    found = space.network.at(space.values_of(encoding_of(space).extremes()[1]))
    return tuple(layer.name for layer in found if layer.op is not None)


def architectures(encoding: GeneEncoding, genomes: Genomes) -> list[bytes]:
    """Keys of genomes, the same for those that differ by bits alone."""
    kept = np.delete(encoding.canonicalise(genomes), encoding.places_of(BIT_KINDS), axis=1)
    return [row.tobytes() for row in np.ascontiguousarray(kept)]
