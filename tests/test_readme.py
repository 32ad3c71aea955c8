"""The README's Python runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.ray
@pytest.mark.slow
def test_python_in_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from apq_tune.hosts.ray import cluster

    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"(<!-- needs a run -->\n)?^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    ready = [block for needs_run, block in blocks if not needs_run]
    assert any("tune.run(" in block for block in ready)
    assert any("tune.Tuner(" in block for block in ready)
    assert any("study.optimize(" in block for block in ready)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    with cluster(None, 2):  # the blocks go on from each other, as a reader does
        for block in ready:
            exec(compile(block, "README.md", "exec"), names)
    assert (tmp_path / "front.png").stat().st_size > 0
    assert len(names["results"]) == len(names["analysis"].trials) == 10
    assert names["results"].num_errors == 0
    assert set(names["found"].to_dataframe()["depth 1"]) == {2}
    assert names["best"]


def test_commands_in_the_readme_are_those_that_the_tool_has() -> None:
    from apq_tune.cli import cli

    named = set(re.findall(r"^apq-tune ([\w-]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert named
    assert named <= set(cli.commands)
