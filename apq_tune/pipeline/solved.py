"""Folder with the answers of a run to new limits: their record and, where wanted, their QAT and trained networks."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from apq_tune.errors import RunError
from apq_tune.hosts import executor as executors
from apq_tune.hosts.executor import WORK_FILES, Executor, Kind, check_executor, gpu_share
from apq_tune.pipeline.answers import Solutions, of_trained
from apq_tune.pipeline.finished import load_supernets, read_finalists
from apq_tune.pipeline.networks import KeptNetwork, Networks, classes_of
from apq_tune.pipeline.reading import ReadRun, read_run, run_of
from apq_tune.pipeline.work import final_task, train_network
from apq_tune.problem.limits import as_texts
from apq_tune.store.digests import Digests, read_record
from apq_tune.store.directory import keep_tables, kept_tables
from apq_tune.store.disk import check_space, run_bytes
from apq_tune.store.files import read_json
from apq_tune.store.folder import CommandFolder
from apq_tune.store.items import Items, compute_missing
from apq_tune.supernet.device import device_of

RECORD = "solve.json"
"""Record in the folder of answers."""

FORMAT = 1
"""Format of the folder; raise it when older ones cannot be read."""

AGAIN = "the same command with --finetune trains it again"


class SolvedFolder:
    """Folder of answers, locked by this process for the lifetime of the object.

    Networks of earlier answers are kept and need no second training; which of them belong to the answers is in the
    record.

    Attributes:
        path: Path of the folder.
        solutions: The answers.
    """

    def __init__(self, path: Path, solutions: Solutions, *, tables: tuple[Path, ...] = (), command: str = "") -> None:
        """Write the record of the answers.

        Args:
            path: Path of the folder, which is created if necessary.
            solutions: Answers of a run.
            tables: Cost tables beside those of the run; they are copied into the folder.
            command: Command line, for the record.

        Raises:
            RunError: If it is another kind of folder, in use, or cannot be written.
        """
        self.path, self.solutions = path, solutions
        self._run = read_run(solutions.path, "predictors")
        folder = CommandFolder(path, "folder of answers", RECORD, FORMAT)
        folder.read(f"delete the folder {path} and repeat the command")
        keep_tables(path, tables)
        answers = [
            {
                "name": one.name,
                "limits": as_texts(one.constraints),
                "candidate": one.candidate and one.candidate.to_dict(),
                "predicted_loss": one.predicted_loss if one.candidate else None,
                "key": one.candidate and self._key(one.candidate),
            }
            for one in solutions.answers
        ]
        folder.write(command, {"run": str(solutions.path.absolute()), "answers": answers})
        self._folder = folder
        self._items = _items(path)

    def _key(self, candidate: Any) -> str:
        """Name of the files of a network, which tells what its training depends on."""
        settings = self._run.settings.model_dump(mode="json", include={"seed", "final", "n_calibration"})
        basis = [settings, self._run.directory("quantized_supernet").fingerprint, candidate.to_dict()]
        return hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()[:16]

    def finetune(
        self,
        *,
        device: str = "auto",
        gpus: float | None = None,
        executor: Kind | None = None,
        address: str | None = None,
        num_cpus: int | None = None,
        tell: Callable[[int, int], None] = lambda *_: None,
    ) -> Solutions:
        """Train the answers as the run trains its finalists, on the same batches; what is trained already is kept.

        Args:
            device: Device on which networks are trained: ``"auto"``, ``"cpu"`` or ``"cuda"``.
            gpus: GPUs per training on ``"cuda"``; ``None`` divides them evenly among the running ones.
            executor: Executor; by default Ray if a cluster is named, else local processes.
            address: Address of a Ray cluster to join.
            num_cpus: Number of trainings at once; ``None`` for all processors.
            tell: Callback with the number of trained networks, and of all.

        Returns:
            The answers with their measured scores.

        Raises:
            RunError: If the images are missing or have changed, a training diverges, or nothing listens at the address.
        """
        kind = check_executor(executor, address)
        own = "cuda" if device == "auto" and gpus else device_of(device)
        settings, space = self._run.settings, self._run.encoding.space
        candidates = {self._key(one.candidate): one.candidate for one in self.solutions.answers if one.candidate}
        supernet = dataclasses.replace(load_supernets(self._run.path).quantized, device=own)
        check_space(self.path, run_bytes(space, (), len(candidates)), ray=kind == "ray")
        with contextlib.ExitStack() as stack:

            def start() -> Executor:
                return stack.enter_context(executors.start_executor(kind, address, num_cpus))

            results = compute_missing(
                self._items,
                start,
                train_network,
                supernet,
                {key: final_task(candidate, settings) for key, candidate in candidates.items()},
                directory=self.path / WORK_FILES,
                gpus=lambda started: gpu_share(started, gpus) if own == "cuda" else 0,
                weights=True,
                tell=lambda _, done, total: tell(done, total),
            )
        shutil.rmtree(self.path / WORK_FILES, ignore_errors=True)
        scores = {one.name: results[self._key(one.candidate)] for one in self.solutions.answers if one.candidate}
        return of_trained(self.solutions, read_finalists(self._run.path), scores)

    def weights(self, name: str) -> bytes:
        """Weights of a trained answer."""
        (candidate,) = (one.candidate for one in self.solutions.answers if one.name == name)
        return (self.path / self._items.weights(self._key(candidate))).read_bytes()


def _items(path: Path) -> Items:
    return Items(Digests(path), AGAIN, "items/")


def networks_of_answers(path: Path) -> Networks:
    """Trained networks of a folder of answers.

    Raises:
        RunError: If they are not trained, their run is missing, or a file is damaged.
    """
    record = read_record(path / RECORD, f"delete the folder {path} and repeat the command", current=FORMAT)
    run, digests = read_run(run_of(path, record), "predictors"), Digests(path)
    kept = {
        one["name"]: network for one in record["answers"] if one["key"] and (network := _kept(digests, one)) is not None
    }
    if not kept:
        command = record["command"] or "the program that asked for them"
        raise RunError(f"{path}: its answers are not trained; train them with: {command} --finetune")
    limits = tuple(dict.fromkeys(text for one in record["answers"] for text in one["limits"]))
    return _networks(path, run, kept, limits, alone=len(record["answers"]) == 1)


def _kept(digests: Digests, answer: Mapping[str, Any]) -> KeptNetwork | None:
    """Record of a trained answer; ``None`` if it is not trained."""
    result, weights = (f"items/{answer['key']}{suffix}" for suffix in (".json", ".pt"))
    if not digests.whole(result, AGAIN) or weights not in set(digests):
        return None
    scores = read_json(digests.folder / result)
    own = {split: scores[split] for split in ("search", "test")}
    return KeptNetwork(answer["candidate"], own, functools.partial(_whole, digests, weights), tuple(answer["limits"]))


def _whole(digests: Digests, name: str) -> Path:
    if not digests.whole(name, AGAIN):
        raise RunError(f"{digests.folder / name}: is missing; {AGAIN}")
    return digests.folder / name


def _networks(
    path: Path, run: ReadRun, kept: Mapping[str, KeptNetwork], limits: tuple[str, ...], *, alone: bool
) -> Networks:
    tables, space = (*kept_tables(run.path), *kept_tables(path)), run.encoding.space
    return Networks(
        path,
        space,
        kept,
        next(iter(kept)) if alone else None,
        tables,
        classes_of(run.record, space),
        run.record.get("data_root"),
        limits,
        "has an answer to each of several limits, so name one",
    )
