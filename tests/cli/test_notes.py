"""A limit on a time that fewer bits do not reduce is told once, by every command that takes limits and tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from apq_tune import NetworkEncoding
from apq_tune.cli import cli
from apq_tune.cli.costs import all_constraints
from apq_tune.cli.versus import limits_of
from apq_tune.network.layer import Op
from apq_tune.problem.costs import Costs

pytestmark = pytest.mark.usefixtures("serial")

NOTE = "{table}: latency_ms is no smaller below 8 bits: on this runtime fewer bits save bytes, not time"
KEYS = ("in_channels", "out_channels", "in_size", "kernel_size", "stride", "groups", "w_bits", "a_bits")


def table(encoding: NetworkEncoding, path: Path, bits: Callable[[Op], float]) -> Path:
    """Table of a device whose latency depends on bits as given."""
    network = encoding.space.network
    every = encoding.decode(encoding.enumerate()[::3])
    layers = (layer for one in every for layer in network.at(encoding.space.values_of(one)) if layer.name[0].isdigit())
    ops = {layer.op for layer in layers if layer.op is not None}
    rows = [{"op": "conv", **{k: int(getattr(op, k)) for k in KEYS}, "latency_ms": 1e-3 * bits(op)} for op in ops]
    pd.DataFrame([{"op": "fixed", "latency_ms": 0.01}, *rows]).to_csv(path, index=False)
    return path


@pytest.fixture
def flat(tiny: NetworkEncoding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Table of a runtime without kernels below 8 bits, in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.yaml").write_text(tiny.space.to_yaml())
    return table(tiny, tmp_path / "flat.csv", lambda op: float(op.out_channels)).relative_to(tmp_path)


def test_limits_of_a_run_and_of_a_comparison(
    tiny: NetworkEncoding, flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    costs, note = Costs.of(tiny, [flat]), NOTE.format(table=flat) + "\n"
    for constraints, budgets in ((["latency_ms<=1"], []), (["latency<=1"], []), ([], ["latency"])):
        all_constraints(costs, tuple(constraints), tuple(budgets))
        assert capsys.readouterr().out == note
        limits_of(costs, budgets, constraints)
        assert capsys.readouterr().out == note
    all_constraints(costs, ("latency_ms<=1", "latency<=900us"), ("latency",))
    assert capsys.readouterr().out == note  # once
    all_constraints(costs, ("flash<=1MB",), ("memory", "bit_ops"))
    scaled = Costs.of(tiny, [table(tiny, tmp_path / "scaled.csv", lambda op: float(op.w_bits * op.a_bits))])
    all_constraints(scaled, ("latency_ms<=1",), ())
    all_constraints(Costs.of(tiny), ("latency_ms<=1",), ())  # the accelerator model
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "command",
    [
        ["search", "space.yaml", "--table=flat.csv", "--objective=macs", "--evaluations=60"],
        ["sweep", "space.yaml", "--target=device=flat.csv", "--objective=macs", "--evaluations=60", "--seeds=1"],
        [
            "compare",
            "space.yaml",
            "--table=flat.csv",
            "--front=macs,bit_ops",
            "--at=20",
            "--seeds=2",
            "--sampler=random",
        ],
    ],
    ids=lambda command: command[0],
)
def test_commands_tell_it_once_and_only_of_a_limit(flat: Path, command: list[str]) -> None:
    out = [] if command[0] == "search" else ["--out=out", "--num-cpus=1"]
    done = CliRunner().invoke(cli, [*command, *out, "--constraint=latency_ms<=1"])
    assert done.exit_code == 0, done.output
    assert done.output.count(NOTE.format(table=flat)) == 1
    done = CliRunner().invoke(cli, [*command, *(["--out=other", "--num-cpus=1"] if out else [])])
    assert done.exit_code == 0, done.output
    assert "fewer bits" not in done.output
