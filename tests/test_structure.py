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


def test_blocks_and_their_places_are_known_to_spaces_and_supernets_only() -> None:
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
    package = Path(apq_tune.__file__).parent
    leaks = []
    for file in FILES:
        if file.relative_to(package).parts[0] in ("space", "supernet"):
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "value", None)
            if isinstance(name, str) and name in known:
                leaks.append(f"{file.relative_to(package)}: {name}")
    assert leaks == []
