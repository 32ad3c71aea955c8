"""Comparison of joint search with staged search and other baselines at equal spend.

A task is one method under one budget with one seed. All methods of a seed share the same trained supernets, use the
same batches in the same order, and spend the same numbers of supernet evaluations and of short and longer trainings.
Every measurement counts towards the spend of the method that made it: methods do not share results.
"""

from __future__ import annotations

import contextlib
import functools
import io
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict

from apq_tune.data import Data
from apq_tune.errors import RunError
from apq_tune.hosts.work import Result
from apq_tune.inputs import ranges
from apq_tune.inputs.ranges import PROXY, validated
from apq_tune.methods import METHODS, Bench, Question
from apq_tune.methods.bench import Counts, Kind, Measure, Measurement
from apq_tune.pipeline.finished import Supernets, load_supernets
from apq_tune.pipeline.run import PipelineRun
from apq_tune.pipeline.settings import RunSettings
from apq_tune.problem.costs import Costs
from apq_tune.space.encoding import Genomes
from apq_tune.space.gene_encoding import GeneEncoding
from apq_tune.space.narrowing import Narrowing
from apq_tune.space.network_space import NetworkSpace
from apq_tune.store.files import write_atomically
from apq_tune.studies.curvature import curvature_of
from apq_tune.studies.finalists import decided, finalists, with_raised
from apq_tune.studies.fleet import CHECKPOINT_SECONDS
from apq_tune.studies.gated import gate_search_of
from apq_tune.studies.halving import Halving, TrainingResult, outcome, rungs
from apq_tune.supernet.device import Device
from apq_tune.supernet.metrics import SupernetLoss

LAST_MOMENTS = 60.0
"""Seconds to wait for a worker of a killed command to end before another one trains in its folder."""

KINDS: tuple[Kind, ...] = get_args(Kind)

HESSIAN = "hessian"
"""Name of the evaluations that traces of Hessians are charged with, and of their processor time."""

GATES = "gates"
"""Name of the evaluations that steps of gates are charged with, and of their processor time."""


