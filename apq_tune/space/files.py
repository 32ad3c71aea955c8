"""Search spaces by name, from files of any kind, and from plain data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apq_tune.errors import DocumentError, SpaceError
from apq_tune.inputs.documents import load_json, load_yaml, read_text
from apq_tune.space.choices import ChoiceSpace
from apq_tune.space.model_space import ModelSpace
from apq_tune.space.network_space import NetworkSpace
from apq_tune.space.search_space import SearchSpace
from apq_tune.space.shipped import RENAMED, known_spaces, shipped_text

SUFFIXES = (".yaml", ".yml", ".json")


def load_space(name_or_path: str | Path) -> NetworkSpace | ChoiceSpace:
    """Read a shipped space by name (``"digits"``), or any YAML or JSON file by path.

    Returns:
        A ``SearchSpace``; a ``ModelSpace`` of a file with a ``model``; of one that holds nothing but ``choices`` (and
        a ``name``), a ``ChoiceSpace``.

    Raises:
        SpaceError: For an unknown name (lists the known ones) or a faulty file (names file, key and remedy).
    """
    source = str(name_or_path)
    if source in RENAMED:
        raise SpaceError(f"search space {source!r}: {RENAMED[source]}")
    try:
        if source in known_spaces():
            content, source = shipped_text(source), f"{source}.yaml"
        elif Path(source).suffix.lower() in SUFFIXES:
            content = read_text(source, "YAML or JSON")
        else:
            known = ", ".join(known_spaces())
            raise SpaceError(f"unknown search space {source!r}; known: {known}; or give the path of a .yaml file")
        data = (load_json if source.lower().endswith(".json") else load_yaml)(content, source)
    except DocumentError as error:
        raise SpaceError(str(error)) from None
    return space_from(data, source)


def load_network_space(name_or_path: str | Path) -> NetworkSpace:
    """Load a search space of networks, for commands that train or measure them.

    Raises:
        SpaceError: Also for a file of named choices.
    """
    space = load_space(name_or_path)
    if not isinstance(space, NetworkSpace):
        raise SpaceError(
            f"{name_or_path}: holds named choices and no network to train; give a shipped space or its YAML file"
        )
    return space


def space_from(data: Any, source: str = "search space") -> NetworkSpace | ChoiceSpace:
    """Search space of the content of a file.

    Args:
        data: Plain data, as ``NetworkSpace.to_dict`` or ``ChoiceSpace.to_dict`` gives it.
        source: Name of the file, for messages.

    Raises:
        SpaceError: If it is no space of any kind.
    """
    if isinstance(data, dict) and "choices" in data and set(data) <= {"choices", "name"}:
        return _choices_in(data, source)
    if isinstance(data, dict) and "model" in data:
        return ModelSpace.from_dict(data, source)
    return SearchSpace.from_dict(data, source)


def network_space_from(data: Any, source: str = "search space") -> NetworkSpace:
    """Search space of networks of the content of a file; see ``space_from``.

    Raises:
        SpaceError: Also for named choices.
    """
    space = space_from(data, source)
    if not isinstance(space, NetworkSpace):
        raise SpaceError(f"{source}: holds named choices and no network")
    return space


def _choices_in(data: Mapping[str, Any], source: str) -> ChoiceSpace:
    """The space of a file of choices."""
    name = data.get("name", Path(source).stem)
    if not isinstance(name, str):
        raise SpaceError(f"{source}: name is {name!r}; give text")
    if data["choices"] is None or not isinstance(data["choices"], dict):
        raise SpaceError(f"{source}: choices are {data['choices']!r}; give names with lists of values")
    try:
        return ChoiceSpace(name, data["choices"])
    except SpaceError as error:
        raise SpaceError(f"{source}: {error}") from None
