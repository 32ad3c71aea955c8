"""Joint search at several levels of weight bits, so that training decides between them and not the supernet.

Under one budget, networks of fewer bits have more channels. In a shared supernet they are ahead of networks with more
bits and fewer channels, which gain more by training of their own. A search of the whole space by the supernet's losses
therefore ends with finalists of few bits, among which training cannot find what was left behind
(``docs/results/own_model.md``). Here the evaluations and the short trainings are divided between levels of bits, and
at each level between networks with one bit-width for all weights and others: the minimum over many mixed policies is
the more optimistic.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import ProblemError
from apq_tune.methods.bench import Question
from apq_tune.methods.explore import best_of, explore, joined
from apq_tune.methods.projections import everything, uniform_wa_bits
from apq_tune.methods.subspace import Subspace
from apq_tune.predict import Floats, Pairs
from apq_tune.problem.metric import FunctionMetric
from apq_tune.problem.problem import Constraint
from apq_tune.space.encoding import Genomes
from apq_tune.space.gene_encoding import GeneEncoding

HOPELESS = 1.1
"""Factor of the best loss in the supernet above which a level is given up: training did not make up for 10%."""

SHARE = 0.25
"""Share of the evaluations for networks with one bit-width for all weights and one for all activations, twice: first at
all levels, then at those that are not hopeless."""

BELOW = 0.25
"""Share of the distance to the next lower bit-width by which a level begins below its own."""

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
    """Joint search at each level of weight bits, then training of the best candidates of every level.

    Raises:
        ProblemError: If no candidate with one bit-width for all weights keeps the limits.
    """
    encoding, bench = question.encoding, question.bench
    plain, whole = Subspace(encoding, uniform_wa_bits(encoding)), Subspace(encoding, everything)
    every = levels_of(encoding)
    n, nothing = round(SHARE * bench.left.proxy), Pairs(np.zeros((0, encoding.n_genes), np.int16), np.zeros(0))
    known = _explored(question, plain, every, n, nothing, 1)
    levels = promising(encoding, known, every)
    known = _explored(question, plain, levels, n, known, 2)
    known = _explored(question, whole, levels, bench.left.proxy, known, 3)
    rest = explore(question, whole, question.limits, bench.proxy, bench.left.proxy, question.rng(4), known=known)
    return _trained_by_level(question, joined(known, rest), levels)


def _explored(question: Question, part: Subspace, levels: Sequence[Level], n: int, known: Pairs, stage: int) -> Pairs:
    """Measure ``n`` candidates of a part of the space, as many at each level, and add them to those that are known."""
    bench, error = question.bench, None
    end = bench.left.proxy - n
    for number, level in enumerate(levels):
        share = (bench.left.proxy - end) // (len(levels) - number)
        limits, rng = [*question.limits, level.limit(question.encoding)], question.rng(stage, number)
        try:
            known = joined(known, explore(question, part, limits, bench.proxy, share, rng, known=known))
        except ProblemError as found:  # too large at these bits
            error = found
    if error is not None and not len(known.target):
        raise error
    return known


def levels_of(encoding: GeneEncoding) -> list[Level]:
    """Levels at the bit-widths that all layers have in common, ascending; one level if there are none.

    A level begins shortly below its bit-width and ends shortly below the next one, since the search at a level drifts
    to its lower end.
    """
    widths = np.array(encoding.uniform_bits(), np.float64)
    starts = widths[1:] - BELOW * np.diff(widths)
    return [Level(*pair) for pair in itertools.pairwise([0.0, *starts, np.inf])]


def mean_weight_bits(encoding: GeneEncoding, genomes: Genomes) -> Floats:
    """Mean bits of the weights of the layers whose bits are open, shape ``(n,)``; zero if none is."""
    bits = _weight_bits(encoding, genomes)
    return np.asarray(bits.sum(axis=1).filled(0.0) / np.maximum(bits.count(axis=1), 1))


def has_mixed_weights(encoding: GeneEncoding, genomes: Genomes) -> NDArray[np.bool_]:
    """Whether layers whose bits are open have weights of different bits, shape ``(n,)``."""
    bits = _weight_bits(encoding, genomes)
    if not bits.shape[1]:
        return np.zeros(len(genomes), bool)
    return np.asarray(bits.max(axis=1).filled(0.0) > bits.min(axis=1).filled(0.0))


def _weight_bits(encoding: GeneEncoding, genomes: Genomes) -> Any:
    """Weight bits of the layers whose bits are open, those of inactive layers masked, shape ``(n, layers)``."""
    places = [int(place) for place in encoding.places_of(("w_bits",)) if encoding.n_choices[place] > 1]
    bits = np.zeros((len(genomes), len(places)))
    for column, place in enumerate(places):
        bits[:, column] = np.array(encoding.genes[place].values)[genomes[:, place]]
    return np.ma.masked_array(bits, ~encoding.active_genes(genomes)[:, places])


def promising(encoding: GeneEncoding, known: Pairs, levels: Sequence[Level]) -> list[Level]:
    """Levels, best first, without those whose best network is hopeless.

    Args:
        encoding: Encoding of the search space.
        known: Losses of networks of all levels.
        levels: Levels.
    """
    losses = {level: known.target[level.holds(encoding, known.genomes)] for level in levels}
    best = {level: float(own.min()) for level, own in losses.items() if len(own)}
    ranked = sorted((level for level in best if best[level] <= HOPELESS * min(best.values())), key=best.__getitem__)
    return ranked[:MOST]


def _trained_by_level(question: Question, pairs: Pairs, levels: Sequence[Level]) -> Genomes:
    """Best candidates after short training, as in ``shortlist``, but kinds of networks take turns."""
    bench, encoding = question.bench, question.encoding
    looked_at = in_turn(pairs, kinds(encoding, pairs.genomes, levels), bench.left.fine)
    closely = Pairs(looked_at, bench.fine(looked_at))
    chosen = in_turn(closely, kinds(encoding, looked_at, levels), bench.left.short)
    return best_of(Pairs(chosen, bench.short(chosen)), len(chosen)).genomes


def kinds(encoding: GeneEncoding, genomes: Genomes, levels: Sequence[Level]) -> NDArray[np.intp]:
    """Number of the kind of each network, shape ``(n,)``: two of each level, without and with mixed weight bits.

    Networks of none of the levels are of kind -1.
    """
    found = np.full(len(genomes), -1)
    mixed = has_mixed_weights(encoding, genomes)
    for number, level in enumerate(levels):
        own = level.holds(encoding, genomes)
        found[own] = 2 * number + mixed[own]
    return found


def in_turn(pairs: Pairs, kind: NDArray[np.intp], n: int) -> Genomes:
    """The ``n`` candidates with the lowest losses of their kinds, which take turns, those of kind -1 after all others.

    Args:
        pairs: Candidates and their losses.
        kind: Number of the kind of each, shape ``(len(pairs.target),)``; lower ones come first in each turn.
        n: Number of candidates; fewer are returned if there are no more.
    """
    place = np.zeros(len(kind))
    for own in np.unique(kind):
        rows = np.flatnonzero(kind == own)
        place[rows[np.argsort(pairs.target[rows], kind="stable")]] = np.arange(len(rows))
    return np.asarray(pairs.genomes[np.lexsort((kind, place, kind < 0))[:n]], np.int16)
