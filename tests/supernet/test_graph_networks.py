"""Elastic and stand-alone networks of traced models, against the user's own modules and what is cut out of them."""

from __future__ import annotations

import copy
import functools
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from apq_tune.space.encodings import encoding_of
from apq_tune.space.model_space import ModelSpace
from apq_tune.supernet.evaluate import calibrate_quantizers
from apq_tune.supernet.graph_quantizers import not_negative, sources_of
from apq_tune.supernet.graph_statistics import shifted_statistics
from apq_tune.supernet.graph_supernet import GraphSupernet
from apq_tune.supernet.kinds import subnet_of, supernet_of
from apq_tune.supernet.plain import PlainNetwork
from apq_tune.tracing.functions import run_graph
from tests.tracing.zoo import ZOO, example_of, network


@functools.lru_cache
def space_of(name: str) -> ModelSpace:
    """Space of a network, traced once."""
    return ModelSpace.from_module(network(name), example_of(name), step=1, least=0.1)


def supernet(name: str) -> tuple[nn.Module, GraphSupernet]:
    """A network with random weights, and the supernet made of it."""
    module = network(name)
    own = supernet_of(space_of(name))
    assert isinstance(own, GraphSupernet)
    own.load_model(module.state_dict())
    return module, own


def drawn(own: GraphSupernet, n: int, seed: int = 0) -> list[Any]:
    """Random candidates, from all blocks to none."""
    encoding = encoding_of(own.space)
    return encoding.decode(encoding.sample_policies(n, np.random.default_rng(seed)))


def calibrate(own: GraphSupernet, images: Tensor, candidates: Sequence[Any]) -> None:
    """Set the clip values of all quantizers."""
    calibrate_quantizers(own, [functools.partial(own.recalibrate, images, candidate) for candidate in candidates])


def unchanged(own: GraphSupernet) -> Any:
    """The candidate that has everything."""
    return encoding_of(own.space).extremes()[1]


