"""Runs commands in forked processes and checks their outcome.

Forking saves the imports. Trials run one after the other within the fork, without Ray, so that an error that Ray would
report in one line is a traceback.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
import re
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

HANG_SECONDS = 20.0
"""Seconds after which a command is killed and counted as a hang, on an otherwise idle machine."""

POLL_SECONDS = 0.005

PROBE = "probe.npz"
"""File in the current folder with the images that a run whose work was skipped would have used."""

LAST_RESORT = re.compile(
    r"^.*(internal error|unforeseen|report (it|this)|please report).*$", re.IGNORECASE | re.MULTILINE
)
WARNING = re.compile(r"^.*\b[A-Z]\w*Warning: .*$", re.MULTILINE)


class Said(NamedTuple):
    """Outcome of a command."""

    status: int  # exit status; negative: the signal that ended it
    out: str
    err: str
    seconds: float
    hangs: bool = False

    @property
    def reason(self) -> str:
        """Message of a refusal; empty if the command was not refused."""
        return next((line for line in self.err.splitlines()[::-1] if re.match(r"[eE]rror: ", line)), "")


Judge = Callable[[Said], str]
"""Specific check of an outcome; returns the violation, or an empty string."""


class Case(NamedTuple):
    """One invalid or unusual input."""

    kind: str  # files, images, layouts or options
    name: str  # description of the input
    arguments: tuple[str, ...]  # of apq-tune
    folder: Path  # working directory of the command, created for the case
    prepare: Callable[[], None] = lambda: None  # creates the input just before the command
    judge: Judge = lambda _: ""
    whole: bool = False  # run the whole command, and not only the checks before its work


class Finding(NamedTuple):
    """Case with the outcome of its command and the violation, which is empty if there is none."""

    case: Case
    said: Said
    violation: str


def violation(said: Said) -> str:
    """Violation of an outcome that is neither right nor a one-line refusal; otherwise empty."""
    text = f"{said.out}\n{said.err}"
    lines = [line.strip() for line in said.err.splitlines() if line.strip()]
    last = lines[-1][:200] if lines else ""
    if said.hangs:
        return f"hangs for more than {said.seconds:.0f} s"
    if "Traceback (most recent call last)" in text:
        return f"traceback: {last}"
    if said.status not in (0, 1, 2):
        return f"exit status {said.status}: {last}"
    for words, pattern in (("the last resort", LAST_RESORT), ("a library's warning", WARNING)):
        if found := pattern.search(text):
            return f"{words}: {found[0].strip()[:200]}"
    if said.status and (not said.reason or len(lines) > (1 if said.status == 1 else 3)):  # click shows the usage, too
        return f"{len(lines)} lines for a refusal: {last}"
    return ""


def check(cases: Sequence[Case], jobs: int, seconds: float = HANG_SECONDS) -> Iterator[Finding]:
    """Run cases, ``jobs`` at a time, and check their outcomes."""
    waiting, running = list(cases[::-1]), list[tuple[Case, Running]]()
    while waiting or running:
        while waiting and len(running) < jobs:
            case = waiting.pop()
            case.prepare()
            running.append((case, Running(case.arguments, case.folder, whole=case.whole, seconds=seconds)))
        time.sleep(POLL_SECONDS)
        for case, process in list(running):
            if (said := process.poll()) is not None:
                running.remove((case, process))
                yield Finding(case, said, violation(said) or case.judge(said))


def call(arguments: Sequence[str], folder: Path, *, whole: bool = True, seconds: float = HANG_SECONDS) -> Said:
    """Run one command to its end."""
    process = Running(arguments, folder, whole=whole, seconds=seconds)
    while (said := process.poll()) is None:
        time.sleep(POLL_SECONDS)
    return said


class Running:
    """Command in a forked process."""

    def __init__(self, arguments: Sequence[str], folder: Path, *, whole: bool, seconds: float = HANG_SECONDS) -> None:
        """Fork a process and start the command in it.

        Args:
            arguments: Arguments of ``apq-tune``.
            folder: Working directory.
            whole: Whether to run the whole command; otherwise it stops successfully after the checks before its work.
            seconds: Seconds after which the process is killed.
        """
        self._files = [tempfile.TemporaryFile("w+b") for _ in range(2)]  # noqa: SIM115
        self._start, self._seconds = time.monotonic(), seconds
        sys.stdout.flush()
        self._child = os.fork()
        if self._child == 0:
            status = 70
            try:
                os.setsid()
                for number, file in enumerate(self._files, start=1):
                    os.dup2(file.fileno(), number)
                status = _run(arguments, folder, whole=whole)
            finally:
                os._exit(status)

    def poll(self) -> Said | None:
        """Outcome if the process has ended, otherwise ``None``; it is killed when its time is up."""
        seconds, hangs = time.monotonic() - self._start, False
        ended, status = os.waitpid(self._child, os.WNOHANG)
        if not ended:
            if seconds < self._seconds:
                return None
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._child, signal.SIGKILL)
            status, hangs = os.waitpid(self._child, 0)[1], True
        out, err = map(_text, self._files)
        return Said(os.waitstatus_to_exitcode(status), out, err, seconds, hangs)


def _text(file: IO[bytes]) -> str:
    """Read and close a temporary file."""
    with file:
        file.seek(0)
        return file.read().decode("utf-8", "replace")


def _run(arguments: Sequence[str], folder: Path, *, whole: bool) -> int:
    """Run the command in the child process and return its exit status."""
    from apq_tune.cli import main

    os.chdir(folder)
    sys.argv = ["apq-tune", *arguments]
    if not whole:
        _skip_work()
    status = 0
    try:
        main(arguments)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    return status


def in_one_process() -> None:
    """Make everything run in the calling process from now on, and import all that it needs."""
    import torch
    import torchvision.datasets
    import torchvision.transforms.v2  # noqa: F401

    import apq_tune
    from apq_tune.hosts import executor

    for module in pkgutil.walk_packages(apq_tune.__path__, "apq_tune."):
        importlib.import_module(module.name)
    torch.set_num_threads(1)
    vars(executor).update(start_executor=lambda *_: contextlib.nullcontext(executor.SerialExecutor()))


def _skip_work() -> None:
    """Make commands exit with status 0 after their checks, before their work."""
    from apq_tune import search
    from apq_tune.pipeline import predictor_report
    from apq_tune.pipeline.run import PipelineRun
    from apq_tune.refine.refine import Refinement
    from apq_tune.studies.fleet import Fleet

    def skip(*_: Any, **__: Any) -> Any:
        sys.exit(0)

    def keep_images(run: PipelineRun) -> Any:
        parts = {name: getattr(run.data, name) for name in run.data._fields}
        arrays = {f"{name}_{array}": getattr(part, array) for name, part in parts.items() for array in part._fields}
        np.savez(PROBE, **arrays)
        sys.exit(0)

    for place, name in ((Fleet, "run"), (Refinement, "run"), (search, "search"), (predictor_report, "learning_curve")):
        setattr(place, name, skip)
    setattr(PipelineRun, "run", keep_images)  # noqa: B010