class Spend(BaseModel):
    """Spend of every method.

    Attributes:
        proxy: Number of evaluations in a supernet, full-precision or quantized.
        short: Number of short quantization-aware trainings.
        short_steps: Number of optimizer steps of each of them.
        final_steps: Number of optimizer steps of the trainings that decide; successive halving leads up to them.
        images: Number of search images for evaluations in a supernet. The most promising candidates are scored again
            on all images, as are trained ones.
        repeats: Number of trainings of the winner at full length, whose mean test scores are reported.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    proxy: ranges.Proxy = 300
    short: ranges.Short = 24
    short_steps: ranges.Steps = 20
    final_steps: ranges.Steps = 180
    repeats: ranges.Rounds = 3
    images: ranges.Images = 2000

    @classmethod
    def checked(cls, **values: Any) -> Spend:
        """Validate settings.

        Raises:
            RunError: If a setting is invalid; the message names the setting, its value and the allowed values.
        """
        spend = validated(cls, values)
        if spend.final_steps < spend.short_steps:
            raise RunError(f"final steps are {spend.final_steps}, short ones {spend.short_steps}; swap them")
        return spend

    @classmethod
    def of_run(cls, settings: RunSettings, data: Data) -> Spend:
        """Spend of a run with given settings.

        It has as many evaluations in both supernets together, as many short trainings as the run has pairs, and
        trainings of the same lengths, counted in steps with the batch size of the finalists.

        Args:
            settings: Settings of the run.
            data: Images of the run.

        Raises:
            RunError: If the spend is below the minimum.
        """
        proxy = settings.n_fp32 + settings.n_proxy
        if proxy < PROXY.low:
            raise RunError(
                f"n_fp32={settings.n_fp32} and n_proxy={settings.n_proxy} are {proxy} evaluations in the supernets; a "
                f"method needs {PROXY.low} or more, raise one of them with --set"
            )
        epoch = max(1, len(data.train.labels) // settings.final.batch_size)
        return cls.checked(
            proxy=proxy,
            short=settings.n_pairs,
            short_steps=min(settings.pair.epochs, settings.final.epochs) * epoch,
            final_steps=settings.final.epochs * epoch,
            images=settings.n_search or len(data.search.labels),
            repeats=1,
        )

    @property
    def counts(self) -> Counts:
        """Budget of measurements."""
        return Counts.of(self.proxy, self.short)


class VersusTask(NamedTuple):
    """One method under one budget with one seed."""

    method: str
    budget: str
    seed: int

    @property
    def key(self) -> str:
        """Readable key, valid as a file name."""
        return f"{self.seed:03d}-{self.budget}-{self.method}"


class VersusShared(NamedTuple):
    """Arguments shared by all tasks.

    Attributes:
        runs: Directory of a run with trained supernets, by seed.
        limits: Constraints as ``Costs.limits`` reads them, by name of the budget.
        spend: Spend of every method.
        checkpoints: Folder of checkpoints.
        costs: Costs that may be constrained.
        device: Device on which networks are trained and run.
        keep: Whether the result is that of a run: baselines are trained, too, and the weights of the best network kept.
    """

    runs: Mapping[int, Path]
    limits: Mapping[str, list[str]]
    spend: Spend
    checkpoints: Path
    costs: Costs
    device: Device = "cpu"
    keep: bool = False


class SupernetTrainings(NamedTuple):
    """Arguments shared by the trainings of supernets."""

    space: NetworkSpace
    assignments: Mapping[str, Any]  # changed settings by dotted name
    path: Path  # folder of all runs
    data_root: Path | None
    device: Device = "cpu"
    weights: Mapping[str, torch.Tensor] | None = None  # of the user's model that the space is of


def train_run(seed: int, shared: SupernetTrainings) -> Result:
    """Train both supernets of a seed, resuming from checkpoints."""
    start = time.process_time()
    settings = RunSettings().updated({**shared.assignments, "seed": seed})
    path = run_path(shared.path, seed)
    run = PipelineRun(
        shared.space,
        settings,
        path,
        data_root=shared.data_root,
        device=shared.device,
        wait=LAST_MOMENTS,
        weights=shared.weights,
    )
    run.run_until("quantized_supernet")
    return Result({"seconds": round(time.process_time() - start, 1)})


def run_path(folder: Path, seed: int) -> Path:
    """Run directory of a seed."""
    return folder / f"seed_{seed:03d}"


@functools.lru_cache(maxsize=1)
def supernets(path: Path, device: Device = "cpu") -> Supernets:
    """Load the supernets of a run, cached for the tasks of a process."""
    return load_supernets(path, device)


def run_task(task: VersusTask, shared: VersusShared) -> Result:
    """Run a method from its first sample to the test scores of its winner."""
    torch.set_num_threads(1)
    spend = shared.spend
    nets = supernets(shared.runs[task.seed], shared.device)
    method, encoding = METHODS[task.method], shared.costs.encoding
    part = None if nets.space.device == encoding.space.device else Narrowing(nets.space, encoding.space)
    limits = shared.costs.limits(shared.limits[task.budget])
    halving = Halving(
        nets.quantized if method.quantized else nets.calibrated,
        nets.settings.final,
        (spend.short_steps, spend.final_steps),
        spend.repeats,
        task.seed,
        shared.keep,
    )
    seconds = dict.fromkeys((*KINDS, HESSIAN, GATES, "final", "all"), 0.0)

    def short(genomes: Any) -> Any:
        trained = [halving.train(candidate, spend.short_steps) for candidate in _candidates(encoding, part, genomes)]
        return np.array([t.scores["search"]["loss"] for t in trained])

    measures: dict[Kind, Measure] = {
        "fp32": SupernetLoss(nets.fp32.on_first(spend.images), quantize=False),
        "proxy": SupernetLoss(nets.quantized.on_first(spend.images)),
        "fine": SupernetLoss(nets.quantized),
        "short": short,
    }
    checkpoint = shared.checkpoints / f"{task.key}.npz"
    curvature = curvature_of(nets.quantized, spend.images, task.seed, part)
    gates = gate_search_of(nets.quantized, nets.fp32, spend.images, part, checkpoint)
    bench = Bench(
        encoding,
        {
            kind: _timed(measure if kind == "short" else _on_whole(measure, part), seconds, kind)
            for kind, measure in measures.items()
        },
        spend.counts,
        read_known(checkpoint),
        _saver(checkpoint),
        curvature._replace(measure=_timed(curvature.measure, seconds, HESSIAN)),
        gates._replace(train=_timed(gates.train, seconds, GATES)),
    )
    costs = shared.costs.metrics
    with _clock(seconds, "all"):
        ranked = method.propose(Question(encoding, limits, bench, task.seed))
        with _clock(seconds, "final"):
            trained = halving.run(_candidates(encoding, part, ranked), spend.short)
            networks, upgrade = dict[str, TrainingResult](), None
            if shared.keep:
                networks = finalists(task.method, trained, halving, encoding)
                networks, upgrade = with_raised(networks, halving, shared.costs, limits)
    records = {name: {"candidate": t.candidate.to_dict(), **t.scores} for name, t in networks.items()}
    weights = networks[decided(records, shared.costs, limits)].weights if shared.keep else b""
    best = outcome(trained)
    names = list(costs)
    whole = encoding if part is None else part.whole
    genomes = whole.encode([t.candidate for t in trained], check=False)
    genomes = genomes if part is None else part.narrow(genomes)[0]
    priced = {name: costs[name](genomes).tolist() for name in names}
    row = [t.candidate.to_dict() for t in trained].index(best["candidate"])
    return Result(
        {
            **best,
            "costs": {name: priced[name][row] for name in names},
            "counts": {kind: bench.count(kind) for kind in KINDS}
            | {HESSIAN: bench.charged_hessians, GATES: bench.charged_gates}
            | _lengths(trained),
            "finalists": [
                {"candidate": t.candidate.to_dict(), "steps": t.steps, "repeat": t.repeat, "scores": t.scores}
                | {name: priced[name][i] for name in names}
                for i, t in enumerate(trained)
            ],
            "seconds": {name: round(value, 2) for name, value in seconds.items()},
            "networks": records,
        }
        | ({"upgrade": upgrade and upgrade.to_dict()} if shared.keep else {}),
        {"weights.pt": weights} if shared.keep else {},
    )


def _candidates(encoding: GeneEncoding, part: Narrowing | None, genomes: Genomes) -> list[Any]:
    """Candidates of genomes, as those of the space that the supernets are of.

    Args:
        encoding: Encoding of the genomes.
        part: The space of the supernets and the part of it that a device runs; ``None`` if all of it is searched.
        genomes: Genomes, shape ``(n, n_genes)``.
    """
    return encoding.decode(genomes) if part is None else part.whole.decode(part.widen(genomes))


def _on_whole(measure: Measure, part: Narrowing | None) -> Measure:
    """Measurement of genomes of the part that a device runs by a supernet of the whole space."""
    return measure if part is None else lambda genomes: measure(part.widen(genomes))


def _lengths(trained: list[Any]) -> dict[str, int]:
    """Number of trainings of each length, and the total number of steps without the short ones."""
    lengths = sorted({t.steps for t in trained})
    counts = {f"{steps} steps": sum(t.steps == steps for t in trained) for steps in lengths}
    return counts | {"later steps": sum(t.steps for t in trained)}


def planned(spend: Spend) -> dict[str, int]:
    """Numbers of trainings of each length of a method that spends its whole budget."""
    later = rungs(spend.short, spend.short_steps, spend.final_steps)[1:]
    counts = {f"{rung.length} steps": rung.n for rung in later}
    counts[f"{spend.final_steps} steps"] = counts.get(f"{spend.final_steps} steps", spend.short) + spend.repeats - 1
    return counts


def _timed(measure: Callable[..., Any], seconds: dict[str, float], kind: str) -> Callable[..., Any]:
    def timed(*arguments: Any) -> Any:
        with _clock(seconds, kind):
            return measure(*arguments)

    return timed


@contextlib.contextmanager
def _clock(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Measure the processor time of a part."""
    start = time.process_time()
    yield
    seconds[name] += time.process_time() - start


def _saver(path: Path) -> Callable[[list[Measurement]], None]:
    """Callback that saves measurements every few seconds."""
    last = time.monotonic()

    def save(known: list[Measurement]) -> None:
        nonlocal last
        if time.monotonic() - last >= CHECKPOINT_SECONDS:
            buffer = io.BytesIO()
            kinds = np.array([KINDS.index(k.kind) for k in known])
            genomes = np.array([np.frombuffer(k.genome, np.int16) for k in known])
            losses = np.array([k.loss for k in known])
            np.savez(buffer, task=np.asarray(path.name), kinds=kinds, genomes=genomes, losses=losses)
            write_atomically(path, buffer.getvalue())
            last = time.monotonic()

    return save


def read_known(path: Path) -> dict[tuple[Kind, bytes], float]:
    """Measurements of an interrupted task; empty if there is no valid file of this task."""
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile), np.load(path) as file:
        if str(file["task"]) != path.name:
            return {}
        rows = zip(file["kinds"], file["genomes"].astype(np.int16), file["losses"], strict=True)
        return {(KINDS[kind], genome.tobytes()): float(loss) for kind, genome, loss in rows}
    return {}
