"""Progress on the terminal."""

from __future__ import annotations

from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

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

    def __enter__(self) -> RichListener:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()

    def stage(self, name: str, number: int, total: int) -> None:
        """Begin a bar."""
        self._labels[name] = f"[{number}/{total}] {TITLES.get(name, name)}"
        self._tasks[name] = self._progress.add_task(self._labels[name].replace("[", r"\["), total=None)

    def advance(self, stage: str, done: int, total: int) -> None:
        """Move the bar."""
        self._progress.update(self._tasks[stage], completed=done, total=total)

    def finished(self, name: str, seconds: float, note: str) -> None:
        """Replace the bar by a line."""
        self._progress.remove_task(self._tasks.pop(name))
        said = note if note == "already done" else f"{seconds:.1f} s" + (f" ({note})" if note else "")
        self.console.print(f"{self._labels[name]}: {said}", markup=False, soft_wrap=True)