def cut(own: GraphSupernet, candidate: Any, state: Mapping[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    """Graph of a candidate and its tensors, taken out of a state dict by NumPy's indexing."""
    plan = own.space.plan(candidate, own.ranks.by_group)
    tensors = {}
    for name, indices in plan.takes.items():
        value = state[name].numpy()
        for axis, chosen in enumerate(indices):
            value = value if chosen is None else np.take(value, chosen, axis)
        tensors[name] = torch.from_numpy(np.ascontiguousarray(value))
    return plan.graph, tensors


def far(one: Tensor, other: Tensor) -> float:
    """Largest difference relative to the largest value."""
    return float((one - other).detach().abs().max() / other.detach().abs().max())


@pytest.mark.parametrize("name", ZOO)
def test_networks_are_those_of_the_user_with_less(name: str) -> None:
    module, own = supernet(name)
    images, whole = example_of(name, 3), unchanged(own)
    with torch.no_grad():
        expected = module(images)
        assert far(own(images, whole, statistics=own.stored_statistics(whole)), expected) < 1e-6
        assert far(own.logits_of_model(images), expected) < 1e-6
        for candidate in drawn(own, 4):
            graph, tensors = cut(own, candidate, module.state_dict())
            expected, stored = run_graph(graph, tensors, images), own.stored_statistics(candidate)
            assert far(own(images, candidate, statistics=stored), expected) < 1e-6
            assert far(own.extract(candidate, stored)(images, quantize=False), expected) < 1e-5


def test_skipped_blocks_are_identities() -> None:
    module, own = supernet("resnet14")
    names = [block.name for block in own.space.blocks]
    assert len(names) == 4
    values = own.space.values_of(unchanged(own)) | {f"{name} depth": 0 for name in names[::2]}
    candidate = own.space.candidate_of(values)
    for name in names[::2]:
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, nn.Identity())
    images = example_of("resnet14", 3)
    with torch.no_grad():
        found = own(images, candidate, statistics=own.stored_statistics(candidate))
        assert candidate.skipped == tuple(names[::2])
        assert far(found, module(images)) < 1e-6


def test_channels_that_do_nothing_are_the_first_to_go_and_kept_if_ranks_are_turned() -> None:
    module = network("resnet8")
    rng = np.random.default_rng(0)
    dead = {}
    with torch.no_grad():
        for name, block in module.named_modules():
            if isinstance(getattr(block, "conv1", None), nn.Conv2d) and hasattr(block, "bn2"):
                channels = torch.from_numpy(rng.permutation(len(block.bn1.weight))[: len(block.bn1.weight) // 2])
                for tensor in (block.conv1.weight, block.bn1.weight, block.bn1.bias):
                    tensor[channels] = 0
                dead[f"{name}.conv1 width"] = len(block.bn1.weight) // 2
    own = GraphSupernet(ModelSpace.from_module(module, example_of("resnet8"), step=1, least=0.1))
    values = own.space.values_of(encoding_of(own.space).extremes()[1]) | dead
    candidate, images = own.space.candidate_of(values), example_of("resnet8", 3)

    def output() -> Tensor:
        return own(images, candidate, statistics=own.stored_statistics(candidate))

    with torch.no_grad():
        expected = module(images)
        for kind in ("l1", "norm"):
            own.load_model(module.state_dict(), kind)
            assert far(output(), expected) < 1e-5
        own.rank_by_loss(images, torch.tensor([1, 2, 3]))
        assert far(output(), expected) < 1e-5
        own.ranks.set({group: -own_order(order) for group, order in own.ranks.by_group.items()})
        assert far(output(), expected) > 1e-2


def own_order(order: Any) -> Tensor:
    """Importance that gives an order of units."""
    importance = np.empty(len(order))
    importance[order] = -np.arange(len(order))
    return torch.from_numpy(importance)


def test_a_stand_alone_network_is_loaded_with_the_ranks_that_say_what_it_is() -> None:
    for name in ("shufflenet", "split", "resnet8"):
        _, own = supernet(name)
        own.ranks.set({group: own_order(order[::-1].copy()) for group, order in own.ranks.by_group.items()})
        images = example_of(name, 3)
        for candidate in drawn(own, 2, seed=3):
            kept = own.extract(candidate, own.stored_statistics(candidate))
            again = subnet_of(own.space, candidate)
            again(images, quantize=False)  # plans a network by the ranks of a new one
            again.load_state_dict(kept.state_dict())
            with torch.no_grad():
                assert torch.equal(again(images), kept(images))


def test_bits_are_arguments_and_quantized_networks_equal_the_elastic_one_but_for_biases() -> None:
    for name in ("mobilenet_v2", "densenet", "senet"):
        _, own = supernet(name)
        images, (candidate, *others) = example_of(name, 4), drawn(own, 2)
        calibrate(own, images, (candidate, *others))
        values = own.space.values_of(candidate)
        few = {gene.name: gene.values[0] for gene in own.space.genes if gene.kind == "w_bits"}
        candidate = own.space.candidate_of(values | few)
        other = own.space.candidate_of(values | {g.name: g.values[-1] for g in own.space.genes if g.kind == "w_bits"})
        subnet = own.extract(candidate, own.recalibrate(images, candidate, quantize=True))
        for layer in subnet.weighted().values():
            nn.init.zeros_(layer.bias)  # then nothing is rounded that the supernet does not round
        with torch.no_grad():
            assert torch.equal(subnet(images, bits=candidate), subnet(images))
            assert not torch.equal(subnet(images, bits=other), subnet(images))
            again = own.extract(other, own.recalibrate(images, candidate, quantize=True))
            for layer in again.weighted().values():
                nn.init.zeros_(layer.bias)
            assert torch.equal(again(images), subnet(images, bits=other))


def test_the_elastic_network_is_quantized_as_the_stand_alone_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import apq_tune.supernet.graph_subnet as module

    exact = module.quantized
    monkeypatch.setattr(module, "quantized", lambda w, b, bits, _, factor: exact(w, b, bits, None, factor))
    for name in ("ds_cnn_speech", "resnet14", "mobilenet_v2", "densenet", "unet", "shufflenet"):
        _, own = supernet(name)
        images, candidates = example_of(name, 4), drawn(own, 1)
        calibrate(own, images, candidates)
        for candidate in candidates:
            statistics = own.recalibrate(images, candidate, quantize=True)
            with torch.no_grad():
                found = own.extract(candidate, statistics)(images)
                expected = own(images, candidate, quantize=True, statistics=statistics)
            assert (far(found, expected) < 1e-4) or bool((found.argmax(1) == expected.argmax(1)).all()), name


def test_no_tensor_that_is_stored_unsigned_is_ever_negative() -> None:
    for name in ("resnet8", "mobilenet_v2", "senet", "densenet", "unet"):
        _, own = supernet(name)
        positive = not_negative(own.space.graph, sources_of(own.space))
        assert positive
        for candidate in (unchanged(own), *drawn(own, 2)):
            graph, tensors = cut(own, candidate, {n: own.tensor(n).detach() for n in own.space.graph.shapes})
            for node in graph.nodes:
                if node.name in positive:
                    part = graph.nodes[: graph.nodes.index(node) + 1]
                    with torch.no_grad():
                        found = run_graph(type(graph)(graph.image, part, graph.shapes), tensors, example_of(name, 3))
                    assert float(found.min()) >= 0, (name, node.name)


class Pair(nn.Module):
    """Two convolutions, each with batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        return self.fc(functional.relu(self.bn2(self.conv2(x))).mean((2, 3)))


def test_statistics_are_shifted_by_what_slicing_changes() -> None:
    torch.manual_seed(0)
    module = Pair()
    nn.init.uniform_(module.bn2.running_mean, -1, 1)
    nn.init.uniform_(module.bn2.running_var, 2, 4)
    module.eval()
    own = GraphSupernet(ModelSpace.from_module(module, torch.randn(2, 3, 12, 12), step=1, least=0.1))
    own.load_model(module.state_dict())
    images, whole = torch.randn(16, 3, 12, 12), unchanged(own)
    for found, stored in zip(
        shifted_statistics(own, images, whole, quantize=False), own.stored_statistics(whole), strict=True
    ):
        torch.testing.assert_close(found, stored)
    candidate = own.space.candidate_of(own.space.values_of(whole) | {"conv1 width": 4})
    kept = np.sort(own.ranks.by_group[0][:4])
    with torch.no_grad():
        hidden = functional.relu(module.bn1(module.conv1(images)))
        before = module.conv2(hidden)
        after = functional.conv2d(hidden[:, kept], module.conv2.weight[:, kept])
        mean = module.bn2.running_mean + after.mean((0, 2, 3)) - before.mean((0, 2, 3))
        variance = module.bn2.running_var + after.var((0, 2, 3), correction=0) - before.var((0, 2, 3), correction=0)
    (_, (found_mean, found_variance)) = shifted_statistics(own, images, candidate, quantize=False)
    torch.testing.assert_close(found_mean, mean)
    torch.testing.assert_close(found_variance, variance)
    assert float((mean - module.bn2.running_mean).abs().max()) > 0.01


def test_training_moves_the_users_parameters_and_batch_norm_is_that_of_the_batch() -> None:
    _, own = supernet("resnet8")
    images, candidate = example_of("resnet8", 4), drawn(own, 1)[0]
    before = copy.deepcopy(own.state_dict())
    own.train()
    functional.cross_entropy(own(images, candidate, quantize=True), torch.tensor([0, 1, 2, 3])).backward()
    moved = [name for name, value in own.named_parameters() if value.grad is not None and bool(value.grad.any())]
    assert any(name.startswith("tensors.") for name in moved)
    assert any(name.startswith("quantizers.") for name in moved)
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())
    statistics = own.recalibrate(images, candidate)
    with torch.no_grad():
        assert far(own(images, candidate), own(images, candidate, statistics=statistics)) < 0.2


def test_no_code_of_the_user_travels_to_other_processes(tmp_path: Path) -> None:
    _, own = supernet("resnet8")
    candidate = unchanged(own)
    file = tmp_path / "space.pkl"
    file.write_bytes(pickle.dumps((own.space, candidate, own.state_dict())))
    weights = sum(value.numel() * value.element_size() for value in own.state_dict().values())
    assert file.stat().st_size < weights + 60_000
    program = (
        "import pickle, sys, torch; from apq_tune.supernet.kinds import supernet_of\n"
        f"space, candidate, state = pickle.load(open({str(file)!r}, 'rb'))\n"
        "own = supernet_of(space); own.load_state_dict(state)\n"
        "print(own(torch.zeros(2, 3, 32, 32), candidate, statistics=own.stored_statistics(candidate)).shape)\n"
        "assert not any('zoo' in name for name in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.strip() == "torch.Size([2, 10])"


@pytest.mark.parametrize("name", ["resnet8", "densenet", "shufflenet", "senet"])
def test_a_found_network_is_a_plain_module_that_knows_nothing_of_us(name: str) -> None:
    _, own = supernet(name)
    (candidate,) = drawn(own, 1, seed=2)
    images, subnet = example_of(name, 3), own.extract(candidate, own.stored_statistics(candidate))
    plain = PlainNetwork.of(subnet)
    assert "apq_tune" not in plain.source("A network.")
    with torch.no_grad():
        assert far(plain.module()(images), subnet(images, quantize=False)) < 1e-6
    assert not any(node.kind == "norm" for node in plain.graph.nodes) or name == "densenet"


class _Scaled(nn.Sequential):
    """Convolution, a parameter that is a number, linear layer."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale


def test_parameters_may_be_numbers() -> None:
    module, images = _Scaled(), torch.randn(3, 3, 8, 8)
    own = GraphSupernet(ModelSpace.from_module(module, images))
    own.load_model(module.state_dict())
    subnet = own.extract(unchanged(own), own.stored_statistics(unchanged(own)))
    with torch.no_grad():
        assert far(subnet(images, quantize=False), module(images)) < 1e-6


def test_files_of_networks_of_a_chosen_image_size_make_images_smaller() -> None:
    module, images = _Scaled(), torch.rand(3, 3, 16, 16)
    own = GraphSupernet(ModelSpace.from_module(module, images, sizes=[8, 16], keep="*", w_bits=8, a_bits=8))
    own.load_model(module.state_dict())
    for size in (8, 16):
        candidate = own.space.candidate_of({"resolution": size})
        subnet = own.extract(candidate, own.stored_statistics(candidate))
        plain = PlainNetwork.of(subnet)
        defined: dict[str, Any] = {"__name__": "small"}
        exec(plain.source("Small."), defined)
        loaded = defined["Network"]()
        loaded.load_state_dict(plain.tensors)
        with torch.no_grad():
            expected = subnet(images, quantize=False)
            assert far(loaded(images), expected) < 1e-5
            smaller = functional.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
            assert far(loaded(smaller), expected) < 1e-5


def test_spaces_of_bits_alone_have_features() -> None:
    module, images = _Scaled(), torch.rand(3, 3, 8, 8)
    for bits, width in (([4, 8], 8), (8, 0)):
        space = ModelSpace.from_module(module, images, keep="*", w_bits=bits, a_bits=bits, ends=None)
        encoding = encoding_of(space)
        genomes = encoding.sample(5, np.random.default_rng(0))
        assert encoding.features(genomes).shape == (5, width)
        assert encoding.arch_matrix(genomes).shape == (5, 0)
