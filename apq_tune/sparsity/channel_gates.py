"""Widths that a supernet learns: L0 gates on the channels that width genes count (Louizos 2018)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils import parametrize

from apq_tune.cost.model import CostModel
from apq_tune.errors import RunError
from apq_tune.space.encodings import encoding_of
from apq_tune.sparsity.hard_concrete import Gated, HardConcrete, draw_before_each_pass
from apq_tune.supernet.interfaces import AnySupernet


class ChannelGates:
    """Gates of the channels of a supernet's largest network, as an alternative to a search of widths.

    A gate multiplies scale and shift of the batch norm behind its channel, so a closed one makes exact zeros. Train
    the largest network with ``loss + factor * gates.expected_cost()`` and an optimizer made after the gates; then
    ``finish`` ranks the channels and gives the widths that are left.

    Attributes:
        widths: Searched widths.
        gates: Gates of each.
    """

    def __init__(self, supernet: AnySupernet, cost: CostModel) -> None:
        """Gate the channels in place.

        Args:
            supernet: Supernet; of a user's model with ``load_model``.
            cost: Cost that the penalty counts, such as ``macs`` or ``weight_bytes``.

        Raises:
            RunError: If the space has no open width.
        """
        self._supernet, self._encoding = supernet, encoding_of(supernet.space)
        self.widths = supernet.searched_widths()
        if not self.widths:
            raise RunError(f"{supernet.space.name}: has no width to choose; open one, or prune single weights")
        if bare := [width.gene for width in self.widths if not width.scales]:
            raise RunError(f"{bare[0]}: no parameter scales its channels; give batch norm its scale, or close the gene")
        self._genes = [[gene.name for gene in self._encoding.genes].index(width.gene) for width in self.widths]
        self._prices = self._price(cost)
        device = next(supernet.parameters()).device
        self.gates = [HardConcrete((width.n_units,)).to(device) for width in self.widths]
        for width, own in zip(self.widths, self.gates, strict=True):
            for scale in width.scales:
                gated = Gated(own, scale.units.to(device)).train(supernet.training)
                parametrize.register_parametrization(scale.module, scale.name, gated)
        self._hook = draw_before_each_pass(supernet, self.gates)

    def _price(self, cost: CostModel) -> NDArray[np.float64]:
        """Mean cost of a unit of each width, as a share of the cost of the largest network."""
        whole = self._encoding.encode([self._encoding.extremes()[1]])
        smaller = np.repeat(whole, len(self._genes), axis=0)
        smaller[np.arange(len(self._genes)), self._genes] = 0
        saved = 1 - cost(smaller) / cost(whole)
        units = np.array([width.n_units for width in self.widths])
        shares = [1 - own[0] / own[-1] for own in (self._encoding.genes[gene].values for gene in self._genes)]
        sharing = np.array([self._genes.count(gene) for gene in self._genes])
        return np.asarray(saved / (units * shares * sharing), np.float64)

    def expected_cost(self) -> Tensor:
        """Expected cost of open gates, each width by itself, as a share of the cost of the largest network."""
        terms = [own.probability_open().sum() * price for own, price in zip(self.gates, self._prices, strict=True)]
        return torch.stack(terms).sum()

    def expected_open(self) -> Tensor:
        """Expected share of gates that are not 0."""
        every = torch.cat([own.probability_open() for own in self.gates])
        return every.mean()

    @torch.no_grad()
    def finish(self) -> Any:
        """Multiply the parameters by the gates of the test, and rank the channels by them.

        Returns:
            Largest network with the smallest widths of the space that hold all open channels.
        """
        self._hook.remove()
        for width in self.widths:
            for scale in width.scales:
                scale.module.parametrizations[scale.name].eval()  # type: ignore[union-attr,index]
                parametrize.remove_parametrizations(scale.module, scale.name, leave_parametrized=True)
        self._supernet.rank_widths([own.log_alpha.detach().cpu() for own in self.gates])
        genome = self._encoding.encode([self._encoding.extremes()[1]])[0]
        for gene in dict.fromkeys(self._genes):
            values = np.array(self._encoding.genes[gene].values)
            shares = [
                float((own.test_time() > 0).double().mean())
                for own, place in zip(self.gates, self._genes, strict=True)
                if place == gene
            ]
            genome[gene] = int(np.flatnonzero(values >= max(shares) * values[-1] - 1e-6)[0])
        return self._encoding.decode(genome[None])[0]
