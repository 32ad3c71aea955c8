"""Estimates of the duration of a run from a few timed training steps, and settings that fit a given time.

Parallel work is divided by the number of workers, so that an estimate holds if as many processors are free. Fits of
predictors and inner searches, which take seconds, are estimated with constants that were measured on one machine.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import numpy as np
import torch

from apq_tune.data import AnySplit, Data
from apq_tune.errors import RunError
from apq_tune.hosts.executor import Kind
from apq_tune.pipeline.settings import RunSettings
from apq_tune.space.gene_encoding import GeneEncoding
from apq_tune.supernet.batches import batches
from apq_tune.supernet.device import Device
from apq_tune.supernet.interfaces import AnySubnet, AnySupernet
from apq_tune.supernet.kinds import supernet_of
from apq_tune.supernet.strategies import Teacher, supernet_loss
from apq_tune.supernet.train import Training, finetune, optimizer_for, precision

PROBE_SECONDS = 0.5
"""Maximum duration of the measurement of each of the three kinds of training step."""

FEWEST, MOST = 3, 12
"""Minimum and maximum number of steps that are measured, after one warm-up step."""

START_SECONDS = {"local": 1.0, "ray": 12.0}
"""Seconds until the first result of an executor, beside the work itself: local workers import while supernets are
trained, Ray starts a cluster and its workers (Ray 2.60, two cores)."""

MAP_SECONDS = {"local": 0.2, "ray": 1.0}
"""Seconds that each further map of an executor takes, beside the work itself."""

FIT_SECONDS = 0.12
"""Seconds per fit of a small predictor, of which cross-validation fits about a dozen per fold (digits, two cores)."""

EVALUATIONS_PER_SECOND = 6_000.0
"""Evaluations per second of a search with the default predictor (digits, one core)."""

RIVAL_SEARCHES = 9
"""Number of inner searches for the baselines (uniform policies and staged search) at three bit-widths."""

NAMED_FINALISTS = 5
"""Number of finalists beside those from the front: the largest network at two bit-widths, the best, two baselines."""

MIN_FACTOR, MAX_FACTOR, FACTOR_STEP = 0.1, 4.0, 1.1
"""Smallest and largest factor by which ``--minutes`` scales a run, and ratio of consecutive factors that are tried."""

FLOORS = {"supernet.epochs": 4, "quantized.epochs": 4, "final.epochs": 2, "n_fp32": 40, "n_proxy": 60, "n_pairs": 16}
"""Minimum values, below which predictors ranked no better than chance on the data sets that were tried."""


class Rates(NamedTuple):
    """Seconds per image.

    Attributes:
        fp32: Duration of a training step of the full-precision supernet.
        quantized: Duration of a training step of the quantized supernet.
        qat: Duration of a step of quantization-aware training of one network.
    """

    fp32: float
    quantized: float
    qat: float

    @property
    def forward(self) -> float:
        """Duration of scoring: a third of a step, since a backward pass costs twice a forward pass."""
        return self.qat / 3


def measure_rates(
    encoding: GeneEncoding, settings: RunSettings, data: Data, device: Device = "cpu", teacher: Teacher | None = None
) -> Rates:
    """Time some steps of each kind of training with networks drawn at random.

    The state of torch's random generator is restored.

    Args:
        encoding: Encoding of the search space.
        settings: Settings of the run.
        data: Images of the run.
        device: Device on which networks are trained.
        teacher: Model that the supernet learns from.
    """
    threads = torch.get_num_threads()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.set_num_threads(1)
        try:
            supernet = supernet_of(encoding.space).to(device)
            fp32, quantized = (
                _supernet_rate(supernet, encoding, settings, training, data.train, teacher, quantize=quantize)
                for training, quantize in ((settings.supernet, False), (settings.quantized, True))
            )
            qat = _qat_rate(supernet, encoding, settings.pair, data.train)
        finally:
            torch.set_num_threads(threads)
    return Rates(fp32, quantized, qat)


def _supernet_rate(
    supernet: AnySupernet,
    encoding: GeneEncoding,
    settings: RunSettings,
    training: Training,
    split: AnySplit,
    teacher: Teacher | None,
    *,
    quantize: bool,
) -> float:
    optimizer, rng = optimizer_for(supernet, training), np.random.default_rng(0)
    loss = supernet_loss(supernet, encoding, settings.strategy, quantize=quantize, teacher=teacher)
    supernet.train()
    device = next(supernet.parameters()).device
    order = np.arange(min(training.batch_size, len(split.labels)))

    def step() -> None:
        ((images, labels),) = batches(split, order, len(order), device, augment=training.augment, seed=(0,))
        optimizer.zero_grad(set_to_none=True)
        with precision(device, bf16=training.bf16):
            value = loss(images, labels, rng, 0.5)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return _timed(step, device) / len(order)


def _qat_rate(supernet: AnySupernet, encoding: GeneEncoding, training: Training, split: AnySplit) -> float:
    """Seconds per image of a QAT step of one random network."""
    (candidate,) = encoding.decode(encoding.sample(1, np.random.default_rng(0)))
    device = next(supernet.parameters()).device
    order = np.arange(min(training.batch_size, len(split.labels)))
    ((images, _),) = batches(split, order, len(order), device)
    subnet: AnySubnet = supernet.extract(candidate, supernet.recalibrate(images, candidate, quantize=True))
    one = Training(1, len(order), training.learning_rate, training.weight_decay, bf16=training.bf16)
    few = split.take(order)
    return _timed(lambda: finetune(subnet, few, one, (0,)), device) / len(order)


def _timed(step: Callable[[], None], device: torch.device) -> float:
    """Median seconds of a step."""
    seconds: list[float] = []
    begun = time.monotonic()
    while len(seconds) < FEWEST + 1 or (len(seconds) < MOST and time.monotonic() - begun < PROBE_SECONDS):
        start = time.monotonic()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.monotonic() - start)
    return statistics.median(seconds[1:])


def estimate(
    settings: RunSettings, data: Data, rates: Rates, concurrency: int, executor: Kind = "local"
) -> dict[str, float]:
    """Estimate the duration of each stage in seconds.

    Args:
        settings: Settings of the run.
        data: Images of the run.
        rates: Measured durations of training steps.
        concurrency: Number of networks or searches at once, each on a free processor.
        executor: Executor that runs them.
    """
    n_train, n_whole, n_test = (len(split.labels) for split in (data.train, data.search, data.test))
    n_search = min(n_whole, settings.n_search or n_whole)
    calibration = min(settings.n_calibration, n_train)

    def images(training: Training) -> int:
        return training.epochs * training.steps(n_train) * training.batch_size

    scoring = (calibration + n_search) * rates.forward
    of_pair = images(settings.pair) * rates.qat + scoring
    of_final = images(settings.final) * rates.qat + (calibration + n_whole + n_test) * rates.forward
    n_final = NAMED_FINALISTS + settings.n_front
    start, each = START_SECONDS.get(executor, 0.0), MAP_SECONDS.get(executor, 0.0)
    search = (3 + RIVAL_SEARCHES) * settings.n_evaluations / EVALUATIONS_PER_SECOND
    return {
        "supernet": images(settings.supernet) * rates.fp32,
        "quantized_supernet": images(settings.quantized) * rates.quantized,
        "fp32_losses": start + settings.n_fp32 * scoring / concurrency,
        "proxy_losses": each + settings.n_proxy * scoring / concurrency,
        "qat_pairs": settings.n_pairs * of_pair / concurrency,
        "fp32_predictor": (settings.folds + 1) * 4 * FIT_SECONDS,
        "predictors": (settings.folds + 1) * 12 * FIT_SECONDS,
        "search": each + search / min(concurrency, 4),
        "finalists": each + math.ceil(n_final / concurrency) * of_final,
        "raised": 0.0,  # limits that the search has used up leave nothing to raise
    }


def fitted(
    settings: RunSettings,
    data: Data,
    rates: Rates,
    concurrency: int,
    minutes: float,
    keep: Collection[str] = (),
    executor: Kind = "local",
) -> RunSettings:
    """Scale the lengths of trainings and the numbers of measurements so that a run takes about a given time.

    Args:
        settings: Settings to begin with.
        data: Images of the run.
        rates: Measured durations of training steps.
        concurrency: Number of networks or searches at once.
        minutes: Maximum duration of the run.
        keep: Dotted names of settings that are not changed.
        executor: Executor that runs networks and searches.

    Raises:
        RunError: If even the shortest run takes longer; the message names its duration.
    """
    shortest = None
    factor = MAX_FACTOR
    while factor >= MIN_FACTOR:
        own = settings.updated(_scaled(settings, factor, keep))
        shortest = sum(estimate(own, data, rates, concurrency, executor).values()) / 60
        if shortest <= minutes:
            return own
        factor /= FACTOR_STEP
    assert shortest is not None
    raise RunError(
        f"--minutes {minutes:g}: the shortest run whose predictors can still rank takes about {shortest:.1f} minutes "
        f"here; give at least {math.ceil(shortest)}, or take fewer images with --set supernet.images=N "
        "--set quantized.images=N, or a smaller space"
    )


def _scaled(settings: RunSettings, factor: float, keep: Collection[str]) -> dict[str, int]:
    """Scale epochs by the factor and numbers of measurements by its square root."""
    changes = {}
    for name, floor in FLOORS.items():
        value = _value(settings, name)
        power = 1.0 if name.endswith("epochs") else 0.5
        if name not in keep and value:
            changes[name] = max(min(floor, value), round(value * factor**power))
    return changes


def _value(settings: RunSettings, name: str) -> int:
    value: object = settings
    for part in name.split("."):
        value = getattr(value, part)
    assert isinstance(value, int)
    return value


def words(seconds: float) -> str:
    """Format a duration."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def remaining(estimates: Mapping[str, float], done: Mapping[str, float], shares: Mapping[str, float]) -> float:
    """Remaining seconds, corrected by the ratio of actual to estimated durations so far.

    Args:
        estimates: Estimated seconds of all stages to be done.
        done: Actual seconds of the finished stages.
        shares: Finished share of each running stage.
    """
    expected = sum(estimates[stage] for stage in done if stage in estimates)
    took = sum(seconds for stage, seconds in done.items() if stage in estimates)
    # Two estimated minutes weigh as much as what was seen: the first short stages say little of the long ones.
    pace = (took + 120) / (expected + 120)
    left = sum(
        seconds * (1 - min(1.0, shares.get(stage, 0.0))) for stage, seconds in estimates.items() if stage not in done
    )
    return pace * left
