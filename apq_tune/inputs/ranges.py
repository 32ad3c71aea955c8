"""Allowed range of every numeric setting, shared by settings files, command-line options, arguments and documentation.

Integers may be written as ``1000`` or ``1e3``. Booleans, text, infinity and NaN are not accepted as numbers.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Annotated, Any, TypeVar, get_type_hints

from pydantic import BaseModel, GetCoreSchemaHandler, Strict, TypeAdapter, ValidationError
from pydantic_core import CoreSchema, core_schema

from apq_tune.errors import RunError

Model = TypeVar("Model", bound=BaseModel)

SHOWN = 60
"""Maximum number of characters of a wrong value that a message repeats."""


def shown(value: Any) -> str:
    """Representation of a value for messages, truncated if it is long."""
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python writes out
        return f"a number of {value.bit_length()} bits"
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


@dataclass(frozen=True)
class Range:
    """Closed range of numbers; used as an annotation, it makes pydantic check a field.

    Attributes:
        low: Smallest value.
        high: Largest value.
    """

    low: float
    high: float

    def read(self, value: Any) -> Any:
        """Convert a value to a Python number of the range's type; ``None`` if it is not such a number."""
        raise NotImplementedError

    def check(self, value: Any) -> Any:
        """Convert a value and check that it is in the range.

        Raises:
            ValueError: If it is not; the message has the range and the value.
        """
        number = None if isinstance(value, bool) else self.read(value)
        if number is None or not self.holds(number):
            raise ValueError(f"give {self}, got {shown(value)}")
        return number

    def holds(self, number: float) -> bool:
        """Whether a number is in the range."""
        return self.low <= number <= self.high

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Let pydantic validate with ``check``."""
        return core_schema.no_info_plain_validator_function(self.check)


@dataclass(frozen=True)
class Whole(Range):
    """Closed range of integers."""

    low: int
    high: int

    def read(self, value: Any) -> int | None:
        """Convert an int, a NumPy integer, or a float with an integral value."""
        if isinstance(value, Integral):
            return int(value)
        return int(float(value)) if isinstance(value, Real) and float(value).is_integer() else None

    def __str__(self) -> str:
        return f"a whole number from {self.low} to {self.high}"


@dataclass(frozen=True)
class Finite(Range):
    """Range of finite floats.

    Attributes:
        above: Whether ``low`` itself is excluded.
        below: Whether ``high`` itself is excluded.
    """

    above: bool = False
    below: bool = False

    def read(self, value: Any) -> float | None:
        """Convert a float, an int or a NumPy number."""
        try:
            number = float(value) if isinstance(value, Real) else math.nan
        except OverflowError:
            return None
        return number if math.isfinite(number) else None

    def holds(self, number: float) -> bool:
        """Whether a number is in the range."""
        inside = self.low <= number <= self.high
        return inside and not (self.above and number == self.low) and not (self.below and number == self.high)

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.above else f"from {self.low:g}"
        return f"a number {low} {'and below' if self.below else 'to'} {self.high:g}"


SEED = Whole(0, 2**32 - 1)
COUNT = Whole(1, 1_000_000)
EPOCHS = Whole(1, 10_000)
EPOCHS_OR_NONE = Whole(0, 10_000)
FINALISTS = Whole(1, 1_000)
PER_ROUND = Whole(1, 10_000)
BATCH_SIZE = Whole(1, 100_000)
IMAGES = Whole(1, 1_000_000_000)
STEPS = Whole(1, 1_000_000_000)
EVALUATIONS = Whole(1, 1_000_000_000)
MEASURED = Whole(10, 1_000_000)
ROUNDS = Whole(1, 1_000)
FOLDS = Whole(2, 10)
SPLITS = Whole(3, 1_000)
SEEDS = Whole(1, 10_000)
COMPARED_SEEDS = Whole(2, 10_000)
CPUS = Whole(1, 100_000)
NETWORKS = Whole(0, 1_000)
MINUTES = Finite(0, 100_000, above=True)
GPUS = Finite(0, 1_000, above=True)
LEARNING_RATE = Finite(0, 10, above=True)
WEIGHT_DECAY = Finite(0, 1)
SHARE = Finite(0, 1, below=True)
DEVIATIONS = Finite(0, 1_000)
PROXY = Whole(60, 1_000_000)
SHORT = Whole(3, 100_000)

Seed = Annotated[int, SEED]
Count = Annotated[int, COUNT]
Epochs = Annotated[int, EPOCHS]
EpochsOrNone = Annotated[int, EPOCHS_OR_NONE]
Finalists = Annotated[int, FINALISTS]
PerRound = Annotated[int, PER_ROUND]
Flag = Annotated[bool, Strict()]
BatchSize = Annotated[int, BATCH_SIZE]
Images = Annotated[int, IMAGES]
Steps = Annotated[int, STEPS]
Evaluations = Annotated[int, EVALUATIONS]
Measured = Annotated[int, MEASURED]
Rounds = Annotated[int, ROUNDS]
Folds = Annotated[int, FOLDS]
LearningRate = Annotated[float, LEARNING_RATE]
WeightDecay = Annotated[float, WEIGHT_DECAY]
Minutes = Annotated[float, MINUTES]
Share = Annotated[float, SHARE]
Deviations = Annotated[float, DEVIATIONS]
Proxy = Annotated[int, PROXY]
Short = Annotated[int, SHORT]


_WANTED = {
    "bool_type": "give true or false",
    "string_type": "give text",
    "tuple_type": "give a list",
    "dataclass_type": "give a mapping, or set its parts one by one",
}
"""Remedies for values of the wrong type, by the type of pydantic's error."""


def complaint(error: ValidationError) -> str:
    """One-line message for the first error that pydantic found: name of the setting, allowed values, and value."""
    first = error.errors()[0]
    name = ".".join(map(str, first["loc"]))
    if first["type"] == "value_error":
        said = first["msg"].removeprefix("Value error, ")
    elif first["type"] == "extra_forbidden":
        said = "there is no such setting; remove it or correct its spelling"
    elif first["type"] == "missing":
        said = "is missing; give it"
    else:
        said = f"{_WANTED.get(first['type'], first['msg'])}, got {shown(first['input'])}"
        said = said.replace("Input should be", "give")
    return f"{name}: {said}" if name else said


def validated(model: type[Model], data: Mapping[str, Any]) -> Model:
    """Build settings from plain data.

    Raises:
        RunError: If a setting is invalid; the message names the setting, its value and the allowed values.
    """
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        raise RunError(f"setting {complaint(error)}") from None


@functools.cache
def _adapters(owner: type) -> dict[str, TypeAdapter[Any]]:
    return {name: TypeAdapter(hint) for name, hint in get_type_hints(owner, include_extras=True).items()}


def checked(owner: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Check and convert the fields of a dataclass by their annotations.

    Raises:
        RunError: If a field is invalid; the message names the field, its value and the allowed values.
    """
    result = {}
    for name, value in values.items():
        try:
            result[name] = _adapters(owner)[name].validate_python(value)
        except ValidationError as error:  # noqa: PERF203
            raise RunError(f"setting {name}: {complaint(error)}") from None
    return result
