"""Scripts of benchmarks/: wrong input ends in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize(
    ("script", "arguments", "said"),
    [
        ("joint_where_it_pays.py", ["--images", "absent.zip", "--tiny"], "absent.zip: No such file or directory"),
        ("sparsity.py", ["--data-root", "absent"], "absent"),
        ("proxy_agreement.py", ["absent"], "absent"),
        ("joint_vs_staged.py", ["--space", "absent.yaml"], "absent.yaml"),
    ],
)
def test_wrong_input_is_one_line(script: str, arguments: list[str], said: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / script), *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert said in done.stderr


def test_every_script_ends_in_one_line_where_it_fails() -> None:
    for script in SCRIPTS.glob("*.py"):
        code = script.read_text("utf-8")
        assert "with one_line_errors():" in code.partition('if __name__ == "__main__":')[2], script.name
