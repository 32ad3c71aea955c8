"""Choice of the supernet and of the stand-alone networks of a search space by its kind."""

from __future__ import annotations

from typing import Any

import torch

from apq_tune.errors import SpaceError
from apq_tune.space.model_space import ModelSpace
from apq_tune.space.search_space import SearchSpace
from apq_tune.supernet.graph_subnet import GraphSubnet
from apq_tune.supernet.graph_supernet import GraphSupernet
from apq_tune.supernet.interfaces import AnySubnet, AnySupernet
from apq_tune.supernet.network import Supernet
from apq_tune.supernet.subnet import Subnet


def supernet_of(space: Any) -> AnySupernet:
    """New supernet of a search space, initialised with torch's global generator.

    Raises:
        SpaceError: If the space has no networks that could be trained.
    """
    if isinstance(space, SearchSpace):
        return Supernet(space)
    if isinstance(space, ModelSpace):
        return GraphSupernet(space)
    raise _untrainable(space)


def untrained_supernet(space: Any, device: torch.device, seed: int) -> AnySupernet:
    """Supernet with random weights of a seed; torch's global generator is left as it was.

    Raises:
        SpaceError: If the space has no networks that could be trained.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return supernet_of(space).to(device)


def subnet_of(space: Any, candidate: Any) -> AnySubnet:
    """Stand-alone network of a candidate, whose weights are still to be loaded.

    Raises:
        SpaceError: If the space has no networks that could be trained.
    """
    if isinstance(space, SearchSpace):
        return Subnet(space, candidate)
    if isinstance(space, ModelSpace):
        return GraphSubnet(space, candidate)
    raise _untrainable(space)


def _untrainable(space: Any) -> SpaceError:
    return SpaceError(
        f"{getattr(space, 'name', space)!r} has no networks that could be trained; give a SearchSpace or a ModelSpace"
    )
