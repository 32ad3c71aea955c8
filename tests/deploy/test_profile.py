"""Measured tables: operations of a space, what is predicted, what is corrected, and what is refused."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from apq_tune import NetworkEncoding, SearchSpace, TableError
from apq_tune.cli import main
from apq_tune.deploy import measure
from apq_tune.deploy.calibration import calibrate
from apq_tune.deploy.lowering import program_of
from apq_tune.deploy.measure import MANIFEST, RESULTS
from apq_tune.deploy.network_models import network_model
from apq_tune.deploy.onnx_graph import graph_of
from apq_tune.deploy.onnx_session import kernels
from apq_tune.deploy.op_models import has_model, op_model
from apq_tune.deploy.op_regression import fill_in
from apq_tune.deploy.profile import ProfiledPrecision, latencies, table_rows, write_table
from apq_tune.deploy.profile_folder import collect, measure_folder, write_folder
from apq_tune.deploy.profile_ops import ProfileOp, network_ops
from apq_tune.deploy.profile_plan import all_ops, by_information, plan, random_networks
from apq_tune.problem.costs import Costs
from apq_tune.supernet.subnet import Subnet

Device = Any
"""``FakeDevice`` of conftest.py."""

Lines = Callable[[Path], list[str]]
"""``uncommented`` of conftest.py."""

N_NETWORKS = 24
"""Number of networks of the ``measured`` folder."""


def candidates(space: SearchSpace, n: int) -> list[Any]:
    encoding = NetworkEncoding(space)
    return encoding.decode(encoding.sample(n, np.random.default_rng(5)))


def test_the_ops_of_a_space_are_those_of_all_its_networks(gated_space: SearchSpace) -> None:
    encoding, network = NetworkEncoding(gated_space), gated_space.network
    every = encoding.decode(encoding.enumerate()[::37])
    found = {
        op
        for candidate in every
        for op in network_ops(network.at(gated_space.values_of(candidate)), network.image(network.sizes[0]))
    }
    assert found == set(all_ops(gated_space))
    assert len({op.key for op in found}) == len(found)


def test_what_a_runtime_does_to_activations_of_fewer_bits(gated_space: SearchSpace) -> None:
    """The input of a block is stored at 8 bits and requantized; all else is stored at its reader's bits and clipped."""
    for candidate in candidates(gated_space, 20):
        layers = gated_space.network.at(gated_space.values_of(candidate))
        kinds = Counter(op.kind for op in network_ops(layers, gated_space.network.image(8)))
        narrow = Counter(layer.role for layer in layers if layer.op is not None and int(layer.op.a_bits) < 8)
        assert kinds["requantize"] == narrow["expand"]
        assert kinds["clip"] == narrow["depthwise"] + narrow["project"]


def test_the_sum_of_a_table_is_that_of_the_ops_of_the_network(
    measured: Path, gated_space: SearchSpace, tmp_path: Path
) -> None:
    """Read through --table, for random candidates and both metrics."""
    collected = collect(measured)
    write_table(collected, tmp_path / "t.csv")
    encoding = NetworkEncoding(gated_space)
    metrics = Costs.of(encoding, [tmp_path / "t.csv"]).metrics
    for precision, name in (("int8", "latency_ms"), ("fp32", "fp32_latency_ms")):
        own = latencies(collected, precision)
        genomes = encoding.sample(40, np.random.default_rng(1))
        for candidate, cost in zip(encoding.decode(genomes), metrics[name](genomes), strict=True):
            layers = gated_space.network.at(gated_space.values_of(candidate))
            ops = [op for op in network_ops(layers, gated_space.network.image(8)) if has_model(op, precision)]
            assert cost == pytest.approx(1e3 * sum(own.in_network(op) for op in ops), rel=1e-4)


