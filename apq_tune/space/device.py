"""What a device can run, as its preset says: a file of the package or of the user, read strictly."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, ValidationError, model_validator

from apq_tune.errors import DeviceError, DocumentError, ProblemError
from apq_tune.inputs.documents import load_yaml, read_text
from apq_tune.inputs.quantities import read_quantity
from apq_tune.inputs.ranges import Whole
from apq_tune.network.layer import Function
from apq_tune.space.skeleton import RULE, WORD, Model, ascending, first_complaint

OpKind = Literal["conv", "depthwise", "grouped", "linear"]
End = Literal["first", "last"]

KINDS: tuple[OpKind, ...] = get_args(OpKind)
"""Kinds of operations: dense, depthwise and other grouped convolutions, and linear layers."""

SEARCHED = range(2, 9)
"""Bits that search spaces may offer."""

NOT_RUN = "unsupported"
"""Word in a preset for a kind of operation that the device does not run."""


def _bytes(value: Any) -> Any:
    """Bytes of text such as ``432KiB``."""
    if not isinstance(value, str):
        return value
    try:
        return read_quantity(value, "bytes")
    except ProblemError as error:
        raise ValueError(str(error)) from None


def either(values: Sequence[int]) -> str:
    """Numbers as text: ``4``, ``4 or 8``, ``2, 4 or 8``."""
    *most, last = map(str, values)
    return f"{', '.join(most)} or {last}" if most else last


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, int) and not isinstance(value, bool) else value


def _known_function(name: str) -> str:
    known = [own for several in get_args(Function) for own in get_args(several)]
    if name not in known:
        raise ValueError(f"{name!r} is no activation function of a network; known: {', '.join(known)}")
    return name


def _distinct(pairs: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    if not pairs:
        raise ValueError("has no pairs; give at least one, such as [8, 8]")
    if len(set(pairs)) < len(pairs):
        raise ValueError("has a pair twice; give each once")
    return pairs


DeviceBits = Annotated[int, Whole(1, 32)]
BitsOrList = Annotated[tuple[DeviceBits, ...], BeforeValidator(_listed), AfterValidator(ascending)]
BitPairs = Annotated[tuple[tuple[DeviceBits, DeviceBits], ...], AfterValidator(_distinct)]
Kernels = Annotated[tuple[Annotated[int, Whole(1, 99)], ...], BeforeValidator(_listed), AfterValidator(ascending)]
Bytes = Annotated[int, Whole(1, 10**15), BeforeValidator(_bytes)]
FunctionName = Annotated[str, AfterValidator(_known_function)]
Text = Annotated[str, Field(min_length=1, max_length=1000)]


class OpRule(Model):
    """What a device runs of one kind of operation.

    Attributes:
        w_bits: Bits of weights.
        a_bits: Bits of their input; every pair of ``w_bits`` and ``a_bits`` is run.
        pairs: Pairs of both that are run, where these are not all.
        kernels: Heights and widths of kernels; by default any.
        channels: Number of which the output channels are a multiple.
        source: Where all that is said.
    """

    w_bits: BitsOrList | None = None
    a_bits: BitsOrList | None = None
    pairs: BitPairs | None = None
    kernels: Kernels | None = None
    channels: Annotated[int, Whole(1, 4096)] | None = None
    source: Text | None = None

    @model_validator(mode="after")
    def _one_form(self) -> OpRule:
        both = self.w_bits is not None and self.a_bits is not None
        if self.pairs is None and not both:
            raise ValueError("needs w_bits and a_bits, or pairs such as [[4, 8], [8, 8]]; add them")
        if self.pairs is not None and (self.w_bits is not None or self.a_bits is not None):
            raise ValueError("has pairs and w_bits or a_bits; give either")
        return self

    @functools.cached_property
    def pairs_run(self) -> frozenset[tuple[int, int]]:
        """All pairs of the bits of weights and of their input, those that no search space offers included."""
        if self.pairs is not None:
            return frozenset(self.pairs)
        return frozenset((w, a) for w in self.w_bits or () for a in self.a_bits or ())

    @functools.cached_property
    def bits(self) -> frozenset[tuple[int, int]]:
        """Those pairs that search spaces may offer."""
        return frozenset((w, a) for w, a in self.pairs_run if w in SEARCHED and a in SEARCHED)

    @functools.cached_property
    def weights(self) -> tuple[int, ...]:
        """Bits of weights that search spaces may offer, ascending."""
        return tuple(sorted({w for w, _ in self.bits}))

    @functools.cached_property
    def inputs(self) -> tuple[int, ...]:
        """Bits of inputs that search spaces may offer, ascending."""
        return tuple(sorted({a for _, a in self.bits}))

    @property
    def is_product(self) -> bool:
        """Whether all these bits of weights go with all these bits of inputs."""
        return len(self.bits) == len(self.weights) * len(self.inputs)

    def __str__(self) -> str:
        weights, inputs = ({pair[place] for pair in self.pairs_run} for place in (0, 1))
        if len(self.pairs_run) == len(weights) * len(inputs):
            said = f"weights of {either(sorted(weights))}, inputs of {either(sorted(inputs))} bits"
        else:
            said = "weights/inputs of " + ", ".join(f"{w}/{a}" for w, a in sorted(self.pairs_run)) + " bits"
        said += f", kernels {either(self.kernels)}" if self.kernels else ""
        return said + (f", a multiple of {self.channels} channels" if self.channels else "")


def _form(value: Any) -> str:
    return WORD if isinstance(value, str) else RULE


Rule = Annotated[Annotated[OpRule, Tag(RULE)] | Annotated[Literal["unsupported"], Tag(WORD)], Discriminator(_form)]


class DeviceOps(Model):
    """Rules by kind of operation.

    Attributes:
        conv: Dense convolutions.
        depthwise: Depthwise convolutions; by default as ``conv``, as are the others.
        grouped: Other grouped convolutions.
        linear: Linear layers, of which the kernels of ``conv`` say nothing.
        first: Layers that read the image, instead of the rule of their kind.
        last: Layers whose output no other layer with weights reads, instead of the rule of their kind.
    """

    conv: Rule
    depthwise: Rule | None = None
    grouped: Rule | None = None
    linear: Rule | None = None
    first: OpRule | None = None
    last: OpRule | None = None


class DeviceMemory(Model):
    """Memory of a device.

    Attributes:
        bytes: Size; text such as ``320KiB`` is read, too.
        source: Where it is said.
    """

    bytes: Bytes
    source: Text | None = None


class DeviceCosts(Model):
    """Cost model that goes with a device.

    Attributes:
        name: Its name.
        source: Where its constants are from.
    """

    name: Text
    source: Text | None = None


class DevicePreset(Model):
    """What a device can run, and the memory that it has.

    Attributes:
        format: Version of the file format.
        name: Name of the preset.
        title: Name of the device and its software, for people.
        source: Source of all that has no source of its own.
        ops: Rules by kind of operation.
        functions: Activation functions that the device computes; by default any.
        flash: Memory for weights, a limit on ``weight_bytes``.
        ram: Memory for activations, a limit on ``peak_activation_bytes``.
        cost_model: Cost model that goes with the device.
        files: Formats of ``apq-tune export`` that its software reads.
        notes: What else users should know.
    """

    format: Literal[1]
    name: Annotated[str, Field(pattern=r"^[a-z0-9_]+$", max_length=100)]
    title: Text
    source: Text | None = None
    ops: DeviceOps
    functions: tuple[FunctionName, ...] | None = None
    flash: DeviceMemory | None = None
    ram: DeviceMemory | None = None
    cost_model: DeviceCosts | None = None
    files: tuple[Literal["onnx", "torch", "c", "tflite"], ...] = ()
    notes: tuple[Text, ...] = ()

    @model_validator(mode="after")
    def _possible(self) -> DevicePreset:
        for kind in ("conv", "depthwise", "grouped", "linear", "first", "last"):
            rule = getattr(self.ops, kind)
            if isinstance(rule, OpRule) and not rule.bits:
                raise ValueError(
                    f"ops.{kind}: {rule} are none that networks of apq_tune have; give pairs of "
                    f"{SEARCHED[0]} to {SEARCHED[-1]} bits as well, or leave out the device"
                )
        return self

    def rule(self, kind: OpKind, end: End | None = None) -> OpRule | None:
        """Rule for operations of a kind; ``None`` if the device does not run them.

        Args:
            kind: Kind of the operation.
            end: Whether it is of the first or the last layer.
        """
        own: OpRule | str | None = getattr(self.ops, kind)
        if own is None:
            conv = self.ops.conv
            own = conv.model_copy(update={"kernels": None}) if isinstance(conv, OpRule) and kind == "linear" else conv
        if not isinstance(own, OpRule):
            return None
        at_end = None if end is None else getattr(self.ops, end)
        return own if at_end is None else at_end

    @property
    def unsearched(self) -> tuple[str, ...]:
        """Bits that the device has and no search space offers, such as ``"weights of 1 bit"``."""
        rules = [rule for kind in KINDS if (rule := self.rule(kind)) is not None]
        pairs = {pair for rule in rules for pair in rule.pairs_run}
        weights, inputs = (sorted({pair[place] for pair in pairs} - set(SEARCHED)) for place in (0, 1))
        return (*(f"weights of {w} bit{'s' * (w > 1)}" for w in weights), *(f"inputs of {a} bits" for a in inputs))

    @property
    def limits(self) -> dict[str, int]:
        """Limits on costs by name: bytes of weights and of activations."""
        own = {"weight_bytes": self.flash, "peak_activation_bytes": self.ram}
        return {name: memory.bytes for name, memory in own.items() if memory is not None}

    def to_dict(self) -> dict[str, Any]:
        """Content of its file."""
        return self.model_dump(mode="json", exclude_none=True)

    @property
    def digest(self) -> str:
        """Digest of what it says, by which two presets of one name differ."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:16]

    @classmethod
    def from_dict(cls, data: Any, source: str = "device preset") -> DevicePreset:
        """Build from plain data.

        Raises:
            DeviceError: If the data is invalid; the message names ``source``, the key, the fault and the remedy.
        """
        if not isinstance(data, dict):
            raise DeviceError(f"{source}: holds {type(data).__name__}, not a mapping; docs/guides/devices.md has one")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise DeviceError(f"{source}: {first_complaint(error)}") from None


