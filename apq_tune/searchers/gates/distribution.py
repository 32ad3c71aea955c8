"""Distribution of genomes in which genes are independent, with architecture parameters as its logits."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apq_tune.errors import ProblemError
from apq_tune.space.encoding import Genomes
from apq_tune.space.gene_encoding import GeneEncoding

ROUNDS = 20
"""Number of draws after which samples of a space with forbidden combinations are as many as there are."""


class GeneDistribution:
    """Probabilities of the values of each gene: the softmax of its architecture parameters.

    Attributes:
        encoding: Encoding of the search space.
        offered: Values that are open, shape ``(n_genes, most)`` with ``most`` the largest number of values of a gene.
        logits: Architecture parameters of the same shape; minus infinity where no value is offered.
    """

    def __init__(
        self, encoding: GeneEncoding, genes: NDArray[np.intp] | None = None, others: Genomes | None = None
    ) -> None:
        """Begin with equal probabilities.

        Args:
            encoding: Encoding of the search space.
            genes: Indices of the genes that are searched; by default all.
            others: Genome of shape ``(n_genes,)`` that has the values of the others.

        Raises:
            ProblemError: If only some genes are searched and ``others`` is missing.
        """
        n = encoding.n_choices.astype(np.int64)
        self.encoding = encoding
        self.offered = np.arange(n.max()) < n[:, None]
        if genes is not None:
            if others is None:
                raise ProblemError("a distribution over some genes needs the values of the others; give a genome")
            closed = np.setdiff1d(np.arange(len(n)), genes)
            self.offered[closed] = np.arange(n.max()) == np.asarray(others)[closed, None]
        start = torch.zeros(self.offered.shape, dtype=torch.float64)
        self.logits = start.masked_fill(torch.from_numpy(~self.offered), -torch.inf).requires_grad_()

    @property
    def open_genes(self) -> NDArray[np.intp]:
        """Indices of the genes with a choice."""
        return np.flatnonzero(self.offered.sum(axis=1) > 1)

    def probabilities(self) -> Tensor:
        """Probabilities of all values, zero where none is offered, shape ``(n_genes, most)``."""
        return self.logits.softmax(dim=1)

    def log_probability(self, genomes: Genomes) -> Tensor:
        """Logarithm of the probability of canonical genomes, shape ``(n,)``; inert genes have any value."""
        log_p = self.logits.log_softmax(dim=1)
        own = log_p[torch.arange(genomes.shape[1]), torch.from_numpy(genomes.astype(np.int64))]
        return torch.where(torch.from_numpy(self.encoding.active_genes(genomes)), own, 0.0).sum(dim=1)

    def sample(self, n: int, rng: np.random.Generator) -> Genomes:
        """Draw canonical, allowed genomes, shape ``(<= n, n_genes)``.

        Genomes with forbidden combinations are drawn again; fewer than ``n`` are returned if nearly all are forbidden.
        """
        shares = self.probabilities().detach().numpy().cumsum(axis=1)[:, :-1]
        last = self.offered.shape[1] - 1 - self.offered[:, ::-1].argmax(axis=1)  # the sum may end just below 1
        found = np.zeros((0, len(shares)), np.int16)
        for _ in range(ROUNDS):
            drawn = (rng.random((n - len(found), len(shares), 1)) >= shares).sum(axis=2)
            genomes = self.encoding.canonicalise(np.minimum(drawn, last).astype(np.int16))
            found = np.concatenate([found, genomes[self.encoding.is_allowed(genomes)]])
            if len(found) >= n:
                break
        return np.asarray(found, np.int16)

    def mode(self) -> Genomes:
        """Most probable value of each gene as a canonical genome, shape ``(1, n_genes)``; it may be forbidden."""
        genome = self.probabilities().detach().argmax(dim=1).numpy()[None].astype(np.int16)
        return np.asarray(self.encoding.canonicalise(genome), np.int16)

    def prior(self, n: int, rng: np.random.Generator) -> Genomes:
        """Distinct allowed genomes for the start of another search: the mode and samples, most probable first.

        Args:
            n: Number of genomes; fewer are returned if the distribution has hardly more.
            rng: Random number generator.

        Returns:
            Canonical genomes, shape ``(<= n, n_genes)``.
        """
        mode = self.mode()
        drawn = np.concatenate([mode[self.encoding.is_allowed(mode)], self.sample(4 * n, rng)])
        _, first = np.unique(drawn, axis=0, return_index=True)
        genomes = drawn[np.sort(first)][:n]
        with torch.no_grad():
            order = self.log_probability(genomes).argsort(descending=True, stable=True)
        return np.asarray(genomes[order.numpy()], np.int16)
