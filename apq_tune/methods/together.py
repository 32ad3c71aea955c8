"""Methods that search architecture, channels and bits at once: uniform policies, random search and joint search."""

from __future__ import annotations

import numpy as np

from apq_tune.methods.bench import Question
from apq_tune.methods.explore import best_of, explore, joined
from apq_tune.methods.projections import (
    Project,
    everything,
    four_bits,
    most_bits,
    same_share,
    uniform_bits,
    uniform_wa_bits,
)
from apq_tune.methods.subspace import Subspace
from apq_tune.predict import Pairs
from apq_tune.space.encoding import Genomes

WARM_UP = 1 / 4
"""Share of the evaluations of joint search with one bit-width for all weights and one for all activations."""


def shortlist(question: Question, pairs: Pairs) -> Genomes:
    """Train the most promising candidates with the remaining short trainings, and sort them by the resulting losses.

    Candidates with the lowest proxy losses are compared on all images, and the best of them are trained.
    """
    bench = question.bench
    promising = best_of(pairs, bench.left.fine).genomes
    chosen = best_of(Pairs(promising, bench.fine(promising)), bench.left.short).genomes
    return best_of(Pairs(chosen, bench.short(chosen)), len(chosen)).genomes


def uniform(question: Question) -> Genomes:
    """Best architecture and channels at one uniform bit-width."""
    return _within(question, uniform_bits(question.encoding))


def uniform_8(question: Question) -> Genomes:
    """Best architecture and channels with all layers at the largest bit-width that they have in common, as a rule 8."""
    return _within(question, most_bits(question.encoding))


def uniform_4(question: Question) -> Genomes:
    """Best architecture and channels at 4 bits, where tensors that cannot have them get the next larger width."""
    return _within(question, four_bits(question.encoding))


def uniform_wa(question: Question) -> Genomes:
    """Best architecture and channels at one bit-width for all weights and one for all activations."""
    return _within(question, uniform_wa_bits(question.encoding))


def _within(question: Question, project: Project) -> Genomes:
    subspace, bench = Subspace(question.encoding, project), question.bench
    return shortlist(
        question, explore(question, subspace, question.limits, bench.proxy, bench.left.proxy, question.rng(1))
    )


def random(question: Question) -> Genomes:
    """Random feasible candidates near the limits."""
    bench, subspace = question.bench, Subspace(question.encoding, everything)
    genomes = subspace.sample_band(question.limits, bench.left.proxy, question.rng(1))
    return shortlist(question, Pairs(genomes, bench.proxy(genomes)))


def magnitude(question: Question) -> Genomes:
    """The largest architecture with the same share of channels everywhere, at one bit-width; every share is tried.

    Of the channels of a layer those with the largest weights are kept, as in all networks of a supernet: it is
    magnitude pruning with one density for all layers, a control of comparisons (Blalock 2020).
    """
    return _within(question, same_share(question.encoding))


def joint(question: Question) -> Genomes:
    """Joint search of architecture, channels and the bits of every layer.

    The first evaluations are restricted to one bit-width for all weights and one for all activations, so that the
    predictor learns the effect of architecture and channels in few dimensions, and the search starts from good
    candidates. They count towards the same budget.
    """
    encoding, bench = question.encoding, question.bench
    n = round(WARM_UP * bench.left.proxy)
    plain = Subspace(encoding, uniform_wa_bits(encoding))
    known = explore(question, plain, question.limits, bench.proxy, n, question.rng(1))
    whole = Subspace(encoding, everything)
    random_ones = whole.sample_band(question.limits, n, question.rng(2), known.genomes)
    own = explore(
        question,
        whole,
        question.limits,
        bench.proxy,
        bench.left.proxy,
        question.rng(3),
        known=known,
        start=np.asarray(random_ones),
    )
    return shortlist(question, joined(known, own))
