"""Staged search of architecture, then channels, then bits, in which each stage fixes what earlier ones decided.

Stages 1 and 2 use full-precision losses: once-for-all (Cai 2020) for the architecture, with all channels, and AMC (He
2018) for the channels. Only stage 3, HAQ (Wang 2019), sees bits. Staged design does not say what cost the first two
stages may spend before bits are known. Here, for every uniform bit-width, the pruned network must be feasible at that
width, and the architecture before pruning at the next smaller one. The pruned networks are scored in the quantized
supernet at their width, and the best one enters stage 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from apq_tune.errors import ProblemError
from apq_tune.methods.bench import Question
from apq_tune.methods.explore import best_of, explore, joined
from apq_tune.methods.projections import Project, at_bits, both, everything, fixed, largest, levels, tied_bits
from apq_tune.methods.subspace import DRAWS, Subspace
from apq_tune.methods.together import shortlist
from apq_tune.predict import Floats, Pairs
from apq_tune.problem.problem import Constraint
from apq_tune.space.encoding import Genomes
from apq_tune.space.gene import ARCHITECTURE_KINDS, Kind
from apq_tune.space.gene_encoding import GeneEncoding

ARCHITECTURE, CHANNELS = 0.15, 0.3
"""Shares of the evaluations for stages 1 and 2; stage 3, whose search space is the largest, gets the rest."""

TRIED = 3
"""Number of pruned networks per bit-width that are scored in the quantized supernet."""


class PrunedNetworks(NamedTuple):
    """Result of stages 1 and 2 at one uniform bit-width."""

    bits: int
    architecture: Genomes  # (n_genes,), all channels
    networks: Pairs  # the best pruned ones, at the width, with their full-precision losses


class StageSearch(Protocol):
    """Search of one stage; ``explore`` is one."""

    def __call__(
        self,
        question: Question,
        subspace: Subspace,
        limits: Sequence[Constraint],
        measure: Callable[[Genomes], Floats],
        n: int,
        rng: np.random.Generator,
        /,
        *,
        known: Pairs | None = None,
    ) -> Pairs:
        """Measure ``n`` new candidates of a subspace within the limits, fewer if there are no more.

        Raises:
            ProblemError: If no candidate of the subspace is feasible.
        """
        ...


class Stages(NamedTuple):
    """The stages of a staged search, any of which can be exchanged for another search.

    Attributes:
        architecture: Search of the architecture, with all channels, by losses in full precision.
        channels: Search of the channels of one architecture at one uniform bit-width, by losses in full precision.
        bits: Search of the bits of one pruned network, by losses in the quantized supernet.
        policy: Function from an encoding to the projection onto the bit policies of the last stage.
        kept: Kinds of the genes that the last stage leaves as they are.
    """

    architecture: StageSearch = explore
    channels: StageSearch = explore
    bits: StageSearch = explore
    policy: Callable[[GeneEncoding], Project] = lambda _: everything
    kept: tuple[Kind, ...] = (*ARCHITECTURE_KINDS, "width")


def staged(question: Question) -> Genomes:
    """Staged search with one bit-width per layer, for its weights and its input."""
    return run_stages(question, Stages(policy=tied_bits))


def staged_haq(question: Question) -> Genomes:
    """Staged search with separate bit-widths for the weights and the input of every layer (Wang 2019)."""
    return run_stages(question, Stages())


def run_stages(question: Question, stages: Stages) -> Genomes:
    """Staged search; the pruned networks of the first two stages enter the last one, the best first."""
    bench, encoding = question.bench, question.encoding
    pruned = prune(question, stages)
    tried = Pairs(np.zeros((0, encoding.n_genes), np.int16), np.zeros(0))
    for each in pruned:
        tried = joined(tried, Pairs(each.networks.genomes, bench.proxy(each.networks.genomes)))
    own = tried
    for number, network in enumerate(best_of(tried, len(tried.target)).genomes):
        if not bench.left.proxy:
            break  # as a rule after the first: only a small space of bits is exhausted, and the next network tried
        subspace = Subspace(encoding, both(fixed(encoding, network, stages.kept), stages.policy(encoding)))
        found = stages.bits(
            question, subspace, question.limits, bench.proxy, bench.left.proxy, question.rng(3, number), known=own
        )
        own = joined(own, found)
    return shortlist(question, own)


def prune(question: Question, stages: Stages | None = None) -> list[PrunedNetworks]:
    """Run stages 1 and 2 at every uniform bit-width at which a network is feasible.

    Args:
        question: Task of the method.
        stages: Searches of both stages; by default the one that all methods share.

    Raises:
        ProblemError: If no network is feasible at any uniform bit-width.
    """
    encoding, bench, limits = question.encoding, question.bench, question.limits
    stages = Stages() if stages is None else stages
    widths = [bits for bits in levels(encoding) if _fits(question, bits)]
    if not widths:
        words = " and ".join(map(str, limits))
        raise ProblemError(f"no network with {words} at any uniform bit-width; staged search cannot begin, relax one")
    total, result = bench.left.proxy - TRIED * len(widths), []
    narrower = dict(zip(levels(encoding)[1:], levels(encoding), strict=False))
    for place, bits in enumerate(widths):
        spent = bench.allowed.proxy - bench.left.proxy
        share = (place + 1) / len(widths)
        before = narrower.get(bits, bits)
        whole = Subspace(encoding, both(largest(encoding, ["width"]), at_bits(encoding, before)))
        n = round(total * (ARCHITECTURE + CHANNELS) * share - spent)
        wider = relaxed(whole, limits, question.rng(0, bits))
        n_first = round(n * ARCHITECTURE / (ARCHITECTURE + CHANNELS))
        found = stages.architecture(question, whole, wider, bench.fp32, n_first, question.rng(1, bits))
        n -= bench.allowed.proxy - bench.left.proxy - spent
        architecture = best_of(found, 1).genomes[0]
        narrow = Subspace(encoding, both(fixed(encoding, architecture, ARCHITECTURE_KINDS), at_bits(encoding, bits)))
        try:
            networks = stages.channels(question, narrow, limits, bench.fp32, n, question.rng(2, bits))
        except ProblemError:  # this architecture is too large at this width even with the fewest channels
            continue
        result.append(PrunedNetworks(bits, architecture, best_of(networks, TRIED)))
    if not result:
        raise ProblemError(f"no pruned network keeps {' and '.join(map(str, limits))}; staged search ends, relax one")
    return result


def _fits(question: Question, bits: int) -> bool:
    subspace = Subspace(question.encoding, at_bits(question.encoding, bits))
    try:
        return len(subspace.sample_band(question.limits, 1, question.rng(4, bits))) > 0
    except ProblemError:
        return False


def relaxed(subspace: Subspace, limits: Sequence[Constraint], rng: np.random.Generator) -> tuple[Constraint, ...]:
    """Relax the limits as little as needed for a subspace to have feasible candidates.

    Args:
        subspace: Subspace that must have feasible candidates.
        limits: Constraints; returned as they are if they can be satisfied.
        rng: Random number generator.
    """
    least = float(subspace.violations(subspace.sample(DRAWS, rng), limits).min())
    if least <= 0:
        return tuple(limits)
    return tuple(
        Constraint(c.metric, c.bound + 1.05 * least * abs(c.bound) * (1 if c.sense == "<=" else -1), c.sense)
        for c in limits
    )