def test_layers_that_differ_in_their_function_alone_cost_the_slower_one(tiny_space: SearchSpace) -> None:
    data = tiny_space.model_dump(mode="json", exclude_none=True)
    data["stages"][1]["activation"] = "h_swish"  # blocks of both stages expand 8 to 24 channels at 8 pixels
    space = SearchSpace.from_dict(data)
    latency = {op: 1e-6 + (5e-6 if op.function else 0.0) + 1e-9 * op.n_values for op in all_ops(space)}
    own = ProfiledPrecision(latency, frozenset(latency), None, None)
    rows = table_rows(space, {"int8": own, "fp32": own})
    shape = {"op": "conv", "in_channels": 8, "out_channels": 24, "in_size": 8, "kernel_size": 1, "a_bits": 8}
    (found,) = {row["latency_ms"] for row in rows if shape.items() <= row.items()}
    slower = latency[ProfileOp("conv", 8, 24, 8, function="h_swish")]
    assert float(found) == pytest.approx(1e3 * slower) != pytest.approx(1e3 * latency[ProfileOp("conv", 8, 24, 8)])


def test_measured_ops_are_found_again_without_the_overhead_of_a_run(measured: Path, fake_device: Device) -> None:
    for precision in ("int8", "fp32"):
        own = latencies(collect(measured), precision)
        assert own.error is None and own.measured == set(own.latency)
        for op, latency in own.latency.items():
            assert latency == pytest.approx(fake_device.alone(op, precision), rel=1e-6)


def test_networks_correct_the_sums(measured: Path, fake_device: Device) -> None:
    """Held-out networks are predicted although every family is slower or faster in a network than alone."""
    correction = latencies(collect(measured), "int8").correction
    assert correction is not None and correction.used and correction.n_networks == N_NETWORKS
    assert correction.before.error > 0.05
    assert correction.after.error < 0.01 and correction.after.spearman > 0.99


def test_the_rule_for_bits_is_in_every_row(measured: Path, tmp_path: Path, uncommented: Lines) -> None:
    """Weights of fewer bits cost the time of 8; activations of fewer bits cost their clip in addition."""
    write_table(collect(measured), tmp_path / "t.csv")
    rows = [row for row in csv.DictReader(uncommented(tmp_path / "t.csv")) if row["op"] == "conv"]
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        shape = ("in_channels", "out_channels", "in_size", "kernel_size", "stride", "groups", "a_bits")
        groups.setdefault(tuple(row[name] for name in shape), []).append(row)
        eight = int(row["w_bits"]) == int(row["a_bits"]) == 8
        assert row["source"] == ("measured" if eight else "measured at 8 bits")
    assert any(len(own) > 1 for own in groups.values())
    assert all(len({row["latency_ms"] for row in own}) == 1 for own in groups.values())
    for key, own in groups.items():
        if (full := groups.get((*key[:-1], "8"))) is not None and key[-1] != "8":
            assert float(own[0]["latency_ms"]) > float(full[0]["latency_ms"])


def test_noise_is_told_and_outliers_change_no_median(
    gated_space: SearchSpace, fake_device: Device, tmp_path: Path
) -> None:
    write_folder(tmp_path / "ops", gated_space, threads=1, networks=0, seed=0)
    device, count = fake_device(gated_space, 0, noise=0.02), Counter[str]()

    def slow() -> float:
        count["runs"] += 1
        return 50.0 if count["runs"] % 997 == 0 else 1.0

    device.slow = slow
    list(measure_folder(tmp_path / "ops", None, load=device.load, clock=device.clock, runtime="1.0"))
    collected = collect(tmp_path / "ops")
    assert sum(spread.n_outliers for spread in collected.timings.values()) > 10
    for op, latency in latencies(collected, "int8").latency.items():
        assert latency == pytest.approx(fake_device.alone(op, "int8"), rel=0.1)
    lines = write_table(collected, tmp_path / "t.csv")
    assert any("outliers" in line for line in lines)
    assert any("0 whole networks measured, too few to correct" in line for line in lines)


def test_a_machine_that_slows_down_is_told(gated_space: SearchSpace, fake_device: Device, tmp_path: Path) -> None:
    write_folder(tmp_path / "ops", gated_space, threads=1, networks=0, seed=0)
    device = fake_device(gated_space, 0)
    device.slow = lambda: 1.0 if device.now < 0.85 else 1.5
    list(measure_folder(tmp_path / "ops", None, load=device.load, clock=device.clock, runtime="1.0"))
    assert device.now > 1.7
    lines = write_table(collect(tmp_path / "ops"), tmp_path / "t.csv")
    assert any("the machine became 50% slower" in line for line in lines)


