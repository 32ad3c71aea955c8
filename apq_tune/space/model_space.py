"""The space of a traced model: what can be removed from it, and at which bits what is left is computed."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from apq_tune.errors import SpaceError
from apq_tune.network.coupling import Coupling
from apq_tune.network.graph import Graph
from apq_tune.network.graph_difference import first_difference
from apq_tune.network.removable import Removable
from apq_tune.space.device import DevicePreset
from apq_tune.space.gene import Gene
from apq_tune.space.model_candidate import ModelCandidate
from apq_tune.space.model_choices import Choices, ModelOptions
from apq_tune.space.model_network import ModelNetwork, network_of_graph
from apq_tune.space.model_plan import ModelPlan, Planner, Ranks
from apq_tune.space.model_size import n_networks
from apq_tune.space.model_values import ModelValues
from apq_tune.space.network_space import NetworkSpace, Normalisation, check_not_narrowed
from apq_tune.space.overview import Overview, overview_of_model
from apq_tune.space.skeleton import first_complaint

FORMAT = 1
FIXED_BITS = 8
"""Bits of the inputs of layers without weights, of the image and of the logits."""

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")

FILE_KEYS = ("format", "name", "digest", "model")


class ImageShape(NamedTuple):
    """Images of a model.

    Attributes:
        channels: Number of channels.
    """

    channels: int


class ModelSpace(NetworkSpace):
    """Search space of a traced model: width of each group of coupled channels, removable residual blocks, bits.

    Gene names are those of the user's modules: ``"layer1.0.conv1 width"`` (channels of the first layer that makes
    them), ``"layer1.1 depth"`` (0 or 1), ``"layer1.0.conv1 w_bits"``, ``"layer1.0.conv1 a_bits"``,
    ``"layer1.0.conv1 sparsity"``, ``"resolution"``.

    Attributes:
        graph: The whole model.
        options: What is open in it.
    """

    def __init__(self, name: str, graph: Graph, options: ModelOptions | None = None) -> None:
        """Check the options with the model.

        Raises:
            SpaceError: If an option does not fit the model; the message names it and the remedy.
        """
        if not NAME.fullmatch(name):
            raise SpaceError(f"name: {name!r} is no name; give letters, digits, '_', '-' and '.'")
        self._name, self.graph, self.options = name, graph, options or ModelOptions()
        self._planner = Planner(graph, self.options, FIXED_BITS)
        self._planner.check()
        self._values = ModelValues(name, self._planner)

    @classmethod
    def from_module(cls, model: Any, example_input: Any, *, name: str | None = None, **options: Any) -> ModelSpace:
        """Trace a model, which is neither changed nor kept, and open what can be opened in it.

        Args:
            model: ``torch.nn.Module`` that classifies images.
            example_input: Tensor of images that it takes, shape ``(n, channels, h, w)``.
            name: Name of the space; by default that of the model's class.
            **options: Fields of ``ModelOptions``: ``data``, ``normalisation``, ``sizes``, ``step``, ``least``,
                ``w_bits``, ``a_bits``, ``sparsity``, ``ends``, ``keep``, ``genes``.

        Raises:
            ModelError: If the model cannot be traced; the message names the operation, its place and the remedy.
            SpaceError: If an option does not fit it.
        """
        from apq_tune.tracing.trace import trace

        name = name or re.sub(r"\W+", "_", type(model).__name__).lower()
        return cls.of_graph(trace(model, example_input), name=name, **options)

    @classmethod
    def of_graph(cls, graph: Graph, *, name: str = "model", **options: Any) -> ModelSpace:
        """Space of a model that has been traced; see ``from_module``.

        Raises:
            SpaceError: If an option does not fit the model.
        """
        return cls(name, graph, options_of(options, name))

    @property
    def name(self) -> str:
        """Name of the search space."""
        return self._name

    @property
    def data(self) -> str | None:
        """Name of the data set, or folder of images."""
        return self.options.data

    @property
    def input(self) -> ImageShape:
        """Shape of the images."""
        return ImageShape(self.graph.image[0])

    @property
    def normalisation(self) -> Normalisation | None:
        """How the model wants the values of pixels; ``None`` for the default of the package."""
        own = self.options.normalisation
        return None if own is None else Normalisation(own.mean, own.std)

    @property
    def classes(self) -> int:
        """Number of outputs of the model."""
        return math.prod(self.graph.nodes[-1].shape)

    @property
    def fixed_bits(self) -> int:
        """Bits of the inputs of layers without weights, of the image and of the logits."""
        return FIXED_BITS

    @property
    def device(self) -> DevicePreset | None:
        """Device that the space was narrowed for."""
        return self.options.device

    @property
    def whole(self) -> ModelSpace:
        """The space that this one was narrowed from; itself if it was not narrowed."""
        if self.device is None:
            return self
        return ModelSpace(self.name, self.graph, self.options.model_copy(update={"device": None}))

    def narrowed(self, preset: DevicePreset) -> ModelSpace:
        """The part of the space that a device can run.

        Raises:
            DeviceError: If nothing is left; the message names the layer, what it offers, and what the device runs.
        """
        check_not_narrowed(self, preset)
        return ModelSpace(self.name, self.graph, self.options.model_copy(update={"device": preset}))

    @property
    def stored_bits(self) -> tuple[int, ...]:
        """All bits at which a tensor may be stored, ascending."""
        searched = {bits for choice in self.choices.a_bits.values() for bits in choice.values}
        return tuple(sorted({FIXED_BITS, *searched}))

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Image sizes to choose from, ascending."""
        return self._planner.sizes

    @property
    def coupling(self) -> Coupling:
        """Coupled channels of the whole model."""
        return self._planner.coupling

    @property
    def blocks(self) -> tuple[Removable, ...]:
        """Residual blocks that can be left out."""
        return self._planner.blocks

    @property
    def choices(self) -> Choices:
        """What is open, and its genes."""
        return self._planner.choices

    @property
    def genes(self) -> tuple[Gene, ...]:
        """Genes: blocks, the resolution if there are several, widths, sparsities, bits of weights, bits of inputs."""
        return self.choices.genes

    @functools.cached_property
    def network(self) -> ModelNetwork:
        """The networks, layer by layer, as functions of the genes."""
        return network_of_graph(self._planner, FIXED_BITS)

    def plan(self, candidate: ModelCandidate, ranks: Ranks | None = None) -> ModelPlan:
        """Graph and layers of a candidate, and the parts of the model's parameters that it has.

        Args:
            candidate: Candidate of this space.
            ranks: Units of each group of coupled channels by its index, from the most important one, of which a
                candidate has the first; by default as they come in the model. Pass a new object for new ranks.

        Raises:
            CandidateError: If the candidate is not in the space.
        """
        return self._planner.plan(self.values_of(candidate), ranks)

    def candidate_of(self, values: Mapping[str, int]) -> ModelCandidate:
        """The candidate with these values, one for each gene; those of layers that are left out are passed over.

        Pairs of bits that the device of the space does not run are replaced by the nearest ones that it runs.
        """
        return self._values.candidate_of(values)

    def values_of(self, candidate: ModelCandidate) -> dict[str, int]:
        """Values of a candidate by gene name; inert genes have their first value.

        Raises:
            CandidateError: If it is a candidate of another space.
        """
        return self._values.values_of(candidate)

    def size(self, *, bits: bool = True) -> int:
        """Number of different networks (with ``bits``: of networks and bit policies)."""
        return n_networks(self.choices, bits=bits)

    def log10_size(self, *, bits: bool = True) -> float:
        """``size`` as a power of ten."""
        return math.log10(self.size(bits=bits))

    def check_model(self, graph: Graph) -> None:
        """Refuse another model than that of the space.

        Args:
            graph: Graph of a model, as traced.

        Raises:
            SpaceError: If it differs; the message names the first difference.
        """
        if graph.digest != self.graph.digest:
            raise SpaceError(
                f"{self.name}: is the space of another model: {first_difference(self.graph, graph)}; give that model, "
                "or make a new space of this one"
            )

    def overview(self) -> Overview:
        """One row for each kind of choice and its values."""
        return overview_of_model(self)

    def fitted(self, data: str | None, channels: int, classes: int) -> ModelSpace:
        """The space for other images, which must have the channels and classes that the model has.

        Raises:
            SpaceError: If they have not.
        """
        for what, own, given in (("channels", self.input.channels, channels), ("classes", self.classes, classes)):
            if own != given:
                raise SpaceError(
                    f"{self.name}: the model has {own} {what}, {data} has {given}; give a model with {given} {what}"
                )
        return self.with_data(data)

    def with_data(self, data: str | None) -> ModelSpace:
        """The same space for other images of the same shape and number of classes."""
        return ModelSpace(self.name, self.graph, self.options.model_copy(update={"data": data}))

    def to_dict(self) -> dict[str, Any]:
        """Content of the file of the space."""
        head = {"format": FORMAT, "name": self.name}
        options = self.options.model_dump(mode="json", exclude_none=True)
        options |= {"ends": self.options.ends}  # None has a meaning
        plain = head | options | {"digest": self.graph.digest, "model": self.graph.to_plain()}
        return dict(json.loads(json.dumps(plain)))  # with lists for tuples, as records have them

    def to_record(self) -> dict[str, Any]:
        """Plain data to which the records of runs are compared."""
        return self.to_dict()

    def to_yaml(self) -> str:
        """The space as YAML; ``from_dict(yaml.safe_load(...))`` gives an equal space."""
        dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
        return str(yaml.dump(self.to_dict(), Dumper=dumper, sort_keys=False, default_flow_style=None, width=120))

    @classmethod
    def from_dict(cls, data: Any, source: str = "search space") -> ModelSpace:
        """Inverse of ``to_dict``.

        Raises:
            SpaceError: If the data is invalid, or its model is not the one that was traced; the message names
                ``source``, the key, the fault and the remedy.
        """
        again = "make it again of the model"
        if not isinstance(data, Mapping) or (missing := [key for key in FILE_KEYS if key not in data]):
            raise SpaceError(f"{source}: is no space of a model ({', '.join(missing)} missing); {again}")
        if data["format"] != FORMAT or isinstance(data["format"], bool):
            raise SpaceError(f"{source}: format is {data['format']!r}, this version reads {FORMAT}; {again}")
        if not isinstance(data["name"], str):
            raise SpaceError(f"{source}: name is {data['name']!r}; give text")
        graph = Graph.from_plain(data["model"], f"{source}: model")
        if graph.digest != data["digest"]:
            raise SpaceError(f"{source}: its model is damaged or was changed by hand (another digest); {again}")
        options = {key: value for key, value in data.items() if key not in FILE_KEYS}
        try:
            return cls(data["name"], graph, options_of(options, source))
        except SpaceError as error:
            said = str(error)
            raise SpaceError(said if said.startswith(source) else f"{source}: {said}") from None

    def __eq__(self, other: object) -> bool:
        """Whether the other object is the same space of the same model."""
        if not isinstance(other, ModelSpace):
            return NotImplemented
        own = (self.name, self.options, self.graph.digest)
        return own == (other.name, other.options, other.graph.digest)

    def __hash__(self) -> int:
        """By name and model."""
        return hash((self.name, self.graph.digest))

    def __repr__(self) -> str:
        """Name and numbers of layers and genes."""
        return f"ModelSpace({self.name!r}, {len(self.graph.weighted)} layers, {len(self.genes)} genes)"

    def __reduce__(self) -> tuple[Any, ...]:
        """The model and its options; all else is derived again."""
        return ModelSpace, (self.name, self.graph, self.options)


def options_of(options: Mapping[str, Any], source: str) -> ModelOptions:
    """Options of a model from plain data.

    Raises:
        SpaceError: If one is unknown or invalid; the message begins with ``source``.
    """
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
    for key in ("sizes", "w_bits", "a_bits"):
        if isinstance(plain.get(key), int):
            plain[key] = [plain[key]]
    if isinstance(plain.get("sparsity"), int | float | str):
        plain["sparsity"] = [plain["sparsity"]]
    if isinstance(plain.get("keep"), str):
        plain["keep"] = [plain["keep"]]
    try:
        return ModelOptions.model_validate(plain)
    except ValidationError as error:
        raise SpaceError(f"{source}: {first_complaint(error)}") from None
