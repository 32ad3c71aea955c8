"""Strict YAML and JSON parser: ambiguous documents are refused, with line numbers.

YAML scalars follow the core schema of YAML 1.2 (https://yaml.org/spec/1.2.2/#103-core-schema): ``on``, ``yes`` and
``1:30`` are text, ``010`` is ten, ``1e-3`` is a number. In both formats, duplicate keys are refused, as are documents
nested deeper than ``MAX_DEPTH`` or whose aliases expand to more than ``MAX_ALIASED`` values.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import yaml

from apq_tune.errors import DocumentError

MAX_DEPTH = 64
"""Maximum nesting depth of lists and mappings; files of this package need six levels."""

MAX_ALIASED = 100_000
"""Maximum number of values that all aliases of a YAML document expand to; files of this package need some dozens."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_CONSTANTS = dict.fromkeys(("", "~", "null", "Null", "NULL")) | {
    text: word == "true" for word in ("true", "false") for text in (word, word.capitalize(), word.upper())
}
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_SPECIAL = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_ENDLESS = re.compile(r"[0-9]{4300}")
_TEXT_TAGS = ("!", "tag:yaml.org,2002:str")

_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"(\s*:)?|[\[{]|[\]}]', re.DOTALL)


def read_text(path: str | Path, kinds: str) -> str:
    """Text of a document in a file.

    Args:
        path: Path of the file.
        kinds: Kinds of documents that it may be, for the message, such as ``"YAML or JSON"``.

    Raises:
        DocumentError: If the file cannot be read; the message names it and the remedy.
    """
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError(f"{path}: cannot be read ({error}); give a readable {kinds} file") from None


def load_yaml(text: str, source: str) -> Any:
    """Parse one YAML document.

    Args:
        text: Text of the document; an empty one is read as ``None``.
        source: Name of the document for messages, such as the path of the file.

    Raises:
        DocumentError: If the document is not valid; the message names source, line and problem.
    """
    try:
        return _Builder(text.removeprefix("\ufeff"), source).document()
    except yaml.MarkedYAMLError as error:
        said = ", ".join(part for part in (error.context, error.problem) if part)
        mark = error.problem_mark or error.context_mark
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise DocumentError(f"{source}: is not valid YAML: {said}{place}") from None
    except (yaml.YAMLError, UnicodeError) as error:  # characters that no YAML file may hold
        said = " ".join(str(error).split())
        raise DocumentError(f"{source}: is not valid YAML: {said}") from None


def load_json(text: str, source: str) -> Any:
    """Parse one JSON document; ``NaN`` and ``Infinity`` are refused.

    Args:
        text: Text of the document.
        source: Name of the document for messages, such as the path of the file.

    Raises:
        DocumentError: If the document is not valid; the message names source, line and problem.
    """
    text = text.removeprefix("\ufeff")
    _check_json_structure(text, source)
    try:
        return json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise DocumentError(f"{source}: is not valid JSON: {error.msg} ({place})") from None
    except ValueError as error:
        said = "a number of thousands of digits" if _ENDLESS.search(text) else error
        raise DocumentError(f"{source}: is not valid JSON: {said}") from None


