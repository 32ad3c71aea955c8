"""Cost tables: our CSV against a plain sum, and what can be wrong with one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from apq_tune import Candidate, Encoding, TableError, load_cost_table
from apq_tune.cost.table import pairs_that_shrink
from apq_tune.ops import Op, block_ops

KEYS = ("in_channels", "out_channels", "in_size", "kernel_size", "stride", "groups", "w_bits", "a_bits")


def price(op: Op) -> float:
    """Some cost that tells all ops apart."""
    return float(op.macs) / 1e3 * (1 + int(op.w_bits) + int(op.a_bits) / 7) + 0.25 * int(op.kernel_size)


def block_list(encoding: Encoding, candidate: Candidate) -> list[Op]:
    slots = [s for s in encoding.space.slots if s.position < candidate.depths[s.stage]]
    return [op for s, b in zip(slots, candidate.blocks, strict=True) for op in block_ops(s, 8, *b).all]


@pytest.fixture(scope="module")
def frame(tiny: Encoding) -> pd.DataFrame:
    ops = {op for candidate in tiny.decode(tiny.enumerate()) for op in block_list(tiny, candidate)}
    rows = [{"op": "conv"} | {k: int(getattr(op, k)) for k in KEYS} | {"latency_ms": price(op)} for op in ops]
    rows += [{"op": "fixed", "name": name, "latency_ms": value} for name, value in (("stem", 2.0), ("head", 3.5))]
    return pd.DataFrame(rows)


def written(frame: pd.DataFrame, path: Path) -> Path:
    frame.to_csv(path, index=False)
    return path


def test_a_candidate_costs_the_sum_of_its_ops_and_of_the_fixed_rows(
    tiny: Encoding, everything: np.ndarray, frame: pd.DataFrame, tmp_path: Path
) -> None:
    (latency,) = load_cost_table(written(frame, tmp_path / "t.csv")).models(tiny)
    expected = [5.5 + sum(map(price, block_list(tiny, candidate))) for candidate in tiny.decode(everything)]
    np.testing.assert_allclose(latency(everything), expected, rtol=1e-12)
    assert latency.reachable() == pytest.approx((min(expected), max(expected)), rel=1e-12)
    assert (latency.name, latency.unit) == ("latency_ms", "ms")


def test_shares_of_the_kinds_of_ops_make_the_whole(
    tiny: Encoding, everything: np.ndarray, frame: pd.DataFrame, tmp_path: Path
) -> None:
    table = load_cost_table(written(frame, tmp_path / "t.csv"))
    parts = table.share(tiny, 0)
    assert set(parts) == {"expand", "depthwise", "gate", "project", "fixed"}
    total = sum(part(everything) for part in parts.values())
    np.testing.assert_allclose(total, table.models(tiny)[0](everything), rtol=1e-12)


def test_only_ops_that_the_space_allows_are_asked_for(tiny: Encoding, frame: pd.DataFrame, tmp_path: Path) -> None:
    forbidden = (frame["kernel_size"] == 5) & (frame["a_bits"] == 2)
    assert not forbidden.any()  # the rule of tiny, and its enumeration has no such op
    assert load_cost_table(written(frame, tmp_path / "t.csv")).missing(tiny.space) == []


def test_missing_ops_are_named_and_counted(tiny: Encoding, frame: pd.DataFrame, tmp_path: Path) -> None:
    gone = frame[(frame["op"] == "conv") & (frame["kernel_size"] == 3)].index[:2]
    table = load_cost_table(written(frame.drop(gone), tmp_path / "t.csv"))
    assert len(table.missing(tiny.space)) == 2
    with pytest.raises(TableError, match=r"t\.csv: 2 ops of tiny are missing: conv in_channels=\d+ .*; measure them"):
        table.models(tiny)


def test_a_table_without_fixed_parts_does_not_count_them_as_zero(
    tiny: Encoding, frame: pd.DataFrame, tmp_path: Path
) -> None:
    table = load_cost_table(written(frame[frame["op"] == "conv"], tmp_path / "t.csv"))
    with pytest.raises(TableError, match=f"1 ops of tiny are missing: fixed resolution={tiny.space.input.size}"):
        table.models(tiny)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("latency_ms", -1.0, "row 2 has a value below zero or none"),
        ("latency_ms", np.nan, "row 2 has a value below zero or none"),
        ("op", "pool", "row 2 has op 'pool'; use one of"),
        ("in_channels", np.nan, "row 2 of op 'conv' lacks a whole number in one of"),
        ("in_channels", 1.5, "row 2 of op 'conv' lacks a whole number in one of"),
    ],
)
def test_a_bad_row_is_refused_by_its_number(
    frame: pd.DataFrame, tmp_path: Path, column: str, value: object, said: str
) -> None:
    bad = frame.astype({column: object})
    bad.loc[1, column] = value
    with pytest.raises(TableError, match=rf"t\.csv: {said}"):
        load_cost_table(written(bad, tmp_path / "t.csv"))


def test_a_repeated_row_is_refused(frame: pd.DataFrame, tmp_path: Path) -> None:
    twice = pd.concat([frame, frame[:1]], ignore_index=True)
    with pytest.raises(TableError, match=rf"row {len(twice)} repeats conv in_channels="):
        load_cost_table(written(twice, tmp_path / "t.csv"))


@pytest.mark.parametrize("content", ["", "a,b\n1,2\n", "op,in_channels\nconv,3\n", "not a table \x00"])
def test_what_is_no_table_is_refused_by_its_path(tmp_path: Path, content: str) -> None:
    for name in ("t.csv", "t.json", "t.yaml"):
        (tmp_path / name).write_text(content)
        with pytest.raises(TableError, match=name.replace(".", r"\.")):
            load_cost_table(tmp_path / name)


def test_pairs_that_shrink_are_counted_as_by_hand(tmp_path: Path) -> None:
    shape = dict.fromkeys(KEYS, 1) | {"op": "conv"}
    values = {(4, 4): 1.0, (4, 8): 0.5, (8, 4): 2.0, (8, 8): 1.5}
    rows = [shape | {"w_bits": w, "a_bits": a, "energy_mj": v} for (w, a), v in values.items()]
    table = load_cost_table(written(pd.DataFrame(rows), tmp_path / "t.csv"))
    assert pairs_that_shrink(table, 0) == (2, 5)  # (4,4)-(4,8) and (8,4)-(8,8), of five comparable pairs
