"""Differentiable search in a trained supernet: gates are trained on the search split, weights stay as they are.

ProxylessNAS and FBNet train weights and architecture parameters in alternation, as their supernets are not trained
before. Ours serve all networks already, and every method of a comparison has the same ones; so only the parameters of
the distribution are updated, with the images on which all other methods compare candidates. As weights are shared by
all values of a gene, which neither paper does, this is a search in the style of either.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from apq_tune.problem.problem import Constraint
from apq_tune.searchers.gates.distribution import GeneDistribution
from apq_tune.searchers.gates.draws import GateKind, Gates
from apq_tune.searchers.gates.training import GateTraining, train_gates
from apq_tune.space.encodings import encoding_of
from apq_tune.space.gene import Kind
from apq_tune.supernet.batches import batches
from apq_tune.supernet.defaults import plain_torch
from apq_tune.supernet.gated_blocks import GatedBlocks
from apq_tune.supernet.gated_graph import GatedGraph
from apq_tune.supernet.graph_supernet import GraphSupernet
from apq_tune.supernet.interfaces import AnySupernet
from apq_tune.supernet.network import Supernet
from apq_tune.supernet.seeds import SeedWord
from apq_tune.supernet.trained import TrainedSupernet

BATCH = 64
"""Images of a step."""

PASSES: Mapping[GateKind, float] = {"binary": 10.0, "gumbel": 17.0}
"""Cost of a step in forward passes of an evaluation, image by image.

A gradient takes three passes. The rest is the largest network instead of one of all sizes, smaller batches, and the
quantization of all tensors to two or all bit-widths. Measured: 9 and 16 on the digits, 11 and 18 on Fashion-MNIST.
"""


def gated(supernet: AnySupernet) -> GatedBlocks | GatedGraph:
    """A supernet as a function of gates.

    Raises:
        SpaceError: If its space has genes that gates cannot run.
    """
    if isinstance(supernet, GraphSupernet):
        return GatedGraph(supernet)
    assert isinstance(supernet, Supernet)
    return GatedBlocks(supernet)


class GatedSupernetLoss:
    """Cross-entropy in nats of what gates run in a supernet, on one batch of search images for each step.

    Attributes:
        supernet: Supernet, whose weights do not change.
        quantize: Whether networks run at their bits.
        batch_size: Number of images of a step.
    """

    def __init__(
        self, supernet: TrainedSupernet, *, quantize: bool = True, batch_size: int = BATCH, seed: int = 0
    ) -> None:
        self.supernet, self.quantize = supernet, quantize
        self.batch_size = min(batch_size, len(supernet.data.search.labels))
        self._seed = seed

    @functools.cached_property
    def _network(self) -> GatedBlocks | GatedGraph:
        return gated(self.supernet.network)

    def _batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Batch of a step: each epoch has its own order, and a last batch of fewer images is left out."""
        split = self.supernet.data.search
        epoch, number = divmod(step, len(split.labels) // self.batch_size)
        order = np.random.default_rng((self._seed, SeedWord.GATES, epoch)).permutation(len(split.labels))
        source: Iterator[tuple[Tensor, Tensor]] = batches(
            split, order, self.batch_size, self.supernet.device, first=number
        )
        return next(source)

    @plain_torch()
    def __call__(self, gates: Gates, step: int) -> Tensor:
        """Loss at a step, differentiable in the values of the gates."""
        images, labels = self._batch(step)
        network = self.supernet.network
        open_ = [parameter for parameter in network.parameters() if parameter.requires_grad]
        network.requires_grad_(False)  # only gates have a gradient
        try:
            own = gates._replace(values=gates.values.to(self.supernet.device, torch.float32))
            return functional.cross_entropy(self._network(images, own, quantize=self.quantize), labels).cpu().double()
        finally:
            for parameter in open_:
                parameter.requires_grad_()


def differentiable_search(
    supernet: TrainedSupernet,
    constraints: Sequence[Constraint] = (),
    training: GateTraining | None = None,
    *,
    seed: int = 0,
    kinds: Sequence[Kind] | None = None,
    others: object = None,
    quantize: bool = True,
    batch_size: int = BATCH,
    checkpoint: bytes | None = None,
    after_step: Callable[[int, Callable[[], bytes]], None] | None = None,
) -> GeneDistribution:
    """Search a supernet by gradients, as ProxylessNAS (Cai 2019) or FBNet (Wu 2019).

    Args:
        supernet: Trained supernet.
        constraints: Limits on costs, kept on average only: choose among samples those that keep them.
        training: Settings; by default binary gates and a hinge on each limit.
        seed: Seed of gates and batches.
        kinds: Kinds of the genes that are searched, such as ``("depth", "kernel")``; by default all.
        others: Candidate that has the values of the other genes; by default the largest network at the most bits.
        quantize: Whether networks run at their bits rather than in full precision.
        batch_size: Number of images of a step.
        checkpoint: Checkpoint to go on from.
        after_step: Callback with the number of steps done and a function that makes a checkpoint.

    Returns:
        Distribution of genomes: its ``mode`` is the result, its ``prior`` starts another search (``initial``).

    Raises:
        ProblemError: If a limit does not suit the form of the loss.
        RunError: If the checkpoint is damaged, or the loss is not finite.
        SpaceError: If the space has genes that gates cannot run.
    """
    torch.set_num_threads(1)
    encoding = encoding_of(supernet.space)
    genes = None if kinds is None else encoding.places_of(kinds)
    rest = encoding.ends()[1] if others is None else encoding.encode([others], check=False)[0]
    distribution = GeneDistribution(encoding, genes, rest)
    loss = GatedSupernetLoss(supernet, quantize=quantize, batch_size=batch_size, seed=seed)
    settings = GateTraining() if training is None else training
    train_gates(distribution, loss, constraints, settings, seed, checkpoint=checkpoint, after_step=after_step)
    return distribution