def test_the_first_ops_are_spread_over_the_space() -> None:
    """The first tenth covers all sizes and kernels, and prefers what is frequent and large."""
    ops = [ProfileOp("conv", c, 2 * c, size, k) for c in (8, 16, 32, 64) for size in (4, 8, 16, 32) for k in (1, 3, 5)]
    first = by_information(ops, {})[:8]
    assert len({op.in_size for op in first}) >= 3 and {op.kernel_size for op in first} == {1, 3, 5}
    rare = ops[0]
    assert by_information(ops, {})[-1] != rare or by_information(ops, {rare: 10_000})[-1] != rare
    assert by_information(ops, {rare: 10**9})[0] == rare
    assert sorted(by_information(ops, {})) == sorted(ops)


def test_the_plan_has_few_of_a_kind_first_and_networks_early(gated_space: SearchSpace) -> None:
    items = plan(gated_space, 10, 0)
    assert len({item.key for item in items}) == len(items)
    places = [place for place, item in enumerate(items) if not isinstance(item.target, ProfileOp)]
    assert len(places) == 20
    first = {item.target.family for item in items[: places[0]] if isinstance(item.target, ProfileOp)}
    assert first == {op.family for op in all_ops(gated_space)}  # without one of a family no other can be predicted
    assert places[-1] < 0.9 * len(items)
    assert [item.key for item in plan(gated_space, 10, 0)] == [item.key for item in items]


def law(op: ProfileOp) -> float:
    return 2e-6 + 3e-11 * op.macs + 4e-10 * op.n_values


@pytest.fixture(scope="module")
def many() -> list[ProfileOp]:
    return [
        ProfileOp("conv", c, c if groups else n, size, k, 1, c if groups else 1)
        for c in (8, 16, 24, 48, 96)
        for n in (16, 64)
        for size in (7, 14, 28)
        for k, groups in ((1, False), (3, True))
        if not (groups and n == 64)
    ]


def test_missing_ops_are_predicted_as_well_as_is_said(many: list[ProfileOp]) -> None:
    rng = np.random.default_rng(0)
    order = rng.permutation(len(many))
    known = {many[i]: law(many[i]) * float(rng.normal(1, 0.02)) for i in order[:30]}
    missing = [many[i] for i in order[30:]]
    found, error = fill_in(known, missing, "int8")
    off = np.abs([found[op] / law(op) - 1 for op in missing])
    assert np.median(off) < 0.1
    assert np.median(off) < 3 * error.median + 0.02 and error.median < 0.15
    assert error.n_measured == 30


def test_a_regression_of_noise_says_so(many: list[ProfileOp]) -> None:
    rng = np.random.default_rng(0)
    _, error = fill_in({op: float(rng.lognormal(0, 1)) for op in many[:30]}, many[30:], "int8")
    assert error.median > 0.3


def test_too_little_is_not_extrapolated(many: list[ProfileOp]) -> None:
    known = {op: law(op) for op in many[:12]}
    with pytest.raises(TableError, match=r"int8: 12 operations were measured, of 20 that a regression needs; 33 are"):
        fill_in(known, many[12:], "int8")
    pool = ProfileOp("pool", 64, 64, 4)
    with pytest.raises(TableError, match="none of pool; 1 are missing, measure for longer"):
        fill_in({op: law(op) for op in many}, [pool], "int8")


def test_a_correction_that_does_not_help_is_not_used(gated_space: SearchSpace) -> None:
    rng = np.random.default_rng(0)
    networks = [drawn.ops for drawn in random_networks(gated_space, 20, 0)]
    latency = {op: law(op) for ops in networks for op in ops}
    exact = [sum(latency[op] for op in ops) for ops in networks]
    same = calibrate(networks, exact, latency)
    assert same is not None and same.before.error < 1e-9
    assert not same.used and same.apply(networks[0][1], 1.0) == 1.0
    assert calibrate(networks[:9], exact[:9], latency) is None
    noisy = calibrate(networks, rng.permutation(exact).tolist(), latency)
    assert noisy is not None and noisy.after.spearman < 0.7  # held-out networks, not those that it was fitted to


