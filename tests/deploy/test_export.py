"""Exports of found networks, their scores on test images, and files that are not what they should be."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from apq_tune import DeployError, RunError, SearchSpace, evaluate, export, load_data, load_network
from apq_tune.cli import cli
from apq_tune.data import named
from apq_tune.deploy import evaluate as evaluate_module
from apq_tune.deploy import export as export_module
from apq_tune.deploy import load as load_module
from apq_tune.deploy.evaluate import wilson
from apq_tune.deploy.export import ExportFormat
from apq_tune.deploy.exported import open_file
from apq_tune.deploy.lowering import program_of

pytestmark = pytest.mark.slow

SUFFIX: dict[ExportFormat, str] = {"onnx": ".onnx", "torch": ".pt2", "c": ".c", "tflite": ".tflite"}
THERE = {
    "c": shutil.which("gcc") is not None,
    "tflite": importlib.util.find_spec("ai_edge_litert") is not None,
}

needs = {
    "c": pytest.mark.skipif(not THERE["c"], reason="there is no gcc here to compile C with"),
    "tflite": pytest.mark.skipif(not THERE["tflite"], reason="the extra [tflite] is not installed"),
}
EACH = [pytest.param(name, marks=needs.get(name, ())) for name in SUFFIX]


@pytest.fixture(scope="module")
def files(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The chosen network as a file of each format."""
    folder = tmp_path_factory.mktemp("files")
    network = load_network(finished_run)
    kinds = [kind for kind in SUFFIX if THERE.get(kind, True)]
    return {kind: export(network, folder / f"net{SUFFIX[kind]}", kind).path for kind in kinds}


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, list(map(str, arguments)))


def one_line(error: BaseException | None) -> str:
    assert isinstance(error, DeployError | RunError), error
    assert "\n" not in str(error)
    return str(error)


@pytest.mark.parametrize("kind", EACH)
def test_a_file_scores_what_the_network_was_measured_at(
    kind: str, files: dict[str, Path], finished_run: Path, tmp_path: Path
) -> None:
    result = call("evaluate", files[kind], "--run", finished_run, "--json", tmp_path / "scores.json")
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "scores.json").read_text())
    network = load_network(finished_run)
    rounded = 20 if kind == "tflite" else 1  # logits are int8, and levels may be off by one
    assert found["accuracy"] == pytest.approx(network.scores["test"]["accuracy"], abs=0.001 * rounded)
    assert found["loss"] == pytest.approx(network.scores["test"]["loss"], rel=1e-3 * rounded)
    assert (found["n"], found["format"], found["data"]) == (450, kind, "digits")
    assert found["agreement"] >= (0.9 if kind == "tflite" else 0.999)  # a network that has hardly been trained
    assert found["n_bytes"] == files[kind].stat().st_size
    assert found["costs"]["weight_bytes"] == network.costs["weight_bytes"]._asdict()
    logits = open_file(files[kind]).run(network.preprocessing(load_data(network.space).test.images).numpy())
    best = np.argsort(-logits, axis=1)[:, :5]
    labels = load_data(network.space).test.labels
    assert found["top_5"] == np.mean([label in row for label, row in zip(labels, best, strict=True)])
    if kind == "onnx":
        n_layers = sum(layer.op is not None for layer in network.layers)
        assert found["kernels"] == {"integer": n_layers, "floating": 0}
        assert f"{n_layers} of {n_layers} operators with weights run in integers" in result.output
        assert found["n_bytes"] <= 1.15 * network.costs["weight_bytes"].value + 20_000


