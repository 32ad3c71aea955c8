"""A run: stages that are done in order, each once, and resumed where they were interrupted."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from apq_tune.data import check_images, data_digest, is_folder, load_data, taken
from apq_tune.data.classes import class_names
from apq_tune.errors import RunError
from apq_tune.hosts import executor as executors
from apq_tune.hosts.executor import WORK_FILES, Executor, Kind, available_cpus, check_executor, gpu_share
from apq_tune.pipeline.defaults import check_data, default_settings
from apq_tune.pipeline.estimate import Rates, estimate, fitted, measure_rates
from apq_tune.pipeline.listener import Listener
from apq_tune.pipeline.outcome import Outcome, read_outcome
from apq_tune.pipeline.own_model import (
    BEGIN_WITH_MODEL,
    check_of_model,
    judge,
    kept_model,
    model_basis,
    teacher_of,
    user_model,
)
from apq_tune.pipeline.settings import RunSettings
from apq_tune.pipeline.stage import Parts, RunStage
from apq_tune.pipeline.stages import STAGES
from apq_tune.pipeline.work import of_its_stage
from apq_tune.problem.costs import Costs
from apq_tune.space.encodings import encoding_of
from apq_tune.space.network_space import NetworkSpace
from apq_tune.store.directory import RunDirectory
from apq_tune.store.disk import check_space, run_bytes
from apq_tune.store.files import read_json
from apq_tune.store.stage import AGAIN, StageDirectory, StageFiles
from apq_tune.supernet.device import device_of

FINALISTS = 6
"""Number of networks beside those from the front: two baselines, the best candidate, its rivals, and a raised one."""


class PipelineRun:
    """Run of a search space with given settings; the context that stages work in."""

    def __init__(
        self,
        space: NetworkSpace,
        settings: RunSettings | None,
        path: Path,
        *,
        changes: Mapping[str, Any] = MappingProxyType({}),
        tables: Sequence[Path] = (),
        data_root: Path | None = None,
        device: str = "cpu",
        gpus: float | None = None,
        executor: Kind | None = None,
        address: str | None = None,
        num_cpus: int | None = None,
        command: str = "",
        listener: Listener | None = None,
        wait: float = 0.0,
        notes: Sequence[str] = (),
        weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Check everything that can be checked before work begins.

        Args:
            space: Search space.
            settings: Settings of the run; by default those that suit the data.
            path: Run directory.
            changes: Changed settings by dotted name.
            tables: Cost tables, whose metrics may be constrained; they are copied into the run directory.
            data_root: Folder with the files of data sets; ``None`` for the default one.
            device: Device on which networks are trained and run: ``"auto"``, ``"cpu"`` or ``"cuda"``.
            gpus: GPUs per network or search on ``"cuda"``; ``None`` divides them evenly among the running ones.
            executor: Executor of networks and searches; by default Ray if a cluster is named, else local processes.
            address: Address of a Ray cluster to join.
            num_cpus: Number of networks or searches at once; ``None`` for all processors.
            command: Command line, for the record.
            listener: Observer of the progress.
            wait: Seconds to wait for another process that owns the directory to end.
            notes: Lines to record with those about the images.
            weights: State dict of the model that ``space`` is of; ``None`` for that which the run directory keeps.

        Raises:
            RunError: If everything is fixed, a setting is unknown, the directory cannot be used or is in use, the data
                does not fit, there is no such device, or nothing listens at the address.
            ProblemError: If a constraint is unknown, unreadable or out of reach.
            TableError: If a table cannot be read or does not cover the space.
            ModelError: If weights are missing, or do not fit the model of the space.
        """
        if is_folder(space.data):  # one name for a folder, by whatever links and dots it is given
            space = space.with_data(str(Path(str(space.data)).resolve()))
        self.encoding = encoding_of(space)
        if all(len(values) == 1 for values in self.encoding.choices):
            raise RunError(
                f"{space.name}: has a single network, so that there is nothing to search; leave open some widths, "
                "blocks or bits"
            )
        given = settings is not None
        settings = (settings or RunSettings()).updated(dict(changes))  # before the data, which may take a while
        self.costs = Costs.of(self.encoding, tables, settings.constraints)
        self.costs.limits(settings.constraints)
        self.device = device_of(device)
        self.model = user_model(space, weights, path, self.device)
        check_of_model(self.model, space.name, changes)
        self._kind = check_executor(executor, address)
        self.data = load_data(space, data_root)
        judged = None if self.model is None else judge(self.model, self.data)
        if not given:
            trained = None if judged is None else judged.trained
            settings = default_settings(space, self.data, trained=trained).updated(dict(changes))
        check_data(settings, self.data, changes)
        check_images(space, self.data)
        self._address, self._num_cpus, self._gpus, self._listener = address, num_cpus, gpus, listener
        if settings.minutes is not None:
            settings = self._fitted(settings, changes, path)
        self.settings, self._digest = settings, data_digest(space)
        self.taken = (*taken(space), *notes, *(() if judged is None else (judged.line,)))
        self.files = RunDirectory(
            path,
            space,
            settings.model_dump(mode="json"),
            command,
            data_root,
            tables=tables,
            wait=wait,
            taken=self.taken,
            images={name: len(split.labels) for name, split in self.data._asdict().items()},
            classes=class_names(space),
            model=None if self.model is None else kept_model(self.model),
        )
        self._tables = self.files.tables
        self._directories: dict[str, StageDirectory] = {}
        self._stack = contextlib.ExitStack()
        self._executor: Executor | None = None
        self._roomy = False  # whether there is room for what will be written

    def directory(self, stage: str) -> StageDirectory:
        """The directory of a stage that is done or running."""
        return self._directories[stage]

    def advance(self, stage: str, done: int, total: int) -> None:
        """Report the progress of a stage to the listener."""
        if self._listener is not None:
            self._listener.advance(stage, done, total)

    def run(self) -> Outcome:
        """Do all stages that are not done yet."""
        self.run_until(STAGES[-1].name)
        return self.outcome()

    def run_until(self, last: str) -> None:
        """Do all stages up to ``last``, and those that run together with it, that are not done yet."""
        self.files.hold()
        try:
            self._do_until(last)
        except BaseException:
            self.files.release()  # whoever keeps the traceback keeps this object
            raise

    def _fitted(self, settings: RunSettings, changes: Mapping[str, Any], path: Path) -> RunSettings:
        """Settings that fit ``minutes``; a run that was begun with the same ``minutes`` keeps its settings."""
        before = _recorded(path)
        if before is not None and before.minutes == settings.minutes:
            return before.updated(dict(changes))
        assert settings.minutes is not None
        rates = self._rates(settings)
        return fitted(settings, self.data, rates, self._at_once(), settings.minutes, changes, self._kind)

    def _rates(self, settings: RunSettings) -> Rates:
        """Durations of training steps."""
        return measure_rates(self.encoding, settings, self.data, self.device, teacher_of(self.model, settings))

    def _at_once(self) -> int:
        """Number of networks or searches at once, as far as it is known before a cluster is joined."""
        return self._num_cpus or available_cpus()

    def _tell_plan(self) -> None:
        """Time some steps, and report the estimated duration of each remaining stage."""
        if self._listener is None:
            return
        left = [stage.name for number, stage in enumerate(STAGES, start=1) if not self._seems_done(number, stage)]
        if left:
            seconds = estimate(self.settings, self.data, self._rates(self.settings), self._at_once(), self._kind)
            self._listener.planned({name: seconds[name] for name in left}, self._at_once())

    def _seems_done(self, number: int, stage: RunStage) -> bool:
        """Whether a stage was done; whether its product is still valid is checked later."""
        files = StageFiles(self.files.path / f"{number}_{stage.name}", AGAIN)
        return files.begun and files.done

    def _do_until(self, last: str) -> None:
        if last == STAGES[-1].name:
            self._tell_plan()
        with self._stack:
            if self._kind != "ray":  # whose cluster need not wait idly while supernets are trained
                self._started().prepare(of_its_stage)
            for group in _groups(STAGES):
                self._do(group)
                if any(stage.name == last for stage in group):
                    break
        self._executor = None  # its workers are gone

    def _do(self, group: Sequence[RunStage]) -> None:
        """Do independent stages, whose parts run in parallel."""
        pending = [stage for stage in group if not self._open(stage).done]
        if pending and not self._roomy:
            left = {stage.name for stage in STAGES[STAGES.index(pending[0]) :]}
            needed = run_bytes(self.encoding.space, left, FINALISTS + self.settings.n_front)
            check_space(self.files.path, needed, ray=self._kind == "ray")
            self._roomy = True
        start = time.monotonic()
        shares = dict.fromkeys((stage.name for stage in pending), 0.0)  # shares of the time of the group
        finished: set[str] = set()
        try:
            parts = {stage.name: stage.measure(self) for stage in pending if stage.measure is not None}
            self._measure(parts, shares)
            for stage in pending:
                if stage.run is not None:
                    stage.run(self)
                else:
                    parts[stage.name].finish()
                finished.add(stage.name)
        finally:
            elapsed, known = time.monotonic() - start, sum(shares.values())
            for stage in pending:
                share = shares[stage.name] / known if known else 1 / len(pending)
                self.directory(stage.name).add_seconds(elapsed * share, done=stage.name in finished)
        for stage in group:
            directory = self.directory(stage.name)
            shutil.rmtree(directory.path / WORK_FILES, ignore_errors=True)
            if self._listener is not None:
                note = f"done again: {directory.stale}" if directory.stale else ""
                self._listener.finished(stage.name, directory.seconds, note if stage in pending else "already done")

    def _open(self, stage: RunStage) -> StageDirectory:
        basis: dict[str, Any] = {
            "settings": self.settings.of_stage(stage.settings),
            "needs": {name: self._directories[name].fingerprint for name in stage.needs},
            "space": self.encoding.space.to_record(),
        } | ({} if self._digest is None else {"data": self._digest})
        if self._tables and "constraints" in stage.settings:
            basis["tables"] = self._tables
        if self.model is not None and stage.name in BEGIN_WITH_MODEL:
            basis["model"] = model_basis(self.model.digest, self.settings)
        number = STAGES.index(stage) + 1
        directory = StageDirectory(self.files.path / f"{number}_{stage.name}", basis)
        self._directories[stage.name] = directory
        if self._listener is not None:
            self._listener.stage(stage.name, number, len(STAGES))
        return directory

    def _measure(self, parts: Mapping[str, Parts], shares: dict[str, float]) -> None:
        """Compute the remaining parts of several stages in parallel."""
        items = {f"{name}-{key}": (name, key) for name, part in parts.items() for key in part.items}
        if not items:
            return
        executor = self._started()

        def on_progress(item_key: str, done: int) -> None:
            name, key = items[item_key]
            if (callback := parts[name].on_progress) is not None:
                callback(key, done)

        results = executor.map(
            of_its_stage,
            {name: (part.work, part.shared) for name, part in parts.items()},
            {item_key: (name, parts[name].items[key]) for item_key, (name, key) in items.items()},
            directory=self.directory(next(iter(parts))).path / WORK_FILES,
            gpus=gpu_share(executor, self._gpus) if self.device == "cuda" else 0,
            on_progress=on_progress,
        )
        for item_key, result in results:
            name, key = items[item_key]
            parts[name].on_result(key, result)
            shares[name] += result.seconds

    def _started(self) -> Executor:
        """The executor, started on first use."""
        if self._executor is None:
            self._executor = self._stack.enter_context(
                executors.start_executor(self._kind, self._address, self._num_cpus)
            )
        return self._executor

    def outcome(self) -> Outcome:
        """Read the results of a run whose stages are all done."""
        return read_outcome(self, {name: directory.seconds for name, directory in self._directories.items()})


def _recorded(path: Path) -> RunSettings | None:
    """Settings recorded in a run directory; ``None`` if there are none."""
    with contextlib.suppress(RunError, OSError, KeyError, TypeError, ValueError):
        if (path / "run.json").exists():
            return RunSettings.model_validate(read_json(path / "run.json")["settings"])
    return None


def _groups(stages: Sequence[RunStage]) -> list[list[RunStage]]:
    """Groups of consecutive measuring stages that are independent; other stages are groups of their own."""
    groups: list[list[RunStage]] = []
    for stage in stages:
        before = groups[-1] if groups else []
        joins = before and stage.measure is not None and before[-1].measure is not None
        if joins and not any(other.name in stage.needs for other in before):
            before.append(stage)
        else:
            groups.append([stage])
    return groups
