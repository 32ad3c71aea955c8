"""Trained supernets, in which candidates are scored and from which their quantization-aware training starts."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from apq_tune.data import Data
from apq_tune.errors import RunError
from apq_tune.space.network_space import NetworkCandidate, NetworkSpace
from apq_tune.supernet.batches import first_images
from apq_tune.supernet.defaults import plain_torch
from apq_tune.supernet.device import Device, device_of
from apq_tune.supernet.evaluate import Score, score_candidate, subnet_from
from apq_tune.supernet.interfaces import AnySubnet, AnySupernet
from apq_tune.supernet.kinds import supernet_of


@dataclass(frozen=True)
class TrainedSupernet:
    """Weights of a trained supernet and the data to run it on.

    Attributes:
        space: Search space of the supernet.
        weights: State of the supernet.
        data: Data to calibrate, train and score with.
        n_calibration: Number of training images for batch norm statistics.
        device: Device on which networks run, ``"cpu"`` or ``"cuda"``. Its availability is checked on first use, so
            that a process without a GPU can pass the object to a trial that has one.
    """

    space: NetworkSpace
    weights: Mapping[str, Tensor]
    data: Data
    n_calibration: int = 256
    device: Device = "cpu"

    def __post_init__(self) -> None:
        if self.device not in ("cpu", "cuda"):
            raise RunError(f"device is {self.device!r}; give 'cpu' or 'cuda'")

    @functools.cached_property
    @plain_torch()
    def network(self) -> AnySupernet:
        """Supernet with these weights on the device.

        Raises:
            RunError: If the device is not available.
        """
        device_of(self.device)
        torch.set_num_threads(1)
        supernet = supernet_of(self.space)
        supernet.load_state_dict(dict(self.weights))
        return supernet.to(self.device)

    @functools.cached_property
    @plain_torch()
    def calibration(self) -> Tensor:
        """Images for batch norm statistics, shape ``(n_calibration, channels, size, size)``."""
        return first_images(self.data.train, self.n_calibration).to(self.device)

    @plain_torch()
    def subnet(self, candidate: NetworkCandidate) -> AnySubnet:
        """Subnet of one candidate on the device, the starting point of its quantization-aware training."""
        return subnet_from(self.network, candidate, self.calibration, quantize=True)

    @plain_torch()
    def score(self, candidate: NetworkCandidate, *, quantize: bool) -> Score:
        """Score one candidate on the search split, batch norm recalibrated for it.

        Args:
            candidate: Network to score.
            quantize: Whether it runs at its bits, or in full precision.
        """
        return score_candidate(self.network, candidate, self.calibration, self.data.search, quantize=quantize)

    def on_first(self, n_search: int | None) -> TrainedSupernet:
        """The same supernet with only the first images of the search split; ``None`` keeps all."""
        if n_search is None:
            return self
        return dataclasses.replace(self, data=self.data._replace(search=self.data.search.first(n_search)))

    def __getstate__(self) -> dict[str, Any]:
        names = {field.name for field in dataclasses.fields(self)}
        return {name: value for name, value in self.__dict__.items() if name in names}
