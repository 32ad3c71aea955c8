"""Models of the parts of a search space in its YAML file.

The file format is documented in ``search_spaces/README.md``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Tag,
    ValidationError,
    create_model,
    model_validator,
)

from apq_tune.inputs.ranges import Finite, Flag, Whole
from apq_tune.network.layer import Activation
from apq_tune.space.block_types import BLOCK_TYPES
from apq_tune.space.gene import BIT_KINDS
from apq_tune.space.sparse_blocks import sparsity_fields
from apq_tune.space.sparsities import SparsityChoice

Number = TypeVar("Number", int, float)

BIT_NAMES = tuple(
    dict.fromkeys(field.name for known in BLOCK_TYPES.values() for field in known.fields if field.kind in BIT_KINDS)
)
"""Names of bit-widths, of all types of blocks."""

SPARSITY_NAMES = tuple(dict.fromkeys(field.name for known in BLOCK_TYPES.values() for field in sparsity_fields(known)))
"""Names of sparsities, of all types of blocks."""


def ascending(values: tuple[Number, ...]) -> tuple[Number, ...]:
    """Refuse lists that are empty or not strictly ascending."""
    if not values:
        raise ValueError("has no values; give at least one")
    if list(values) != sorted(set(values)):
        raise ValueError(f"{list(values)} is not strictly ascending; write {sorted(set(values))}")
    return values


def _odd(kernel_size: int) -> int:
    if kernel_size % 2 == 0:
        raise ValueError(f"{kernel_size} is even; kernels are odd, so that padding is symmetric")
    return kernel_size


Kernel = Annotated[int, Whole(1, 99), AfterValidator(_odd)]
Bits = Annotated[int, Whole(2, 8)]
Depth = Annotated[int, Whole(1, 100)]
Size = Annotated[int, Whole(1, 10_000)]
Stride = Annotated[int, Whole(1, 100)]
Channels = Annotated[int, Whole(1, 100_000)]
Classes = Annotated[int, Whole(1, 1_000_000)]
KernelChoice = Annotated[tuple[Kernel, ...], AfterValidator(ascending)]
BitChoice = Annotated[tuple[Bits, ...], AfterValidator(ascending)]
DepthChoice = Annotated[tuple[Depth, ...], AfterValidator(ascending)]
SizeChoice = Annotated[tuple[Size, ...], AfterValidator(ascending)]
Ratio = Annotated[float, Finite(0, 100, above=True)]
RatioChoice = Annotated[tuple[Ratio, ...], AfterValidator(ascending)]


class Model(BaseModel):
    """Part of a file; immutable, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _kind_of_size(value: Any) -> str:
    return SIZES if isinstance(value, list | tuple) else ONE_SIZE


ONE_SIZE, SIZES = "one size", "several sizes"
RULE, WORD = "a rule", "a word"


class Input(Model):
    """Shape of one image, ``channels x size x size``; several sizes make the resolution a choice."""

    channels: Channels
    size: Annotated[
        Annotated[Size, Tag(ONE_SIZE)] | Annotated[SizeChoice, Tag(SIZES)],
        Discriminator(_kind_of_size),
    ]


class Stem(Model):
    """The first convolution, never searched."""

    channels: Channels
    kernel_size: Kernel = 3
    stride: Stride = 1
    activation: Activation = "relu6"


class First(Model):
    """A depthwise separable block right after the stem, never searched; with a shortcut if it keeps the channels."""

    channels: Channels
    kernel_size: Kernel = 3
    activation: Activation = "relu6"


class Head(Model):
    """The last pointwise convolution, before pooling and the classifier, never searched.

    ``features`` adds a fully connected layer between pooling and classifier (Howard 2019, MobileNetV3).
    """

    channels: Channels
    features: Channels | None = None
    activation: Activation = "relu6"


