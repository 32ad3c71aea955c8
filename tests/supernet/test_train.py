import copy

import numpy as np
import pytest
import torch

from apq_tune.data import load_data
from apq_tune.errors import RunError
from apq_tune.pipeline.training import calibrate
from apq_tune.supernet.evaluate import calibrate_quantizers, score, score_candidate, subnet_from
from apq_tune.supernet.network import Supernet
from apq_tune.supernet.strategies import supernet_loss
from apq_tune.supernet.train import Progress, Training, average_for, finetune, optimizer_for, train_epochs


@pytest.fixture(scope="module")
def data():
    from apq_tune.space.search_space import SearchSpace

    return load_data(SearchSpace.load("digits"))


def trained(space, encoding, data, epochs, *, stop=None, strategy="single_path", quantize=False, rate=1e-2):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    supernet = Supernet(space)
    training = Training(epochs=epochs, batch_size=64, learning_rate=rate)
    optimizer = optimizer_for(supernet, training)
    loss = supernet_loss(supernet, encoding, strategy, quantize=quantize)

    class Stop(Exception):  # noqa: N818
        pass

    def after(epoch):
        if epoch == stop:
            raise Stop

    try:
        train_epochs(supernet, loss, optimizer, data.train, training, (0, 1), after_epoch=after)
    except Stop:
        state = (supernet.state_dict(), optimizer.state_dict())
        supernet = Supernet(space)
        supernet.load_state_dict(state[0])
        optimizer = optimizer_for(supernet, training)
        optimizer.load_state_dict(state[1])
        loss = supernet_loss(supernet, encoding, strategy, quantize=quantize)
        train_epochs(supernet, loss, optimizer, data.train, training, (0, 1), start=Progress(stop))
    return supernet


def test_digits_are_split_into_disjoint_balanced_parts(data):
    sizes = [len(part.labels) for part in data]
    assert sum(sizes) == 1797
    seen = {image.tobytes() for part in data for image in part.images}
    assert len(seen) == sum(len({image.tobytes() for image in part.images}) for part in data)
    for part in data:
        assert np.bincount(part.labels).min() > 0.08 * len(part.labels)


def test_resuming_equals_never_stopping(space, encoding, data):
    whole = trained(space, encoding, data, 2).state_dict()
    resumed = trained(space, encoding, data, 2, stop=1).state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["single_path", "sandwich", "progressive"])
def test_every_strategy_learns_and_stale_statistics_do_not(space, encoding, data, strategy):
    supernet = trained(space, encoding, data, 6, strategy=strategy)
    largest = encoding.extremes()[1]
    calibration = torch.from_numpy(data.train.images[:256])
    right = score_candidate(supernet, largest, calibration, data.search, quantize=False)
    assert right.accuracy > 0.7
    (other,) = encoding.decode(encoding.sample(1, np.random.default_rng(0)))
    stale = [(torch.zeros_like(m), torch.ones_like(v)) for m, v in supernet.recalibrate(calibration, other)]
    wrong = score(lambda x: supernet(x, other, statistics=stale), data.search)
    assert wrong.accuracy < score_candidate(supernet, other, calibration, data.search, quantize=False).accuracy


def test_calibration_sets_every_clip_value(space, encoding, data):
    supernet = Supernet(space)
    images = torch.from_numpy(data.train.images[:64])
    before = {name: clip.clone() for name, clip in supernet.named_parameters() if name.endswith("clip")}
    calibrate(supernet, encoding, images, 0)
    after = dict(supernet.named_parameters())
    assert len(before) > 4 * len(supernet.blocks)
    assert [name for name in before if torch.equal(before[name], after[name])] == []


@pytest.mark.slow
def test_random_bits_in_training_help_and_qat_helps_again(space, encoding, data):
    supernet = trained(space, encoding, data, 4)
    calibration = torch.from_numpy(data.train.images[:256])
    candidates = encoding.decode(encoding.sample(8, np.random.default_rng(0)))
    calibrate_quantizers(supernet, [lambda c=c: supernet.recalibrate(calibration, c) for c in candidates])

    def losses():
        return [score_candidate(supernet, c, calibration, data.search, quantize=True).loss for c in candidates]

    ptq, before = losses(), copy.deepcopy(supernet.state_dict())
    training = Training(epochs=8, batch_size=64, learning_rate=1e-2)

    def trained_on(*, quantize):
        supernet.load_state_dict(before)
        loss = supernet_loss(supernet, encoding, "single_path", quantize=quantize)
        train_epochs(supernet, loss, optimizer_for(supernet, training), data.train, training, (0, 2))
        return losses()

    longer, aware = (np.mean(trained_on(quantize=quantize)) for quantize in (False, True))
    assert aware < 0.7 * np.mean(ptq)
    assert aware < 0.8 * longer  # not because of the epochs
    aware = losses()
    for candidate, before in list(zip(candidates, aware, strict=True))[:2]:
        subnet = subnet_from(supernet, candidate, calibration, quantize=True)
        assert score(subnet, data.search).loss == pytest.approx(before, rel=0.02)
        finetune(subnet, data.train, Training(epochs=2, batch_size=32, learning_rate=3e-3), (0, 3))
        assert score(subnet, data.search).loss < before


