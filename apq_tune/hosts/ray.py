"""Ray Tune as the host of expensive work: one trial is a batch of candidates, a whole search or a whole finetuning.

Ray is known here and in the files of ``ApqSearch`` alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import ray
from ray import tune
from ray.tune.logger import TBXLoggerCallback

from apq_tune.errors import ApqError, RunError
from apq_tune.hosts.joining import ray_folder, wanted_address

MAX_FAILURES = 2
"""How often a trial whose worker died is tried again."""


LONGEST_REASON = 300
"""Characters of what a failed trial's error says; the rest is in its own file."""


class Result(NamedTuple):
    """What one trial hands back."""

    metrics: dict[str, Any]  # plain data
    files: Mapping[str, bytes] = MappingProxyType({})  # name -> content; they travel as a Tune checkpoint
    seconds: float = 0.0  # wall time of the trial; filled in by ``run_trials``


Work = Callable[[Any, Any], Result | Generator[int, None, Result]]
"""From one item and what all items share to a result; a function of a module, so that it pickles by name. One that does
several things may yield how many are done."""

N_DONE = "n_done"
"""Key of a word on how much is done; ``done`` is Tune's own, and ends a trial."""

TELL_SECONDS = 1.0
"""Least time between two words of a trial on how much is done: each costs some milliseconds."""


