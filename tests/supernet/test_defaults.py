"""Whatever a notebook did to torch's defaults: networks and losses are the same, and the defaults are left alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from apq_tune import NetworkEncoding, QATLoss, SearchSpace, SupernetLoss, TrainedSupernet
from apq_tune.data import load_data
from apq_tune.supernet.network import Supernet
from apq_tune.supernet.train import Training


@pytest.fixture
def odd_torch(request: pytest.FixtureRequest) -> Iterator[None]:
    {
        "double": lambda: torch.set_default_dtype(torch.float64),
        "half": lambda: torch.set_default_dtype(torch.float16),
        "no gradients": lambda: torch.set_grad_enabled(False),
        "meta": lambda: torch.set_default_device("meta"),
    }[request.param]()
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    torch.set_default_device(None)


def _losses(space: SearchSpace) -> tuple[float, float]:
    data = load_data(space)
    data = data._replace(train=data.train.first(64), search=data.search.first(64))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        supernet = TrainedSupernet(space, Supernet(space).state_dict(), data)
    encoding = NetworkEncoding(space)
    genomes = encoding.sample(1, np.random.default_rng(0))
    qat = QATLoss(supernet, Training(epochs=1, batch_size=32))
    return float(SupernetLoss(supernet)(genomes)[0]), float(qat(genomes)[0])


@pytest.mark.parametrize("odd_torch", ["double", "half", "no gradients", "meta"], indirect=True)
def test_losses_do_not_depend_on_torchs_defaults(
    odd_torch: None, request: pytest.FixtureRequest, space: SearchSpace
) -> None:
    now = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_default_device().type
    found = _losses(space)
    assert (torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_default_device().type) == now
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    torch.set_default_device(None)
    assert found == _losses(space)
