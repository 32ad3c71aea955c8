"""Cost tables: our CSV against a plain sum, and what can be wrong with one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from apq_tune import Candidate, NetworkEncoding, SearchSpace, TableError, load_cost_table
from apq_tune.cost.bits import pairs_that_shrink, useless_below
from apq_tune.network.layer import Op

KEYS = ("in_channels", "out_channels", "in_size", "kernel_size", "stride", "groups", "w_bits", "a_bits")


def price(op: Op) -> float:
    """Some cost that tells all ops apart."""
    return float(op.macs) / 1e3 * (1 + int(op.w_bits) + int(op.a_bits) / 7) + 0.25 * int(op.kernel_size)


def block_list(encoding: NetworkEncoding, candidate: Candidate) -> list[Op]:
    layers = encoding.space.network.at(encoding.space.values_of(candidate))
    return [layer.op for layer in layers if layer.op is not None and layer.name[0].isdigit()]


@pytest.fixture(scope="module")
def frame(tiny: NetworkEncoding) -> pd.DataFrame:
    ops = {op for candidate in tiny.decode(tiny.enumerate()) for op in block_list(tiny, candidate)}
    rows = [{"op": "conv"} | {k: int(getattr(op, k)) for k in KEYS} | {"latency_ms": price(op)} for op in ops]
    rows += [{"op": "fixed", "name": name, "latency_ms": value} for name, value in (("stem", 2.0), ("head", 3.5))]
    return pd.DataFrame(rows)


def written(frame: pd.DataFrame, path: Path) -> Path:
    frame.to_csv(path, index=False)
    return path


def test_a_candidate_costs_the_sum_of_its_ops_and_of_the_fixed_rows(
    tiny: NetworkEncoding, everything: np.ndarray, frame: pd.DataFrame, tmp_path: Path
) -> None:
    (latency,) = load_cost_table(written(frame, tmp_path / "t.csv")).models(tiny)
    expected = [5.5 + sum(map(price, block_list(tiny, candidate))) for candidate in tiny.decode(everything)]
    np.testing.assert_allclose(latency(everything), expected, rtol=1e-12)
    assert latency.reachable() == pytest.approx((min(expected), max(expected)), rel=1e-12)
    assert (latency.name, latency.unit) == ("latency_ms", "ms")


def test_shares_of_the_kinds_of_ops_make_the_whole(
    tiny: NetworkEncoding, everything: np.ndarray, frame: pd.DataFrame, tmp_path: Path
) -> None:
    table = load_cost_table(written(frame, tmp_path / "t.csv"))
    parts = table.share(tiny, 0)
    assert set(parts) == {"expand", "depthwise", "project", "fixed"}
    total = sum(part(everything) for part in parts.values())
    np.testing.assert_allclose(total, table.models(tiny)[0](everything), rtol=1e-12)


def test_only_ops_that_the_space_allows_are_asked_for(
    tiny: NetworkEncoding, frame: pd.DataFrame, tmp_path: Path
) -> None:
    forbidden = (frame["kernel_size"] == 5) & (frame["a_bits"] == 2)
    assert not forbidden.any()  # the rule of tiny, and its enumeration has no such op
    assert load_cost_table(written(frame, tmp_path / "t.csv")).missing(tiny.space) == []


def test_missing_ops_are_named_and_counted(tiny: NetworkEncoding, frame: pd.DataFrame, tmp_path: Path) -> None:
    gone = frame[(frame["op"] == "conv") & (frame["kernel_size"] == 3)].index[:2]
    table = load_cost_table(written(frame.drop(gone), tmp_path / "t.csv"))
    assert len(table.missing(tiny.space)) == 2
    with pytest.raises(TableError, match=r"t\.csv: 2 ops of tiny are missing: conv in_channels=\d+ .*; measure them"):
        table.models(tiny)


def test_a_table_without_fixed_parts_does_not_count_them_as_zero(
    tiny: NetworkEncoding, frame: pd.DataFrame, tmp_path: Path
) -> None:
    table = load_cost_table(written(frame[frame["op"] == "conv"], tmp_path / "t.csv"))
    with pytest.raises(TableError, match=f"1 ops of tiny are missing: fixed resolution={tiny.space.input.size}"):
        table.models(tiny)


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("latency_ms", -1.0, "row 2: latency_ms is -1.0; give a number >= 0"),
        ("latency_ms", np.nan, "row 2: latency_ms is empty; give a number >= 0"),
        ("latency_ms", "1,5", "row 2: latency_ms is '1,5', with a comma: write 1.5; give a number >= 0"),
        ("latency_ms", "1,500", r"row 2: .* write 1.500 \(or 1500, if it separates thousands\); give a number >= 0"),
        ("latency_ms", "5 ms", "row 2: latency_ms is '5 ms': write 5 and put the unit in the column's name; give"),
        ("latency_ms", "1_000", "row 2: latency_ms is '1_000'; give a number >= 0"),
        ("latency_ms", "inf", "row 2: latency_ms is 'inf'; give a number >= 0"),
        ("op", "softmax", "row 2 has op 'softmax'; use one of"),
        ("op", "", "row 2 has op ''; use one of"),
        ("in_channels", np.nan, "row 2: in_channels is empty; rows of op 'conv' need a whole number >= 0 there"),
        ("in_channels", 1.5, "row 2: in_channels is 1.5; rows of op 'conv' need a whole number >= 0 there"),
        ("in_channels", -8, "row 2: in_channels is -8; rows of op 'conv' need a whole number >= 0 there"),
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


def test_a_part_that_is_named_comes_once(frame: pd.DataFrame, tmp_path: Path) -> None:
    twice = pd.concat([frame, frame[frame["op"] == "fixed"]], ignore_index=True)
    with pytest.raises(TableError, match=r"row 33 repeats fixed stem resolution=0 of row 31; keep one"):
        load_cost_table(written(twice, tmp_path / "t.csv"))


def test_what_spreadsheets_do_to_a_table_does_not_change_it(frame: pd.DataFrame, tmp_path: Path) -> None:
    frame = frame.assign(name=frame["name"].fillna("conv #3")).convert_dtypes()
    known = load_cost_table(written(frame, tmp_path / "t.csv"))
    text = frame.to_csv(index=False)
    lines = text.splitlines()
    ways = {
        "upper.CSV": text,
        "bom.csv": "\ufeff" + text,
        "index.csv": frame.to_csv(),
        "resaved.csv": frame.to_csv(index_label="Unnamed: 0"),
        "from_1.csv": frame.set_axis(range(1, len(frame) + 1)).to_csv(),
        "semicolons.csv": frame.to_csv(index=False, sep=";"),
        "tabs.csv": frame.to_csv(index=False, sep="\t"),
        "crlf.csv": "\r\n".join(lines),
        "blank.csv": "\n\n" + "\n\n".join(lines) + "\n" + "," * 20 + "\n",
        "trailing.csv": "".join(f"{line},\n" for line in lines),
        "behind_rows.csv": lines[0] + "\n" + "".join(f"{line},,\n" for line in lines[1:]),
        "padded.csv": "\n".join(line.replace(",", " , ") for line in lines),
        "comments.csv": "# measured on a board, 2026\n" + "\n  # again\n".join(lines),
    }
    ways["behind.csv"] = frame[[c for c in frame if c != "latency_ms"] + ["latency_ms"]].to_csv(index=False)
    ways["behind.csv"] = ways["behind.csv"].replace("\n", " # ours\n").replace("latency_ms # ours", "latency_ms")
    for name, content in ways.items():
        (tmp_path / name).write_text(content, "utf-8", newline="")
        found = load_cost_table(tmp_path / name)
        assert (found.metrics, found.convs, found.fixed) == (known.metrics, known.convs, known.fixed), name


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("op,latency_ms,latency_ms\nfixed,1,2\n", "has two columns 'latency_ms'; keep one, or rename it"),
        ("op,latency_ms,latency_ms \nfixed,1,2\n", "has two columns 'latency_ms'; keep one, or rename it"),
        ("op,resolution,latency_ms,\nfixed,,1,x\n", r"column 4 has no name \(''\); name it, or remove it"),
        (",op,latency_ms\n7,fixed,1\n", r"column 1 has no name \(''\); name it"),
        ("op,latency_ms,Unnamed: 2\nfixed,1,0\n", r"column 3 has no name \('Unnamed: 2'\); name it"),
        (
            "id,op,latency_ms\n0,fixed,1\n1,fixed,1\n",
            "column 'id' only numbers the rows and is not a metric; remove it",
        ),
        ("op,latency\nfixed,1\n", r"column 'latency' ends in no unit that is known; .* put its unit last \(latency_ms"),
        ("op,latency_ms,std\nfixed,1,2\n", r"column 'std' ends in no unit .*, else remove it"),
        ("op,latency_ms\nfixed,1,2\n", r"row 1 \(line 2\) has 3 cells, the header has 2; put text that holds commas"),
        (
            'op,name,latency_ms\nfixed,"stem,1\n',
            r"is not a readable CSV \(line 2: unexpected end of data\); close the quotes",
        ),
        ("Op,latency_ms\nfixed,1\n", "has no column 'op'; it has 'Op', 'latency_ms'"),
        ("op,latency_ms\n", "has no rows under its header"),
    ],
)
def test_a_csv_that_could_mean_two_things_is_refused(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(TableError, match=rf"t\.csv: {said}"):
        load_cost_table(tmp_path / "t.csv")


def test_text_in_another_encoding_and_a_missing_file_are_told(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("op,name\nfixed,Größe\n".encode("cp1252"))
    with pytest.raises(TableError, match="is not UTF-8 text"):
        load_cost_table(tmp_path / "t.csv")
    with pytest.raises(TableError, match="is not a readable CSV"):
        load_cost_table(tmp_path / "absent.csv")


BITFUSION = {
    "head": {"latency": 1.0, "energy": 1.0},
    "(96, 456, 14, 1, 1, 0, 1)-W4A4": {"latency": 1.0, "energy": 1.0},
    "tail": {"latency": 1.0, "energy": 1.0},
}


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        (BITFUSION | {"head": {"latency": "x", "energy": 1}}, "entry 'head': latency_ms is 'x'; give a number >= 0"),
        (BITFUSION | {"tail": {"latency": True, "energy": 1}}, "entry 'tail': latency_ms is 'True'"),
        (BITFUSION | {"tail": {"latency": None, "energy": 1}}, "entry 'tail': latency_ms is empty"),
        (BITFUSION | {"tail": {"latency": [1], "energy": 1}}, r"entry 'tail': latency_ms is '\[1\]'"),
        (BITFUSION | {"tail": {"latency": -1, "energy": 1}}, "entry 'tail': latency_ms is -1"),
        (BITFUSION | {"foot": {"latency": 1, "energy": 1}}, "cannot read entry 'foot'; expected 'head', 'tail' or"),
        ({k: v for k, v in BITFUSION.items() if k != "tail"}, "has no entry 'tail'; .* never counts as zero"),
        ([1], "is not a cost table in JSON: it holds a list, no entries by name; give .csv, .yaml or APQ's JSON"),
        ({}, "is not a cost table in JSON: it holds nothing"),
    ],
)
def test_an_entry_of_json_is_refused_by_its_key(tmp_path: Path, entries: object, said: str) -> None:
    (tmp_path / "t.json").write_text(json.dumps(entries))
    with pytest.raises(TableError, match=rf"t\.json: {said}"):
        load_cost_table(tmp_path / "t.json")


def test_a_key_twice_and_endless_nesting_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text('{"head": {"latency": 1, "energy": 1}, "head": {"latency": 2, "energy": 1}}')
    with pytest.raises(TableError, match='key "head" comes twice'):
        load_cost_table(tmp_path / "t.json")
    (tmp_path / "t.json").write_text("[" * 100_000)
    with pytest.raises(TableError, match="nested deeper"):
        load_cost_table(tmp_path / "t.json")


def once_for_all(*, gates: str = "-se:0-hs:0", size: int = 16) -> dict[str, dict[str, float]]:
    """A table for ``YAML_SPACE``: one block of two kernels."""
    half = size // 2
    means = {
        f"Conv-input:{size}x{size}x3-output:{half}x{half}x8": 1.0,
        f"expanded_conv-input:{half}x{half}x8-output:{half}x{half}x8-expand:8-kernel:3-stride:1-idskip:1{gates}": 2.0,
        **{
            f"expanded_conv-input:{half}x{half}x8-output:{half}x{half}x16-expand:24-kernel:{kernel}-stride:1-idskip:0"
            f"{gates}": 4.0 * kernel
            for kernel in (3, 5)
        },
        f"Conv_1-input:{half}x{half}x16-output:{half}x{half}x32": 32.0,
        f"Logits-input:{half}x{half}x32-output:4": 64.0,
    }
    return {key: {"count": 100, "mean": mean, "std": 0.1} for key, mean in means.items()}


YAML_SPACE = {
    "format": 1,
    "name": "small",
    "input": {"channels": 3, "size": 16},
    "classes": 4,
    "stem": {"channels": 8, "kernel_size": 3, "stride": 2},
    "first": {"channels": 8, "kernel_size": 3},
    "stages": [{"channels": 16, "stride": 1, "depth": [1], "kernel_size": [3, 5]}],
    "head": {"channels": 32},
    "choices": {"kernel_size": [3], "expand_ratio": [3], "pw_w_bits": [8], "pw_a_bits": [8], "dw_w_bits": [8]}
    | {"dw_a_bits": [8]},
}


@pytest.mark.parametrize("gates", ["-se:0-hs:0", ""])
@pytest.mark.parametrize("suffix", [".yaml", ".YAML", ".Yml"])
def test_once_for_alls_tables_are_read_in_both_notations(tmp_path: Path, gates: str, suffix: str) -> None:
    (tmp_path / f"t{suffix}").write_text(yaml.safe_dump(once_for_all(gates=gates)))
    encoding = NetworkEncoding(SearchSpace.from_dict(YAML_SPACE))
    for path in (tmp_path / f"t{suffix}", tmp_path):
        (latency,) = load_cost_table(path).models(encoding)
        assert latency(encoding.enumerate()).tolist() == [1 + 2 + 32 + 64 + 12, 1 + 2 + 32 + 64 + 20]


def changed(old: str, new: str | None, **kind: str) -> dict[str, object]:
    """A table in which one key is another, or gone."""
    table = once_for_all(**kind)  # type: ignore[arg-type]
    (key,) = [key for key in table if old in key]
    return {
        (key.replace(old, new) if new is not None and k == key else k): v for k, v in table.items() if new or k != key
    }


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (once_for_all() | {"extra": {"mean": 5.0}}, "cannot read entry 'extra'; blocks are called 'expanded_conv-"),
        (once_for_all() | {5: {"mean": 5.0}}, "cannot read entry 5; blocks are called"),
        (changed("kernel:5", "kernal:5"), "cannot read entry 'expanded_conv-.*kernal:5"),
        (changed("kernel:5-stride:1-idskip:0", "kernel:5-stride:1-idskip:2"), "cannot read entry 'expanded_conv-"),
        (changed("Conv_1-input:8x8", "Conv_3-input:8x8"), "cannot read entry 'Conv_3-"),
        (changed("Conv_1", None), r"has no entry 'Conv_1-input:\.\.\.'; give it, it never counts as zero"),
        (changed("Logits", None), "has no entry 'Logits-input"),
        (changed("Conv-input", None), "has no entry 'Conv-input"),
        (changed("expand:8-", None), "has 0 entries for the first block, which every network begins with"),
        (changed("Logits-input:8x8x32", "Logits-input:1x1x48"), "Conv_1 gives 32 channels, Logits takes 48; the entry"),
        (once_for_all() | {"Logits-input:1x1x32-output:9": {"mean": 1}}, "has several entries 'Logits-input:"),
        (changed("kernel:5-stride:1-idskip:0-se:0-hs:0", "kernel:5-stride:1-idskip:0"), "entry .* has no -se:0-hs:0"),
        (once_for_all() | {"Conv_2-input:1x1x32-output:1x1x32": {"mean": "2 ms"}}, "latency_ms is '2 ms': write 2 and"),
        (once_for_all() | {"Conv_2-input:1x1x32-output:1x1x32": {"median": 2}}, "entry 'Conv_2.*' has no mean"),
    ],
)
def test_an_entry_of_yaml_that_means_nothing_is_refused_by_its_key(
    tmp_path: Path, table: dict[object, object], said: str
) -> None:
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(table))
    with pytest.raises(TableError, match=said) as caught:
        load_cost_table(tmp_path / "t.yaml")
    assert "t.yaml" in str(caught.value)


def test_entries_without_gates_are_told_where_blocks_with_gates_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(yaml.safe_dump(once_for_all(gates="")))
    stages = [YAML_SPACE["stages"][0] | {"squeeze_excite": True}]  # type: ignore[index]
    encoding = NetworkEncoding(SearchSpace.from_dict(YAML_SPACE | {"stages": stages}))
    with pytest.raises(TableError, match=r"2 ops of small are missing: .*; its entries have no -se and -hs, so"):
        load_cost_table(tmp_path / "t.yaml").models(encoding)


def test_two_files_of_one_resolution_are_refused(tmp_path: Path) -> None:
    for name in ("16.yaml", "copy.YAML"):
        (tmp_path / name).write_text(yaml.safe_dump(once_for_all()))
    with pytest.raises(TableError, match=r"16\.yaml and copy\.YAML are both of resolution 16; keep one"):
        load_cost_table(tmp_path)


def test_pairs_that_shrink_are_counted_as_by_hand(tmp_path: Path) -> None:
    shape = dict.fromkeys(KEYS, 1) | {"op": "conv"}
    values = {(4, 4): 1.0, (4, 8): 0.5, (8, 4): 2.0, (8, 8): 1.5}
    rows = [shape | {"w_bits": w, "a_bits": a, "energy_mj": v} for (w, a), v in values.items()]
    table = load_cost_table(written(pd.DataFrame(rows), tmp_path / "t.csv"))
    costs = {key: value for key, (value,) in table.convs.items()}
    assert pairs_that_shrink(costs) == (2, 5)  # (4,4)-(4,8) and (8,4)-(8,8), of five comparable pairs


def costs_of(cost: Callable[[int, int], float]) -> dict[tuple[int, ...], float]:
    """Costs of two shapes at all pairs of 2, 4 and 8 bits."""
    pairs = [(w, a) for w in (2, 4, 8) for a in (2, 4, 8)]
    return {(c, c, 8, 1, 1, 1, w, a): c * cost(w, a) for c in (16, 32) for w, a in pairs}


@pytest.mark.parametrize(
    ("cost", "least"),
    [
        (lambda w, a: 1.0, 8),  # noqa: ARG005
        (lambda w, a: 1.0 + 0.3 * (a < 8), 8),  # noqa: ARG005  # a runtime that limits activations to fewer levels
        (lambda w, a: max(w, 4) + max(a, 4), 4),  # kernels of 4 and of 8 bits
        (lambda w, a: w + a, None),
        (lambda w, a: w, None),  # noqa: ARG005  # weights alone are enough
        (lambda w, a: a, None),  # noqa: ARG005  # and so are activations
        (lambda w, a: 1.0 - 0.005 * (w < 8), 8),  # noqa: ARG005  # noise
    ],
)
def test_bits_below_which_nothing_gets_cheaper(cost: Callable[[int, int], float], least: int | None) -> None:
    assert useless_below(costs_of(cost)) == least


def test_one_shape_that_gets_cheaper_is_enough_and_one_width_tells_nothing() -> None:
    costs = costs_of(lambda w, a: 1.0)  # noqa: ARG005
    costs[16, 16, 8, 1, 1, 1, 2, 8] = 10.0
    assert useless_below(costs) is None
    assert useless_below({key: value for key, value in costs.items() if key[-2:] == (8, 8)}) is None
    assert useless_below({}) is None


PLAIN = {"add": 0.5, "multiply": 0.25, "pool": 2.0}
"""Cost of a value that each kind of layer without weights reads."""


@pytest.fixture(scope="module")
def gated(tiny_space: SearchSpace) -> NetworkEncoding:
    """The space ``tiny`` with squeeze-excite in its first stage."""
    data = tiny_space.model_dump(mode="json", exclude_none=True)
    data["stages"][0]["squeeze_excite"] = True
    return NetworkEncoding(SearchSpace.from_dict(data))


@pytest.fixture(scope="module")
def plain_rows(gated: NetworkEncoding) -> pd.DataFrame:
    """Rows of all ops, and of layers without weights of all shapes up to 48 channels and 8 pixels."""
    ops = {op for candidate in gated.decode(gated.enumerate()) for op in block_list(gated, candidate)}
    rows = [{"op": "conv", **{key: int(getattr(op, key)) for key in KEYS}, "latency_ms": price(op)} for op in ops]
    rows += [
        {"op": kind, "in_channels": c, "in_size": size, "latency_ms": cost * c * size**2}
        for kind, cost in PLAIN.items()
        for c in range(8, 49, 8)
        for size in (4, 8)
    ]
    return pd.DataFrame([{"op": "fixed", "latency_ms": 5.5}, *rows])


def test_layers_without_weights_cost_what_a_plain_loop_says(
    gated: NetworkEncoding, plain_rows: pd.DataFrame, tmp_path: Path
) -> None:
    (latency,) = load_cost_table(written(plain_rows, tmp_path / "t.csv")).models(gated)
    genomes = gated.sample(50, np.random.default_rng(0))
    for candidate, cost in zip(gated.decode(genomes), latency(genomes), strict=True):
        layers = gated.space.network.at(gated.space.values_of(candidate))
        sizes = {layer.name: layer.output.size for layer in layers}
        plain = [
            PLAIN[layer.kind] * int(layer.output.channels) * sizes[layer.inputs[0]] ** 2
            for layer in layers
            if layer.op is None and layer.name != "pool"  # the last one is a fixed part
        ]
        assert {layer.kind for layer in layers} >= {"pool", "multiply"}
        assert cost == pytest.approx(5.5 + sum(map(price, block_list(gated, candidate))) + sum(plain), rel=1e-12)


def test_a_table_with_some_layers_without_weights_must_have_all(
    gated: NetworkEncoding, plain_rows: pd.DataFrame, tmp_path: Path
) -> None:
    rows = plain_rows
    table = load_cost_table(written(rows[rows["op"] != "pool"], tmp_path / "t.csv"))
    assert table.missing(gated.space)[0].startswith("pool in_channels=8 in_size=8")
    (without,) = load_cost_table(written(rows[~rows["op"].isin(PLAIN)], tmp_path / "t.csv")).models(gated)
    assert without.reachable()[0] > 5.5  # a table of convolutions alone is whole


def test_fixed_rows_for_one_size_do_not_hide_those_for_all(frame: pd.DataFrame, tmp_path: Path) -> None:
    mixed = frame.assign(resolution=["" if name != "stem" else 8 for name in frame["name"]])
    with pytest.raises(TableError, match="some fixed rows have a resolution and some have none; give it in all or in"):
        load_cost_table(written(mixed, tmp_path / "t.csv"))
