"""Differentiable search of architecture, channels and bits at once, in the style of ProxylessNAS and FBNet.

A part of the evaluations pays for steps of gates in the quantized supernet, each of which counts as the forward passes
that take its time. Both papers have their costs in the loss and no limits; here the loss rises where the expected cost
exceeds a limit. What is left pays for candidates of the distribution that keep the limits: of ProxylessNAS the most
probable ones, of FBNet samples; both were published like that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from apq_tune.errors import ProblemError
from apq_tune.methods.bench import Question
from apq_tune.methods.explore import without
from apq_tune.methods.projections import everything
from apq_tune.methods.searches import Recorder
from apq_tune.methods.subspace import Subspace
from apq_tune.methods.together import shortlist
from apq_tune.predict import Floats, Pairs
from apq_tune.problem.metric import FunctionMetric
from apq_tune.searchers import Evolution, search
from apq_tune.space.encoding import Genomes

if TYPE_CHECKING:
    from apq_tune.searchers.gates.distribution import GeneDistribution
    from apq_tune.searchers.gates.draws import GateKind
    from apq_tune.searchers.gates.training import GateTraining

SHARE = 0.6
"""Share of the evaluations that pays for steps."""

TRAVEL = 60.0
"""Learning rate times the number of steps: how far a parameter can move, so that few steps decide as much as many."""

FASTEST = 0.3
"""Largest learning rate."""

SAMPLES = 2000
"""Number of samples of the distribution among which candidates are sought."""

EVALUATIONS = 3000
"""Number of candidates whose probability is computed in the search for the most probable ones within the limits."""


def proxyless(question: Question) -> Genomes:
    """Binary gates (ProxylessNAS), then the most probable candidates within the limits."""
    distribution = trained_gates(question, "binary", SHARE)
    return _best(question, most_probable(question, distribution, question.bench.left.proxy))


def fbnet(question: Question) -> Genomes:
    """Gumbel-softmax gates (FBNet), then samples of the distribution within the limits."""
    distribution, n = trained_gates(question, "gumbel", SHARE), question.bench.left.proxy
    subspace = Subspace(question.encoding, everything)
    drawn = distribution.sample(SAMPLES, question.rng(2))
    own = without(drawn[subspace.violations(drawn, question.limits) <= 0], drawn[:0])[:n]
    rest = most_probable(question, distribution, 2 * n) if len(own) < n else own
    return _best(question, np.concatenate([own, without(rest, own)])[:n])


def _best(question: Question, genomes: Genomes) -> Genomes:
    """Measure candidates, and train the best of them; few are filled up with random ones near the limits."""
    n = question.bench.left.proxy
    if len(genomes) < n:
        subspace = Subspace(question.encoding, everything)
        more = subspace.sample_band(question.limits, n - len(genomes), question.rng(3), genomes)
        genomes = np.concatenate([genomes, more])
    return shortlist(question, Pairs(genomes, question.bench.proxy(genomes)))


def trained_gates(question: Question, gate: GateKind, share: float) -> GeneDistribution:
    """Distribution over all genes after steps that a share of the remaining evaluations pays for."""
    from apq_tune.searchers.gates.distribution import GeneDistribution

    bench = question.bench
    steps = max(1, bench.gate_steps(round(share * bench.left.proxy), gate))
    distribution = GeneDistribution(question.encoding)
    bench.train_gates(distribution, question.limits, gate_training(gate, steps), question.seed)
    return distribution


def gate_training(gate: GateKind, steps: int) -> GateTraining:
    """Settings of a number of steps: the fewer, the faster, so that few decide as much as many."""
    from apq_tune.searchers.gates.training import GateTraining

    return GateTraining(gate, steps, min(FASTEST, TRAVEL / steps))


def most_probable(question: Question, distribution: GeneDistribution, n: int) -> Genomes:
    """The most probable candidates within the limits, most probable first, shape ``(<= n, n_genes)``.

    Probabilities are known, so that they cost no evaluation; evolution finds the highest ones.

    Args:
        question: Task of the method.
        distribution: Distribution of genomes.
        n: Number of candidates.

    Raises:
        ProblemError: If no candidate keeps the limits.
    """
    subspace = Subspace(question.encoding, everything)

    def surprise(genomes: Genomes) -> Floats:
        return -distribution.log_probability(genomes).detach().numpy()

    drawn = np.concatenate([distribution.mode(), distribution.sample(SAMPLES, question.rng(2))])
    own = without(drawn[subspace.violations(drawn, question.limits) <= 0], drawn[:0])
    own = own[np.argsort(surprise(own), kind="stable")][:50]
    near = subspace.sample_band(question.limits, 50, question.rng(4), own)
    scored = Recorder(FunctionMetric("surprise", "nats", surprise))
    try:
        search(
            subspace.problem(scored, question.limits),
            Evolution(),
            n_evaluations=EVALUATIONS,
            seed=question.seed,
            initial=np.concatenate([own, near]),
        )
    except ProblemError:
        if not len(own):
            raise
        return own[:n]
    return without(scored.least(2 * n).genomes, own[:0])[:n]
