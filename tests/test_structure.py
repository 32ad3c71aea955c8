"""How the package is built: rules that hold for every file of it."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import apq_tune

FILES = sorted(Path(apq_tune.__file__).parent.rglob("*.py"))


def test_class_names_are_unique_in_the_package() -> None:
    """A name in a traceback, a message or a search leads to one class."""
    nodes = [node for file in FILES for node in ast.walk(ast.parse(file.read_text("utf-8")))]
    names = Counter(node.name for node in nodes if isinstance(node, ast.ClassDef))
    assert len(names) > 100
    assert [name for name, n in names.items() if n > 1] == []
