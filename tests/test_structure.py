"""How the package is built: rules that hold for every file of it."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

import apq_tune

PACKAGE = Path(apq_tune.__file__).parent


@pytest.fixture(scope="module")
def trees() -> dict[Path, ast.Module]:
    """Syntax tree of each file of the package."""
    files = sorted(PACKAGE.rglob("*.py"))
    return {file.relative_to(PACKAGE): ast.parse(file.read_text("utf-8")) for file in files}


def test_class_names_are_unique_in_the_package(trees: dict[Path, ast.Module]) -> None:
    """A name in a traceback, a message or a search leads to one class."""
    nodes = [node for tree in trees.values() for node in ast.walk(tree)]
    names = Counter(node.name for node in nodes if isinstance(node, ast.ClassDef))
    assert len(names) > 100
    assert [name for name, n in names.items() if n > 1] == []


def test_blocks_and_their_places_are_known_to_spaces_and_supernets_only(trees: dict[Path, ast.Module]) -> None:
    """All other rooms read a network's layers and a space's genes; import-linter holds the same for imports."""
    known = {
        "slots",
        "slots_at",
        "n_slots",
        "active_slots",
        "block_genes",
        "pw_w_bits",
        "pw_a_bits",
        "dw_w_bits",
        "dw_a_bits",
    }
    leaks = []
    for file, tree in trees.items():
        if file.parts[0] in ("space", "supernet"):
            continue
        for node in ast.walk(tree):
            name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "value", None)
            if isinstance(name, str) and name in known:
                leaks.append(f"{file}: {name}")
    assert leaks == []
