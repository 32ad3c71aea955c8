"""Episodes: walks over the genes of a candidate, in which agents decide, and what they see on the way.

The published states are those of one agent for channels and one for bits. For several objectives a state ends with the
weights of its episode, of which the reward is the weighted sum (Abels 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from apq_tune.searchers.layerwise.walk import Walk
from apq_tune.searchers.layerwise.wall import Wall
from apq_tune.space.encoding import Genomes

Floats = NDArray[np.float64]

Policy = Callable[[Floats], float]
"""Function from a state of shape ``(n_state,)`` to an action from 0 to 1."""


class Course:
    """Walk over the genes of one space under its wall.

    Attributes:
        walk: Order of the genes.
        wall: Limits that are kept.
        base: The cheapest candidate, with which every episode begins, shape ``(n_genes,)``.
    """

    def __init__(self, walk: Walk, wall: Wall, base: Genomes) -> None:
        self.walk, self.wall, self.base = walk, wall, base
        most = self._most(base, (*walk.channels, *walk.bits))
        violations = wall.violations(most[None])[0]
        self._tightest = int(violations.argmax()) if len(violations) else None

    def run(self, channels: Policy, bits: Policy, drawn: Sequence[tuple[int, int]], weights: Floats) -> Genomes:
        """Decide all genes of one candidate.

        Args:
            channels: Policy of the first pass.
            bits: Policy of the second pass.
            drawn: Unordered genes and the values that were drawn for them.
            weights: What the states end with.

        Returns:
            Candidate within the limits, shape ``(n_genes,)``, not canonical.
        """
        walk, wall, genome, last = self.walk, self.wall, self.base.copy(), 1.0
        for place, (gene, value) in enumerate(drawn):
            later = [own for own, _ in drawn[place + 1 :]]
            genome = wall.decided(genome, gene, value, [*later, *walk.channels, *walk.bits])
        for place, gene in enumerate(walk.channels):
            if not walk.active(genome, [gene]):
                continue
            state = self._channel_states(genome[None], [walk.channels[place:]], [gene], [last], weights)[0]
            open_ = [*walk.channels[place + 1 :], *walk.bits]
            genome = wall.decided(genome, gene, walk.rank(gene, channels(state)), open_)
            last = walk.action(gene, int(genome[gene]))
        lowest, last = genome.copy(), 1.0
        own = walk.active(genome, walk.bits)
        for gene in own:
            genome[gene] = walk.rank(gene, bits(self._bit_states([gene], [last], weights)[0]))
            last = walk.action(gene, int(genome[gene]))
        return wall.lowered(genome, lowest, own)

    def steps(self, genome: Genomes, weights: Floats) -> tuple[tuple[Floats, Floats], tuple[Floats, Floats]]:
        """States and actions that lead to a candidate, as they would have been decided.

        Args:
            genome: Candidate, shape ``(n_genes,)``.
            weights: What the states end with.

        Returns:
            States of shape ``(n_steps, n_state)`` and actions of shape ``(n_steps,)`` of the first and the second pass.
        """
        walk = self.walk
        channels = walk.active(genome, walk.channels)
        acts = [walk.action(gene, int(genome[gene])) for gene in channels]
        before = self.base.copy()
        before[list(walk.unordered)] = genome[list(walk.unordered)]
        rows = np.repeat(before[None], len(channels), axis=0)
        for row, gene in enumerate(channels[:-1]):
            rows[row + 1 :, gene] = genome[gene]
        open_ = [walk.channels[walk.channels.index(gene) :] for gene in channels]
        states = self._channel_states(rows, open_, channels, [1.0, *acts[:-1]], weights)
        bits = walk.active(genome, walk.bits)
        bit_acts = [walk.action(gene, int(genome[gene])) for gene in bits]
        bit_states = self._bit_states(bits, [1.0, *bit_acts[:-1]], weights)
        return (states, np.array(acts)), (bit_states, np.array(bit_acts))

    def _channel_states(
        self,
        rows: Genomes,
        open_: Sequence[Sequence[int]],
        genes: Sequence[int],
        last: Sequence[float],
        weights: Floats,
    ) -> Floats:
        """States of AMC before some decisions.

        The published shares of the operations that earlier layers were spared and that later layers have are those of
        the cost whose limit is the tightest: by how much it fell with all open genes at their most, and how much of it
        is still open. Both are zero without limits.

        Args:
            rows: Candidates in which open genes have the values of ``base``, shape ``(n_steps, n_genes)``.
            open_: Open genes of each, besides those of bits.
            genes: Genes to decide, shape ``(n_steps,)``.
            last: Last actions, shape ``(n_steps,)``.
            weights: What the states end with.
        """
        n = len(genes)
        spared, left = np.zeros(n), np.zeros(n)
        if self._tightest is not None and n:
            most = [self._most(row, (*own, *self.walk.bits)) for row, own in zip(rows, open_, strict=True)]
            whole = self._most(self.base, (*self.walk.channels, *self.walk.bits))
            violations = self.wall.violations(np.stack([whole, *most, *rows]))[:, self._tightest] + 1.0
            scale = violations[0] or 1.0
            spared = 1 - violations[1 : n + 1] / scale
            left = (violations[1 : n + 1] - violations[n + 1 :]) / scale
        facts = self.walk.channel_facts[list(genes)]
        return np.column_stack([facts, spared, left, np.asarray(last)[:n], np.tile(weights, (n, 1))])

    def _bit_states(self, genes: Sequence[int], last: Sequence[float], weights: Floats) -> Floats:
        """States of HAQ before some decisions."""
        n = len(genes)
        return np.column_stack([self.walk.bit_facts[list(genes)], np.asarray(last)[:n], np.tile(weights, (n, 1))])

    def _most(self, genome: Genomes, places: Sequence[int]) -> Genomes:
        """A candidate with the last values of some genes."""
        most = genome.copy()
        most[list(places)] = self.walk.encoding.n_choices[list(places)] - 1
        return most


def draw_unordered(walk: Walk, genomes: Genomes, rewards: Floats, rng: np.random.Generator) -> list[tuple[int, int]]:
    """Draw values of genes without an order, which no action from 0 to 1 can stand for.

    Their probabilities are those of the cross-entropy method (Rubinstein 1999): the shares of values among the best
    quarter of all episodes, with one more episode for each value.

    Args:
        walk: Walk over the space.
        genomes: Candidates of earlier episodes, shape ``(n, n_genes)``.
        rewards: Their rewards, shape ``(n,)``.
        rng: Random number generator.

    Returns:
        Genes and indices of their values.
    """
    best = genomes[np.argsort(-rewards, kind="stable")[: -(-len(rewards) // 4)]]
    found = []
    for gene in walk.unordered:
        counts = 1.0 + np.bincount(best[:, gene], minlength=int(walk.encoding.n_choices[gene]))
        found.append((gene, int(rng.choice(len(counts), p=counts / counts.sum()))))
    return found
