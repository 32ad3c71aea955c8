"""Successive halving of QAT up to the trainings that decide a comparison, with lengths in optimizer steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from apq_tune.refine.halving import Rung, lengths, successive_halving
from apq_tune.space.network_space import NetworkCandidate
from apq_tune.supernet.qat import QATTask, train_candidate
from apq_tune.supernet.seeds import SeedWord
from apq_tune.supernet.train import Training
from apq_tune.supernet.trained import TrainedSupernet

ETA = 3
"""Reduction factor: a rung has a third of the candidates and three times the steps of the one before it."""

FEWEST = 2
"""Minimum number of candidates of a rung, so that the last one still compares candidates at full length."""


class TrainingResult(NamedTuple):
    """Result of a training."""

    candidate: NetworkCandidate
    steps: int
    repeat: int  # number of the repetition, which determines the order of batches
    scores: dict[str, dict[str, float]]  # by split; on the test split at full length only
    weights: bytes = b""  # checkpoint; only of trainings at full length, and only on request

    @property
    def loss(self) -> float:
        """Cross-entropy on the search split, nats."""
        return self.scores["search"]["loss"]


def rungs(n: int, first: int, last: int) -> list[Rung]:
    """Rungs from ``n`` candidates at ``first`` steps to few candidates at ``last`` steps.

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
    """Successive halving of one method.

    Attributes:
        supernet: Supernet whose weights trainings start from.
        training: Settings of the last rung. The learning rate of shorter trainings is proportional to their length,
            since with the full rate they would end far from the supernet's weights without having converged.
        steps: Number of steps of the first and of the last rung.
        repeats: Number of trainings of the winner at full length with different orders of batches; the first one
            decides, and the mean of their test scores is reported to reduce its variance.
        seed: Seed of the orders of batches.
        keep: Whether the first training of each candidate at full length keeps its weights.
    """

    supernet: TrainedSupernet
    training: Training
    steps: tuple[int, int]
    repeats: int
    seed: int
    keep: bool = False

    def train(self, candidate: NetworkCandidate, steps: int, repeat: int = 0) -> TrainingResult:
        """Train a candidate; test images are scored at full length only, and decide nothing."""
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

    def run(self, ranked: Sequence[NetworkCandidate], n_short: int) -> list[TrainingResult]:
        """Run the rungs after the first, whose outcome is the given ranking, and repeat the training of the winner.

        Args:
            ranked: Candidates, best first.
            n_short: Number of candidates of the first rung.

        Returns:
            All trainings in order, the last of which are the repetitions of the winner.
        """
        later = rungs(n_short, *self.steps)[1:] or [Rung(n_short, self.steps[1])]

        def train(candidates: Sequence[NetworkCandidate], steps: int) -> list[TrainingResult]:
            return [self.train(candidate, steps) for candidate in candidates]

        results = successive_halving(
            ranked, np.arange(len(ranked)), later[0].n, [rung.length for rung in later], train, fewer=_fewer
        )
        best = winner(results).candidate
        return results + [self.train(best, self.steps[1], repeat) for repeat in range(1, self.repeats)]


def winner(trained: Sequence[TrainingResult]) -> TrainingResult:
    """Training with the lowest search loss at full length, repetitions excluded."""
    length = max(t.steps for t in trained)
    final = [t for t in trained if t.steps == length and t.repeat == 0]
    return min(final, key=lambda t: t.loss)


def outcome(trained: Sequence[TrainingResult]) -> dict[str, Any]:
    """Winner of ``Halving.run`` with its losses and accuracies; those on test images are means over repetitions."""
    best = winner(trained)
    again = [t for t in trained if t.steps == best.steps and t.candidate == best.candidate]
    scores = {f"search_{kind}": best.scores["search"][kind] for kind in ("loss", "accuracy")}
    kinds = ("loss", "accuracy", "top5")
    scores |= {f"test_{kind}": float(np.mean([t.scores["test"][kind] for t in again])) for kind in kinds}
    return {"candidate": best.candidate.to_dict(), **scores}
