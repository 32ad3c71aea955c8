"""Valid inputs from which the cases are derived: images, a run on them, a refinement, exports, a sweep and tables."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fuzzing.harness import Said, call

if TYPE_CHECKING:
    from apq_tune.space.network_encoding import NetworkEncoding

CLASSES, PER_CLASS, SIDE = 3, 12, 16
EPOCHS = ("supernet.epochs", "quantized.epochs", "pair.epochs", "final.epochs", "n_front")
FAST = (
    "--device=cpu",
    "--num-cpus=1",
    *(f"--set={name}=1" for name in EPOCHS),
    *(f"--set={name}=10" for name in ("n_fp32", "n_proxy", "n_pairs")),
    "--set=n_evaluations=200",
    "--set=folds=2",
)
REFINE = ("--rounds=1", "--batch=3", "--epochs=1", "--final-epochs=2", "--survivors=2", "--num-cpus=1")
SPEND = ("--proxy=60", "--short=3", "--short-steps=1", "--final-steps=2", "--repeats=1", "--images=10", "--num-cpus=1")
EXPORTS = ("net.onnx", "net.pt2", "net.c")
SWEEP = (
    "digits",
    "--constraint=bit_ops<=8e6",
    "--evaluations=200",
    "--seeds=2",
    "--objective=macs",
    "--sampler=random",
)


class Material(NamedTuple):
    """Folders and files that cases must not change."""

    images: Path
    run: Path
    refine: Path
    sweep: Path
    exports: Path  # a file of each format
    pairs: Path  # CSV
    candidates: Path  # JSON
    table: Path  # cost table, CSV
    lookup: Path  # CSV
    predictor: Path  # predictor of full-precision losses, for transfer


def picture(label: int, number: int, side: int = SIDE) -> NDArray[np.uint8]:
    """Noisy picture of stripes or checks that is brighter in one corner, from 0 to 255, shape ``(side, side)``."""
    rng = np.random.default_rng((label, number))
    y, x = np.mgrid[:side, :side]
    pattern = np.stack([x // 2 % 2, y // 2 % 2, (x // 2 + y // 2) % 2])[label]
    values = 60 + 70 * pattern + 60 * (x + 2 * y) / (3 * side) + 20 * rng.random((side, side))
    return np.asarray(values, np.uint8)


def make_material(out: Path) -> Material:
    """Create the inputs, or reuse those of an earlier call.

    Raises:
        SystemExit: If a command fails, with its output.
    """
    from PIL import Image

    from apq_tune import NetworkEncoding, SearchSpace
    from apq_tune.cost import bit_ops

    out.mkdir(parents=True, exist_ok=True)
    own = Material(
        out / "images",
        out / "run",
        out / "refine",
        out / "sweep",
        out / "exports",
        out / "pairs.csv",
        out / "candidates.json",
        out / "table.csv",
        out / "lookup.csv",
        out / "run" / "6_fp32_predictor" / "predictor.npz",
    )
    for label in range(CLASSES):
        folder = own.images / f"c{label}"
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(PER_CLASS):
            Image.fromarray(picture(label, number)).save(folder / f"{number:02d}.png")
    _done(call(["run", "--data", str(own.images), "--out", str(own.run), *FAST], out, seconds=300))
    _done(call(["refine", str(own.run), "--out", str(own.refine), *REFINE], out, seconds=300))
    _done(call(["sweep", "--out", str(own.sweep), *SWEEP], out, seconds=300))
    for name in EXPORTS if shutil.which("gcc") else EXPORTS[:2]:
        _done(call(["export", str(own.run), "--out", str(own.exports / name)], out, seconds=300))
    encoding = NetworkEncoding(SearchSpace.load("digits"))
    genomes = encoding.sample(12, np.random.default_rng(0))
    texts = [candidate.to_json() for candidate in encoding.decode(genomes)]
    losses = (bit_ops(encoding)(genomes) / 1e6) ** -0.3
    rows = [f'"{text}",{loss:.4f}' for text, loss in zip((t.replace('"', '""') for t in texts), losses, strict=True)]
    own.pairs.write_text("\n".join(["candidate_json,loss", *rows]) + "\n")
    own.candidates.write_text(json.dumps([json.loads(text) for text in texts]))
    cells = [f"{a},{b},{a + b / 7},{9 - a * b}" for a in range(1, 5) for b in range(1, 4)]
    own.lookup.write_text("\n".join(["width,depth,accuracy,latency_ms", *cells]) + "\n")
    own.table.write_text(cost_table(encoding))
    return own


def cost_table(encoding: NetworkEncoding) -> str:
    """Cost table in CSV with a latency for every convolution of the search space."""
    from apq_tune.cost.rows import CONV_KEY
    from apq_tune.network.network import ops

    keys: set[tuple[int, ...]] = set()
    network = encoding.space.network
    for part in network.searched:
        for op in ops(network.layers(part, network.sizes[-1])):
            fields = np.broadcast_arrays(*(np.asarray(getattr(op, name)) for name in CONV_KEY))
            keys |= {tuple(map(int, key)) for key in np.stack([field.ravel() for field in fields], axis=1)}
    rows = [",".join(map(str, ("conv", *key, 0.001 * key[0] * (key[-1] + key[-2])))) for key in sorted(keys)]
    return "\n".join([",".join(("op", *CONV_KEY, "latency_ms")), "fixed" + "," * len(CONV_KEY) + ",0.5", *rows]) + "\n"


def _done(said: Said) -> None:
    if said.status:
        raise SystemExit(f"the undamaged command failed: {said.err or said.out}")