def test_the_agreement_after_a_correction_is_of_networks_that_it_was_not_fitted_to() -> None:
    """Networks of one operation each, all of other families: what some teach is of no use for the others."""
    kinds = ("linear", "pool", "add", "multiply", "requantize", "clip", "image")
    ops = [ProfileOp(kind, 32, 32, 8) for kind in kinds]  # type: ignore[arg-type]
    ops += [ProfileOp("conv", 32, 32, 8, k, groups=groups) for k, groups in ((1, 1), (3, 1), (3, 32))]
    latency = {op: law(op) for op in ops}
    measured = [latency[op] * (0.5 + 0.2 * number) for number, op in enumerate(ops)]
    found = calibrate([[op] for op in ops], measured, latency)
    assert found is not None and not found.used
    assert found.after.error == pytest.approx(found.before.error, rel=1e-6)


def spoil_line(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], None]:
    """Change the third line of the results."""

    def spoil(folder: Path) -> None:
        lines = (folder / RESULTS).read_text().splitlines()
        lines[2] = json.dumps(change(json.loads(lines[2])))
        (folder / RESULTS).write_text("\n".join([*lines, ""]))

    return spoil


def seconds(values: Any) -> Callable[[Path], None]:
    return spoil_line(lambda line: line | {"seconds": values})


