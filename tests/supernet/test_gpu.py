"""What a GPU changes, and what it must not; skipped where there is none."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import torch

from apq_tune.data import load_data
from apq_tune.pipeline.training import calibrate
from apq_tune.supernet import train
from apq_tune.supernet.evaluate import score, score_candidate, subnet_from
from apq_tune.supernet.metrics import QATLoss
from apq_tune.supernet.network import Supernet
from apq_tune.supernet.strategies import train_supernet
from apq_tune.supernet.train import Training, finetune, optimizer_for
from apq_tune.supernet.trained import TrainedSupernet

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]


@pytest.fixture(scope="module")
def data():
    from apq_tune.space.search_space import SearchSpace

    return load_data(SearchSpace.load("digits"))


@pytest.fixture
def supernet(space, encoding, data):
    """Trained on the GPU, in full precision and then with random bits."""
    torch.manual_seed(0)
    supernet = Supernet(space).to("cuda")
    images = torch.from_numpy(data.train.images[:256]).to("cuda")
    training = Training(epochs=6, batch_size=64, learning_rate=1e-2)
    train_supernet(supernet, encoding, optimizer_for(supernet, training), data.train, training, "single_path", (0, 1))
    calibrate(supernet, encoding, images, 0)
    optimizer = optimizer_for(supernet, training)
    train_supernet(supernet, encoding, optimizer, data.train, training, "single_path", (0, 2), quantize=True)
    return supernet


def test_a_supernet_learns_there_and_scores_as_on_a_cpu(space, encoding, data, supernet):
    images = torch.from_numpy(data.train.images[:256])
    candidate = encoding.extremes()[1].with_bits(8)
    there = score_candidate(supernet, candidate, images.to("cuda"), data.search, quantize=True)
    assert there.accuracy > 0.8
    here = score_candidate(supernet.cpu(), candidate, images, data.search, quantize=True)
    assert here.loss == pytest.approx(there.loss, abs=0.02)  # values at the border of two levels go either way


@pytest.mark.parametrize("bf16", [False, True])
def test_replayed_training_is_the_same_training(encoding, data, supernet, monkeypatch, bf16):
    candidate = encoding.extremes()[1].with_bits(4)
    images = torch.from_numpy(data.train.images[:256]).to("cuda")
    training = Training(epochs=2, batch_size=32, learning_rate=2e-3, bf16=bf16)

    def trained():
        subnet = subnet_from(supernet, candidate, images, quantize=True).to("cuda")
        before = score(subnet.eval(), data.search, "cuda").loss
        finetune(subnet, data.train, training, (3,))
        assert "forward" not in vars(subnet)
        return before, score(subnet.eval(), data.search, "cuda").loss, subnet.stem.weight.detach().clone()

    before, replayed, weight = trained()
    monkeypatch.setattr(train, "replayed", lambda *_: contextlib.nullcontext())
    _, launched, other = trained()
    assert replayed < before
    assert replayed == pytest.approx(launched, abs=0.02)
    torch.testing.assert_close(weight, other, atol=0.02, rtol=0.1)


def test_qat_goes_on_from_its_checkpoint_and_comes_back_to_the_cpu(space, encoding, data, supernet):
    weights = {name: value.cpu() for name, value in supernet.state_dict().items()}
    qat = QATLoss(TrainedSupernet(space, weights, data, device="cuda"), Training(epochs=3, batch_size=32, ema=0.9))
    (candidate,) = encoding.decode(encoding.sample(1, np.random.default_rng(0)))
    losses, states = {}, {}

    def report(epoch, metrics, state):
        losses.setdefault(epoch, []).append(metrics["loss"])
        states.setdefault(epoch, state())

    qat.train(candidate, report)
    qat.train(candidate, report, states[1])
    assert sorted(losses) == [1, 2, 3]
    assert losses[3][1] == pytest.approx(losses[3][0], abs=0.03)
    assert losses[3][0] < losses[1][0]
    here = QATLoss(TrainedSupernet(space, weights, data), qat.training)
    here.train(candidate, report, states[2])
    assert losses[3][2] == pytest.approx(losses[3][0], abs=0.03)
