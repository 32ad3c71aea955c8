"""Supernets of several input sizes: a size for each batch, and all that is estimated at the size of the candidate."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from apq_tune import NetworkEncoding, SearchSpace
from apq_tune.data import Split
from apq_tune.supernet.batches import resized
from apq_tune.supernet.evaluate import score_candidate
from apq_tune.supernet.network import Supernet
from apq_tune.supernet.strategies import supernet_loss

SIZES = (6, 8, 12)


def space_of(size: int | tuple[int, ...]) -> SearchSpace:
    return SearchSpace.from_dict(SearchSpace.load("digits").to_dict() | {"input": {"channels": 1, "size": size}})


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    torch.manual_seed(0)
    return Supernet(space_of(SIZES))


@pytest.mark.parametrize("strategy", ["single_path", "progressive", "sandwich", "warm_single_path"])
def test_training_draws_a_size_for_each_batch(supernet: Supernet, strategy) -> None:
    encoding, seen = NetworkEncoding(supernet.space), []
    hook = supernet.quantizers.stem.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[-1]))
    loss = supernet_loss(supernet, encoding, strategy, quantize=True)
    images, labels, rng = torch.rand(4, 1, 12, 12), torch.arange(4), np.random.default_rng(0)
    with torch.no_grad():
        for step in range(24):
            loss(images, labels, rng, 0.5 + step / 48)
    hook.remove()
    own = {size: seen.count(size) for size in SIZES}
    assert set(seen) == set(SIZES)
    assert all(count >= 2 for count in own.values())


def test_statistics_and_scores_are_those_of_a_supernet_of_that_size_alone(supernet: Supernet) -> None:
    encoding = NetworkEncoding(supernet.space)
    images = torch.rand(40, 1, 12, 12)
    split = Split(images.numpy(), np.arange(40) % 10)
    for size in SIZES:
        alone = Supernet(space_of(size))
        alone.load_state_dict(supernet.state_dict())
        genome = encoding.sample(1, np.random.default_rng(size))
        genome[:, encoding.names.index("resolution")] = SIZES.index(size)
        (candidate,) = encoding.decode(genome)
        same = type(candidate)(candidate.stages)
        small = resized(images, size, size)
        for one, two in zip(supernet.recalibrate(images, candidate), alone.recalibrate(small, same), strict=True):
            torch.testing.assert_close(one, two)
        found = score_candidate(supernet, candidate, images, split, quantize=True)
        assert found == score_candidate(alone, same, small, split._replace(images=small.numpy()), quantize=True)
