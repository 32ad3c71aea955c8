"""A search space: a network skeleton and the choices that are open in it, read from YAML and checked on load."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import ValidationError, model_validator

from apq_tune.errors import CandidateError, SpaceError
from apq_tune.network.network import Network
from apq_tune.space.candidate import Candidate
from apq_tune.space.choices import ChoiceSpace
from apq_tune.space.device import DevicePreset
from apq_tune.space.device_rules import Ends, check_layers
from apq_tune.space.gene import BIT_KINDS, Gene
from apq_tune.space.layers import layers_of
from apq_tune.space.network_space import NetworkSpace, check_not_narrowed
from apq_tune.space.overview import Overview, overview_of_stages
from apq_tune.space.skeleton import BIT_NAMES, SPARSITY_NAMES, first_complaint
from apq_tune.space.slot import Slot
from apq_tune.space.slots import Skeleton
from apq_tune.space.sparse_blocks import SPARSE


class SearchSpace(Skeleton, NetworkSpace):
    """Named choices in the skeleton of a network, in blocks of one or several types."""

    @functools.cached_property
    def network(self) -> Network:
        """The networks, layer by layer, as functions of the genes."""
        return layers_of(self, self.parameters)

    @functools.cached_property
    def genes(self) -> tuple[Gene, ...]:
        """Genes: depths, the resolution if there are several, then the fields of all blocks."""
        genes = [Gene(f"depth {i + 1}", "depth", stage.depth) for i, stage in enumerate(self.stages)]
        if len(self.resolutions) > 1:
            genes.append(Gene("resolution", "resolution", self.resolutions))
        blocks = [(slot.name, self.fields(slot)) for slot in self.slots]
        for field in dict.fromkeys(field for _, own in blocks for field in own):
            genes += [
                Gene(f"{block} {field.name}", field.kind, own[field], block, field.layer)
                for block, own in blocks
                if field in own
            ]
        return tuple(genes)

    def candidate_of(self, values: Mapping[str, int]) -> Candidate:
        """Candidate with the given values; forbidden combinations are replaced by the nearest allowed ones."""
        stages: list[list[Any]] = [[] for _ in self.stages]
        for slot in self.slots:
            if slot.position < values[f"depth {slot.stage + 1}"]:
                known = self.type_of(slot)
                block = known.make(*(values[f"{slot.name} {name}"] for name in known.names))
                stages[slot.stage].append(self._nearest_allowed(slot, block))
        return Candidate(tuple(map(tuple, stages)), values.get("resolution"))

    def _nearest_allowed(self, slot: Slot, block: Any) -> Any:
        allowed = self.allowed(slot)
        choices = {field.name: values for field, values in self.fields(slot).items() if field.kind != "width"}
        index = tuple(values.index(getattr(block, name)) for name, values in choices.items())
        if allowed[index]:
            return block
        every = np.argwhere(allowed)
        nearest = every[np.abs(every - index).sum(axis=1).argmin()]
        return block._replace(**{name: choices[name][i] for name, i in zip(choices, nearest, strict=True)})

    def values_of(self, candidate: Candidate) -> dict[str, int]:
        """Values of a candidate by gene name; inactive genes have their first value."""
        if len(candidate.stages) != len(self.stages):
            raise CandidateError(f"candidate has {len(candidate.stages)} stages; {self.name} has {len(self.stages)}")
        values = {name: choices[0] for name, choices in self.parameters.items()}
        values |= {f"depth {i + 1}": depth for i, depth in enumerate(candidate.depths)}
        if candidate.resolution is not None:
            values["resolution"] = candidate.resolution
        for slot in self.slots:
            if slot.position < candidate.depths[slot.stage]:
                block = candidate.stages[slot.stage][slot.position]._asdict()
                values |= {f"{slot.name} {field}": value for field, value in block.items()}
        return values

    def size(self, *, bits: bool = True) -> int:
        """Number of different networks (with ``bits``: of networks and bit policies), exactly."""
        total = len(self.resolutions)
        per_slot = []
        for slot in self.slots:
            allowed, fields = self.allowed(slot), self.fields(slot)
            kinds = [field.kind for field in fields if field.kind != "width"]
            if not bits:
                own = tuple(axis for axis, kind in enumerate(kinds) if kind in BIT_KINDS)
                allowed = np.asarray(allowed.any(axis=own))
            widths = math.prod(len(values) for field, values in fields.items() if field.kind == "width")
            per_slot.append(widths * int(allowed.sum()))
        for number, stage in enumerate(self.stages):
            counts = [n for n, slot in zip(per_slot, self.slots, strict=True) if slot.stage == number]
            total *= sum(math.prod(counts[:depth]) for depth in stage.depth)
        return total

    def log10_size(self, *, bits: bool = True) -> float:
        """``size`` as a power of ten."""
        return math.log10(self.size(bits=bits))

    @model_validator(mode="after")
    def _possible(self) -> SearchSpace:
        largest = self.resolutions[-1]
        if self.stem.kernel_size > largest:
            raise ValueError(f"stem.kernel_size {self.stem.kernel_size} is larger than the {largest} pixel input")
        self._check_bits()
        if self.device is not None:
            fixed, ends = self.network.fixed_layers(largest), Ends(frozenset({"stem"}), frozenset({"classifier"}))
            remedy = "change it in the space, its bits by fixed_bits, or take another device"
            check_layers(self.device, fixed, ends, remedy)
        for slot in self.slots:
            where = f"stages[{slot.stage}], block {slot.position + 1}"
            if slot.kernel_sizes[-1] > slot.in_size:
                fits = [k for k in slot.kernel_sizes if k <= slot.in_size]
                raise ValueError(
                    f"{where}: kernel_size {slot.kernel_sizes[-1]} is larger than its {slot.in_size}x{slot.in_size} "
                    f"feature map; give that stage kernel_size: {fits or [1]} or lower the strides before it"
                )
            if slot.squeeze_excite and not self.type_of(slot).squeeze_excite:
                raise ValueError(f"stages[{slot.stage}].squeeze_excite: {slot.block} blocks have none; remove it")
            self._check_patterns(slot)
            if not self.allowed(slot).any():
                raise ValueError(f"{where}: the forbidden rules leave no combination at all; drop one of them")
        kernel_sizes = {k for slot in self.slots for k in slot.kernel_sizes}
        for number, rule in enumerate(self.forbidden):
            for field, value in rule.rule.items():
                values = kernel_sizes if field == "kernel_size" else set(getattr(self.choices, field) or ())
                if value not in values:
                    raise ValueError(
                        f"forbidden[{number}].{field}: {value} is not a choice; it is one of {sorted(values)}"
                    )
            if not any(set(rule.rule) <= set(self.type_of(slot).names) for slot in self.slots):
                raise ValueError(f"forbidden[{number}]: no block has all of {list(rule.rule)}; name fields of one type")
        return self

    def _check_patterns(self, slot: Slot) -> None:
        """Refuse N:M patterns for layers with one input for each output, of which all would be kept."""
        known, largest = self.type_of(slot), [values[-1] for values in self.fields(slot).values()]
        ops = {layer.role: layer.op for layer in known.layers(slot, self.fixed_bits, "", *largest)}
        for (layer, roles), group in zip(known.roles, slot.sparse_groups, strict=False):
            own = [op for role in roles if (op := ops[role]) is not None]
            if group > 1 and all(op.in_channels == op.groups for op in own):
                given = list(getattr(self.choices, f"{layer}_sparsity"))
                raise ValueError(
                    f"choices.{layer}_sparsity: {given} has patterns of input channels, of which depthwise "
                    "convolutions have one each; give shares of zeros such as 0.5"
                )

    def _check_bits(self) -> None:
        """Refuse bit-widths that are missing, or that no block has."""
        types = dict.fromkeys(self.type_of(slot) for slot in self.slots)
        needed = dict.fromkeys(field.name for known in types for field in known.fields if field.kind in BIT_KINDS)
        for name in BIT_NAMES:
            if name in needed and getattr(self.choices, name) is None:
                raise ValueError(f"choices.{name}: is missing; add it")
            if name not in needed and getattr(self.choices, name) is not None:
                names = [known.name.removeprefix(SPARSE) for known in types]
                raise ValueError(f"choices.{name}: no block of {' and '.join(names)} has it; remove it")
        own = {field.name for known in types for field in known.fields}
        for name in SPARSITY_NAMES:
            if name not in own and getattr(self.choices, name) is not None:
                names = [known.name.removeprefix(SPARSE) for known in types]
                raise ValueError(f"choices.{name}: no block of {' and '.join(names)} has it; remove it")

    @classmethod
    def from_dict(cls, data: Any, source: str = "search space") -> SearchSpace:
        """Build from plain data.

        Raises:
            SpaceError: If the data is invalid; the message names ``source``, the key, the fault and the remedy.
        """
        if not isinstance(data, dict):
            raise SpaceError(f"{source}: holds {type(data).__name__}, not a mapping; see search_spaces/README.md")
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise SpaceError(f"{source}: {first_complaint(error)}") from None

    @classmethod
    def load(cls, name_or_path: str | Path) -> Any:
        """Read a shipped space by name (``"digits"``), or any YAML or JSON file by path; see ``files.load_space``.

        Returns:
            A ``SearchSpace``, or whatever kind of space the file holds.

        Raises:
            SpaceError: For an unknown name (lists the known ones) or a faulty file (names file, key and remedy).
        """
        from apq_tune.space.files import load_space

        return load_space(name_or_path)

    @staticmethod
    def from_choices(choices: Mapping[str, Sequence[Any]], name: str = "choices") -> ChoiceSpace:
        """A space without a skeleton: any problem whose candidates are named choices.

        Args:
            choices: Values of each choice by name.
            name: Name of the search space.

        Raises:
            SpaceError: If a choice has no values, repeats one, or has one that no file can hold.
        """
        return ChoiceSpace(name, choices)  # type: ignore[arg-type]  # checked, and made tuples, in there

    def overview(self) -> Overview:
        """One row for each stage."""
        return overview_of_stages(self)

    def fitted(self, data: str | None, channels: int, classes: int) -> SearchSpace:
        """The space for other images: its stem and its classifier are made to fit."""
        plain = self.to_dict()
        plain |= {"classes": classes, "input": plain["input"] | {"channels": channels}}
        plain |= {"data": data} if data is not None else {}
        return SearchSpace.from_dict(plain, f"{self.name} for {data}")

    def with_data(self, data: str | None) -> SearchSpace:
        """The same space for other images of the same shape and number of classes."""
        return self.model_copy(update={"data": data})

    @property
    def whole(self) -> SearchSpace:
        """The space that this one was narrowed from; itself if it was not narrowed."""
        if self.device is None:
            return self
        plain = self.to_dict()
        del plain["device"]
        return SearchSpace.from_dict(plain, self.name)

    def narrowed(self, preset: DevicePreset) -> SearchSpace:
        """The part of the space that a device can run.

        Raises:
            DeviceError: If nothing is left; the message names the layer, what it offers, and what the device runs.
        """
        check_not_narrowed(self, preset)
        return SearchSpace.from_dict(self.to_dict() | {"device": preset.to_dict()}, self.name)

    def to_dict(self) -> dict[str, Any]:
        """Content of the file of the space."""
        return self.model_dump(mode="json", exclude_none=True)

    def to_record(self) -> dict[str, Any]:
        """Plain data with every key, those without a value included, unless there is no device, or no sparsity."""
        left_out: dict[str, Any] = {
            "choices": {name for name in SPARSITY_NAMES if getattr(self.choices, name) is None},
            **({"device": True} if self.device is None else {}),
        }
        return self.model_dump(mode="json", exclude=left_out)

    def to_yaml(self) -> str:
        """The space as YAML; ``from_dict(yaml.safe_load(...))`` gives an equal space."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)
