"""Methods by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from apq_tune.errors import ProblemError, SpaceError
from apq_tune.methods.amc_haq import amc_haq
from apq_tune.methods.bench import Question
from apq_tune.methods.bits_first import staged_bits_first
from apq_tune.methods.differentiable import fbnet, proxyless
from apq_tune.methods.levels import joint_levels
from apq_tune.methods.paper import paper
from apq_tune.methods.predicted import predictor
from apq_tune.methods.projections import Project, four_bits, most_bits, same_share, uniform_bits, uniform_wa_bits
from apq_tune.methods.proxyless_amc_haq import proxyless_amc_haq
from apq_tune.methods.rounds import refined
from apq_tune.methods.sensitive import hawq, sensitivity
from apq_tune.methods.size_ranked import size_rank
from apq_tune.methods.staged import staged, staged_haq
from apq_tune.methods.subspace import Subspace
from apq_tune.methods.together import joint, magnitude, random, uniform, uniform_4, uniform_8, uniform_wa
from apq_tune.problem.problem import Constraint
from apq_tune.searchers.gates.kinds import check_kinds
from apq_tune.space.encoding import Genomes
from apq_tune.space.gene_encoding import GeneEncoding


class Method(NamedTuple):
    """Search method.

    Attributes:
        propose: Function from a task to candidates of shape ``(k, n_genes)``, best first, the first of which are
            trained for longer. It spends the whole budget unless its part of the space is exhausted.
        quantized: Whether quantization-aware training starts from the weights of the quantized supernet rather than
            from those of the full-precision one.
        part: Function from an encoding to the projection onto the part of the space that the method searches; ``None``
            if it is the whole space, or parts of it by stages.
        check: Function that refuses the encodings of spaces that the method cannot search, with ``SpaceError``.
    """

    propose: Callable[[Question], Genomes]
    quantized: bool = True
    part: Callable[[GeneEncoding], Project] | None = None
    check: Callable[[GeneEncoding], None] | None = None


METHODS: Mapping[str, Method] = {
    "joint": Method(joint),
    "joint-levels": Method(joint_levels),
    "staged": Method(staged),
    "staged-haq": Method(staged_haq),
    "amc-haq": Method(amc_haq),
    "staged-bits-first": Method(staged_bits_first),
    "sensitivity": Method(sensitivity),
    "hawq": Method(hawq),
    "size-rank": Method(size_rank),
    "uniform": Method(uniform, part=uniform_bits),
    "uniform-8": Method(uniform_8, part=most_bits),
    "uniform-4": Method(uniform_4, part=four_bits),
    "uniform-wa": Method(uniform_wa, part=uniform_wa_bits),
    "proxyless": Method(proxyless, check=check_kinds),
    "fbnet": Method(fbnet, check=check_kinds),
    "proxyless-amc-haq": Method(proxyless_amc_haq, check=check_kinds),
    "random": Method(random),
    "magnitude": Method(magnitude, part=same_share),
    "paper": Method(paper, quantized=False),
    "predictor": Method(predictor),
    "refined": Method(refined),
}
"""Joint search, followed by its baselines."""


def why_impossible(name: str, encoding: GeneEncoding, limits: Sequence[Constraint]) -> str | None:
    """Reason why a method cannot search a space, or why no network in the part that it searches keeps the limits.

    Args:
        name: Name of the method.
        encoding: Encoding of the search space.
        limits: Constraints on candidates.

    Returns:
        One line; ``None`` if the method can search.
    """
    method = METHODS[name]
    try:
        if method.check is not None:
            method.check(encoding)
        if method.part is not None:
            Subspace(encoding, method.part(encoding)).sample_band(limits, 1, np.random.default_rng(0))
    except (SpaceError, ProblemError) as error:
        return str(error)
    return None