@contextlib.contextmanager
def cluster(address: str | None, num_cpus: int | None) -> Iterator[int]:
    """Join the cluster at ``address``, or start one on this machine and stop it at the end.

    Args:
        address: as for ``ray.init``; ``None`` joins the one at ``RAY_ADDRESS``, or starts one if that is not set.
        num_cpus: of the local cluster; most trials at once on a joined one. ``None`` takes all there are.

    Yields:
        How many one-CPU trials to run at once.

    Raises:
        RunError: if no cluster can be reached or started.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C raises KeyboardInterrupt here, as anywhere
    os.environ.setdefault("RAY_worker_niceness", "0")  # trials run at the priority of the command; Ray's own is 15
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new output prints tables even when told to be silent
    address = wanted_address(address)
    own: dict[str, Any] = {} if address or (folder := ray_folder()) is None else {"_temp_dir": folder}
    try:
        ray.init(
            address=address or "local",
            num_cpus=None if address else num_cpus,
            include_dashboard=None if address else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **own,
        )
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = f"the Ray cluster at {address!r}" if address else "a local Ray cluster"
        raise RunError(
            f"cannot reach {where} ({_first_line(error)}); check --address and RAY_ADDRESS, or leave them out"
        ) from None
    try:
        available = int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]
        yield max(1, min(available, num_cpus or available))
    finally:
        ray.shutdown()


def gpu_share(concurrency: int, wanted: float | None = None) -> float:
    """GPUs of each trial on the cluster, which must be running.

    Args:
        concurrency: trials at once.
        wanted: GPUs that each trial should have; ``None`` shares all of them, at most one for each trial.

    Raises:
        RunError: if the cluster has none, or fewer than wanted: the trials would wait for ever.
    """
    there = float(ray.cluster_resources().get("GPU", 0))  # type: ignore[no-untyped-call]
    if wanted is not None and wanted > there:
        raise RunError(
            f"--gpus-per-trial {wanted:g}: the Ray cluster has {there:g} GPUs; give --device cpu, or join a cluster "
            "that has them with --address"
        )
    if not there:
        raise RunError(
            "--device cuda: the Ray cluster has no GPU; give --device cpu, or join one that has with --address"
        )
    return min(1.0, there / concurrency) if wanted is None else wanted


def run_trials(
    work: Work,
    shared: Any,
    items: Mapping[str, Any],
    on_result: Callable[[str, Result], None],
    *,
    directory: Path,
    concurrency: int,
    gpus: float = 0,
    on_progress: Callable[[str, int], None] | None = None,
) -> None:
    """Run every item as a trial of one Tune experiment.

    Args:
        work: what a trial does.
        shared: second argument of ``work``; travels once, through the object store.
        items: trial key -> first argument of ``work``.
        on_result: called in this process with key and result as soon as a trial ends; save them there.
        directory: for Tune's own files; on several machines it must be a file system that all of them see.
        concurrency: trials at once.
        gpus: of each trial, beside its one CPU; a fraction shares a GPU between trials.
        on_progress: called in this process with a key and how much of that item is done, for work that yields it.

    Raises:
        RunError: naming a trial that failed and why, and how many more did; other results have been handed over.
    """
    if not items:
        return
    trainable = tune.with_parameters(_trainable, work=work, shared=shared, items=dict(items))
    hand = _Hand(on_result, on_progress)
    tuner = tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1, "gpu": gpus}) if gpus else trainable,
        param_space={"key": tune.grid_search(list(items))},
        tune_config=tune.TuneConfig(reuse_actors=True, max_concurrent_trials=concurrency),
        run_config=tune.RunConfig(
            name=directory.name,
            storage_path=str(directory.parent.resolve()),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
            callbacks=[hand, _NoTensorBoard()],
        ),
    )
    with _quiet(logging.getLogger("ray.tune")):
        tuner.fit()
    failed = hand.refused | {trial.config["key"]: f"{_reason(trial)}; see {trial.path}" for trial in hand.failed}
    if failed:
        key, reason = next(iter(failed.items()))
        others = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise RunError(f"trial {key} failed{others}: {reason}")


@contextlib.contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """Say nothing of trials that fail: why, is told in one line, and each has its traceback in a file."""
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _trainable(config: dict[str, Any], work: Work, shared: Any, items: Mapping[str, Any]) -> None:
    try:
        metrics, files, _ = result_of(work, items[config["key"]], shared, _telling())
    except ApqError as error:  # would come again with every further try
        report({"refused": str(error)})
        return
    report({"result": metrics}, files)


def result_of(work: Work, item: Any, shared: Any, tell: Callable[[int], None] | None = None) -> Result:
    """Do one item.

    Args:
        work: what to do.
        item: its first argument.
        shared: its second argument.
        tell: called with how much is done, if ``work`` yields it.
    """
    doing = work(item, shared)
    if isinstance(doing, Result):
        return doing
    while True:
        try:
            done = next(doing)
        except StopIteration as end:
            result: Result = end.value
            return result
        if tell is not None:
            tell(done)


def _telling() -> Callable[[int], None]:
    """From inside a trial: say how much is done, not too often."""
    last = time.monotonic()

    def tell(done: int) -> None:
        nonlocal last
        if time.monotonic() - last >= TELL_SECONDS:
            report({N_DONE: done})
            last = time.monotonic()

    return tell


def report(metrics: dict[str, Any], files: Mapping[str, bytes] = MappingProxyType({})) -> None:
    """From inside a trial: hand metrics to Tune, and files as its checkpoint."""
    if not files:
        tune.report(metrics)
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            Path(folder, name).write_bytes(content)
        tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))


def restored() -> dict[str, bytes]:
    """From inside a trial: the files of the checkpoint that it should go on from, if there is one."""
    checkpoint = tune.get_checkpoint()
    if checkpoint is None:
        return {}
    with checkpoint.as_directory() as folder:
        return _files(Path(folder))


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def put(value: Any) -> Any:
    """A reference to a value in the object store, where every node finds it; ``None`` if Ray does not run."""
    return ray.put(value) if ray.is_initialized() else None


def session() -> str:
    """What tells one connection to a cluster from the next: objects that were put do not outlive it. Empty: none."""
    if not ray.is_initialized():
        return ""
    context = ray.get_runtime_context()
    return f"{context.get_node_id()} {context.get_job_id()}"


def get(reference: Any) -> Any:
    """What a reference stands for."""
    return ray.get(reference)


class _Hand(tune.Callback):
    """Hands results over while the experiment runs, so that an interruption loses only unfinished trials.

    Attributes:
        refused: key of a trial -> why its work cannot be done.
        failed: trials that died, or raised anything else, too often.
    """

    def __init__(
        self, on_result: Callable[[str, Result], None], on_progress: Callable[[str, int], None] | None = None
    ) -> None:
        self._on_result, self._on_progress = on_result, on_progress
        self.refused: dict[str, str] = {}
        self.failed: list[Any] = []

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks to restore them; we resume from our own files and never restore

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **_: Any) -> None:  # noqa: ARG002
        if self._on_progress is not None and N_DONE in result:
            self._on_progress(trial.config["key"], int(result[N_DONE]))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:  # noqa: ARG002
        if (refused := trial.last_result.get("refused")) is not None:
            self.refused[trial.config["key"]] = refused
            return
        files: dict[str, bytes] = {}
        if trial.checkpoint is not None:
            with trial.checkpoint.as_directory() as folder:
                files = _files(Path(folder))
        self._on_result(
            trial.config["key"], Result(trial.last_result["result"], files, trial.last_result["time_total_s"])
        )

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:  # noqa: ARG002
        self.failed.append(trial)  # why, it knows when all has ended


class _NoTensorBoard(TBXLoggerCallback):
    """Stands where Tune would put its own.

    Nobody sees our experiments' files, and Ctrl-C while one is opened can leave its thread waiting for ever at exit.
    """

    def __init__(self) -> None:
        """Without a writer."""

    def log_trial_start(self, trial: Any) -> None:
        """Open nothing."""

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        """Write nothing."""

    def log_trial_end(self, trial: Any, failed: bool = False) -> None:
        """Close nothing."""


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _reason(trial: Any) -> str:
    """Why a trial failed, in one line."""
    text = str(trial.get_pickled_error() or trial.get_error() or "").strip()
    if "due to the node running low on memory" in text:
        return "the machine ran out of memory and Ray ended the process; run fewer at once, with --num-cpus"
    if "worker process has died" in text or "Worker unexpectedly exits" in text:
        return (
            "its process was killed or crashed, most often because memory ran out (dmesg tells); "
            "run fewer at once, with --num-cpus"
        )
    return text.splitlines()[-1][:LONGEST_REASON] if text else "for no reason that Ray knows"
