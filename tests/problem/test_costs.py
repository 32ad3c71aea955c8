"""One registry of costs and limits for all commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from apq_tune import NetworkEncoding, ProblemError
from apq_tune.cli import cli
from apq_tune.cli import costs as options
from apq_tune.problem.costs import BUDGETS, BUILT_IN, Costs
from apq_tune.problem.limits import ALIASES, as_texts
from apq_tune.store.directory import RunDirectory, kept_tables


@pytest.fixture(scope="module")
def costs(encoding: NetworkEncoding) -> Costs:
    return Costs.of(encoding)


def test_what_is_built_in_is_what_help_and_aliases_name(costs: Costs) -> None:
    assert {name: metric.unit for name, metric in costs.metrics.items()} == BUILT_IN
    assert set(ALIASES.values()) <= set(BUILT_IN)
    assert options.BUDGET_NAMES == BUDGETS
    for name in (*BUILT_IN, *ALIASES):
        assert name in options.METRICS


@pytest.mark.parametrize("command", ["run", "refine", "search", "sweep", "joint-vs-staged", "compare"])
def test_every_command_that_takes_limits_lists_the_metrics_with_their_units(command: str) -> None:
    text = " ".join(CliRunner().invoke(cli, [command, "--help"]).output.split())
    assert options.METRICS.replace("  ", " ") in text


def test_names_and_units_that_people_type_mean_the_same_as_ours(costs: Costs) -> None:
    typed = costs.limits(["flash<=20kB", "ram <= 4 KiB", "latency=50us", "energy_mj<=1e-2", "bit_ops<=25%"])
    plain = costs.limits(
        [
            "weight_bytes<=20000",
            "peak_activation_bytes<=4096",
            "latency_ms<=0.05",
            "energy_mj<=0.01",
            f"bit_ops<={25 * (costs.at_largest()['bit_ops'] / 100)!r}",
        ]
    )
    assert as_texts(typed) == as_texts(plain)


def test_of_two_bounds_on_one_side_the_tighter_one_is_kept(costs: Costs) -> None:
    (kept,) = costs.limits(["flash<=30kB", "weight_bytes<=20kB", "flash<=25kB"])
    assert kept.bound == 20_000
    both = costs.limits(["flash<=30kB", "flash>=10kB", "flash>=15kB"])
    assert [(limit.sense, limit.bound) for limit in both] == [("<=", 30_000), (">=", 15_000)]


def test_bounds_that_exclude_each_other_are_refused(costs: Costs) -> None:
    with pytest.raises(ProblemError, match=r"no candidate keeps both weight_bytes <= 20000 and weight_bytes >= 25000"):
        costs.limits(["flash>=25kB", "flash<=20kB"])


def test_an_unknown_metric_is_refused_with_all_names(costs: Costs) -> None:
    with pytest.raises(ProblemError, match=r"unknown metric 'rom' .*weight_bytes \(or flash\)"):
        costs.limits(["rom<=20kB"])


TABLE = (
    "op,resolution,in_channels,middle_channels,out_channels,in_size,kernel_size,stride,shortcut,squeeze_excite,h_swish"
)


def block_table(encoding: NetworkEncoding, path: Path, name: str) -> Path:
    """A table of whole blocks whose cost is the number of middle channels."""
    rows = {
        (0, s.in_channels, c, s.out_channels, s.in_size, k, s.stride, int(s.has_shortcut), 0, 0)
        for s in encoding.space.slots
        for c in s.channels
        for k in s.kernel_sizes
    }
    lines = [f"{TABLE},{name}", f"fixed{',' * 11}1"]
    lines += [f"block,{','.join(map(str, row))},{row[2]}" for row in sorted(rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_metric_of_a_table_is_limited_like_any_other_and_precedes_a_model_of_its_name(
    encoding: NetworkEncoding, tmp_path: Path
) -> None:
    own = Costs.of(encoding, [block_table(encoding, tmp_path / "a.csv", "latency_ms")])
    genomes = encoding.sample(20, np.random.default_rng(0))
    expected = [1 + sum(block.channels for block in c.blocks) for c in encoding.decode(genomes)]
    assert own.metrics["latency_ms"](genomes).tolist() == expected
    (limit,) = own.limits(["latency<=0.1s"])
    assert limit.violation(np.array([100.0])) == 0
    with pytest.raises(ProblemError, match="latency_ms is in another table already"):
        Costs.of(encoding, [tmp_path / "a.csv", block_table(encoding, tmp_path / "b.csv", "latency_ms")])


def test_a_run_keeps_its_tables_and_tells_when_they_change(encoding: NetworkEncoding, tmp_path: Path) -> None:
    table = block_table(encoding, tmp_path / "t.csv", "chip_ms")

    def tables(*given: Path) -> list[str]:
        return RunDirectory(tmp_path / "run", encoding.space, {}, "", tables=given).tables

    first = tables(table)
    (kept,) = kept_tables(tmp_path / "run")
    assert kept.read_bytes() == table.read_bytes()
    assert tables(table) == first
    table.write_text(table.read_text().replace(",1\n", ",2\n", 1))
    assert tables(table) != first
    assert kept_tables(tmp_path / "run")[0].read_bytes() == table.read_bytes()
    assert tables() == []
    assert not kept_tables(tmp_path / "run")
