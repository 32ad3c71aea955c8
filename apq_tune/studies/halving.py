"""The trainings that decide a comparison: QAT counted in steps, by successive halving up to its full length."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from apq_tune.refine.halving import Rung, lengths, successive_halving
from apq_tune.space.candidate import Candidate
from apq_tune.supernet.qat import QATTask, train_candidate
from apq_tune.supernet.seeds import SeedWord
from apq_tune.supernet.train import Training
from apq_tune.supernet.trained import TrainedSupernet

ETA = 3
"""A rung has a third of the candidates and thrice the steps of the one before: every rung costs about as much."""

FEWEST = 2
"""Candidates of a rung: a choice is left for the full length, which alone can say who is best at it."""


class TrainingResult(NamedTuple):
    """One training."""

    candidate: Candidate
    steps: int
    repeat: int  # number of its shuffle
    scores: dict[str, dict[str, float]]  # of the search split, and of the test split at full length
    weights: bytes = b""  # a checkpoint; only of trainings that may decide, and only if asked for

    @property
    def loss(self) -> float:
        """Cross-entropy on the search split, nats."""
        return self.scores["search"]["loss"]


def rungs(n: int, first: int, last: int) -> list[Rung]:
    """From ``n`` candidates at ``first`` steps to few at ``last`` steps.

    Args:
        n: Number of candidates of the first rung.
        first: Number of steps of its trainings.
        last: Number of steps of the trainings that decide, at least ``first``.
    """
    result = [Rung(n, first)]
    for steps in lengths(first, last, ETA)[1:]:
        result.append(Rung(_fewer(result[-1].n), steps))
    return result


def _fewer(n: int) -> int:
    return min(n, max(FEWEST, -(-n // ETA)))


class Halving(NamedTuple):
    """What the trainings of one method share.

    Attributes:
        supernet: Where the trainings begin.
        training: Batch size, and learning rate of the last rung. Shorter trainings have less in proportion: at its
            rate they would end further from the supernet's weights than they had time to come back from.
        steps: Number of steps of the first and of the last rung.
        repeats: Number of trainings of the winner at full length, each with a shuffle of its own; the first decides,
            the mean of their test scores is what is reported, so that the luck of one shuffle weighs less.
        seed: Seed of the shuffles.
        keep: Whether the first training of each candidate at full length keeps its weights.
    """

    supernet: TrainedSupernet
    training: Training
    steps: tuple[int, int]
    repeats: int
    seed: int
    keep: bool = False

    def train(self, candidate: Candidate, steps: int, repeat: int = 0) -> TrainingResult:
        """One training; the test split is scored at full length only, and never decides."""
        final = steps == self.steps[1]
        rate = self.training.learning_rate * steps / self.steps[1]
        task = QATTask(
            candidate,
            dataclasses.replace(self.training, learning_rate=rate),
            (self.seed, SeedWord.COMPARISON, steps, repeat),
            ("search", "test") if final else ("search",),
            steps=steps,
        )
        trained = train_candidate(self.supernet, task)
        scores = {name: own._asdict() for name, own in trained.scores.items()}
        kept = self.keep and final and repeat == 0
        return TrainingResult(candidate, steps, repeat, scores, trained.weights() if kept else b"")

    def run(self, ranked: Sequence[Candidate], n_short: int) -> list[TrainingResult]:
        """The rungs after the first, of which the ranking is the outcome; then the winner again.

        Args:
            ranked: Candidates, best first.
            n_short: Number of candidates of the first rung.

        Returns:
            All trainings in their order; the last ones, ``repeats`` of them with the first, are the winner's.
        """
        later = rungs(n_short, *self.steps)[1:] or [Rung(n_short, self.steps[1])]

        def train(candidates: Sequence[Candidate], steps: int) -> list[TrainingResult]:
            return [self.train(candidate, steps) for candidate in candidates]

        results = successive_halving(
            ranked, np.arange(len(ranked)), later[0].n, [rung.length for rung in later], train, fewer=_fewer
        )
        best = winner(results).candidate
        return results + [self.train(best, self.steps[1], repeat) for repeat in range(1, self.repeats)]


def winner(trained: Sequence[TrainingResult]) -> TrainingResult:
    """The training of least loss on the search split at full length, the first of its candidate."""
    length = max(t.steps for t in trained)
    final = [t for t in trained if t.steps == length and t.repeat == 0]
    return min(final, key=lambda t: t.loss)


def outcome(trained: Sequence[TrainingResult]) -> dict[str, Any]:
    """The winner of ``Halving.run``, and its losses and accuracies: the test's are means of its trainings."""
    best = winner(trained)
    again = [t for t in trained if t.steps == best.steps and t.candidate == best.candidate]
    scores = {f"search_{kind}": best.scores["search"][kind] for kind in ("loss", "accuracy")}
    scores |= {f"test_{kind}": float(np.mean([t.scores["test"][kind] for t in again])) for kind in ("loss", "accuracy")}
    return {"candidate": best.candidate.to_dict(), **scores}
