"""Laws of one training: what it is shown when, and how fast it learns from it."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from apq_tune.data import Split
from apq_tune.space.candidate import Candidate
from apq_tune.studies.halving import Halving, TrainingResult, outcome
from apq_tune.supernet.evaluate import score
from apq_tune.supernet.train import Progress, Training, average_for, optimizer_for, train_epochs

N = 50
NUMBERED = Split(np.tile(np.arange(N, dtype=np.float32)[:, None, None, None], (1, 1, 8, 8)), np.arange(N) % 3)
"""Every pixel of an image is its number."""


class Record:
    """A training of one linear layer, of which every batch, learning rate and random number is kept."""

    def __init__(self, training: Training, seed: tuple[int, ...] = (0,), split: Split = NUMBERED) -> None:
        torch.manual_seed(0)
        self.network, self.batches = nn.Linear(1, 3), [list[np.ndarray]() for _ in range(training.epochs)]
        self.rates: list[float] = []
        self.done: list[float] = []
        self.drawn: list[list[float]] = [[] for _ in range(training.epochs)]
        optimizer, epoch = optimizer_for(self.network, training), 0
        step = optimizer.step

        def stepping() -> None:
            self.rates += [group["lr"] for group in optimizer.param_groups[:1]]
            step()

        def loss(x: torch.Tensor, y: torch.Tensor, rng: np.random.Generator, done: float) -> torch.Tensor:
            self.batches[epoch].append(x.numpy().copy())
            self.drawn[epoch].append(rng.random())
            self.done.append(done)
            return nn.functional.cross_entropy(self.network(x.mean(dim=(1, 2, 3))[:, None] / N), y)

        def after(number: int) -> None:
            nonlocal epoch
            epoch = number

        optimizer.step = stepping  # type: ignore[method-assign, assignment]
        train_epochs(self.network, loss, optimizer, split, training, seed, after_epoch=after)

    def order(self, epoch: int) -> list[int]:
        """Numbers of the images of an epoch."""
        return [int(image[0, 4, 4]) for batch in self.batches[epoch] for image in batch]


def test_every_epoch_shows_every_image_once_in_an_order_of_its_own() -> None:
    record = Record(Training(epochs=5, batch_size=10))
    orders = [record.order(epoch) for epoch in range(5)]
    assert all(sorted(order) == list(range(N)) for order in orders)
    assert len(set(map(tuple, orders))) == 5
    assert len({tuple(drawn) for drawn in record.drawn}) == 5  # candidates of the supernet are drawn from these
    others = [Record(Training(epochs=1, batch_size=10), seed).order(0) for seed in ((1,), (0, 2, 3))]
    assert len(set(map(tuple, orders + others))) == 7


def test_a_part_of_the_images_is_another_part_in_each_epoch() -> None:
    record = Record(Training(epochs=4, batch_size=5, images=20))
    parts = [frozenset(record.order(epoch)) for epoch in range(4)]
    assert all(len(part) == 20 for part in parts)
    assert len(set(parts)) == 4
    assert len(frozenset().union(*parts)) > 30


def test_the_learning_rate_is_a_cosine_of_steps_from_the_whole_rate_to_almost_nothing() -> None:
    record = Record(Training(epochs=3, batch_size=10, learning_rate=0.4))
    expected = [0.2 * (1 + math.cos(math.pi * step / 15)) for step in range(15)]
    np.testing.assert_allclose(record.rates, expected, rtol=1e-12)
    np.testing.assert_allclose(record.done, np.arange(15) / 15)


def test_images_are_changed_in_another_way_in_each_epoch_and_for_each_seed() -> None:
    rng = np.random.default_rng(0)
    split = Split(rng.random((1, 1, 8, 8), dtype=np.float32), np.zeros(1, np.int64))
    training = Training(epochs=6, batch_size=1, augment="crop_flip")
    shown = [[r.batches[e][0].tobytes() for e in range(6)] for r in (Record(training, (s,), split) for s in (0, 1))]
    assert all(len(set(images)) > 3 for images in shown)  # of 18 shifts and mirrorings
    assert shown[0] != shown[1]


def test_weights_decay_and_biases_do_not() -> None:
    network = nn.Linear(4, 4)
    optimizer = optimizer_for(network, Training(epochs=1, learning_rate=0.1, weight_decay=0.5))
    before = network.weight.detach().clone(), network.bias.detach().clone()
    (0.0 * sum(p.sum() for p in network.parameters())).backward()  # type: ignore[union-attr]
    optimizer.step()
    torch.testing.assert_close(network.weight, before[0] * (1 - 0.1 * 0.5))
    assert torch.equal(network.bias, before[1])


def test_a_training_that_is_resumed_ends_with_the_average_of_all_its_steps() -> None:
    """Of one that is not interrupted: the decay applies to every step, and the last epoch hands over what it made."""
    training = Training(epochs=2, batch_size=10, ema=0.9)
    torch.manual_seed(0)
    network = nn.Linear(1, 3)
    average, optimizer = average_for(network, training), optimizer_for(network, training)
    assert average is not None
    expected: torch.Tensor | None = None

    def loss(x: torch.Tensor, y: torch.Tensor, _rng: np.random.Generator, _done: float) -> torch.Tensor:
        return nn.functional.cross_entropy(network(x.mean(dim=(1, 2, 3))[:, None] / N), y)

    step = optimizer.step

    def stepping() -> None:
        nonlocal expected
        step()
        weight = network.weight.detach().clone()
        expected = weight if expected is None else 0.9 * expected + 0.1 * weight

    optimizer.step = stepping  # type: ignore[method-assign, assignment]
    train_epochs(network, loss, optimizer, NUMBERED, training, (0,), average=average)
    assert expected is not None
    torch.testing.assert_close(network.weight.detach(), expected)


def test_resuming_after_an_epoch_does_the_epochs_that_are_left_and_no_other() -> None:
    training, torn = Training(epochs=4, batch_size=10), list[int]()
    network = nn.Linear(1, 3)

    def loss(x: torch.Tensor, y: torch.Tensor, _rng: np.random.Generator, _done: float) -> torch.Tensor:
        return nn.functional.cross_entropy(network(x.mean(dim=(1, 2, 3))[:, None] / N), y)

    optimizer = optimizer_for(network, training)
    train_epochs(network, loss, optimizer, NUMBERED, training, (0,), start=Progress(2), after_epoch=torn.append)
    assert torn == [3, 4]


def test_a_score_is_the_plain_mean_of_cross_entropies_and_of_right_answers() -> None:
    logits = torch.randn(N, 3, generator=torch.Generator().manual_seed(0))
    found = score(lambda x: logits[x[:, 0, 0, 0].long()], NUMBERED)
    chances = logits.double().exp() / logits.double().exp().sum(dim=1, keepdim=True)
    losses = [-math.log(chances[i, label]) for i, label in enumerate(NUMBERED.labels)]
    assert found.loss == pytest.approx(np.mean(losses), rel=1e-6)
    assert (found.loss_even, found.loss_odd) == pytest.approx((np.mean(losses[::2]), np.mean(losses[1::2])), rel=1e-6)
    assert found.accuracy == pytest.approx(np.mean(logits.argmax(dim=1).numpy() == NUMBERED.labels))
    assert found.top5 == 1  # of three classes


def test_the_five_likeliest_classes_are_those_of_a_stable_sort() -> None:
    """With ties, as of logits that a quantizer has rounded, the class of the lower number is the likelier one."""
    logits = torch.randint(0, 4, (N, 12), generator=torch.Generator().manual_seed(0)).float()
    split = Split(NUMBERED.images, np.arange(N) % 12)
    found = score(lambda x: logits[x[:, 0, 0, 0].long()], split)
    order = np.argsort(-logits.numpy(), axis=1, kind="stable")
    assert found.top5 == pytest.approx(np.mean([split.labels[i] in order[i, :5] for i in range(N)]))
    assert found.accuracy == pytest.approx(np.mean(order[:, 0] == split.labels))
    assert 0.2 < found.top5 < 0.6


def trained(number: int, steps: int, search: float, test: float, repeat: int = 0) -> TrainingResult:
    losses = {"search": search, "test": test}
    scores = {split: {"loss": loss, "accuracy": 1 - loss, "top5": 1.0} for split, loss in losses.items()}
    return TrainingResult(candidate(number), steps, repeat, scores)


def candidate(number: int) -> Candidate:
    from apq_tune import NetworkEncoding, SearchSpace

    encoding = NetworkEncoding(SearchSpace.load("digits"))
    found: Callable[..., list[Candidate]] = encoding.decode
    return found(encoding.sample(4, np.random.default_rng(0)))[number]


def test_the_winner_has_the_least_search_loss_at_full_length_whatever_test_images_say() -> None:
    results = [
        trained(0, 3, 0.01, 0.01),  # better than all, but of a shorter training
        trained(1, 9, 0.30, 0.05),
        trained(2, 9, 0.20, 0.50),
        trained(3, 9, 0.40, 0.01),
        trained(2, 9, 0.25, 0.70, repeat=1),
        trained(2, 9, 0.05, 0.90, repeat=2),  # a repeat does not make it better
    ]
    found = outcome(results)
    assert found["candidate"] == candidate(2).to_dict()
    assert found["search_loss"] == 0.20
    assert found["test_loss"] == pytest.approx(0.70)


def test_those_with_the_least_search_loss_go_on_and_the_best_of_the_last_rung_is_repeated(monkeypatch) -> None:
    """Test scores of every rung say the opposite."""
    losses = {0: 0.4, 1: 0.1, 2: 0.3, 3: 0.2}
    names = {candidate(number).to_json(): number for number in losses}

    def train(_: Halving, which: Candidate, steps: int, repeat: int = 0) -> TrainingResult:
        number = names[which.to_json()]
        shift = 0.15 if number == 1 and steps == 18 else 0.0  # the best of the first rung is second in the last
        return trained(number, steps, losses[number] + shift, 1 - losses[number], repeat)

    monkeypatch.setattr(Halving, "train", train)
    halving = Halving(None, Training(epochs=1), (2, 18), 3, 0)  # type: ignore[arg-type]
    results = halving.run([candidate(number) for number in (0, 1, 2, 3)], 12)
    assert [(names[t.candidate.to_json()], t.steps, t.repeat) for t in results] == [
        *((number, 6, 0) for number in (0, 1, 2, 3)),
        *((number, 18, 0) for number in (1, 3)),
        *((3, 18, repeat) for repeat in (1, 2)),
    ]
    assert outcome(results)["candidate"] == candidate(3).to_dict()
