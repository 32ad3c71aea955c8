"""One learned gate for each weight: unstructured L0 regularisation (Louizos 2018), as compared by Gale 2019."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from apq_tune.sparsity.hard_concrete import Gated, HardConcrete, draw_before_each_pass
from apq_tune.sparsity.layers import WEIGHT, weighted_layers
from apq_tune.supernet.masks import without_lowest


class WeightGates:
    """Gates of all weights of a module, trained with it.

    Make the optimizer afterwards, so that it has the gates, and add ``expected_open()`` times a factor to the loss.
    """

    def __init__(self, module: nn.Module) -> None:
        """Gate the weights in place.

        Raises:
            ModelError: If the module has no weights or a weight is parametrized already.
        """
        self.layers = weighted_layers(module)
        self.gates = [HardConcrete(layer.weight.shape).to(layer.weight) for layer in self.layers]
        for layer, own in zip(self.layers, self.gates, strict=True):
            for part in layer.modules:
                parametrize.register_parametrization(part, WEIGHT, Gated(own).train(part.training))
        self._hook = draw_before_each_pass(module, self.gates)

    def expected_open(self) -> Tensor:
        """Expected share of weights that are not zero."""
        total = sum(own.log_alpha.numel() for own in self.gates)
        return torch.stack([own.probability_open().sum() for own in self.gates]).sum() / total

    @torch.no_grad()
    def finish(self, sparsity: float | None = None) -> None:
        """Multiply the weights by their gates in evaluation; the module is an ordinary one again.

        Args:
            sparsity: Share of the weights to set to zero, those whose gates are most likely closed; ``None`` for those
                whose gates are closed.
        """
        for part in (part for layer in self.layers for part in layer.modules):
            part.parametrizations.eval()  # type: ignore[union-attr]
            parametrize.remove_parametrizations(part, WEIGHT, leave_parametrized=True)
        self._hook.remove()
        if sparsity is None:
            return
        sizes = [own.log_alpha.numel() for own in self.gates]
        masks = without_lowest([own.log_alpha for own in self.gates], round(sparsity * sum(sizes)), sizes)
        for layer, kept in zip(self.layers, masks, strict=True):
            layer.weight.mul_(kept)
