"""Staged search whose channels and bits are decided by reinforcement learning, as published.

The architecture is that of ``staged``. AMC (He 2018) then decides the channels at every uniform bit-width, and HAQ
(Wang 2019) the bits of the best pruned network, both by DDPG under the limits. Rewards are losses in the supernets, as
all methods measure them, where AMC took the accuracy after a reconstruction by least squares and HAQ the training
accuracy after an epoch. The schedules are shortened to the evaluations of each stage. Another search of architectures,
such as a differentiable one, takes the place of ``Stages.architecture``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from apq_tune.methods.bench import Question
from apq_tune.methods.explore import joined, without
from apq_tune.methods.staged import Stages, StageSearch, run_stages
from apq_tune.methods.subspace import Subspace
from apq_tune.predict import Floats, Pairs
from apq_tune.problem.problem import Constraint, Evaluation
from apq_tune.searchers.layerwise.algorithm import LayerwiseDDPG
from apq_tune.searchers.layerwise.settings import AMC, HAQ
from apq_tune.searchers.layerwise.walk import Walk
from apq_tune.space.encoding import Genomes
from apq_tune.space.gene import ARCHITECTURE_KINDS, BIT_KINDS, Kind

CHANNEL_KINDS: tuple[Kind, ...] = ("width", "sparsity", "choice")
"""Kinds that AMC decides: all that are neither architecture nor bits."""

IDLE = 20
"""Number of consecutive episodes without a new candidate after which a stage ends."""


def amc_haq(question: Question) -> Genomes:
    """Architecture by search, channels by AMC's agent, bits by HAQ's."""
    return run_stages(question, AMC_HAQ)


def by_episodes(kinds: Sequence[Kind]) -> StageSearch:
    """Search of a stage by reinforcement learning.

    Args:
        kinds: Kinds of the genes that the agent decides; the subspace fixes all others.
    """

    def stage(
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
        encoding = question.encoding
        template = subspace.canonicalise(np.zeros((1, encoding.n_genes), np.int16))[0]
        agents = LayerwiseDDPG(AMC.shortened(n), HAQ.shortened(n)).within(limits, int(rng.integers(2**31)))
        course = agents.course(Walk.of(encoding, kinds), template)
        own = Pairs(np.zeros((0, encoding.n_genes), np.int16), np.zeros(0))
        before = own if known is None else _inside(subspace, known)
        state = None if not len(before.target) else agents.tell(None, *_told(before))
        idle = 0
        while len(own.target) < n and idle < IDLE:
            proposed = np.asarray(encoding.canonicalise(agents.propose(state, 1, course, rng)), np.int16)
            new = without(proposed, np.concatenate([before.genomes, own.genomes]))
            idle = 0 if len(new) else idle + 1
            if len(new):
                pair = Pairs(new, measure(new))
                own, state = joined(own, pair), agents.tell(state, *_told(pair))
        return own

    return stage


def _inside(subspace: Subspace, known: Pairs) -> Pairs:
    """Known candidates of a subspace, which agents learn from as from episodes of their own."""
    there = (subspace.canonicalise(known.genomes) == known.genomes).all(axis=1)
    return known.rows(np.flatnonzero(there))


def _told(pairs: Pairs) -> tuple[Genomes, Evaluation]:
    """Measured candidates as an algorithm is told of them."""
    losses = pairs.target[:, None]
    return pairs.genomes, Evaluation(losses, np.zeros((len(losses), 0)), losses)


AMC_HAQ = Stages(
    channels=by_episodes(CHANNEL_KINDS), bits=by_episodes(BIT_KINDS), kept=(*ARCHITECTURE_KINDS, *CHANNEL_KINDS)
)
"""Stages of ``amc_haq``."""
