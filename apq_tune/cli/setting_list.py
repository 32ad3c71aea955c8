"""All settings with their ranges, defaults and meanings, read from the models that check them."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel

from apq_tune.inputs.ranges import EPOCHS, Range
from apq_tune.pipeline.settings import ALWAYS_TRAINED, RunSettings
from apq_tune.refine.settings import RefineSettings
from apq_tune.space.device import DevicePreset
from apq_tune.studies.versus import Spend

_ATTRIBUTE = re.compile(r"^    (\w+): ((?:.|\n {8,})*)", re.MULTILINE)


class Setting(NamedTuple):
    """A setting and what is known about it."""

    name: str  # dotted name, as in --set
    allowed: str  # allowed values, in words
    default: str  # default, written as YAML
    meaning: str


class Group(NamedTuple):
    """Settings of one command or of one kind."""

    title: str
    settings: tuple[Setting, ...]


def all_settings() -> tuple[Group, ...]:
    """Settings of runs, refinements and comparisons of methods."""
    return (
        Group("Of `run`, each as `--set NAME=VALUE`", tuple(_of(RunSettings, RunSettings()))),
        Group("Of `refine`, each as an option (`final_epochs` is `--final-epochs`)", tuple(_of(RefineSettings))),
        Group("Of `joint-vs-staged`, each as an option", tuple(_of(Spend))),
    )


def markdown() -> str:
    """Content of ``docs/reference/settings.md``."""
    lines = [
        "# Settings",
        "",
        "Written by `apq-tune settings --markdown`; `apq-tune settings` shows the same. Numbers may be written as",
        "`1000` or `1e3`; values of `--set` are YAML, so `null` is none and `[a, b]` a list. Defaults are those for",
        "small sets of images such as the digits; for others `run` chooses epochs, batches and rates by the number of",
        "images and their size (`apq_tune/pipeline/defaults.py`), and writes them to `run.json`.",
    ]
    for group in all_settings():
        lines += ["", f"## {group.title}", "", "| name | allowed | default | meaning |", "|---|---|---|---|"]
        lines += [f"| `{s.name}` | {s.allowed} | {s.default} | {s.meaning} |" for s in group.settings]
    return "\n".join(lines) + "\n"


def _of(model: type[Any], value: Any = None, prefix: str = "") -> Iterator[Setting]:
    """Settings of a model or dataclass; a nested one is replaced by its own settings."""
    value = model() if value is None else value
    meanings, hints = _meanings(model), get_type_hints(model, include_extras=True)
    names = model.model_fields if issubclass(model, BaseModel) else [f.name for f in dataclasses.fields(model)]
    for name in names:
        default = getattr(value, name)
        if dataclasses.is_dataclass(default):
            for part in _of(type(default), default, f"{prefix}{name}."):
                always = part.name in [f"{training}.epochs" for training in ALWAYS_TRAINED]
                yield part._replace(allowed=str(EPOCHS)) if always else part
        else:
            yield Setting(prefix + name, allowed(hints[name]), _yaml(default), meanings[name])


def allowed(hint: Any) -> str:
    """Values that an annotation allows, in words."""
    if get_origin(hint) is Annotated:
        inner, *metadata = get_args(hint)
        ranges = [part for part in metadata if isinstance(part, Range)]
        return str(ranges[0]) if ranges else allowed(inner)
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join("null" if part is type(None) else allowed(part) for part in get_args(hint))
    if get_origin(hint) is Literal:
        *others, last = map(str, get_args(hint))
        return f"{', '.join(others)} or {last}"
    return {bool: "true or false", tuple[str, ...]: "a list of text", DevicePreset: "a device preset"}[hint]


def _meanings(model: type[Any]) -> dict[str, str]:
    """Description of each attribute in the docstring of a model, on one line."""
    _, _, attributes = inspect.cleandoc(model.__doc__ or "").partition("Attributes:\n")
    found = _ATTRIBUTE.findall(attributes)
    return {name: " ".join(text.replace("``None``", "``null``").replace("``", "`").split()) for name, text in found}


def _yaml(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"[{', '.join(value)}]" if isinstance(value, tuple) else str(value)
