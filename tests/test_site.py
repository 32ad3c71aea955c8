"""The documentation builds without a warning, and a page of it asks no other host for anything."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

pytest.importorskip("mkdocs", reason="needs the extra 'docs'")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    folder = tmp_path_factory.mktemp("site")
    config = load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True)
    config.plugins.run_event("startup", command="build", dirty=False)
    logging.getLogger("mkdocs").setLevel(logging.WARNING)
    build(config)  # a warning ends a strict build
    return folder


def test_pages_fetch_nothing(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        text = page.read_text("utf-8")
        fetched = re.findall(r"<(?:script|img|iframe|source)[^>]*\ssrc=\"?(?:https?:)?//[^\s\">]+", text)
        fetched += re.findall(r"<link[^>]*\shref=\"?(?:https?:)?//[^\s\">]+", text)
        assert not [tag for tag in fetched if "canonical" not in tag], page
    for style in site.rglob("*.css"):
        assert not re.search(r"url\(\s*['\"]?(?:https?:)?//", style.read_text("utf-8")), style


def test_every_command_and_every_public_name_has_an_entry(site: Path) -> None:
    import apq_tune
    from apq_tune.cli import cli

    commands = (site / "reference" / "cli.html").read_text("utf-8")
    for name in cli.commands:
        assert re.search(rf'<h2 id="{name}', commands), name
    names = (site / "reference" / "python.html").read_text("utf-8")
    for name in apq_tune.__all__:
        assert f'.{name}"' in names, name
