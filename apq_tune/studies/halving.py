"""Quantization-aware training counted in steps, and successive halving up to its full length."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from apq_tune.pipeline.stage import torch_bytes
from apq_tune.space.candidate import Candidate
from apq_tune.supernet.evaluate import score
from apq_tune.supernet.metrics import TrainedSupernet
from apq_tune.supernet.subnet import Subnet
from apq_tune.supernet.train import Training, finetune

VERSUS = 7
"""Second word of the seed of these trainings; others have 1 to 6."""

ETA = 3
"""A rung of successive halving (Jamieson 2016) has a third of the candidates and thrice the steps of the one before."""


FEWEST = 2
"""Candidates of a rung: a choice is left for the full length, which alone can say who is best at it."""


class Rung(NamedTuple):
    """Trainings of equal length."""

    n: int  # candidates
    steps: int  # of the optimizer


class TrainingResult(NamedTuple):
    """One training."""

    candidate: Candidate
    steps: int
    repeat: int  # number of its shuffle
    scores: dict[str, dict[str, float]]  # of the search split, and of the test split at full length
    weights: bytes = b""  # a checkpoint; only of trainings that may decide, and only if asked for


def rungs(n: int, first: int, last: int) -> list[Rung]:
    """From ``n`` candidates at ``first`` steps to few at ``last`` steps; every rung costs about as much.

    Args:
        n: candidates of the first rung.
        first: steps of its trainings.
        last: steps of the trainings that decide, at least ``first``.
    """
    result = [Rung(n, first)]
    while result[-1].steps < last:
        fewer = min(result[-1].n, max(FEWEST, -(-result[-1].n // ETA)))
        result.append(Rung(fewer, min(ETA * result[-1].steps, last)))
    return result


def train_steps(
    supernet: TrainedSupernet,
    candidate: Candidate,
    training: Training,
    steps: int,
    seed: tuple[int, ...],
) -> Subnet:
    """Train one candidate from a supernet's weights.

    All trainings of one length and seed see the same batches: candidates are compared on equal terms.

    Args:
        supernet: where training begins, and the data.
        candidate: to train.
        training: batch size and learning rate; its epochs are those that the steps need.
        steps: of the optimizer. Fewer than an epoch see a random part of the images.
        seed: of shuffles and parts.
    """
    data, subnet = supernet.data, supernet.subnet(candidate)
    n = len(data.train.labels)
    epochs = -(-steps // max(1, n // training.batch_size))
    rows = np.random.default_rng(seed).permutation(n)[: round(steps / epochs) * training.batch_size]
    finetune(subnet, data.train.take(rows), dataclasses.replace(training, epochs=epochs), seed)
    return subnet.eval()


class Halving(NamedTuple):
    """What the trainings of one method share.

    Attributes:
        supernet: where they begin.
        training: batch size, and learning rate of the last rung. Shorter trainings have less in proportion: at its
            rate they would end further from the supernet's weights than they had time to come back from.
        steps: of the first and of the last rung.
        repeats: trainings of the winner at full length, each with a shuffle of its own; the first decides, the mean of
            their test scores is what is reported, so that the luck of one shuffle weighs less.
        seed: of shuffles.
        keep: whether the first training of each candidate at full length keeps its weights.
    """

    supernet: TrainedSupernet
    training: Training
    steps: tuple[int, int]
    repeats: int
    seed: int
    keep: bool = False

    def train(self, candidate: Candidate, steps: int, repeat: int = 0) -> TrainingResult:
        """One training; the test split is scored at full length only, and never decides."""
        splits = ("search", "test") if steps == self.steps[1] else ("search",)
        seed = (self.seed, VERSUS, steps, repeat)
        rate = self.training.learning_rate * steps / self.steps[1]
        training = dataclasses.replace(self.training, learning_rate=rate)
        subnet = train_steps(self.supernet, candidate, training, steps, seed)
        data, device = self.supernet.data, self.supernet.device
        scores = {name: score(subnet, getattr(data, name), device)._asdict() for name in splits}
        kept = self.keep and steps == self.steps[1] and repeat == 0
        return TrainingResult(candidate, steps, repeat, scores, torch_bytes(subnet.cpu().state_dict()) if kept else b"")

    def run(self, ranked: Sequence[Candidate], n_short: int) -> list[TrainingResult]:
        """The rungs after the first, of which the ranking is the outcome; then the winner again.

        Args:
            ranked: candidates, best first.
            n_short: candidates of the first rung.

        Returns:
            All trainings in their order; the last ones, ``repeats`` of them with the first, are the winner's.
        """
        results: list[TrainingResult] = []
        later = rungs(n_short, *self.steps)[1:] or [Rung(n_short, self.steps[1])]
        for rung in later:
            own = [self.train(candidate, rung.steps) for candidate in ranked[: rung.n]]
            results += own
            ranked = [t.candidate for t in sorted(own, key=lambda t: t.scores["search"]["loss"])]
        return results + [self.train(ranked[0], self.steps[1], repeat) for repeat in range(1, self.repeats)]


def winner(trained: Sequence[TrainingResult]) -> TrainingResult:
    """The training of least loss on the search split at full length, the first of its candidate."""
    length = max(t.steps for t in trained)
    final = [t for t in trained if t.steps == length and t.repeat == 0]
    return min(final, key=lambda t: t.scores["search"]["loss"])


def outcome(trained: Sequence[TrainingResult]) -> dict[str, Any]:
    """The winner of ``Halving.run``, and its losses and accuracies: the test's are means of its trainings."""
    best = winner(trained)
    again = [t for t in trained if t.steps == best.steps and t.candidate == best.candidate]
    scores = {f"search_{kind}": best.scores["search"][kind] for kind in ("loss", "accuracy")}
    scores |= {f"test_{kind}": float(np.mean([t.scores["test"][kind] for t in again])) for kind in ("loss", "accuracy")}
    return {"candidate": best.candidate.to_dict(), **scores}
