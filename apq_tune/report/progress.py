"""Progress of runs and refinements on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from apq_tune.pipeline.estimate import remaining, words
from apq_tune.report.screen import Screen

TITLES = {
    "supernet": "train the supernet",
    "fp32_losses": "evaluate subnets in full precision",
    "fp32_predictor": "fit the full-precision predictor",
    "quantized_supernet": "train the quantized supernet",
    "proxy_losses": "evaluate quantized subnets",
    "qat_pairs": "finetune sampled networks (QAT)",
    "predictors": "fit and compare the quantized predictors",
    "search": "search with the predictor",
    "finalists": "finetune finalists and baselines (QAT)",
    "raised": "raise bits that cost nothing",
}


LEAST_SHARE = 0.02
"""Share of the whole time below which a stage is not named in the estimate."""


class RichListener:
    """Shows a bar for each running stage and a line for each finished one; only lines if stdout is not a terminal.

    Attributes:
        console: Console to print on.
    """

    def __init__(self) -> None:
        self.console = Screen()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._labels: dict[str, str] = {}
        self._whole: TaskID | None = None
        self._seconds: dict[str, float] = {}  # estimated time of each planned stage
        self._done: dict[str, float] = {}  # measured time of each finished stage
        self._shares: dict[str, float] = {}  # finished part of each running stage

    def __enter__(self) -> RichListener:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def planned(self, seconds: Mapping[str, float], concurrency: int) -> None:
        """Print how long each stage will take and how to shorten it; from then on the time left is shown."""
        self._seconds = dict(seconds)
        parts = ", ".join(
            f"{TITLES[name]} {words(own)}"
            for name, own in seconds.items()
            if own >= LEAST_SHARE * sum(seconds.values())
        )
        processors = "1 free processor" if concurrency == 1 else f"{concurrency} free processors"
        self.console.print(
            f"This will take about {words(sum(seconds.values()))} on {processors}: {parts}. To shorten it, give "
            "--minutes N, or fewer epochs, such as --set supernet.epochs=N --set quantized.epochs=N (apq-tune settings "
            "lists all settings).",
            markup=False,
            soft_wrap=True,
        )
        self._whole = self._progress.add_task(self._left(), total=sum(seconds.values()))

    def _left(self) -> str:
        return f"about {words(remaining(self._seconds, self._done, self._shares))} left in all"

    def _move_whole(self) -> None:
        if self._whole is not None:
            completed = sum(
                own * (1.0 if name in self._done else min(1.0, self._shares.get(name, 0.0)))
                for name, own in self._seconds.items()
            )
            self._progress.update(self._whole, completed=completed, description=self._left())

    def stage(self, name: str, number: int, total: int) -> None:
        """Start the bar of a stage."""
        self._labels[name] = f"[{number}/{total}] {TITLES.get(name, name)}"
        self._tasks[name] = self._progress.add_task(self._labels[name].replace("[", r"\["), total=None)

    def advance(self, stage: str, done: int, total: int) -> None:
        """Advance the bar of a stage."""
        self._progress.update(self._tasks[stage], completed=done, total=total)
        self._shares[stage] = done / max(1, total)
        self._move_whole()

    def finished(self, name: str, seconds: float, note: str) -> None:
        """Replace the bar of a finished stage by a line."""
        self._progress.remove_task(self._tasks.pop(name))
        said = note if note == "already done" else f"{seconds:.1f} s" + (f" ({note})" if note else "")
        self._done[name] = seconds
        self._move_whole()
        if note != "already done" and any(planned not in self._done for planned in self._seconds):
            said += f"; {self._left()}"
        self.console.print(f"{self._labels[name]}: {said}", markup=False, soft_wrap=True)