def test_the_command_writes_what_the_function_writes_and_says_how_it_fits(finished_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "net.onnx"
    result = call("export", finished_run, "--candidate", "best", "--out", out)
    assert result.exit_code == 0, result.output
    assert "chooses the same class as the network for 100.00% of 449 search images" in result.output
    assert "the search promised weight_bytes of" in result.output
    again = export(load_network(finished_run, "best"), tmp_path / "net.onnx")
    assert out.read_bytes() == again.path.read_bytes()
    assert again.agreement.n == 449
    assert [path.name for path in out.parent.iterdir()] == ["net.onnx"]
    assert call("export", finished_run, "--out", out).exit_code == 0  # an earlier export is replaced


def test_unpacked_weights_are_bytes_and_give_the_same_logits(
    finished_run: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "net.onnx"
    assert call("export", finished_run, "--unpacked", "--out", out).exit_code == 0
    kinds = {kind for tensor in onnx.load(out).graph.initializer if (kind := tensor.data_type) != TensorProto.FLOAT}
    assert not kinds & {TensorProto.INT4, TensorProto.INT2}
    assert out.stat().st_size > files["onnx"].stat().st_size
    images = np.random.default_rng(0).random((9, 1, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(open_file(out).run(images), open_file(files["onnx"]).run(images))
    said = one_line(call("export", finished_run, "--unpacked", "--out", tmp_path / "net.c").exception)
    assert "only weights in the onnx and tflite formats can be unpacked" in said


def test_a_file_beside_its_run_is_compared_with_it(finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    export(load_network(run), run / "net.onnx")
    assert evaluate(run / "net.onnx").agreement == 1.0
    shutil.rmtree(run / "9_finalists")
    assert evaluate(run / "net.onnx").agreement is None  # a run that is not finished is none to compare with
    shutil.copy(run / "net.onnx", tmp_path / "net.onnx")
    alone = evaluate(tmp_path / "net.onnx")
    assert alone.agreement is None
    assert alone.simulation == "none: name the run that the file is from with --run"


def test_without_search_images_random_ones_are_taken_and_nothing_is_downloaded(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(place: named.DataRoot) -> None:
        assert not place.download
        raise RunError("no images here")

    monkeypatch.setitem(named.DATA, "digits", none)  # type: ignore[arg-type]
    exported = export(load_network(finished_run), tmp_path / "net.onnx")
    assert exported.agreement.images == "random images (those of the search are not here)"
    assert exported.agreement.n >= 200


def test_weights_that_are_not_finite_are_not_exported(finished_run: Path, tmp_path: Path) -> None:
    network = load_network(finished_run)
    next(network.parameters()).data[0] = float("nan")
    with pytest.raises(DeployError, match="has weights that are not finite; train it again at a lower learning rate"):
        export(network, tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_disagrees_is_not_kept_and_one_of_others_not_replaced(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, other = (load_network(finished_run, name) for name in ("best", "largest_8bit"))
    path = tmp_path / "net.onnx"
    path.write_bytes(b"theirs")
    with pytest.raises(DeployError, match="exists and was not written by apq-tune export; choose another --out"):
        export(network, path)
    assert path.read_bytes() == b"theirs"
    export(network, tmp_path / "own.onnx")
    before = (tmp_path / "own.onnx").read_bytes()
    for parameter in other.parameters():
        parameter.data.neg_()
    wrong, right = program_of(other), export_module.onnx_model
    monkeypatch.setattr(export_module, "onnx_model", lambda _, about, **options: right(wrong, about, **options))
    with pytest.raises(DeployError, match=r"choose the same class for .*% of 449 search images, fewer than 99%"):
        export(network, tmp_path / "own.onnx")
    assert (tmp_path / "own.onnx").read_bytes() == before
    assert {entry.name for entry in tmp_path.iterdir()} == {"net.onnx", "own.onnx"}


@pytest.mark.parametrize(("share", "kept"), [(0.1, True), (0.4, False)])
def test_roundings_of_deep_networks_are_told_from_wrong_files(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float, kept: bool
) -> None:
    network = load_network(finished_run, "best")
    right = network.logits

    def rounded(images: np.ndarray) -> np.ndarray:
        logits = right(images)
        logits[: round(share * len(images))] *= -1
        return logits

    monkeypatch.setattr(network, "logits", rounded)
    if not kept:
        with pytest.raises(
            DeployError, match=r"chooses in floating point for 59.9% of 449 .*give its layers more bits"
        ):
            export(network, tmp_path / "own.onnx")
        assert not list(tmp_path.iterdir())
        return
    exported = export(network, tmp_path / "own.onnx")
    assert exported.agreement.share == pytest.approx(0.9, abs=0.01)
    assert exported.exact is not None and exported.exact.share == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--candidate", "bets", "--out", "n.onnx"], "has no network 'bets'; known: chosen, best, "),
        (["--format", "c", "--out", "n.onnx"], "format c is written to names that end in .c"),
        (["--out", "n.txt"], "give a name that ends in .onnx or .pt2 or .c or .tflite"),
        (["--format", "tensorrt", "--out", "n.onnx"], "'tensorrt' is not one of 'onnx', 'torch', 'c', 'tflite'"),
        (["--out", "folder.onnx"], "is a folder; give the name of a file"),
        (["--out", "file/n.onnx"], "cannot write"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_line(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "file").write_text("")
    result = call("export", finished_run, *arguments)
    assert result.exit_code != 0
    message = str(result.exception) if isinstance(result.exception, DeployError | RunError) else result.output
    assert said in message


@pytest.mark.parametrize("kind", EACH)
@settings(max_examples=8)
@given(data=st.data())
def test_a_damaged_file_is_refused_in_one_line_or_gives_the_same_logits(
    kind: str, data: st.DataObject, files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(files[kind].read_bytes())
    how = data.draw(st.sampled_from(["cut", "flip", "zeros", "more"]))
    place = data.draw(st.integers(0, len(content) - 1))
    if how == "cut":
        del content[place:]
    elif how == "flip":
        content[place] ^= 1 << data.draw(st.integers(0, 7))
    elif how == "zeros":
        content[place : place + 64] = bytes(min(64, len(content) - place))
    else:
        content += b"more"
    path = tmp_path_factory.mktemp("damaged") / files[kind].name
    path.write_bytes(content)
    images = np.random.default_rng(0).random((3, 1, 8, 8)).astype(np.float32)
    try:
        own = open_file(path).run(images)
    except DeployError as error:
        one_line(error)
        return
    np.testing.assert_array_equal(own, open_file(files[kind]).run(images))


@pytest.mark.parametrize("suffix", [".onnx", ".pt2", ".c", pytest.param(".tflite", marks=needs["tflite"])])
@pytest.mark.parametrize("what", ["absent", "empty", "text", "folder", "weights", "png"])
def test_what_is_no_exported_file_is_refused_in_one_line(
    suffix: str, what: str, finished_run: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"net{suffix}"
    if what == "folder":
        path.mkdir()
    elif what == "weights":
        shutil.copy(finished_run / "9_finalists" / "best.pt", path)
    elif what == "png":
        Image.new("L", (4, 4)).save(tmp_path / "image.png")
        (tmp_path / "image.png").rename(path)
    elif what != "absent":
        path.write_bytes(b"" if what == "empty" else b"not a network\n" * 9)
    result = call("evaluate", path)
    assert str(path) in one_line(result.exception)


def test_other_names_and_other_runs_are_refused(files: dict[str, Path], finished_run: Path, tmp_path: Path) -> None:
    assert "its name" not in one_line(call("evaluate", tmp_path / "net.engine").exception)
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    name = load_network(run).name
    other = "best" if name != "best" else "largest_8bit"
    export(load_network(run, other), tmp_path / "other.onnx")
    assert call("evaluate", tmp_path / "other.onnx", "--run", run).exit_code == 0
    assert "no trained networks" in one_line(call("evaluate", files["onnx"], "--run", tmp_path).exception)


def foreign(path: Path, shape: tuple[int | str, ...] = ("n", 1, 8, 8), classes: int = 10, **changes: int) -> Path:
    """A float network of another program: one linear layer."""
    n_inputs = int(np.prod([size for size in shape[1:] if isinstance(size, int)]))
    weights = np.random.default_rng(0).standard_normal((n_inputs, classes)).astype(np.float32)
    kind = changes.get("kind", TensorProto.FLOAT)
    nodes = [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])]
    if kind != TensorProto.FLOAT:
        nodes = [helper.make_node("Cast", ["x0"], ["x"], to=TensorProto.FLOAT), *nodes]
    inputs = [helper.make_tensor_value_info("x" if kind == TensorProto.FLOAT else "x0", kind, shape)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [shape[0], classes])]
    if changes.get("outputs"):
        outputs.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, [shape[0], n_inputs]))
    graph = helper.make_graph(nodes, "other", inputs, outputs, [numpy_helper.from_array(weights, "w")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8), path)
    return path


@pytest.mark.parametrize("batch", ["n", 1, 7])
def test_a_foreign_network_is_evaluated_where_its_shapes_allow(tmp_path: Path, batch: int | str) -> None:
    path = foreign(tmp_path / "net.onnx", (batch, 1, 8, 8))
    assert "does not say which images it is for" in one_line(call("evaluate", path).exception)
    found = evaluate(path, data="digits")
    weights = numpy_helper.to_array(onnx.load(path).graph.initializer[0])
    test = load_data(SearchSpace.load("digits")).test
    right = (test.images.reshape(450, 64) @ weights).argmax(axis=1) == test.labels
    assert found.accuracy == pytest.approx(right.mean())
    assert found.simulation == "none: the file is of another program"
    assert found.kernels is not None and found.kernels.floating == 1


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: foreign(p, ("n", 3, 8, 8)), "input is 3 x 8 x 8, images of digits are 1 x 8 x 8"),
        (lambda p: foreign(p, ("n", 1, 28, 28)), "input is 1 x 28 x 28, images of digits are 1 x 8 x 8"),
        (lambda p: foreign(p, classes=7), "classes is 7, digits has 10; give images of the same classes"),
        (lambda p: foreign(p, ("n", 64)), r"only (batch, channels, size, size) can be evaluated"),
        (lambda p: foreign(p, ("n", 1, 4, 16)), "reads images of 4 x 16 pixels; only square ones"),
        (lambda p: foreign(p, outputs=1), "has 1 inputs and 2 outputs; one of each can be evaluated"),
        (lambda p: foreign(p, kind=TensorProto.UINT8), "maps tensor(uint8) to tensor(float); only float images"),
    ],
)
def test_a_foreign_network_that_does_not_fit_is_refused_by_what_does_not(
    make: Callable[[Path], Path], said: str, tmp_path: Path
) -> None:
    assert said in one_line(call("evaluate", make(tmp_path / "net.onnx"), "--data", "digits").exception)


def test_a_foreign_network_that_fails_when_it_runs_is_refused(tmp_path: Path) -> None:
    path = foreign(tmp_path / "net.onnx")
    model = onnx.load(path)
    model.graph.node[0].CopyFrom(helper.make_node("Reshape", ["x", "shape"], ["flat"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 64], np.int64), "shape"))
    onnx.save(model, path)
    said = one_line(call("evaluate", path, "--data", "digits").exception)
    assert f"{path}: onnxruntime cannot run it on " in said and "cannot be reshaped" in said


def test_a_file_names_no_folder_and_its_run_does(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "pictures"
    network = load_network(finished_run)
    monkeypatch.setattr(network, "space", network.space.model_copy(update={"data": str(folder)}))
    exported = export(network, tmp_path / "net.onnx")
    assert exported.agreement.images.startswith("random images")
    assert str(tmp_path).encode() not in exported.path.read_bytes()
    assert "name them with --data, or its run with --run" in one_line(call("evaluate", exported.path).exception)
    monkeypatch.setattr(evaluate_module, "_simulation", lambda *_: ((network, None), "it"))
    assert f"{folder}: " in one_line(call("evaluate", exported.path).exception)


def test_images_of_other_classes_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(8):
            Image.fromarray(rng.integers(0, 256, (9, 9), np.uint8)).save(tmp_path / "pets" / name / f"{number}.png")
    said = one_line(call("evaluate", files["onnx"], "--data", tmp_path / "pets").exception)
    assert "classes is 10" in said
    assert "has 2; give images of the same classes" in said
    assert "is not a folder" in call("evaluate", files["onnx"], "--data", " ").output
    for number in range(10):
        (tmp_path / "ten" / f"c{number}").mkdir(parents=True)
        for image in range(8):
            Image.fromarray(rng.integers(0, 256, (9, 9), np.uint8)).save(tmp_path / "ten" / f"c{number}/{image}.png")
    said = one_line(call("evaluate", files["onnx"], "--data", tmp_path / "ten").exception)
    assert f"its class 0 is '0', that of {tmp_path / 'ten'} is 'c0'; give images of the same classes" in said


def test_intervals_are_those_of_wilson() -> None:
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)  # Newcombe 1998, by hand
    assert wilson(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    assert wilson(450, 450)[1] == 1


def test_the_command_reports_memory_and_refuses_a_file_that_takes_too_much(finished_run: Path, tmp_path: Path) -> None:
    network = load_network(finished_run, "largest_8bit")
    flash = network.costs["weight_bytes"].value
    (tmp_path / "mine.yaml").write_text(
        "format: 1\nname: mine\ntitle: My board\nops: {conv: {w_bits: 8, a_bits: 8}}\nram: {bytes: 1MB}\n"
        f"files: [onnx]\nflash: {{bytes: {flash:.0f}}}\n",
        "utf-8",
    )
    arguments = ("export", finished_run, "--candidate", "largest_8bit", "--device-preset", tmp_path / "mine.yaml")
    result = call(*arguments, "--out", tmp_path / "net.onnx")
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "of constants, 100% of the " in said
    assert "of mine; code comes on top RAM: the search promised peak_activation_bytes of " in said
    assert "of the 1 MB of mine; what runs the file lays it out" in said
    assert "its tools read" not in said
    text = (tmp_path / "mine.yaml").read_text().replace(f"{flash:.0f}", f"{flash - 1:.0f}")
    (tmp_path / "mine.yaml").write_text(text)
    result = call(*arguments, "--out", tmp_path / "own.onnx")
    assert f"weight_bytes is {flash:.0f}, but mine has {flash - 1:.0f} bytes; take" in str(result.exception)
    assert not (tmp_path / "own.onnx").exists()


@needs["c"]
def test_files_over_the_limits_of_their_search_are_kept_and_told(
    finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = ("bit_ops<=25%", "ram<=3kB", "flash<=1MB")
    limited = load_module.open_networks(finished_run)._replace(limits=limits)
    monkeypatch.setattr(load_module, "open_networks", lambda _: limited)
    network = load_network(finished_run, "largest_8bit")
    assert network.bounds == {"bit_ops": pytest.approx(network.costs["bit_ops"].value / 4)} | {
        "peak_activation_bytes": 3000,
        "weight_bytes": 1_000_000,
    }
    arguments = ("export", finished_run, "--candidate", network.name, "--out", tmp_path / "net.c")
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    said = "bytes of RAM, but the limit of its search is peak_activation_bytes <= 3000; take a network that"
    assert said in " ".join(result.output.split())
    assert "% OVER of the 3 kB that the search was limited to; the kernels' sums" in result.output
