"""Settings of a refinement and the lengths of its trainings."""

from __future__ import annotations

import dataclasses
from typing import Any

from pydantic import BaseModel, ConfigDict

from apq_tune.errors import RunError
from apq_tune.inputs import ranges
from apq_tune.inputs.ranges import validated
from apq_tune.pipeline.settings import RunSettings
from apq_tune.refine.halving import half, lengths
from apq_tune.space.device import DevicePreset
from apq_tune.space.network_space import NetworkCandidate
from apq_tune.supernet.qat import QATTask
from apq_tune.supernet.seeds import SeedWord
from apq_tune.supernet.train import Training


class RefineSettings(BaseModel):
    """Settings of one refinement of a run.

    Attributes:
        seed: Random seed of the refinement.
        rounds: Number of rounds of proposing, training and refitting the predictors.
        batch: Number of candidates trained per round.
        epochs: Number of epochs of QAT in the rounds.
        final_epochs: Number of epochs of QAT in the last rung, whose results decide.
        survivors: Number of candidates that enter the first rung after the rounds; ``None`` for half of them. Each
            later rung has half as many.
        constraints: Constraints as in a run; ``None`` for those of the run.
        device_preset: Device that candidates have to run on; ``None`` for that of the run, if it has one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: ranges.Seed = 0
    rounds: ranges.Rounds = 3
    batch: ranges.PerRound = 8
    epochs: ranges.Epochs = 2
    final_epochs: ranges.Epochs = 6
    survivors: ranges.Count | None = None
    constraints: tuple[str, ...] | None = None
    device_preset: DevicePreset | None = None

    @classmethod
    def checked(cls, **values: Any) -> RefineSettings:
        """Validate settings.

        Raises:
            RunError: If a setting is invalid; the message names the setting, its value and the allowed values.
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
        """Epochs of the rungs after the rounds, doubling up to the final length; none if the rounds have it already."""
        return lengths(self.epochs, self.final_epochs, 2)[1:]

    @property
    def n_weights(self) -> int:
        """Maximum number of networks whose weights are kept, which are those of the last rung."""
        n = self.rounds * self.batch
        return min(n, self.survivors or half(n)) if self.rungs else n

    def task(self, candidate: NetworkCandidate, epochs: int, run: RunSettings) -> QATTask:
        """Training of a candidate in a round or a rung; trainings of equal length use the same batches.

        Args:
            candidate: Candidate to train.
            epochs: Number of epochs; with the final one, the candidate is also scored on test images.
            run: Settings of the run.
        """
        splits = ("search", "test") if epochs == self.final_epochs else ("search",)
        return QATTask(candidate, training_of(epochs, run), (self.seed, SeedWord.REFINE, epochs), splits)


def training_of(epochs: int, run: RunSettings) -> Training:
    """Training of the run with that number of epochs, for equal fidelity, or else its final training shortened."""
    if epochs in (run.final.epochs, run.pair.epochs):
        return run.final if epochs == run.final.epochs else run.pair
    return dataclasses.replace(run.final, epochs=epochs)
