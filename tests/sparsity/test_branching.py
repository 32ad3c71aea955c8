"""Instability of planted trainings whose answer is known, and lottery tickets on a toy."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from apq_tune import ApqError, SearchSpace
from apq_tune.space.encodings import encoding_of
from apq_tune.sparsity.branching import estimate_norms, instability, instability_by_step
from apq_tune.sparsity.tickets import iterative_pruning
from apq_tune.supernet.evaluate import subnet_from
from apq_tune.supernet.kinds import supernet_of
from tests.conftest import TINY


class Number(nn.Module):
    """A module that is one number."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.25))


def fall(module: nn.Module, target: float) -> None:
    with torch.no_grad():
        module.weight.fill_(target)


def double_well(module: nn.Module) -> float:
    return float((module.weight**2 - 1) ** 2)


def test_equal_trainings_are_stable_and_far_basins_are_not() -> None:
    module = Number()
    same = instability(module, lambda own, _: fall(own, 0.7), double_well)
    assert same.height == 0
    assert same.stable
    assert len(set(same.errors)) == 1
    far = instability(module, lambda own, seed: fall(own, -1.0 if seed == 1 else 1.0), double_well, points=5)
    assert far.shares == (0, 0.25, 0.5, 0.75, 1)
    assert far.errors == pytest.approx([0, 0.75**2, 1, 0.75**2, 0])
    assert far.height == pytest.approx(1)
    assert not far.stable
    assert module.weight.item() == 0.25
    with pytest.raises(ApqError, match="points is 2"):
        instability(module, lambda *_: None, double_well, points=2)


def test_the_step_from_which_trainings_agree_is_found() -> None:
    calls: list[tuple[int, int | None, int]] = []

    def train(module: nn.Module, first: int, last: int | None, seed: int) -> None:
        """The sign is decided by the seed of the steps before step 10, each of which adds noise."""
        calls.append((first, last, seed))
        end = 100 if last is None else last
        with torch.no_grad():
            if first < 10:
                module.weight.fill_(0.1 if seed % 2 else -0.1)
            if end == 100:
                module.weight.copy_(module.weight.sign())

    found = instability_by_step(Number(), train, double_well, (0, 5, 10, 40), points=3)
    assert [own.height for own in found.values()] == pytest.approx([1, 1, 0, 0])
    assert [call for call in calls if call[1] is not None] == [(0, 5, 0), (5, 10, 0), (10, 40, 0)]
    assert [call for call in calls if call[1] is None][:2] == [(0, None, 1), (0, None, 2)]
    with pytest.raises(ApqError, match="ascending order"):
        instability_by_step(Number(), train, double_well, (5, 0))


def normed() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Dropout(0.5), nn.ReLU(), nn.Flatten(), nn.Linear(216, 4)
    )


def test_statistics_are_those_of_all_images_with_dropout_off() -> None:
    model = normed().train()
    images = torch.rand(40, 1, 8, 8) + 3
    estimate_norms(model, images.split(10))
    before = model[0](images)
    torch.testing.assert_close(model[1].running_mean, before.mean((0, 2, 3)))
    within = torch.stack([part.transpose(0, 1).flatten(1).var(1) for part in before.split(10)]).mean(0)
    torch.testing.assert_close(model[1].running_var, within)
    assert all(part.training for part in model.modules())
    assert model[1].momentum == 0.1
    known = copy.deepcopy(model.state_dict())
    estimate_norms(model, ())
    assert all(torch.equal(model.state_dict()[name], own) for name, own in known.items())


