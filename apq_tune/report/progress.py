"""Progress on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from apq_tune.pipeline.estimate import remaining, words
from apq_tune.report.screen import Screen

TITLES = {
    "supernet": "train the supernet",
    "fp32_losses": "measure full-precision networks",
    "fp32_predictor": "fit the full-precision predictor",
    "quantized_supernet": "train the supernet with random bits",
    "proxy_losses": "measure quantized networks",
    "qat_pairs": "finetune quantized samples (QAT)",
    "predictors": "transfer and compare predictors",
    "search": "search",
    "finalists": "finetune finalists and baselines (QAT)",
}


LEAST_SHARE = 0.02
"""Of the whole; shorter stages are not named."""


class RichListener:
    """Shows one bar for each running stage, and a line for each that is done; lines alone if no terminal listens.

    Attributes:
        console: where it writes.
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
        self._seconds: dict[str, float] = {}  # of each planned stage, as estimated
        self._done: dict[str, float] = {}  # the same, as it was
        self._shares: dict[str, float] = {}  # that are done of stages under way

    def __enter__(self) -> RichListener:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def planned(self, seconds: Mapping[str, float], concurrency: int) -> None:
        """Say how long each stage will take, and what to do about it; from then on, how much is left in all."""
        self._seconds = dict(seconds)
        parts = ", ".join(
            f"{TITLES[name]} {words(own)}"
            for name, own in seconds.items()
            if own >= LEAST_SHARE * sum(seconds.values())
        )
        processors = "1 free processor" if concurrency == 1 else f"{concurrency} free processors"
        self.console.print(
            f"This will take about {words(sum(seconds.values()))} on {processors}: {parts}. For less: --minutes N, or "
            "fewer epochs, such as --set supernet.epochs=N --set quantized.epochs=N (apq-tune settings lists all).",
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
        """Begin a bar."""
        self._labels[name] = f"[{number}/{total}] {TITLES.get(name, name)}"
        self._tasks[name] = self._progress.add_task(self._labels[name].replace("[", r"\["), total=None)

    def advance(self, stage: str, done: int, total: int) -> None:
        """Move the bar."""
        self._progress.update(self._tasks[stage], completed=done, total=total)
        self._shares[stage] = done / max(1, total)
        self._move_whole()

    def finished(self, name: str, seconds: float, note: str) -> None:
        """Replace the bar by a line."""
        self._progress.remove_task(self._tasks.pop(name))
        said = note if note == "already done" else f"{seconds:.1f} s" + (f" ({note})" if note else "")
        self._done[name] = seconds
        self._move_whole()
        if note != "already done" and any(planned not in self._done for planned in self._seconds):
            said += f"; {self._left()}"
        self.console.print(f"{self._labels[name]}: {said}", markup=False, soft_wrap=True)
