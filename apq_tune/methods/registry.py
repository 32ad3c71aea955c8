"""The methods by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from apq_tune.methods.bench import Question
from apq_tune.methods.paper import paper
from apq_tune.methods.predicted import predictor
from apq_tune.methods.rounds import refined
from apq_tune.methods.staged import staged, staged_haq
from apq_tune.methods.together import joint, random, uniform, uniform_wa
from apq_tune.space.encoding import Genomes


class Method(NamedTuple):
    """A way to spend the budget.

    Attributes:
        propose: from the question to ``(k, n_genes)`` candidates, best first, the first of which go on to longer
            trainings. It spends all evaluations and all short trainings, or says by its counts that its part of the
            space had no more.
        quantized: whether quantization-aware training begins at the quantized supernet's weights; else at those of the
            full-precision one.
    """

    propose: Callable[[Question], Genomes]
    quantized: bool = True


METHODS: Mapping[str, Method] = {
    "joint": Method(joint),
    "staged": Method(staged),
    "staged-haq": Method(staged_haq),
    "uniform": Method(uniform),
    "uniform-wa": Method(uniform_wa),
    "random": Method(random),
    "paper": Method(paper, quantized=False),
    "predictor": Method(predictor),
    "refined": Method(refined),
}
"""Joint search, then its rivals."""