def header(**changes: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        first, *rest = (folder / RESULTS).read_text().splitlines()
        (folder / RESULTS).write_text("\n".join([json.dumps(json.loads(first) | changes), *rest, ""]))

    return spoil


def no_header(folder: Path) -> None:
    _, *rest = (folder / RESULTS).read_text().splitlines()
    (folder / RESULTS).write_text("\n".join([*rest, ""]))


def second_machine(folder: Path) -> None:
    first = json.loads((folder / RESULTS).read_text().splitlines()[0])
    with (folder / RESULTS).open("a") as file:
        file.write(json.dumps(first | {"processor": "another"}) + "\n")


def manifest(**changes: Any) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        data = json.loads((folder / MANIFEST).read_text())
        (folder / MANIFEST).write_text(json.dumps(data | changes))

    return spoil


REFUSED: list[tuple[str, Callable[[Path], Any], str]] = [
    ("no results", lambda folder: (folder / RESULTS).unlink(), "has no results; run python"),
    ("no manifest", lambda folder: (folder / MANIFEST).unlink(), "is missing or damaged; export the ops again"),
    ("a list", lambda folder: (folder / MANIFEST).write_text("[]"), "is missing or damaged"),
    ("deep", lambda folder: (folder / MANIFEST).write_text("[" * 10**5), "is missing or damaged"),
    ("format", manifest(format=2), "has format 2, this version reads 1"),
    ("other space", manifest(space="format: 1"), "holds no search space; export the ops again"),
    ("no threads", manifest(threads=None), "is missing or damaged; export the ops again"),
    ("too many threads", manifest(threads=10**9), "is damaged; export the ops again"),
    ("too many networks", manifest(networks=10**9), "is damaged; export the ops again"),
    ("other ops", manifest(seed=1, networks=1), "lists other ops than this version of apq-tune"),
    ("changed", manifest(threads=2), "holds results of other ops than"),
    ("other manifest", header(manifest="0" * 64), "holds results of other ops than"),
    ("other script", header(format=7), r"is of another version of measure\.py"),
    ("two machines", second_machine, "holds results of two machines; measure again on one"),
    ("no header", no_header, "does not begin with what was measured"),
    ("not a number", seconds([float("nan")]), "line 3: seconds of .* are .*nan.*, not times; delete that line"),
    ("infinite", seconds([float("inf")]), "not times"),
    ("negative", seconds([1e-6, -1e-6]), "not times"),
    ("zero", seconds([0]), "not times"),
    ("huge", seconds([10**400]), "not times"),
    ("no total", spoil_line(lambda line: {key: line[key] for key in ("item", "seconds")}), "not times"),
    ("items that are none", manifest(order=["a"], items=["a"]), "is missing or damaged"),
    ("number of a file", manifest(order=["a"], items={"a": {"file": 1, "sha256": "", "bytes": 1}}), "is missing or"),
    ("text", seconds(["1e-6"]), "not times"),
    ("truth", seconds([True]), "not times"),
    ("none", seconds([]), "not times"),
    ("null", seconds(None), "not times"),
    ("bad total", spoil_line(lambda line: line | {"took": "long"}), "not times"),
    ("foreign op", spoil_line(lambda line: line | {"item": "int8-conv-9x9"}), "line 3 is of 'int8-conv-9x9', which is"),
    ("no op", spoil_line(lambda line: {"a": 1}), "line 3 is of 'None', which is not an op of this folder"),  # noqa: ARG005
    ("no JSON", lambda folder: (folder / RESULTS).write_text("{}\n}\n"), "line 2 is damaged; delete that line"),
    ("no text", lambda folder: (folder / RESULTS).write_bytes(b"\xff\xfe\n"), "cannot be read"),
]


@pytest.mark.parametrize(("spoil", "said"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_damaged_and_foreign_results_are_refused_in_one_line(
    folder: Path, tmp_path: Path, spoil: Callable[[Path], Any], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(folder)
    command = ["profile", "--collect", str(folder), "--out", str(tmp_path / "t.csv")]
    with pytest.raises(TableError, match=said):
        collect(folder)
    with pytest.raises(SystemExit) as exited:
        main(command)
    assert exited.value.code == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and len(error.splitlines()) == 1
    assert not (tmp_path / "t.csv").exists()


def without(folder: Path, gone: Callable[[str], bool]) -> None:
    """Drop the results of some items."""
    lines = (folder / RESULTS).read_text().splitlines()
    kept = [line for line in lines if not gone(json.loads(line).get("item", ""))]
    (folder / RESULTS).write_text("\n".join([*kept, ""]))


def test_gaps_are_predicted_and_said(folder: Path, fake_device: Device, tmp_path: Path, uncommented: Lines) -> None:
    names = sorted({json.loads(line).get("item", "") for line in (folder / RESULTS).read_text().splitlines()})
    gone = {name for name in names if "kernel1" in name or ("groups" in name and not name.endswith("groups1"))}
    gone = set(sorted(gone)[::4])
    without(folder, gone.__contains__)
    lines = write_table(collect(folder), tmp_path / "t.csv")
    assert any("predicted with a relative error of" in line for line in lines)
    sources = Counter(row["source"] for row in csv.DictReader(uncommented(tmp_path / "t.csv")))
    assert sources["predicted at 8 bits"] and sources["measured at 8 bits"]
    own = latencies(collect(folder), "int8")
    missing = [op for op in own.latency if op not in own.measured]
    assert {f"int8-{op.key}" for op in missing} == {name for name in gone if name.startswith("int8")}
    for op in missing:
        assert own.latency[op] == pytest.approx(fake_device.alone(op, "int8"), rel=0.3)


def test_too_many_gaps_are_refused(folder: Path) -> None:
    without(folder, lambda name: "conv" in name and not name.endswith("groups1"))
    with pytest.raises(TableError, match=r"int8: \d+ operations were measured, .* are missing, measure for longer"):
        latencies(collect(folder), "int8")


def test_half_a_line_at_the_end_is_left_out_and_said(folder: Path, tmp_path: Path) -> None:
    with (folder / RESULTS).open("a") as file:
        file.write('{"item": "int8-ru')
    assert any("its last line is not whole" in line for line in write_table(collect(folder), tmp_path / "t.csv"))


def test_a_table_of_another_space_is_refused(measured: Path, tmp_path: Path) -> None:
    write_table(collect(measured), tmp_path / "t.csv")
    with pytest.raises(TableError, match=r"t\.csv: \d+ ops of digits are missing: "):
        Costs.of(NetworkEncoding(SearchSpace.load("digits")), [tmp_path / "t.csv"])
    with pytest.raises(TableError, match="is a profile of tiny, not of digits"):
        collect(measured, SearchSpace.load("digits"))


def test_a_table_of_a_space_with_another_head_is_refused(
    measured: Path, gated_space: SearchSpace, tmp_path: Path
) -> None:
    """All searched operations are in the table; the fixed ones are not."""
    write_table(collect(measured), tmp_path / "t.csv")
    data = gated_space.model_dump(mode="json", exclude_none=True)
    other = SearchSpace.from_dict(data | {"classes": data["classes"] + 1})
    with pytest.raises(TableError, match=r"t\.csv: is of another search space than .*has no fixed .*; measure this"):
        Costs.of(NetworkEncoding(other), [tmp_path / "t.csv"])
    text = (tmp_path / "t.csv").read_text().splitlines(keepends=True)
    head = max(number for number, line in enumerate(text) if line.startswith("fixed,") and ",,,," not in line)
    (tmp_path / "t.csv").write_text(
        "".join(text[: head + 1])
        + text[head].replace("fixed,", "fixed,more-", 1).replace(",1,1,1,", ",1,2,1,", 1)
        + "".join(text[head + 1 :])
    )
    with pytest.raises(TableError, match="which is not in it; measure this space"):
        Costs.of(NetworkEncoding(gated_space), [tmp_path / "t.csv"])


FUSED = {
    ProfileOp("conv", 16, 32, 8): {"QLinearConv"},
    ProfileOp("conv", 32, 32, 8, 3, 2, 32): {"QLinearConv"},
    ProfileOp("linear", 64, 10): {"QGemm"},
    ProfileOp("add", 32, 32, 8): {"QLinearAdd"},
    ProfileOp("max_pool", 32, 32, 8, 3, 2): {"NhwcMaxPool"},
    ProfileOp("max_pool", 32, 32, 7, 2, 2): {"NhwcMaxPool"},
    ProfileOp("concat", 32, 32, 8): {"QLinearConcat"},
}


@pytest.mark.parametrize("op", FUSED, ids=lambda op: op.key)
def test_models_of_ops_run_on_integer_kernels_and_nothing_else(op: ProfileOp, tmp_path: Path) -> None:
    """Really measured with onnxruntime; no instance is merged with another one, and no tensor is transposed."""
    model = onnx.load_from_string(op_model(op, "int8"))
    onnx.checker.check_model(model, full_check=True)
    found = kernels(model)
    assert set(found) == FUSED[op]
    assert found.total() == op.n_instances
    (tmp_path / "op.onnx").write_bytes(model.SerializeToString())
    timings = measure.timings(measure.load_onnx(tmp_path / "op.onnx", 1))
    assert len(timings) == measure.TIMINGS and all(0 < value < 1 for value in timings)


def test_profiled_networks_are_those_that_are_exported(gated_space: SearchSpace) -> None:
    """The runtime executes the same operators as for the file of a real subnet of the same candidate."""
    for candidate in candidates(gated_space, 2):
        graph, opset = graph_of(program_of(Subnet(gated_space, candidate).eval()), pack_weights=False)
        exported = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=10)
        layers = gated_space.network.at(gated_space.values_of(candidate))
        image = gated_space.network.image(8)
        profiled = onnx.load_from_string(network_model(layers, image, "int8"))
        onnx.checker.check_model(profiled, full_check=True)
        assert kernels(profiled) == kernels(exported)
        floating = onnx.load_from_string(network_model(layers, image, "fp32"))
        onnx.checker.check_model(floating, full_check=True)
        assert kernels(floating)["Conv"] == sum(layer.kind == "conv" for layer in layers)


def test_weights_of_convolutions_in_floating_point_are_folded_when_a_file_is_loaded(gated_space: SearchSpace) -> None:
    """Otherwise every run would dequantize them: the activations alone are, once for each convolution."""
    (candidate,) = candidates(gated_space, 1)
    layers = gated_space.network.at(gated_space.values_of(candidate))
    n_float = sum(layer.activation == "h_swish" for layer in layers)
    n_requantized = sum(op.kind == "requantize" for op in network_ops(layers, gated_space.network.image(8)))
    found = kernels(onnx.load_from_string(network_model(layers, gated_space.network.image(8), "int8")))
    assert found["Conv"] == n_float > 0
    assert found["DequantizeLinear"] <= n_float + n_requantized
    (op,) = {op for op in all_ops(gated_space) if op.function == "h_swish" and op.out_channels == 32 and op.groups == 1}
    alone = kernels(onnx.load_from_string(op_model(op, "int8")))
    assert alone["Conv"] == alone["DequantizeLinear"] == op.n_instances