class ExpandRange(Model):
    """Middle channels from ``min_ratio`` to ``max_ratio`` times the block's input channels, ``step`` channels apart."""

    min_ratio: Ratio
    max_ratio: Ratio
    step: Channels = 8

    @model_validator(mode="after")
    def _ordered(self) -> ExpandRange:
        if self.min_ratio > self.max_ratio:
            raise ValueError(f"min_ratio {self.min_ratio} is above max_ratio {self.max_ratio}; swap them")
        return self


def _kind_of_expansion(value: Any) -> str:
    return LISTED if isinstance(value, list | tuple) else RANGE


KEY = "[key]"  # pydantic's word
LISTED, RANGE = "a list of ratios", "a range of ratios"
Expansion = Annotated[
    Annotated[ExpandRange, Tag(RANGE)] | Annotated[RatioChoice, Tag(LISTED)], Discriminator(_kind_of_expansion)
]


def _type_of_block(name: str) -> str:
    if name not in BLOCK_TYPES:
        raise ValueError(f"{name!r} is not a type of block; choose one of {list(BLOCK_TYPES)}")
    return name


BlockName = Annotated[str, AfterValidator(_type_of_block)]


class Shapes(Model):
    """Shapes of all blocks, which stages may override."""

    kernel_size: KernelChoice
    expand_ratio: Expansion
    divisor: Channels = 8


class ForbiddenRule(Model):
    """Combination of values that is forbidden for a block."""

    kernel_size: Kernel | None = None

    @property
    def rule(self) -> dict[str, int]:
        """Values of the given fields by name."""
        return self.model_dump(exclude_none=True)

    @model_validator(mode="after")
    def _says_something(self) -> ForbiddenRule:
        if not self.rule:
            raise ValueError("is empty; name at least one field, or drop the rule")
        return self


if TYPE_CHECKING:
    ChoiceLists = Shapes
    Forbidden = ForbiddenRule
else:  # with the bit-widths and sparsities of all types of blocks, of which a space gives those that its blocks have
    ChoiceLists = create_model(
        "ChoiceLists",
        __base__=Shapes,
        **dict.fromkeys(BIT_NAMES, (BitChoice | None, None)),
        **dict.fromkeys(SPARSITY_NAMES, (SparsityChoice | None, None)),
    )
    Forbidden = create_model("Forbidden", __base__=ForbiddenRule, **dict.fromkeys(BIT_NAMES, (Bits | None, None)))


class Stage(Model):
    """Blocks of one resolution; the first has the stage's stride and changes the channels."""

    channels: Channels
    stride: Stride = 1
    depth: DepthChoice
    activation: Activation = "relu6"
    squeeze_excite: Flag = False
    block: BlockName | None = None
    kernel_size: KernelChoice | None = None
    expand_ratio: Expansion | None = None


WANTED = {
    "tuple_type": "give a list",
    "list_type": "give a list",
    "dict_type": "give a mapping",
    "model_type": "give a mapping",
    "string_type": "give text, in YAML with quotes if it is a number ('0')",
}
"""What a file should have had instead, by pydantic's type of an error."""


def first_complaint(error: ValidationError) -> str:
    """One line on the first validation error: the key, the value, and the remedy."""
    problems = error.errors()
    first = problems[0]
    key = ""
    for part in first["loc"]:
        if isinstance(part, int):
            key += f"[{part}]"
        elif part not in (LISTED, RANGE, ONE_SIZE, SIZES, RULE, WORD, KEY):
            key += f".{part}" if key else part
    if first["type"] == "extra_forbidden":
        said = "unknown key; remove it or correct its spelling"
    elif first["type"] == "missing":
        said = "is missing; add it"
    elif first["type"] in WANTED:
        said = f"{WANTED[first['type']]}, got {first['input']!r}"
    else:
        said = first["msg"].removeprefix("Value error, ")
        if not isinstance(first["input"], dict | list | tuple) and first["type"] != "value_error":
            said += f", got {first['input']!r}"
    return f"{key}: {said}" if key else said
