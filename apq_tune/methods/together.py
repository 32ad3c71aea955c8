"""Methods that decide everything at once, over more or less of the space: uniform policies, random search, joint."""

from __future__ import annotations

import numpy as np

from apq_tune.methods.bench import Question
from apq_tune.methods.explore import best_of, explore, joined
from apq_tune.methods.subspace import Project, Subspace, everything, uniform_bits, uniform_wa_bits
from apq_tune.predict import Pairs
from apq_tune.space.encoding import Genomes

WARM_UP = 1 / 4
"""Share of joint search's evaluations that go to policies of one width for weights and one for activations."""


def shortlist(question: Question, pairs: Pairs) -> Genomes:
    """Short trainings of the most promising candidates, as many as are left; best first by what came out.

    Those of the least proxy loss are compared on all images, and the better ones are trained.
    """
    bench = question.bench
    promising = best_of(pairs, bench.left.fine).genomes
    chosen = best_of(Pairs(promising, bench.fine(promising)), bench.left.short).genomes
    return best_of(Pairs(chosen, bench.short(chosen)), len(chosen)).genomes


def uniform(question: Question) -> Genomes:
    """The best architecture and channels under the limits at one width for everything."""
    return _within(question, uniform_bits(question.encoding))


def uniform_wa(question: Question) -> Genomes:
    """The same at one width for all weights and one for all activations."""
    return _within(question, uniform_wa_bits(question.encoding))


def _within(question: Question, project: Project) -> Genomes:
    subspace, bench = Subspace(question.encoding, project), question.bench
    return shortlist(
        question, explore(question, subspace, question.limits, bench.proxy, bench.left.proxy, question.rng(1))
    )


def random(question: Question) -> Genomes:
    """Random candidates that keep the limits and use most of what these allow."""
    bench, subspace = question.bench, Subspace(question.encoding, everything)
    genomes = subspace.sample_band(question.limits, bench.left.proxy, question.rng(1))
    return shortlist(question, Pairs(genomes, bench.proxy(genomes)))


def joint(question: Question) -> Genomes:
    """Architecture, channels and the bits of every layer in one search.

    A first part of the evaluations goes to policies of one width for weights and one for activations: that teaches the
    predictor what architecture and channels do, in few dimensions, and gives the search its seeds. All of it is paid
    from the same budget.
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
