"""The staged rival of APQ's abstract: ProxylessNAS for the architecture, AMC for the channels, HAQ for the bits.

The first stage trains binary gates over depths, image sizes and kernels, with all channels and in full precision;
the loss rises where the expected cost exceeds a limit. Its steps are charged as those of ``proxyless``. The most
probable architectures within the limits are measured, and the best of them goes on to the stages of ``amc_haq``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from apq_tune.methods.amc_haq import AMC_HAQ
from apq_tune.methods.bench import Question
from apq_tune.methods.differentiable import SAMPLES, SHARE, gate_training
from apq_tune.methods.explore import without
from apq_tune.methods.staged import run_stages
from apq_tune.methods.subspace import Subspace
from apq_tune.predict import Floats, Pairs
from apq_tune.problem.problem import Constraint
from apq_tune.space.encoding import Genomes
from apq_tune.space.gene import ARCHITECTURE_KINDS


def proxyless_amc_haq(question: Question) -> Genomes:
    """Architecture by binary gates, channels by AMC's agent, bits by HAQ's."""
    return run_stages(question, AMC_HAQ._replace(architecture=by_gates))


def by_gates(
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
    """Search of the architecture by gates, which get a share of ``n`` evaluations; the others are measurements.

    Too few evaluations for a step leave all architectures equally probable.

    Raises:
        ProblemError: If no architecture is feasible.
    """
    from apq_tune.searchers.gates.distribution import GeneDistribution

    bench, encoding = question.bench, question.encoding
    others = subspace.project(np.zeros((1, encoding.n_genes), np.int16))[0]  # of blocks that are switched off, too
    distribution = GeneDistribution(encoding, encoding.places_of(ARCHITECTURE_KINDS), others)
    before = bench.left.proxy
    paid = min(round(SHARE * n), n - 1)  # one is measured in any case
    steps = bench.gate_steps(paid) if len(distribution.open_genes) else 0
    if steps > 0:
        training = gate_training("binary", steps)
        bench.train_gates(distribution, limits, training, int(rng.integers(2**31)), quantize=False)
    left = max(1, n - (before - bench.left.proxy))
    drawn = np.concatenate([distribution.mode(), distribution.sample(SAMPLES, rng)])
    seen = drawn[:0] if known is None else known.genomes
    found = without(drawn[subspace.violations(drawn, limits) <= 0], seen)
    found = found[np.argsort(-distribution.log_probability(found).detach().numpy(), kind="stable")][:left]
    if len(found) < left:
        more = subspace.sample_band(limits, left - len(found), rng, np.concatenate([seen, found]))
        found = np.concatenate([found, more.reshape(-1, encoding.n_genes)])
    return Pairs(found, measure(found))