def test_a_permutation_of_hidden_channels_is_another_basin() -> None:
    model, x = normed().eval(), torch.rand(64, 1, 8, 8)
    estimate_norms(model, [x])
    labels = model(x).argmax(1).detach()

    def train(own: nn.Module, seed: int) -> None:
        if seed == 2:  # the same function
            order = torch.tensor([3, 4, 5, 0, 1, 2])
            with torch.no_grad():
                for parameter in (own[0].weight, own[0].bias, own[1].weight, own[1].bias):
                    parameter.copy_(parameter[order])
                own[5].weight.copy_(own[5].weight.reshape(4, 6, 36)[:, order].reshape(4, 216))

    def error(own: nn.Module) -> float:
        return float(functional.cross_entropy(own(x), labels))

    found = instability(model, train, error, calibration=[x], points=5)
    assert found.errors[0] == pytest.approx(found.errors[-1], rel=1e-4)
    assert found.height > 0.02
    stale = instability(model, train, error, points=5)
    assert stale.errors[-1] > found.errors[-1]  # statistics did not follow the permutation


def test_found_networks_of_supernets_are_modules_like_any_other() -> None:
    torch.manual_seed(0)
    space = SearchSpace.from_dict(TINY)
    x = torch.rand(16, 3, 8, 8)
    subnet = subnet_from(supernet_of(space), encoding_of(space).extremes()[0], x, quantize=True)
    before = copy.deepcopy(subnet.state_dict())

    def train(own: nn.Module, seed: int) -> None:
        optimizer = torch.optim.SGD(own.parameters(), 0.01)
        draws = torch.Generator().manual_seed(seed)
        for _ in range(3):
            rows = torch.randint(16, (4,), generator=draws)
            optimizer.zero_grad()
            functional.cross_entropy(own(x[rows]), rows % 4).backward()
            optimizer.step()

    found = instability(
        subnet, train, lambda own: float(functional.cross_entropy(own(x), torch.arange(16) % 4)), points=3
    )
    assert found.errors[0] != found.errors[-1]
    assert abs(found.height) < 0.5
    assert all(torch.equal(subnet.state_dict()[name], own) for name, own in before.items())


def test_tickets_prune_a_share_each_time_and_train_from_the_rewound_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 10), nn.ReLU(), nn.Linear(10, 4))
    initial = copy.deepcopy(model.state_dict())
    starts: list[dict[str, torch.Tensor]] = []

    def train(module: nn.Module, first: int, last: int | None) -> None:
        if last is None:
            starts.append({"0": module[0].weight.detach().clone(), "2": module[2].weight.detach().clone()})
        optimizer = torch.optim.SGD(module.parameters(), 0.1)
        for step in range(first, 20 if last is None else last):
            draws = torch.Generator().manual_seed(step)
            x = torch.randn(16, 40, generator=draws)
            optimizer.zero_grad()
            functional.cross_entropy(module(x), (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()).backward()
            optimizer.step()

    tickets = list(iterative_pruning(model, train, levels=3, rewind=4, share=0.5))
    assert [ticket.level for ticket in tickets] == [0, 1, 2, 3]
    assert [ticket.sparsity for ticket in tickets] == pytest.approx([0, 0.5, 0.75, 0.875], abs=2e-3)
    early = nn.Sequential(nn.Linear(40, 10), nn.ReLU(), nn.Linear(10, 4))
    early.load_state_dict(initial)
    train(early, 0, 4)
    for before, ticket, start in zip([None, *tickets], tickets, starts[:4], strict=False):
        for name, mask in ticket.masks.items():
            weight = early.state_dict()[f"{name}.weight"]
            assert torch.equal(start[name], torch.where(mask, weight, 0.0))
            assert (ticket.state[f"{name}.weight"][~mask] == 0).all()
            if before is not None:
                assert not (mask & ~before.masks[name]).any()
                kept = before.state[f"{name}.weight"].abs()
                gone = before.masks[name] & ~mask
                assert kept[gone].max() <= min(
                    float(before.state[f"{other}.weight"].abs()[own].min()) for other, own in ticket.masks.items()
                )
    with pytest.raises(ApqError, match="pruning 2 times a share of 1"):
        next(iterative_pruning(model, train, levels=2, share=1.0))
