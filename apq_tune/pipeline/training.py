"""Stages that train the supernet in this process, with regular checkpoints."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from apq_tune.pipeline.own_model import teacher_of
from apq_tune.pipeline.stage import Run, torch_bytes, torch_load, weights
from apq_tune.space.gene_encoding import GeneEncoding
from apq_tune.supernet import strategies
from apq_tune.supernet.batches import first_images
from apq_tune.supernet.evaluate import calibrate_quantizers
from apq_tune.supernet.finite import check_supernet, check_weights
from apq_tune.supernet.graph_supernet import GraphSupernet
from apq_tune.supernet.interfaces import AnySupernet
from apq_tune.supernet.kinds import supernet_of
from apq_tune.supernet.seeds import SeedWord
from apq_tune.supernet.train import Progress, Training, average_for, optimizer_for
from apq_tune.supernet.user_model import UserModel

N_QUANTIZER_CANDIDATES = 8
"""Number of random candidates, beside the largest, for the calibration of initial clip values."""

WEIGHTS, CHECKPOINT = "weights.pt", "checkpoint.pt"
"""Names of the files of a finished and of an unfinished training."""


def train_supernet(run: Run) -> None:
    """Train the weight-shared network in full precision."""
    torch.manual_seed(run.settings.seed)
    supernet = supernet_of(run.encoding.space)
    if run.model is not None:
        _begin_with(run, run.model, supernet)
    _train(run, "supernet", supernet.to(run.device), run.settings.supernet, quantize=False)


def _begin_with(run: Run, model: UserModel, supernet: AnySupernet) -> None:
    """Begin with the weights of the user's model, and rank its channels."""
    assert isinstance(supernet, GraphSupernet)
    if run.settings.importance != "taylor":
        supernet.load_model(model.weights, run.settings.importance)
        return
    supernet.load_model(model.weights)
    first = run.data.train.first(run.settings.n_calibration)
    supernet.rank_by_loss(first_images(first, len(first.labels)), torch.tensor(first.labels))


def train_quantized_supernet(run: Run) -> None:
    """Go on training the same weights with random bits in every layer."""
    supernet = supernet_of(run.encoding.space)
    supernet.load_state_dict(weights(run, "supernet"))
    supernet.to(run.device)
    images = first_images(run.data.train, run.settings.n_calibration).to(run.device)
    calibrate(supernet, run.encoding, images, run.settings.seed)
    _train(run, "quantized_supernet", supernet, run.settings.quantized, quantize=True)


def calibrate(supernet: AnySupernet, encoding: GeneEncoding, images: Tensor, seed: int) -> None:
    """Calibrate the clip values of a supernet's quantizers on full-precision activations of random candidates."""
    rng = np.random.default_rng((seed, SeedWord.QUANTIZED_SUPERNET))
    candidates = [*encoding.decode(encoding.sample(N_QUANTIZER_CANDIDATES, rng)), encoding.extremes()[1]]
    calibrate_quantizers(supernet, [lambda c=c: supernet.recalibrate(images, c) for c in candidates])  # type: ignore[misc]


def _train(run: Run, stage: str, supernet: AnySupernet, training: Training, *, quantize: bool) -> None:
    torch.set_num_threads(1)
    directory = run.directory(stage)
    if directory.has(WEIGHTS):  # the process ended before it recorded that the stage was done
        return
    optimizer, average = optimizer_for(supernet, training), average_for(supernet, training)
    start = Progress()
    if directory.has(CHECKPOINT, "training begins anew"):
        state = torch_load(directory.path / CHECKPOINT)
        supernet.load_state_dict(state["supernet"])
        optimizer.load_state_dict(state["optimizer"])
        if average is not None:
            average.load_state_dict(state["average"])
        start = Progress(*state["progress"])

    setting = "quantized" if quantize else "supernet"

    def save(progress: Progress) -> None:
        check_weights(supernet, setting, training, progress.epoch + (progress.step > 0))
        state = {"supernet": supernet.state_dict(), "optimizer": optimizer.state_dict(), "progress": tuple(progress)}
        if average is not None:
            state["average"] = average.state_dict()
        directory.write(CHECKPOINT, torch_bytes(state))

    def after_epoch(epoch: int) -> None:
        save(Progress(epoch))
        run.advance(stage, epoch, training.epochs)

    def after_step(progress: Progress) -> None:
        if progress.step % run.settings.checkpoint_steps == 0:
            save(progress)

    run.advance(stage, start.epoch, training.epochs)
    strategies.train_supernet(
        supernet,
        run.encoding,
        optimizer,
        run.data.train,
        training,
        run.settings.strategy,
        (run.settings.seed, SeedWord.QUANTIZED_SUPERNET if quantize else SeedWord.SUPERNET),
        quantize=quantize,
        teacher=teacher_of(run.model, run.settings),
        start=start,
        average=average,
        after_epoch=after_epoch,
        after_step=after_step,
    )
    check_supernet(supernet, run.encoding, run.data, setting, training, quantize=quantize)
    directory.write(WEIGHTS, torch_bytes(supernet.state_dict()))
    directory.remove(CHECKPOINT)