def test_the_average_of_the_weights_replaces_them_in_the_end(space, encoding, data):
    torch.manual_seed(0)
    supernet = Supernet(space)
    training = Training(epochs=1, batch_size=64, images=256, ema=0.5)
    seen, average = [], average_for(supernet, training)

    def keep(_):
        seen.append(supernet.classifier.weight.detach().clone())

    loss = supernet_loss(supernet, encoding, "single_path", quantize=False)
    optimizer = optimizer_for(supernet, training)
    train_epochs(supernet, loss, optimizer, data.train, training, (0,), average=average, after_step=keep)
    assert len(seen) == 3  # four steps of 64 of the 256 images; the last one ends the epoch
    expected = seen[0]
    for weight in seen[1:]:
        expected = 0.5 * expected + 0.5 * weight
    last = 2 * supernet.classifier.weight - expected  # what the last step left, if that is an average with decay 0.5
    assert (last - seen[-1]).abs().max() < 2 * (seen[-1] - seen[-2]).abs().max()


@pytest.mark.parametrize("quantize", [False, True])
def test_a_training_in_bfloat16_learns_and_keeps_its_weights_exact(space, encoding, data, quantize):
    """The GPU's path, as far as a CPU goes: autocast around the loss."""
    torch.manual_seed(0)
    supernet = Supernet(space)
    smallest = encoding.extremes()[0]  # convolutions in bfloat16 are many times slower on CPUs
    images, labels = torch.from_numpy(data.train.images[:16]), torch.from_numpy(data.train.labels[:16])
    optimizer = optimizer_for(supernet, Training(epochs=1, learning_rate=1e-2))
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            value = torch.nn.functional.cross_entropy(supernet(images, smallest, quantize=quantize), labels)
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(p.dtype == torch.float32 for p in supernet.parameters())


def test_divergence_is_told_with_the_epoch_and_the_learning_rate(space, encoding, data):
    poisoned = data._replace(train=data.train._replace(images=np.full_like(data.train.images, np.nan)))
    with pytest.raises(RunError, match=r"diverged in epoch \d+ at learning rate"):
        trained(space, encoding, poisoned, 1)


def test_weights_that_the_last_step_ruins_are_told(space, encoding, data):
    supernet, training = Supernet(space), Training(epochs=1, batch_size=64, images=64)
    optimizer = optimizer_for(supernet, training)
    optimizer.register_step_post_hook(lambda *_: supernet.stem.weight.data.fill_(np.inf))
    loss = supernet_loss(supernet, encoding, "single_path", quantize=False)
    with pytest.raises(RunError, match="diverged in epoch 1: weights are not finite"):
        train_epochs(supernet, loss, optimizer, data.train, training, (0, 1))


def test_a_gradient_that_overflows_though_the_loss_does_not_is_told_apart(space, data):
    supernet, training = Supernet(space), Training(epochs=1, learning_rate=1e-2)

    def loss(*_):
        return (0 * next(supernet.parameters())).sum().sqrt()

    with pytest.raises(RunError, match=r"at learning rate 0.01; lower it, or allow more bits: the loss is finite"):
        train_epochs(supernet, loss, optimizer_for(supernet, training), data.train, training, (0,))


def test_halves_of_a_score_average_to_the_whole(space, encoding, data):
    torch.manual_seed(0)
    supernet = Supernet(space)
    images = torch.from_numpy(data.train.images[:64])
    s = score_candidate(supernet, encoding.extremes()[0], images, data.test, quantize=False)
    n = len(data.test.labels)
    even, odd = (n + 1) // 2, n // 2
    assert (s.loss_even * even + s.loss_odd * odd) / n == pytest.approx(s.loss)