def known_presets() -> tuple[str, ...]:
    """Names of the presets that are shipped with the package."""
    return tuple(sorted(Path(entry.name).stem for entry in _shipped().iterdir() if entry.name.endswith(".yaml")))


def load_preset(path: str | Path) -> DevicePreset:
    """Read a device preset.

    Args:
        path: Name of a shipped preset, such as ``"max78002"``, or path of a YAML file.

    Raises:
        DeviceError: For an unknown name (lists the known ones) or a faulty file (names file, key and remedy).
    """
    source = str(path)
    try:
        if source in known_presets():
            content, source = _shipped().joinpath(f"{source}.yaml").read_text("utf-8"), f"{source}.yaml"
        elif Path(source).suffix.lower() in (".yaml", ".yml"):
            content = read_text(source, "YAML")
        else:
            known = ", ".join(known_presets())
            raise DeviceError(f"unknown device preset {source!r}; known: {known}; or give the path of a .yaml file")
        data = load_yaml(content, source)
    except DocumentError as error:
        raise DeviceError(str(error)) from None
    return DevicePreset.from_dict(data, source)


def _shipped() -> Any:
    return resources.files("apq_tune") / "devices"


def _by_name(value: Any) -> Any:
    """Preset of a name in the file of a search space."""
    return load_preset(value) if isinstance(value, str) else value


PresetOrName = Annotated[DevicePreset, BeforeValidator(_by_name)]
"""Preset of a search space, which its file may name."""
