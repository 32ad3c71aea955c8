"""Joint search at several levels of weight bits, so that training decides between them and not the supernet.

Under one budget, networks of fewer bits have more channels. In a shared supernet they are ahead of networks with more
bits and fewer channels, which gain more by training of their own. A search of the whole space by the supernet's losses
therefore ends with finalists of few bits, among which training cannot find what was left behind
(``docs/results/own_model.md``). Here the evaluations and the short trainings are divided between levels of bits.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import ProblemError
from apq_tune.methods.bench import Question
from apq_tune.methods.explore import best_of, explore, joined
from apq_tune.methods.projections import everything, uniform_wa_bits
from apq_tune.methods.subspace import Subspace
from apq_tune.methods.together import WARM_UP
from apq_tune.predict import Floats, Pairs
from apq_tune.problem.metric import FunctionMetric
from apq_tune.problem.problem import Constraint
from apq_tune.space.encoding import Genomes
from apq_tune.space.gene_encoding import GeneEncoding

HOPELESS = 1.1
"""Factor of the best loss in the supernet above which a level is given up: training did not make up for 10%."""

MOST = 3
"""Maximum number of levels; the best ones are kept."""


class Level(NamedTuple):
    """Range of the mean weight bits of a network, ends included."""

    low: float
    high: float

    def holds(self, encoding: GeneEncoding, genomes: Genomes) -> NDArray[np.bool_]:
        """Whether networks are of this level, shape ``(n,)``."""
        bits = mean_weight_bits(encoding, genomes)
        return np.asarray((bits >= self.low) & (bits <= self.high))

    def limit(self, encoding: GeneEncoding) -> Constraint:
        """Limit that the networks of this level keep by far, so that samples near the other limits are preferred."""

        def misses(genomes: Genomes) -> Floats:
            bits = mean_weight_bits(encoding, genomes)
            return np.where(self.holds(encoding, genomes), -1.0, np.maximum(self.low - bits, bits - self.high))

        return Constraint(FunctionMetric("distance from level", "bits", misses), 0.0)


def joint_levels(question: Question) -> Genomes:
    """Joint search at each level of weight bits, then training of the best candidates of every level."""
    encoding, bench, limits = question.encoding, question.bench, question.limits
    n = round(WARM_UP * bench.left.proxy)
    plain, whole = Subspace(encoding, uniform_wa_bits(encoding)), Subspace(encoding, everything)
    known = explore(question, plain, limits, bench.proxy, n, question.rng(1))
    levels = promising_levels(encoding, known)
    for number, level in enumerate(levels):
        within = [*limits, level.limit(encoding)]
        share = bench.left.proxy // (len(levels) - number)
        with contextlib.suppress(ProblemError):  # other bits than uniform ones are too large at this level
            own = explore(question, whole, within, bench.proxy, share, question.rng(2, number), known=known)
            known = joined(known, own)
    known = joined(known, explore(question, whole, limits, bench.proxy, bench.left.proxy, question.rng(3), known=known))
    return _trained_by_level(question, known, levels)


def mean_weight_bits(encoding: GeneEncoding, genomes: Genomes) -> Floats:
    """Mean bits of the weights of the layers whose bits are open, shape ``(n,)``; zero if none is."""
    places = [int(place) for place in encoding.places_of(("w_bits",)) if encoding.n_choices[place] > 1]
    if not places:
        return np.zeros(len(genomes))
    active = encoding.active_genes(genomes)[:, places]
    bits = np.stack([np.array(encoding.genes[place].values, np.float64)[genomes[:, place]] for place in places], axis=1)
    return np.asarray((bits * active).sum(axis=1) / np.maximum(active.sum(axis=1), 1))


def promising_levels(encoding: GeneEncoding, known: Pairs) -> list[Level]:
    """Levels around the common bit-widths, best first, without those at which uniform networks are hopeless.

    Args:
        encoding: Encoding of the search space.
        known: Losses of networks with one bit-width for all weights.
    """
    widths = np.array(encoding.uniform_bits(), np.float64)
    ends = [0.0, *((widths[1:] + widths[:-1]) / 2), np.inf]
    levels = [Level(*pair) for pair in itertools.pairwise(ends)]
    losses = {level: known.target[level.holds(encoding, known.genomes)] for level in levels}
    best = {level: float(own.min()) for level, own in losses.items() if len(own)}
    ranked = sorted((level for level in best if best[level] <= HOPELESS * min(best.values())), key=best.__getitem__)
    return ranked[:MOST]


def _trained_by_level(question: Question, pairs: Pairs, levels: Sequence[Level]) -> Genomes:
    """Best candidates after short training, as in ``shortlist``, but the levels take turns in what is measured."""
    bench, encoding = question.bench, question.encoding
    promising = in_turn(encoding, pairs, levels, bench.left.fine)
    chosen = in_turn(encoding, Pairs(promising, bench.fine(promising)), levels, bench.left.short)
    return best_of(Pairs(chosen, bench.short(chosen)), len(chosen)).genomes


def in_turn(encoding: GeneEncoding, pairs: Pairs, levels: Sequence[Level], n: int) -> Genomes:
    """The ``n`` candidates with the lowest losses of their levels, best first; those of no level come last.

    Args:
        encoding: Encoding of the search space.
        pairs: Candidates and their losses.
        levels: Levels, which take turns in this order.
        n: Number of candidates; fewer are returned if there are no more.
    """
    place = np.full(len(pairs.target), np.inf)
    for number, level in enumerate(levels):
        rows = np.flatnonzero(level.holds(encoding, pairs.genomes))
        ranked = rows[np.argsort(pairs.target[rows], kind="stable")]
        place[ranked] = np.arange(len(ranked)) + number / len(levels)
    return pairs.genomes[np.lexsort((pairs.target, place))[:n]]
