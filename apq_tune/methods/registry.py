"""Methods by name."""

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
    """Search method.

    Attributes:
        propose: Function from a task to candidates of shape ``(k, n_genes)``, best first, the first of which are
            trained for longer. It spends the whole budget unless its part of the space is exhausted.
        quantized: Whether quantization-aware training starts from the weights of the quantized supernet rather than
            from those of the full-precision one.
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
"""Joint search, followed by its baselines."""
