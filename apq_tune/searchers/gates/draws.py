"""Gates: how much each value of each gene counts in one forward pass, as a differentiable function of the parameters.

Binary gates (ProxylessNAS, Cai 2019): one value of a gene runs, ``y = sum_j g_j o_j(x)`` with ``g`` one-hot and drawn
from ``p = softmax(alpha)``. As in BinaryConnect, the gradient of ``g`` is taken for that of ``p`` (eq. 3 and 4)::

    dL/dalpha_i = sum_j dL/dp_j dp_j/dalpha_i  ~  sum_j dL/dg_j p_j (delta_ij - p_i),  dL/dg_j = <dL/dy, o_j(x)>

Two values of each gene are drawn without replacement, ``p`` is normalised over the two, and one of them runs; the
other is computed for its ``o_j`` only. Afterwards the parameters of the two are shifted together, so that the
probabilities of all other values stay what they were.

Gumbel gates (FBNet, Wu 2019): all values run, ``m = softmax((log p + G) / temperature)`` with Gumbel noise ``G``.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apq_tune.searchers.gates.distribution import GeneDistribution
from apq_tune.space.encoding import Genomes

GateKind = Literal["binary", "gumbel"]
"""Kind of gates."""


class Gates(NamedTuple):
    """Gates of one forward pass.

    Attributes:
        values: Factor of each value of each gene, sums to one over the values of a gene, shape ``(n_genes, most)``.
        used: Values that have to be computed, for their share of the output or for their gradient, same shape.
    """

    values: Tensor
    used: NDArray[np.bool_]

    def of(self, gene: int) -> list[tuple[int, Tensor]]:
        """Values of a gene that have to be computed, with their gates."""
        return [(int(value), self.values[gene, value]) for value in np.flatnonzero(self.used[gene])]


def fixed_gates(genome: Genomes, most: int) -> Gates:
    """Gates with which exactly the network of a genome of shape ``(n_genes,)`` runs.

    Args:
        genome: Genome.
        most: Largest number of values of a gene.
    """
    used = np.arange(most) == np.asarray(genome)[:, None]
    return Gates(torch.from_numpy(used.astype(np.float64)), used)


def binary_gates(distribution: GeneDistribution, rng: np.random.Generator) -> tuple[Gates, Tensor]:
    """Draw binary gates.

    Returns:
        Gates, and the two values of each gene, shape ``(n_genes, 2)``; of a gene without a choice the second is void.
    """
    logits = distribution.logits
    noise = torch.from_numpy(rng.gumbel(size=logits.shape))
    # The two largest of log p + Gumbel noise are a draw without replacement (Vieira 2014).
    pair = (logits.detach() + noise).topk(min(2, logits.shape[1]), dim=1).indices
    shares = logits.gather(1, pair).softmax(dim=1)
    runs = torch.from_numpy(rng.random(len(pair))) >= shares[:, 0].detach()
    hard = torch.nn.functional.one_hot(runs.long(), shares.shape[1]).double()
    own = hard + (shares - shares.detach())
    values = torch.zeros_like(logits).scatter(1, pair, own)
    used = np.zeros(distribution.offered.shape, bool)
    np.put_along_axis(used, pair.numpy(), True, axis=1)
    return Gates(values, used & distribution.offered), pair


@torch.no_grad()
def keep_others(distribution: GeneDistribution, before: Tensor, pair: Tensor) -> None:
    """Shift the parameters of two values of each gene so that the probabilities of all others stay what they were.

    Args:
        distribution: Distribution, whose parameters have been updated.
        before: Parameters before the update.
        pair: Two values of each gene, shape ``(n_genes, 2)``.
    """
    own = distribution.logits.gather(1, pair)
    shift = before.gather(1, pair).logsumexp(dim=1, keepdim=True) - own.logsumexp(dim=1, keepdim=True)
    distribution.logits.scatter_(1, pair, own + shift)


def gumbel_gates(distribution: GeneDistribution, temperature: float, rng: np.random.Generator) -> Gates:
    """Draw Gumbel gates; the lower the temperature, the closer they are to those of one sample."""
    noise = torch.from_numpy(rng.gumbel(size=distribution.logits.shape))
    log_p = distribution.logits.log_softmax(dim=1)
    return Gates(((log_p + noise) / temperature).softmax(dim=1), distribution.offered)
