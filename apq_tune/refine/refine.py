"""Refinement of a run: rounds of short QAT of proposed candidates, then successive halving with longer QAT."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from apq_tune.hosts import executor as executors
from apq_tune.hosts.executor import WORK_FILES, Executor, Kind, check_executor, gpu_share
from apq_tune.methods.propose import Proposals, searches_of_round
from apq_tune.methods.searches import front_cost
from apq_tune.pipeline.finished import load_run, open_run
from apq_tune.pipeline.learning import PREDICTOR, read_losses
from apq_tune.pipeline.listener import Listener
from apq_tune.pipeline.raising import upgrade_of
from apq_tune.pipeline.upgrade import FILE, RAISED, Upgrade, read_upgrade
from apq_tune.pipeline.work import train_network
from apq_tune.predict import Pairs, Predictor, fit_proxy
from apq_tune.predict.ensemble import fit_ensemble
from apq_tune.predict.files import load_predictor
from apq_tune.problem.costs import Costs
from apq_tune.problem.limits import as_texts
from apq_tune.refine.batch import is_uniform
from apq_tune.refine.halving import half, successive_halving
from apq_tune.refine.outcome import Chosen, Refined, RefinedCandidate, assembled
from apq_tune.refine.part import ProposedPart
from apq_tune.refine.settings import RefineSettings, training_of
from apq_tune.space.candidate import read_candidate
from apq_tune.space.encoding import Genomes
from apq_tune.space.encodings import encoding_of
from apq_tune.space.gene_encoding import GeneEncoding
from apq_tune.space.narrowing import Narrowing
from apq_tune.store.directory import keep_tables, kept_tables
from apq_tune.store.disk import check_space, run_bytes
from apq_tune.store.files import read_json, to_json
from apq_tune.store.folder import CommandFolder, digest
from apq_tune.store.items import compute_missing
from apq_tune.store.stage import AGAIN, StageDirectory
from apq_tune.supernet.device import device_of

FORMAT = 2
"""Format of a refinement's folder; raise it when an older one cannot be resumed."""

BATCH = "batch.json"
"""Name of the file with the candidates that a round trains."""


