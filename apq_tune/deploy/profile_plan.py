"""What a profile measures, the most informative first: operations of a search space, and random networks of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apq_tune.deploy.forms import LayerForm, forms_of_graph
from apq_tune.deploy.network_models import network_model
from apq_tune.deploy.op_models import PRECISIONS, has_model, op_model
from apq_tune.deploy.op_regression import shape_features
from apq_tune.deploy.profile_ops import RUN, ProfileOp, network_ops, placed_layers
from apq_tune.network.layer import Layer, Tensor
from apq_tune.space.encodings import encoding_of
from apq_tune.space.model_space import ModelSpace
from apq_tune.space.network_space import NetworkSpace

N_SHARES = 200
"""Number of random networks by which the importance of operations is estimated."""

FEW = 3
"""Number of operations of each family that are measured first, so that the others can be predicted."""

EARLY = 0.4
"""Share of the order in which all networks come."""

WEIGHT_OF_VALUE = 4.0
"""Rough time of reading or writing a value, in multiply-accumulates."""


class ProfiledNetwork(NamedTuple):
    """Network that is measured as a whole.

    Attributes:
        name: Name of the network.
        layers: Layers with integer numbers.
        image: Input tensor.
        forms: Forms of its layers if it is one of a traced model.
    """

    name: str
    layers: tuple[Layer, ...]
    image: Tensor
    forms: Mapping[str, LayerForm] | None = None

    @property
    def ops(self) -> list[ProfileOp]:
        """Operations of the network."""
        return network_ops(self.layers, self.image)


class ProfileItem(NamedTuple):
    """Model that is measured.

    Attributes:
        key: Unique name.
        precision: One of ``PRECISIONS``.
        target: Operation or network.
    """

    key: str
    precision: str
    target: ProfileOp | ProfiledNetwork

    @property
    def n_instances(self) -> int:
        """Number of instances of the target in the model."""
        return self.target.n_instances if isinstance(self.target, ProfileOp) else 1

    @property
    def n_bytes(self) -> int:
        """Bytes of the weights in memory, roughly."""
        ops = [self.target] if isinstance(self.target, ProfileOp) else self.target.ops
        return self.n_instances * sum(op.n_weights for op in ops) * (4 if self.precision == "fp32" else 1)

    def model(self) -> bytes:
        """The ONNX file."""
        if isinstance(self.target, ProfileOp):
            return op_model(self.target, self.precision)
        return network_model(self.target.layers, self.target.image, self.precision, self.target.forms)


def random_networks(space: NetworkSpace, n: int, seed: int) -> list[ProfiledNetwork]:
    """Random networks of a search space."""
    encoding, network = encoding_of(space), space.network
    found = []
    for number, candidate in enumerate(encoding.decode(encoding.sample(n, np.random.default_rng(seed)))):
        values = space.values_of(candidate)
        size = network.sizes[-1] if network.size_gene is None else values[network.size_gene]
        forms = forms_of_graph(space.plan(candidate).graph) if isinstance(space, ModelSpace) else None
        found.append(ProfiledNetwork(f"network-{number:03d}", network.at(values), network.image(size), forms))
    return found


def all_ops(space: NetworkSpace) -> list[ProfileOp]:
    """Distinct operations of all networks of a search space."""
    return [RUN, *dict.fromkeys(op for placed in placed_layers(space.network) for op in placed.ops)]


def plan(space: NetworkSpace, n_networks: int, seed: int) -> list[ProfileItem]:
    """Everything that a profile measures, the most informative first.

    Args:
        space: Search space.
        n_networks: Number of random networks that are measured as a whole.
        seed: Seed of the networks.
    """
    shares: Counter[ProfileOp] = Counter()
    for drawn in random_networks(space, N_SHARES, seed + 1):
        shares.update(drawn.ops)
    ordered = by_information(all_ops(space), shares)
    networks = random_networks(space, n_networks, seed)
    few = len(_first(ordered))
    late = ordered[few:]
    gap = max(1, int(EARLY * len(late) / max(1, n_networks)))
    targets: list[ProfileOp | ProfiledNetwork] = list(ordered[:few])
    for number in range(max(n_networks, -(-len(late) // gap))):
        targets += late[number * gap : (number + 1) * gap]
        targets += networks[number : number + 1]
    return [
        ProfileItem(f"{precision}-{target.key if isinstance(target, ProfileOp) else target.name}", precision, target)
        for target in targets
        for precision in PRECISIONS
        if not isinstance(target, ProfileOp) or has_model(target, precision)
    ]


def by_information(ops: Sequence[ProfileOp], shares: Mapping[ProfileOp, int]) -> list[ProfileOp]:
    """Order operations by their share of the time of random networks and their distance to those before them.

    The first ``FEW`` of every family come first.

    Args:
        ops: Operations.
        shares: Occurrences of operations in random networks.
    """
    work = np.array([op.macs + WEIGHT_OF_VALUE * op.n_values for op in ops])
    weight = np.sqrt(work * np.array([0.5 + shares.get(op, 0) for op in ops]))
    features = shape_features(ops)
    distance: NDArray[np.float64] = np.ones(len(ops))
    found = []
    for number in range(len(ops)):
        best = int(np.argmax(np.where(distance < 0, -1.0, weight * distance)))
        own = np.sqrt(np.square(features - features[best]).sum(axis=1)) + 1e-6
        distance = own if number == 0 else np.where(distance < 0, distance, np.minimum(distance, own))
        distance[best] = -1.0
        found.append(ops[best])
    first = _first(found)
    return first + [op for op in found if op not in set(first)]


def _first(ordered: Sequence[ProfileOp]) -> list[ProfileOp]:
    """The first ``FEW`` operations of every family."""
    seen: Counter[str] = Counter()
    found = []
    for op in ordered:
        seen[op.family] += 1
        if seen[op.family] <= FEW:
            found.append(op)
    return found
