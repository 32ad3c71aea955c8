"""README and docs: their Python runs, their commands parse, their links lead somewhere."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINKED = [*PAGES, *(ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "search_spaces/README.md"))]
BLOCK = re.compile(r"(<!-- needs a run -->\n)?^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: Path, language: str) -> list[tuple[bool, str]]:
    """The fenced blocks of a page in a language: whether each needs a finished run, and its text."""
    return [(bool(needs), text) for needs, kind, text in BLOCK.findall(page.read_text("utf-8")) if kind == language]


def python_of(page: Path) -> list[str]:
    """The Python blocks of a page that run as they stand, one after the other."""
    return [text for needs_a_run, text in blocks(page, "python") if not needs_a_run]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


WITH_PYTHON = [page for page in PAGES if python_of(page)]
ON_RAY = [page for page in WITH_PYTHON if any("tune.Tuner(" in block for block in python_of(page))]
ALONE = [page for page in WITH_PYTHON if page not in ON_RAY]


def run(page: Path, blocks: list[str]) -> dict[str, Any]:
    """Run blocks that go on from each other, as a reader does."""
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, name_of(page), "exec"), names)
    return names


@pytest.mark.parametrize("page", ALONE, ids=name_of)
def test_python_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run(page, python_of(page))


@pytest.mark.ray
@pytest.mark.slow
def test_python_on_ray_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from apq_tune.hosts.ray import cluster

    assert {name_of(page) for page in ON_RAY} == {"README.md", "docs/guides/ray_tune.md"}
    monkeypatch.chdir(tmp_path)
    with cluster(None, 2):
        readme, guide = (run(page, python_of(page)) for page in ON_RAY)
    assert (tmp_path / "front.png").stat().st_size > 0
    assert readme["best"] and len(readme["table"])
    for names in (readme, guide):
        assert len(names["results"]) == 4
        assert names["results"].num_errors == 0
    assert len(guide["analysis"].trials) == 4
    assert set(guide["searcher"].to_dataframe()["depth 1"]) == {2}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_imports_of_blocks_that_need_a_run_work(page: Path) -> None:
    for _, text in (block for block in blocks(page, "python") if block[0]):
        imports = [node for node in ast.parse(text).body if isinstance(node, ast.Import | ast.ImportFrom)]
        exec(compile(ast.Module(imports, []), name_of(page), "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_are_those_of_the_tool(page: Path) -> None:
    from apq_tune.cli import cli

    lines = [line for _, text in blocks(page, "") for line in text.splitlines()]
    for line in (line for line in lines if re.match(r"([A-Z_]+=\S+ )?apq-tune ", line)):
        words = shlex.split(line, comments=True)
        words = words[words.index("apq-tune") + 1 :]
        command: click.Command = cli
        while isinstance(command, click.Group):
            assert words and words[0] in command.commands, f"{name_of(page)}: {line}"
            command, words = command.commands[words[0]], words[1:]
        try:
            command.make_parser(click.Context(command)).parse_args(words)
        except click.UsageError as error:
            pytest.fail(f"{name_of(page)}: {line}: {error.format_message()}")


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as Markdown renderers make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text)):
        if "://" in link:
            assert re.fullmatch(r"https://[\w-]+(\.[\w-]+)+(/[\w.~/#%-]*)?", link), f"{name_of(page)}: {link}"
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name_of(page)}: {link}"
        assert not anchor or anchor in anchors(target), f"{name_of(page)}: {link}"


def test_documents_that_the_code_names_exist() -> None:
    for file in (ROOT / "apq_tune").rglob("*.py"):
        for named in re.findall(r"\bdocs/[\w/]+\.md", file.read_text("utf-8")):
            assert (ROOT / named).exists(), f"{file.relative_to(ROOT)}: {named}"


def test_the_readme_is_short_and_keeps_its_two_commands() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 150
    assert "<!-- main job -->\n```\npip install . && apq-tune run digits\n```\n<!-- end -->" in text
    assert "<!-- tests -->\n```\npip install -e '.[dev]' && pytest\n```\n<!-- end -->" in text
