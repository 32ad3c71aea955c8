"""Gradual pruning: how sparsity grows during a training (Zhu 2017)."""

from __future__ import annotations

from dataclasses import dataclass

from apq_tune.errors import RunError


@dataclass(frozen=True)
class CubicSchedule:
    """Sparsity that grows fast while many weights are redundant and slowly at the end, from zero (Zhu and Gupta 2017).

    After step ``t`` it is ``final * (1 - (1 - (t - begin) / (end - begin))^3)`` from ``begin`` to ``end``, and
    ``final`` from there. Masks are made again every ``every`` steps and at ``end``, never later.

    Attributes:
        begin: Step from which weights are pruned.
        end: Step at which the final sparsity is reached.
        every: Number of steps between two updates of the masks.
    """

    begin: int
    end: int
    every: int = 1

    def __post_init__(self) -> None:
        """Check the order of steps.

        Raises:
            RunError: If a step is negative or the end is before the beginning.
        """
        if self.begin < 0 or self.end < self.begin:
            raise RunError(f"schedule prunes from step {self.begin} to {self.end}; give 0 <= begin <= end")
        if self.every < 1:
            raise RunError(f"schedule makes masks every {self.every} steps; give 1 or more")

    @classmethod
    def over(cls, steps: int, updates: int = 20) -> CubicSchedule:
        """Schedule of a training: pruning over its first three quarters, the rest at the final sparsity.

        Args:
            steps: Number of steps of the training.
            updates: Number of updates of the masks.
        """
        end = max(1, steps * 3 // 4)
        return cls(0, end, max(1, end // updates))

    def updates(self, step: int) -> bool:
        """Whether masks are made again after a step."""
        return step == self.end or (self.begin <= step < self.end and (step - self.begin) % self.every == 0)

    def at(self, step: int, final: float) -> float:
        """Sparsity after a step.

        Args:
            step: Number of finished steps.
            final: Sparsity at the end.
        """
        if step < self.begin:
            return 0.0
        if step >= self.end:
            return final
        return final * (1 - (1 - (step - self.begin) / (self.end - self.begin)) ** 3)
