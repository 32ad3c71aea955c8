"""What all search spaces of networks offer: their data, their images, their networks, and their file."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from apq_tune.errors import DeviceError
from apq_tune.space.device import DevicePreset
from apq_tune.space.parameters import Space

if TYPE_CHECKING:
    from typing import Self

    from apq_tune.network.network import Network
    from apq_tune.space.overview import Overview


class NetworkCandidate(Protocol):
    """One network of a search space with its bit policy; equal networks are equal objects, and hashable."""

    @property
    def resolution(self) -> int | None:
        """Pixels along a side of the input, where the space offers several; else ``None``."""
        ...

    @property
    def short_name(self) -> str:
        """What ``short`` tells, as the head of a column."""
        ...

    @property
    def short(self) -> str:
        """A few characters for tables, such as the depths."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Plain data, which ``candidate.read_candidate`` reads."""
        ...

    def to_json(self) -> str:
        """One line of JSON."""
        ...


class Image(Protocol):
    """Shape of the images of a search space."""

    @property
    def channels(self) -> int:
        """Number of channels."""
        ...


class Normalisation(NamedTuple):
    """How a network wants the values of pixels, which are from 0 to 1: less the mean, over the standard deviation.

    Attributes:
        mean: Mean of each channel.
        std: Standard deviation of each channel.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


class NetworkSpace(Space, abc.ABC):
    """Search space of networks that can be trained on images.

    ``encoding_of`` has its genomes, ``files.load_space`` reads its file.
    """

    if TYPE_CHECKING:

        @property
        def data(self) -> str | None:
            """Name of the data set, or folder of images; ``None`` if the space is of no particular data."""

        @property
        def input(self) -> Image:
            """Shape of the images."""

        @property
        def classes(self) -> int:
            """Number of classes."""

        @property
        def fixed_bits(self) -> int:
            """Bits of what is not searched."""

        @property
        def resolutions(self) -> tuple[int, ...]:
            """Input sizes to choose from, ascending."""

        @property
        def network(self) -> Network:
            """The networks, layer by layer, as functions of the genes."""

        @property
        def device(self) -> DevicePreset | None:
            """Device that the space was narrowed for."""

    @property
    def normalisation(self) -> Normalisation | None:
        """How networks want the values of pixels; ``None`` for the default of the package."""
        return None

    @abc.abstractmethod
    def size(self, *, bits: bool = True) -> int:
        """Number of different networks (with ``bits``: of networks and bit policies)."""

    @abc.abstractmethod
    def log10_size(self, *, bits: bool = True) -> float:
        """``size`` as a power of ten."""

    @abc.abstractmethod
    def overview(self) -> Overview:
        """What is open, as a table for people."""

    @abc.abstractmethod
    def fitted(self, data: str | None, channels: int, classes: int) -> Self:
        """The space for other images.

        Args:
            data: Name of the data set, or folder of images.
            channels: Channels of the images.
            classes: Number of classes.

        Raises:
            SpaceError: If the networks cannot have such an input or output.
        """

    @abc.abstractmethod
    def with_data(self, data: str | None) -> Self:
        """The same space for other images of the same shape and number of classes."""

    @property
    def whole(self) -> NetworkSpace:
        """The space that this one was narrowed from; itself if it was not narrowed."""
        return self

    def narrowed(self, preset: DevicePreset) -> Self:
        """The part of the space that a device can run, whose file says so.

        Raises:
            DeviceError: If nothing is left, which names the layer, what it offers, and what the device runs; or if the
                space is of a kind that cannot be narrowed.
        """
        raise DeviceError(
            f"{self.name}: a {type(self).__name__} cannot be narrowed for {preset.name}; narrow its genes"
        )

    @abc.abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Content of the file of the space, from which ``files.space_from`` makes it again."""

    @abc.abstractmethod
    def to_record(self) -> dict[str, Any]:
        """Plain data to which the records of runs are compared; ``files.space_from`` reads it, too."""

    @abc.abstractmethod
    def to_yaml(self) -> str:
        """The space as a YAML file."""


def check_not_narrowed(space: NetworkSpace, preset: DevicePreset) -> None:
    """Refuse to narrow a space for a second device.

    Raises:
        DeviceError: If it was narrowed for another one.
    """
    if space.device is not None and space.device != preset:
        raise DeviceError(
            f"{space.name}: is narrowed for {space.device.name} already; narrow the space that it was made of for "
            f"{preset.name}"
        )
