"""Masks: their schedule, exact numbers of zeros, weights that come back, and zeros that stay zeros when quantized."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from apq_tune import ApqError, ModelSpace, SearchSpace
from apq_tune.space.encodings import encoding_of
from apq_tune.sparsity.layers import ends_of, weighted_layers
from apq_tune.sparsity.schedule import CubicSchedule
from apq_tune.sparsity.sparsifier import Sparsifier
from apq_tune.supernet.evaluate import subnet_from
from apq_tune.supernet.folded import integers
from apq_tune.supernet.interfaces import AnySubnet
from apq_tune.supernet.kinds import supernet_of
from apq_tune.supernet.quantize import quantize_weight, weight_step
from apq_tune.tracing.trace import trace
from tests.conftest import TINY
from tests.tracing.zoo import ResNet


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(128, 10)
    )


def zeros(model: nn.Module) -> dict[str, int]:
    return {name: int((part.weight == 0).sum()) for name, part in model.named_modules() if hasattr(part, "weight")}


def test_the_schedule_is_that_of_the_formula_at_its_updates_only() -> None:
    schedule = CubicSchedule(begin=10, end=40, every=12)
    assert [step for step in range(60) if schedule.updates(step)] == [10, 22, 34, 40]
    for step, expected in (
        (0, 0.0),
        (9, 0.0),
        (10, 0.0),
        (22, 0.8 * (1 - 0.6**3)),
        (34, 0.8 * (1 - 0.2**3)),
        (40, 0.8),
    ):
        assert schedule.at(step, 0.8) == pytest.approx(expected)
    assert CubicSchedule.over(100).end == 75
    for begin, end, every in ((5, 4, 1), (-1, 4, 1), (0, 4, 0)):
        with pytest.raises(ApqError, match="schedule"):
            CubicSchedule(begin, end, every)


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("criterion", ["magnitude", "random"])
def test_the_share_of_zeros_is_exact_with_rules_for_the_ends(scope: str, criterion: str) -> None:
    model = small()
    sizes = {layer.name: layer.weight.numel() for layer in weighted_layers(model)}
    for share in (0.0, 0.3, 0.6543):
        own = copy.deepcopy(model)
        at_most = ends_of(own)
        sparsifier = Sparsifier(own, share, criterion=criterion, scope=scope, at_most=at_most)
        x = torch.rand(2, 3, 8, 8)
        before = own(x)
        sparsifier.finish()
        assert torch.equal(before, own(x))
        found = zeros(own)
        assert sum(found[name] for name in sizes) == round(share * sum(sizes.values()))
        assert found["0"] == 0
        assert found["5"] <= 0.8 * sizes["5"]
        if scope == "layer" and share == 0.3:
            assert found["2"] / sizes["2"] == pytest.approx(found["5"] / sizes["5"], abs=1 / sizes["2"])


def test_global_magnitude_prunes_the_smallest_weights_of_all() -> None:
    model = small()
    everything = torch.cat([layer.weight.detach().abs().flatten() for layer in weighted_layers(model)])
    threshold = everything.sort().values[round(0.6 * len(everything))]
    sparsifier = Sparsifier(model, 0.6, scope="global")
    for layer in sparsifier.layers:
        assert torch.equal(sparsifier.masks[layer.name], layer.weight.detach().abs() >= threshold)


def test_random_masks_depend_on_the_seed_and_grow() -> None:
    one, other = (Sparsifier(small(), 0.5, criterion="random", seed=seed).masks for seed in (0, 1))
    assert not torch.equal(one["5"], other["5"])
    sparsifier = Sparsifier(small(), 0.5, criterion="random", schedule=CubicSchedule(0, 2))
    masks = []
    for _ in range(2):
        sparsifier.step()
        masks.append(sparsifier.masks["5"].clone())
    assert torch.equal(masks[1], one["5"])
    assert not (masks[1] & ~masks[0]).any()
    assert masks[1].sum() < masks[0].sum()


@pytest.mark.parametrize("text", ["2:4", "1:4", "5:8"])
def test_patterns_hold_in_every_group_of_input_channels_and_keep_the_largest(text: str) -> None:
    n, m = map(int, text.split(":"))
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 6, 3), nn.Flatten(), nn.Linear(6 * 16, 5))
    sparsifier = Sparsifier(model, text, schedule=CubicSchedule(0, 4), at_most={"3": 0.0})
    assert sparsifier.unsuited == ("0",)
    shares = [sparsifier.sparsity]
    for _ in range(4):
        sparsifier.step()
        shares.append(sparsifier.sparsity)
    assert shares == sorted(shares)
    weight, kept = model[1].weight, sparsifier.masks["1"]
    original = sparsifier.layers[1].weight.detach()
    assert kept.sum() == kept.numel() * n / m
    for out in range(6):
        for group in range(16 // m):
            for i in range(3):
                for j in range(3):
                    own = original[out, group * m : (group + 1) * m, i, j].abs()
                    left = weight[out, group * m : (group + 1) * m, i, j]
                    assert set(torch.nonzero(left).flatten().tolist()) == set(own.argsort()[m - n :].tolist())
    assert sparsifier.masks["3"].all()


def test_pruned_weights_keep_their_values_and_have_no_gradient() -> None:
    model = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0, 3.0, -4.0]]))
    weight, optimizer = model.weight, torch.optim.SGD(model.parameters(), lr=0.5)
    sparsifier = Sparsifier(model, 0.5)
    sparsifier.follow(optimizer)
    model(torch.ones(1, 4)).sum().backward()
    assert weight.grad.tolist() == [[0, 0, 1, 1]]
    optimizer.step()
    assert weight.tolist() == [[1, -2, 2.5, -4.5]]
    assert model.weight.tolist() == [[0, 0, 2.5, -4.5]]
    assert sparsifier.steps == 1


def test_a_weight_comes_back_when_another_has_become_smaller() -> None:
    model = nn.Sequential(nn.Linear(2, 1, bias=False))
    weight = model[0].weight
    sparsifier = Sparsifier(model, 0.5, schedule=CubicSchedule(0, 8))
    for values, kept in (([1.0, 2.0], [False, True]), ([1.0, 0.5], [True, False])):
        with torch.no_grad():
            weight.copy_(torch.tensor([values]))
        for _ in range(4):
            sparsifier.step()
        assert sparsifier.masks["0"][0].tolist() == kept
        assert model(torch.ones(1, 2)).item() == max(values)


def test_shared_weights_have_one_mask_and_stay_shared() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    model[2].weight = model[0].weight
    sparsifier = Sparsifier(model, 0.5)
    assert list(sparsifier.masks) == ["0"]
    assert torch.equal(model[0].weight, model[2].weight)
    sparsifier.finish()
    assert model[0].weight is model[2].weight
    assert int((model[0].weight == 0).sum()) == 18


def test_a_stopped_training_goes_on_with_the_same_masks() -> None:
    def run(model: nn.Module, sparsifier: Sparsifier, optimizer: torch.optim.Optimizer, steps: range) -> None:
        for step in steps:
            x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            functional.cross_entropy(model(x), torch.tensor([0, 1, 2, 3])).backward()
            optimizer.step()

    def made() -> tuple[nn.Module, Sparsifier, torch.optim.Optimizer]:
        model = small()
        optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
        sparsifier = Sparsifier(model, 0.8, schedule=CubicSchedule(0, 9, every=4))
        sparsifier.follow(optimizer)
        return model, sparsifier, optimizer

    whole, first, second = made(), made(), made()
    run(*whole, range(12))
    run(*first, range(6))
    for old, new in zip(first, second, strict=True):
        new.load_state_dict(copy.deepcopy(old.state_dict()))
    run(*second, range(6, 12))
    assert all(torch.equal(a, b) for a, b in zip(whole[0].parameters(), second[0].parameters(), strict=True))
    assert all(torch.equal(whole[1].masks[name], mask) for name, mask in second[1].masks.items())
    assert whole[1].sparsity == pytest.approx(0.8, abs=1e-3)


def test_averages_of_weights_take_no_masks_with_them() -> None:
    model = small()
    sparsifier = Sparsifier(model, 0.5, schedule=CubicSchedule(1, 1))
    average = torch.optim.swa_utils.AveragedModel(model)
    sparsifier.step()
    average.update_parameters(model)
    model.load_state_dict(average.module.state_dict())
    assert sparsifier.sparsity == pytest.approx(0.5, abs=1e-3)
    sparsifier.finish()
    assert zeros(model)["5"] == 640


@pytest.fixture(scope="module", params=["blocks", "graph"])
def subnet(request: pytest.FixtureRequest) -> AnySubnet:
    torch.manual_seed(0)
    if request.param == "graph":
        space = ModelSpace.of_graph(trace(ResNet(1, widths=(4, 8, 8)), torch.zeros(1, 3, 8, 8)))
    else:
        space = SearchSpace.from_dict(TINY)
    candidate = encoding_of(space).extremes()[0]  # fewest bits, 2 among them
    return subnet_from(supernet_of(space), candidate, torch.rand(16, 3, 8, 8), quantize=True)


@pytest.mark.parametrize("sparsity", [0.9, "2:4"])
def test_zeros_are_exact_zeros_in_qat_and_after_it(subnet: AnySubnet, sparsity: float | str) -> None:
    subnet = copy.deepcopy(subnet)
    optimizer = torch.optim.AdamW(subnet.parameters(), 1e-2)
    sparsifier = Sparsifier(subnet, sparsity, schedule=CubicSchedule(0, 4, every=2))
    sparsifier.follow(optimizer)
    assert set(sparsifier.masks) == set(subnet.weighted())
    for seed in range(6):
        x = torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
        optimizer.zero_grad()
        subnet(x).square().mean().backward()
        optimizer.step()
    masks = {name: mask.clone() for name, mask in sparsifier.masks.items()}
    logits = subnet(x)
    sparsifier.finish()
    assert torch.equal(subnet(x), logits)
    bits = {layer.name: layer.op.w_bits for layer in subnet.layers if layer.op is not None}
    for name, module in subnet.weighted().items():
        own = int(bits[name])
        levels, _, _ = integers(module.weight.detach(), module.bias.detach(), own, torch.tensor(0.01))
        assert (levels[~masks[name]] == 0).all()
        assert (quantize_weight(module.weight, own)[~masks[name]] == 0).all()
        assert levels.abs().max() > 0
    plain = type(subnet)(subnet.space, subnet.candidate)
    plain.load_state_dict(subnet.state_dict())  # names are those of an ordinary network again
    assert torch.equal(plain.eval()(x), subnet.eval()(x))


def test_steps_are_those_of_the_weights_that_are_left() -> None:
    torch.manual_seed(0)
    weight = torch.randn(5, 40)
    dense = weight_step(weight, 4)
    assert torch.equal(dense, 0.3534 * weight.square().mean(1, keepdim=True).sqrt())
    sparse = torch.cat([weight, torch.zeros(5, 360)], 1)[:, torch.randperm(400)]
    torch.testing.assert_close(weight_step(sparse, 4), dense)
    empty = torch.zeros(2, 3)
    assert torch.isfinite(weight_step(empty, 4)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.0}, "sparsity is 1.0; give a share"),
        ({"sparsity": "4:2"}, "sparsity is '4:2'"),
        ({"sparsity": "2:5"}, "no layer has a multiple of 5 input channels"),
        ({"sparsity": 0.5, "criterion": "snip"}, "criterion is 'snip'; choose 'magnitude' or 'random'"),
        ({"sparsity": 0.5, "scope": "block"}, "scope is 'block'"),
        ({"sparsity": 0.5, "at_most": {"conv*": 0.5}}, "'conv\\*' fits no layer; layers: 0, 2, 5"),
        ({"sparsity": 0.9, "at_most": {"*": 0.5}}, "only 0.5000 of the weights may be pruned"),
        ({"sparsity": 0.5, "at_most": {"0": 1.5}}, "'0' has 1.5"),
        ({"sparsity": "2:4", "at_most": {"5": 0.2}}, "5 may have part of 2:4 only"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ApqError, match=message) as error:
        Sparsifier(small(), **arguments)
    assert "\n" not in str(error.value)


def test_modules_that_cannot_be_pruned_are_refused() -> None:
    model = small()
    Sparsifier(model, 0.5)
    with pytest.raises(ApqError, match=r"^0: its weight is parametrized already"):
        Sparsifier(model, 0.5)
    with pytest.raises(ApqError, match="Tanh: has no layer with a weight"):
        Sparsifier(nn.Tanh(), 0.5)
    with pytest.raises(ApqError, match="run the model once"):
        Sparsifier(nn.Sequential(nn.LazyLinear(3)), 0.5)
    double = Sparsifier(small().double(), 0.5)
    assert double.layers[0].modules[0].weight.dtype == torch.float64
    assert np.isclose(double.sparsity, 0.5, atol=1e-3)
