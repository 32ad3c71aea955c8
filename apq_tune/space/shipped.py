"""Search spaces that are shipped with the package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

RENAMED = {
    "ofa_mobilenetv3": "there are two of it: ofa_mobilenetv3_w12 (width 1.2, stem of 24 channels: what had this name, "
    "and what the published accuracy predictor and latency tables are of) and ofa_mobilenetv3_w10 (width 1.0, stem of "
    "16 channels); name one of them"
}
"""Removed shipped spaces and their replacements."""


def known_spaces() -> tuple[str, ...]:
    """Names of the search spaces that are shipped with the package."""
    return tuple(sorted(Path(entry.name).stem for entry in _shipped().iterdir() if entry.name.endswith(".yaml")))


def shipped_text(name: str) -> str:
    """Content of the file of a shipped space."""
    return str((_shipped() / f"{name}.yaml").read_text("utf-8"))


def _shipped() -> Any:
    """The folder of shipped spaces: in the wheel a package of ours, in a bare checkout our neighbour."""
    try:
        return resources.files("apq_tune.search_spaces")
    except ModuleNotFoundError:
        return Path(__file__).parents[2] / "search_spaces"