class Refinement:
    """Refinement of a run with given settings."""

    def __init__(
        self,
        run: Path,
        settings: RefineSettings,
        out: Path,
        *,
        tables: Sequence[Path] = (),
        executor: Kind | None = None,
        address: str | None = None,
        num_cpus: int | None = None,
        device: str = "cpu",
        gpus: float | None = None,
        command: str = "",
        listener: Listener | None = None,
    ) -> None:
        """Check everything that can be checked before work begins.

        Args:
            run: Directory of the run.
            settings: Settings of the refinement.
            out: Directory of the refinement.
            tables: Further cost tables beside those of the run.
            executor: Executor that trains candidates; by default Ray if a cluster is named, else local processes.
            address: Address of a Ray cluster to join.
            num_cpus: Number of trainings at once; ``None`` for all processors.
            device: Device on which networks are trained: ``"auto"``, ``"cpu"`` or ``"cuda"``.
            gpus: GPUs per training on ``"cuda"``; ``None`` divides them evenly among the running ones.
            command: Command line, for the record.
            listener: Observer of the progress.

        Raises:
            RunError: If the run or the directory cannot be used, or nothing listens at the address.
            ProblemError: If a constraint is unknown, unreadable or out of reach.
        """
        self.run_path, self.settings, self.path = run, settings, out
        self._stages = open_run(run, ("predictors",)).stages
        self._finished = load_run(run)
        self._supernet = self._finished.supernet  # refuse images that have changed before any work
        self.encoding: GeneEncoding = encoding_of(self._finished.space)
        texts = self._finished.settings.constraints if settings.constraints is None else settings.constraints
        all_tables = [*kept_tables(run), *tables]
        self._costs, self._tables = (
            Costs.of(self.encoding, all_tables, texts, strict=settings.device_preset is None),
            [str(digest(table)) for table in all_tables],
        )
        self.constraints = self._costs.limits(texts)
        self.cost = front_cost(self.constraints, self._costs.metrics["bit_ops"])
        self._part = self._narrowed(all_tables)
        self._kind = check_executor(executor, address)
        self._folder = CommandFolder(out, "refinement", "refine.json", FORMAT, ("round_1/stage.json",))
        self._folder.read(f"delete it, {AGAIN}")
        keep_tables(out, tables)
        self._folder.write(command, {"run": str(run.absolute()), "settings": settings.model_dump(mode="json")})
        self._address, self._num_cpus, self._gpus, self._listener = address, num_cpus, gpus, listener
        self._device = "cuda" if device == "auto" and gpus else device_of(device)
        self._stack = contextlib.ExitStack()
        self._executor: Executor | None = None
        self._n_stages = settings.rounds + len(settings.rungs) + 1
        self._number = 0

    def _narrowed(self, tables: Sequence[Path]) -> ProposedPart | None:
        """The part of the space in which candidates are proposed; ``None`` for all of it.

        Raises:
            DeviceError: If the device runs no network of the space.
            ProblemError: If none that it runs keeps the constraints.
        """
        space, device = self._finished.space, self.settings.device_preset
        if device is None or space.device == device:
            return None
        narrowing, texts = Narrowing(space, space.narrowed(device)), as_texts(self.constraints)
        costs = Costs.of(narrowing.part, tables, texts)
        limits = costs.limits(texts)
        return ProposedPart(narrowing, limits, front_cost(limits, costs.metrics["bit_ops"]), costs)

    def run(self) -> Refined:
        """Do all rounds and rungs that are not done yet."""
        settings, results = self.settings, list[RefinedCandidate]()
        needs = {"run": self._stages["predictors"].fingerprint}
        check_space(self.path, run_bytes(self.encoding.space, (), settings.n_weights + 1), ray=self._kind == "ray")
        with self._stack:
            if self._device == "cuda":
                self._started()  # refuse GPUs that are not there before any work
            for number in range(1, settings.rounds + 1):
                own = {"seed", "batch", "constraints"}
                directory = self._open(f"round_{number}", own, needs, settings.epochs)
                with self._timed(directory, f"round {number}, QAT of {settings.epochs} epochs"):
                    batch = self._batch(directory, number, results)
                    results += self._train(directory, f"round {number}", batch, settings.epochs)
                needs = {f"round {number}": directory.fingerprint}

            def rung(batch: Sequence[Chosen], epochs: int) -> list[RefinedCandidate]:
                nonlocal needs
                directory = self._open(f"rung_{epochs}", {"seed", "survivors"}, needs, epochs)
                with self._timed(directory, f"survivors, QAT of {epochs} epochs"):
                    trained = self._train(directory, f"rung {epochs}", batch, epochs)
                needs = {f"rung {epochs}": directory.fingerprint}
                return trained

            results += successive_halving(
                [result.chosen for result in results],
                np.array([result.loss for result in results]),
                settings.survivors or half(len(results)),
                settings.rungs,
                rung,
                kinds=lambda batch: (
                    is_uniform(self.encoding, self._genomes(batch)),
                    np.array([chosen.found == "staged" for chosen in batch]),
                ),
            )
            upgrade, raised = self._raised(results, needs)
        of_run = self._finished.settings
        return assembled(
            results + raised, settings, self._costs, self.constraints, self.path, self.run_path, of_run, upgrade
        )

    def _raised(
        self, results: Sequence[RefinedCandidate], needs: dict[str, str]
    ) -> tuple[Upgrade | None, list[RefinedCandidate]]:
        """Train the best network with more bits where they cost nothing, if the supernet does not speak against it."""
        length = self.settings.final_epochs
        directory = self._open(RAISED, {"seed"}, needs, length)
        with self._timed(directory, "bits that cost nothing"):
            if not directory.has(FILE):
                best = min((r for r in results if r.epochs == length), key=lambda r: r.loss)
                found = self._upgrade_of(best.chosen)
                directory.write(FILE, to_json(found and found.to_dict()))
            upgrade = read_upgrade(directory.path / FILE)
            if upgrade is None or not upgrade.promising:
                return upgrade, []
            raised = Chosen(f"{upgrade.of}-{RAISED}", upgrade.candidate, RAISED, np.nan)
            return upgrade, self._train(directory, RAISED, [raised], length)

    def _upgrade_of(self, best: Chosen) -> Upgrade | None:
        supernet, part = dataclasses.replace(self._supernet, device=self._device), self._part
        if part is None:
            return upgrade_of(best.name, best.candidate, self._costs, self.constraints, supernet)
        return upgrade_of(best.name, best.candidate, part.costs, part.constraints, supernet, part.narrowing)

    def _open(self, name: str, settings: set[str], needs: dict[str, str], epochs: int) -> StageDirectory:
        """Directory of a round or a rung, which is repeated if a setting, the run or an earlier round has changed."""
        values = self.settings.model_dump(mode="json", include=settings)
        values["final"] = epochs == self.settings.final_epochs
        of_run = self._finished.settings
        if "constraints" in values:
            values |= {"constraints": as_texts(self.constraints), "n_evaluations": of_run.n_evaluations}
            values |= {"tables": self._tables} if self._tables else {}
            values |= {} if self._part is None else {"device": self._part.narrowing.part.space.device.digest}
        values["training"] = dataclasses.asdict(training_of(epochs, of_run))
        basis = {"settings": values, "needs": needs, "space": self._finished.space.name}
        return StageDirectory(self.path / name, basis)

    @contextlib.contextmanager
    def _timed(self, directory: StageDirectory, title: str) -> Any:
        """Notify the listener and record the time; the stage is done unless an exception is raised."""
        self._number += 1
        self._title, start, pending = title, time.monotonic(), not directory.done
        if self._listener is not None:
            self._listener.stage(title, self._number, self._n_stages)
        done = False
        try:
            yield
            done = True
        finally:
            if pending:
                directory.add_seconds(time.monotonic() - start, done=done)
        shutil.rmtree(directory.path / WORK_FILES, ignore_errors=True)
        if self._listener is not None:
            note = f"done again: {directory.stale}" if directory.stale else ""
            self._listener.finished(title, directory.seconds, note if pending else "already done")

    def _batch(self, directory: StageDirectory, number: int, results: Sequence[RefinedCandidate]) -> list[Chosen]:
        """Candidates that a round trains, proposed once and then read from ``batch.json``."""
        if not directory.has(BATCH):
            rungs = self._rungs(results)
            fp32 = load_predictor(self._stages["fp32_predictor"].checked(PREDICTOR), self.encoding)
            ensemble = fit_ensemble(self.encoding, rungs, self._proxy(fp32), (self.settings.seed, number))
            searches = Proposals(
                self.encoding,
                ensemble,
                fp32,
                self.constraints,
                self.cost,
                self._known(results),
                *searches_of_round(self._finished.settings.n_evaluations, self.settings.seed, number),
            )
            part = self._part
            found = (searches if part is None else part.of(searches)).batch(self.settings.batch, first=number == 1)
            genomes, names = found[0] if part is None else part.narrowing.widen(found[0]), found[1]
            content = {
                "error": ensemble.error,
                "n_pairs": [len(pairs.target) for pairs in rungs],
                "candidates": [
                    {"candidate": candidate.to_dict(), "found": name, "predicted_loss": float(loss)}
                    for candidate, name, loss in zip(
                        self.encoding.decode(genomes), names, ensemble(genomes), strict=True
                    )
                ],
            }
            directory.write(BATCH, to_json(content))
        return [
            Chosen(f"{number}-{i:02d}", read_candidate(c["candidate"]), c["found"], c["predicted_loss"])
            for i, c in enumerate(read_json(directory.path / BATCH)["candidates"], start=1)
        ]

    def _same_fidelity(self) -> bool:
        """Whether the pairs of the run had the same training as the candidates of the rounds."""
        return training_of(self.settings.epochs, self._finished.settings) == self._finished.settings.pair

    def _rungs(self, results: Sequence[RefinedCandidate]) -> list[Pairs]:
        """Pairs of the run and of the rounds so far: one set if they had the same training, otherwise two."""
        of_run, _ = read_losses(self._stages["qat_pairs"], self.encoding)
        genomes = self.encoding.encode([r.chosen.candidate for r in results], check=False)
        of_rounds = Pairs(genomes.reshape(-1, self.encoding.n_genes), np.array([r.loss for r in results]))
        if not self._same_fidelity():
            return [of_run, of_rounds]
        genomes = np.concatenate([of_run.genomes, of_rounds.genomes])
        return [Pairs(genomes, np.concatenate([of_run.target, of_rounds.target]))]

    def _known(self, results: Sequence[RefinedCandidate]) -> Any:
        """Genomes with a known loss after the QAT of the rounds."""
        return np.concatenate([p.genomes for p in self._rungs(results)[0 if self._same_fidelity() else 1 :]])

    def _proxy(self, fp32: Predictor) -> Predictor:
        """Predictor of the losses in the quantized supernet."""
        pairs, _ = read_losses(self._stages["proxy_losses"], self.encoding)
        return fit_proxy(self.encoding, pairs, self._finished.settings.seed, fp32=fp32)

    def _train(
        self, directory: StageDirectory, stage: str, batch: Sequence[Chosen], epochs: int
    ) -> list[RefinedCandidate]:
        """Train the candidates that are not trained yet, storing each result immediately."""
        of_run = self._finished.settings

        def tell(_: str | None, done: int, total: int) -> None:
            if self._listener is not None:
                self._listener.advance(self._title, done, total)

        results = compute_missing(
            directory.items,
            self._started,
            train_network,
            dataclasses.replace(self._supernet, device=self._device),
            {chosen.name: self.settings.task(chosen.candidate, epochs, of_run) for chosen in batch},
            directory=directory.path / WORK_FILES,
            gpus=lambda executor: gpu_share(executor, self._gpus) if self._device == "cuda" else 0,
            weights=epochs == self.settings.final_epochs,
            tell=tell,
        )
        return [RefinedCandidate(chosen, stage, epochs, results[chosen.name]) for chosen in batch]

    def _started(self) -> Executor:
        """The executor, started on first use."""
        if self._executor is None:
            self._executor = self._stack.enter_context(
                executors.start_executor(self._kind, self._address, self._num_cpus)
            )
            if self._device == "cuda":
                gpu_share(self._executor, self._gpus)
        return self._executor

    def _genomes(self, batch: Sequence[Chosen]) -> Genomes:
        return self.encoding.encode([chosen.candidate for chosen in batch], check=False)
