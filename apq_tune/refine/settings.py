"""What a refinement can be told, and how long its trainings are."""

from __future__ import annotations

import dataclasses
from typing import Any

from pydantic import BaseModel, ConfigDict

from apq_tune.errors import RunError
from apq_tune.inputs import ranges
from apq_tune.inputs.ranges import validated
from apq_tune.pipeline.settings import RunSettings
from apq_tune.refine.halving import half, lengths
from apq_tune.space.candidate import Candidate
from apq_tune.supernet.qat import QATTask
from apq_tune.supernet.seeds import SeedWord
from apq_tune.supernet.train import Training


class RefineSettings(BaseModel):
    """Settings of one refinement of a run.

    Attributes:
        seed: of everything that the run has not done yet.
        rounds: of proposing, training and learning.
        batch: candidates trained in each round.
        epochs: of QAT in the rounds.
        final_epochs: of QAT in the last rung, whose results decide.
        survivors: candidates that leave the rounds; ``None``: half of them. Each later rung halves them again.
        constraints: as of a run; ``None``: those of the run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: ranges.Seed = 0
    rounds: ranges.Rounds = 3
    batch: ranges.PerRound = 8
    epochs: ranges.Epochs = 2
    final_epochs: ranges.Epochs = 6
    survivors: ranges.Count | None = None
    constraints: tuple[str, ...] | None = None

    @classmethod
    def checked(cls, **values: Any) -> RefineSettings:
        """Make one.

        Raises:
            RunError: naming the setting, the value and what is allowed.
        """
        settings = validated(cls, values)
        if settings.final_epochs < settings.epochs:
            raise RunError(
                f"final epochs are {settings.final_epochs}, those of the rounds {settings.epochs}; "
                "the last training must not be shorter than the first"
            )
        if settings.survivors is not None and settings.survivors > settings.rounds * settings.batch:
            raise RunError(
                f"survivors are {settings.survivors}, but {settings.rounds} rounds of {settings.batch} train "
                f"{settings.rounds * settings.batch} candidates; give at most so many"
            )
        return settings

    @property
    def rungs(self) -> list[int]:
        """Epochs of the trainings after the rounds, doubling up to the final length; none if the rounds have it."""
        return lengths(self.epochs, self.final_epochs, 2)[1:]

    @property
    def n_weights(self) -> int:
        """Networks whose weights are kept, at most: those of the last training."""
        n = self.rounds * self.batch
        return min(n, self.survivors or half(n)) if self.rungs else n

    def task(self, candidate: Candidate, epochs: int, run: RunSettings) -> QATTask:
        """One training of a round or a rung; all of one length see the same batches.

        Args:
            candidate: Candidate to train.
            epochs: Length of the training; the test follows on the longest.
            run: Settings of the run.
        """
        splits = ("search", "test") if epochs == self.final_epochs else ("search",)
        return QATTask(candidate, training_of(epochs, run), (self.seed, SeedWord.REFINE, epochs), splits)


def training_of(epochs: int, run: RunSettings) -> Training:
    """The run's own training of that length, so that its results are of the same fidelity; else its final one, cut."""
    if epochs in (run.final.epochs, run.pair.epochs):
        return run.final if epochs == run.final.epochs else run.pair
    return dataclasses.replace(run.final, epochs=epochs)
