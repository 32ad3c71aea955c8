"""A run: its stages in order, each done once, resumed where it was interrupted."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd

from apq_tune.candidate import Candidate
from apq_tune.cost import cost_models
from apq_tune.data import load_data
from apq_tune.encoding import Encoding
from apq_tune.front import Front
from apq_tune.integrations.ray import Result, Work, cluster, run_trials
from apq_tune.pipeline.directory import RunDirectory, StageDirectory, read_json
from apq_tune.pipeline.settings import Settings
from apq_tune.pipeline.stages import STAGES, Stage
from apq_tune.pipeline.work import read_constraints
from apq_tune.predict.files import load_predictor
from apq_tune.space import SearchSpace

TUNE_FILES = "tune"
"""Folder of a stage for Ray Tune's own files, dropped when the stage is done."""


class Listener(Protocol):
    """Who wants to know how the run goes."""

    def stage(self, name: str, number: int, total: int) -> None:
        """A stage begins."""
        ...

    def advance(self, done: int, total: int) -> None:
        """The stage has done some of its parts."""
        ...

    def finished(self, name: str, seconds: float, note: str) -> None:
        """The stage is done; the note says if nothing had to be done, or why it was done again."""
        ...


class Outcome(NamedTuple):
    """What a run found.

    Attributes:
        table: one row for each finalist and baseline, real accuracies included.
        fronts: ``best``, ``front`` and ``random``, as the searches found them.
        predictors: how good the predictors are, and the noise floor.
        seconds: wall time of each stage.
    """

    table: pd.DataFrame
    fronts: dict[str, Front]
    predictors: dict[str, Any]
    seconds: dict[str, float]


class PipelineRun:
    """One run of one space with one set of settings, as stages see it."""

    def __init__(
        self,
        space: SearchSpace,
        settings: Settings,
        path: Path,
        *,
        address: str | None = None,
        num_cpus: int | None = None,
        command: str = "",
        listener: Listener | None = None,
    ) -> None:
        """Check everything that can be checked before work begins.

        Args:
            space: to search.
            settings: of the run.
            path: run directory.
            address: of a Ray cluster to join; ``None`` uses this machine.
            num_cpus: most trials at once; ``None`` for all processors.
            command: the command line, to remember.
            listener: told how the run goes.

        Raises:
            RunError: if the directory cannot be used or the data does not fit the space.
            ProblemError: if a constraint is unknown, unreadable or out of reach.
        """
        self.encoding, self.settings = Encoding(space), settings
        read_constraints(self.encoding, cost_models(self.encoding), settings.constraints)
        self.data = load_data(space)
        self.files = RunDirectory(path, space, settings.model_dump(mode="json"), command)
        self._address, self._num_cpus, self._listener = address, num_cpus, listener
        self._directories: dict[str, StageDirectory] = {}
        self._stack = contextlib.ExitStack()
        self._concurrency: int | None = None

    def directory(self, stage: str) -> StageDirectory:
        """The directory of a stage that is done or running."""
        return self._directories[stage]

    def trials(
        self, stage: str, work: Work, shared: Any, items: Mapping[str, Any], on_result: Callable[[str, Result], None]
    ) -> None:
        """Run items as Tune trials; the cluster is joined when the first stage needs it."""
        if not items:
            return
        if self._concurrency is None:
            self._concurrency = self._stack.enter_context(cluster(self._address, self._num_cpus))
        folder = self.directory(stage).path / TUNE_FILES
        run_trials(work, shared, items, on_result, directory=folder, concurrency=self._concurrency)

    def advance(self, done: int, total: int) -> None:
        """Pass on how far the stage is."""
        if self._listener is not None:
            self._listener.advance(done, total)

    def run(self) -> Outcome:
        """Do every stage that is not done."""
        with self._stack:
            for number, stage in enumerate(STAGES, start=1):
                self._do(stage, number)
        return self.outcome()

    def _do(self, stage: Stage, number: int) -> None:
        values = self.settings.model_dump(mode="json", include=set(stage.settings))
        basis = {
            "settings": values,
            "needs": {name: self._directories[name].fingerprint for name in stage.needs},
            "space": self.encoding.space.model_dump(mode="json"),
        }
        directory = StageDirectory(self.files.path / f"{number}_{stage.name}", basis)
        self._directories[stage.name] = directory
        if self._listener is not None:
            self._listener.stage(stage.name, number, len(STAGES))
        note = f"done again: {directory.stale}" if directory.stale else ""
        if directory.done:
            note = "already done"
        else:
            start = time.monotonic()
            done = False
            try:
                stage.run(self)
                done = True
            finally:
                directory.add_seconds(time.monotonic() - start, done=done)
            shutil.rmtree(directory.path / TUNE_FILES, ignore_errors=True)
        if self._listener is not None:
            self._listener.finished(stage.name, directory.seconds, note)

    def outcome(self) -> Outcome:
        """Read the results of a run whose stages are all done."""
        report = read_json(self.directory("predictors").path / "report.json")
        report["fp32"] = read_json(self.directory("fp32_predictor").path / "report.json")
        search = self.directory("search").path
        fronts = {name: Front.load(search / f"{name}.json") for name in ("best", "front", "random")}
        return Outcome(
            self._table(report["accuracy_of_log_loss"]),
            fronts,
            report,
            {name: directory.seconds for name, directory in self._directories.items()},
        )

    def _table(self, accuracy_of_log_loss: list[float]) -> pd.DataFrame:
        items = self.directory("finalists").finished_items()
        candidates = [Candidate.from_dict(item["candidate"]) for item in items.values()]
        genomes = self.encoding.encode(candidates, check=False)
        predictor = load_predictor(self.directory("predictors").path / "predictor.npz", self.encoding)
        loss = predictor(genomes)
        slope, intercept = accuracy_of_log_loss
        columns = {
            "name": list(items),
            "predicted_loss": loss,
            "predicted_accuracy": np.clip(slope * np.log(loss) + intercept, 0, 1),
        }
        columns |= {
            f"{split}_{kind}": [item[split][kind] for item in items.values()]
            for split in ("search", "test")
            for kind in ("accuracy", "loss")
        }
        columns |= {metric.name: metric(genomes) for metric in cost_models(self.encoding)}
        columns |= {"candidate": list(map(str, candidates)), "candidate_json": [c.to_json() for c in candidates]}
        return pd.DataFrame(columns).sort_values("bit_ops", ascending=False, ignore_index=True)