class _Builder:
    """Builds plain data from the events of the YAML parser, with bounded recursion and without custom classes."""

    def __init__(self, text: str, source: str) -> None:
        self._events: Iterator[Any] = iter(yaml.parse(text, Loader=_LOADER))
        self._source = source
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._aliased = 0

    def document(self) -> Any:
        """Build the single document of the stream."""
        next(self._events)  # start of the stream
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return None
        value, _ = self._value(next(self._events), 0)
        next(self._events)  # end of the document
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            self._refuse(event, "a second document begins; give one")
        return value

    def _value(self, event: Any, depth: int) -> tuple[Any, int]:
        """Build the node that an event starts, and count its values with all aliases expanded."""
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        built: tuple[Any, int]
        if isinstance(event, yaml.ScalarEvent):
            built = (self._scalar(event), 1)
        elif depth == MAX_DEPTH:
            self._refuse(event, f"nested deeper than {MAX_DEPTH} lists and mappings")
        elif isinstance(event, yaml.SequenceStartEvent):
            built = self._sequence(event, depth)
        else:
            built = self._mapping(event, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = built
        return built

    def _alias(self, event: Any) -> tuple[Any, int]:
        if event.anchor not in self._anchors:
            self._refuse(event, f"*{event.anchor} stands for nothing; write &{event.anchor} before it")
        value, size = self._anchors[event.anchor]
        self._aliased += size
        if self._aliased > MAX_ALIASED:
            self._refuse(event, f"aliases stand for more than {MAX_ALIASED} values; write them out")
        return value, size

    def _sequence(self, start: Any, depth: int) -> tuple[list[Any], int]:
        self._check_tag(start)
        items, size = [], 1
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            value, n = self._value(event, depth + 1)
            items.append(value)
            size += n
        return items, size

    def _mapping(self, start: Any, depth: int) -> tuple[dict[Hashable, Any], int]:
        self._check_tag(start)
        items: dict[Hashable, Any] = {}
        merged: dict[Hashable, Any] = {}
        size = 1
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            is_merge = isinstance(event, yaml.ScalarEvent) and event.implicit[0] and event.value == "<<"
            key, _ = self._value(event, depth + 1)
            if isinstance(key, list | dict):
                self._refuse(event, "a list or mapping cannot be a key; give a name")
            if key in items:
                self._refuse(event, f"key {key!r} comes twice; give it once")
            value, n = self._value(next(self._events), depth + 1)
            size += n
            if is_merge:
                for part in value if isinstance(value, list) else [value]:
                    if not isinstance(part, dict):
                        self._refuse(event, "<< takes mappings, such as <<: *defaults")
                    merged = part | merged
            else:
                items[key] = value
        return merged | items, size

    def _scalar(self, event: Any) -> Any:
        if event.tag is not None and event.tag not in _TEXT_TAGS:
            self._check_tag(event)
        is_plain = event.implicit[0] and event.tag is None
        try:
            return _plain(event.value) if is_plain else event.value
        except ValueError:
            self._refuse(event, f"a number of {len(event.value)} digits is too long")

    def _check_tag(self, event: Any) -> None:
        if event.tag not in (None, "!", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"):
            self._refuse(event, f"the tag {event.tag!r} is not read; leave it out")

    def _refuse(self, event: Any, said: str) -> NoReturn:
        mark = event.start_mark
        raise DocumentError(f"{self._source}: line {mark.line + 1}: {said}")


def _plain(text: str) -> Any:
    """Resolve an unquoted scalar by the core schema of YAML 1.2."""
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _BASED.fullmatch(text):
        return int(text, 0)
    if _SPECIAL.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def _check_json_structure(text: str, source: str) -> None:
    """Refuse duplicate keys and excessive nesting before the recursive parser runs."""
    open_: list[set[str]] = []
    for token in _JSON_TOKEN.finditer(text):
        first = token[0][0]
        if first in "[{":
            open_.append(set())
            if len(open_) > MAX_DEPTH:
                line = text.count("\n", 0, token.start()) + 1
                raise DocumentError(f"{source}: line {line}: nested deeper than {MAX_DEPTH} lists and objects")
        elif first in "]}":
            if open_:
                open_.pop()
        elif token[1] and open_:
            key = _unescaped(token[0][: -len(token[1])])
            if key in open_[-1]:
                line = text.count("\n", 0, token.start()) + 1
                raise DocumentError(f"{source}: line {line}: key {key} comes twice; give it once")
            open_[-1].add(key)


def _unescaped(key: str) -> str:
    if "\\" not in key:
        return key
    try:
        return f'"{json.loads(key)}"'
    except ValueError:  # an invalid escape, which json will report with its position
        return key


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is out of range")
    return value


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number; give a finite one")
