"""Differentiable search in a comparison of methods, and how many evaluations its steps are charged with."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from apq_tune.methods.bench import GateSearch
from apq_tune.problem.problem import Constraint
from apq_tune.searchers.gates.distribution import GeneDistribution
from apq_tune.searchers.gates.draws import Gates
from apq_tune.searchers.gates.training import GateTraining, train_gates
from apq_tune.space.encodings import encoding_of
from apq_tune.space.narrowing import Narrowing
from apq_tune.store.files import write_atomically
from apq_tune.studies.fleet import CHECKPOINT_SECONDS
from apq_tune.supernet.differentiable import PASSES, GatedSupernetLoss
from apq_tune.supernet.trained import TrainedSupernet


def gate_search_of(
    quantized: TrainedSupernet,
    full: TrainedSupernet,
    images: int,
    part: Narrowing | None = None,
    checkpoint: Path | None = None,
) -> GateSearch:
    """Differentiable search in the supernets of a comparison, on the search images of its evaluations.

    The price of a step is the number of its forward passes over that of an evaluation, which estimates batch norm, too
    (``PASSES``).
    Where the image size is searched, a step has up to one pass for each size, and is charged with all of them.

    Args:
        quantized: Supernet in which networks run at their bits.
        full: Supernet in which they run in full precision.
        images: Number of search images of an evaluation.
        part: The space of the supernets and the part of it that is searched; ``None`` if it is the whole.
        checkpoint: File in which an unfinished search is kept.
    """
    own = quantized.on_first(images)
    size_genes = [len(gene.values) for gene in encoding_of(own.space).genes if gene.kind == "resolution"]
    evaluation = len(own.data.search.labels) + own.n_calibration
    step = GatedSupernetLoss(own).batch_size * max(size_genes, default=1)
    price = {gate: passes * step / evaluation for gate, passes in PASSES.items()}

    def train(
        distribution: GeneDistribution, limits: Sequence[Constraint], training: GateTraining, seed: int, quantize: bool
    ) -> None:
        torch.set_num_threads(1)
        loss = GatedSupernetLoss(own if quantize else full.on_first(images), quantize=quantize, seed=seed)
        run = loss if part is None else _widened(loss, part)
        path = checkpoint
        if path is not None:  # a search with other settings is another one
            path = path.with_suffix(f".{training.gate}-{training.steps}-{seed}{'' if quantize else '-fp32'}.gates")
        saved = path.read_bytes() if path is not None and path.is_file() else None
        keep = _saver(path, training.steps)
        train_gates(distribution, run, limits, training, seed, checkpoint=saved, after_step=keep)

    return GateSearch(price, train)


def _saver(path: Path | None, steps: int) -> Callable[[int, Callable[[], bytes]], None] | None:
    """Callback that keeps a checkpoint every few seconds, and the last one."""
    if path is None:
        return None
    last = time.monotonic()

    def save(done: int, state: Callable[[], bytes]) -> None:
        nonlocal last
        if done == steps or time.monotonic() - last >= CHECKPOINT_SECONDS:
            write_atomically(path, state())
            last = time.monotonic()

    return save


def _widened(loss: GatedSupernetLoss, part: Narrowing) -> Callable[[Gates, int], Tensor]:
    """Loss of gates over the genes of a part in a supernet of the whole space."""
    places = part.places()

    def run(gates: Gates, step: int) -> Tensor:
        ends = gates.values.new_tensor([0.0, 1.0])
        values = torch.cat([gates.values.reshape(-1), ends])[torch.from_numpy(places)]
        used = np.concatenate([gates.used.ravel(), [False, True]])[places]
        return loss(Gates(values, used), step)

    return run
