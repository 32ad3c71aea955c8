"""Joint search on trained networks of a user, against staged search in both orders and uniform bits, at equal spend.

The networks are those of ``examples/own_model.py``, trained here on the training split alone, so that no search image
was seen: two on Fashion-MNIST at 14 x 14 pixels, one on a folder of colour photos at 32 x 32. Then ``apq-tune
joint-vs-staged --model`` compares the methods: every seed has its own elastic supernets, which begin with the user's
weights. All settings were fixed before the first run.

    python benchmarks/own_model_methods.py --network resnet14 --seeds 5 --data-root FOLDER
    python benchmarks/own_model_methods.py --network resnet14_color --seeds 5 --folder PHOTOS

Finished searches are kept in runs/benchmarks/own_model, and the same command resumes from them. Tables are copied
to benchmarks/results, with paired tests of the first method against the others.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pandas as pd
import torch
from torch import nn

from apq_tune import ModelSpace, load_data
from apq_tune.cli import main as apq_tune
from apq_tune.cli.ending import one_line_errors
from apq_tune.data import Split
from apq_tune.studies.verdict import tests_frame
from apq_tune.supernet.batches import as_inputs
from apq_tune.supernet.evaluate import score

EXAMPLE = Path(__file__).parents[1] / "examples" / "own_model.py"
RUNS, RESULTS = Path("runs/benchmarks/own_model"), Path(__file__).parent / "results"


class Setting(NamedTuple):
    """What a network is trained on."""

    data: str
    shape: tuple[int, int, int]  # channels, height, width
    epochs: int
    flip: bool = False  # whether images may be mirrored, here and in the trainings of the search


GREY = Setting("fashion_mnist", (1, 14, 14), epochs=3)
NETWORKS = {"resnet14": GREY, "ds_cnn": GREY, "resnet14_color": Setting("folder", (3, 32, 32), 12, flip=True)}
METHODS = ("joint-levels", "joint", "uniform", "staged", "staged-bits-first")
TRAININGS = ("supernet", "quantized", "final")
BUDGETS = ("memory", "memory-tight", "bit_ops")
SETTINGS = ["supernet.epochs=2", "quantized.epochs=3", "supernet.batch_size=128", "quantized.batch_size=128"]
SETTINGS += ["supernet.learning_rate=5e-3", "quantized.learning_rate=5e-3"]
SETTINGS += ["final.batch_size=64", "final.learning_rate=2e-3", "n_search=5000", "importance=l1"]
SPEND = {"proxy": 120, "images": 2000, "short": 6, "short-steps": 20, "final-steps": 180, "repeats": 1}


def example() -> ModuleType:
    """The module ``examples/own_model.py``."""
    spec = importlib.util.spec_from_file_location("own_model", EXAMPLE)
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def trained(name: str, data_name: str, path: Path, data_root: Path | None) -> None:
    """Train a network of the example as a user does, and save its weights."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    setting = NETWORKS[name]
    own = example()
    model: nn.Module = getattr(own, name)()
    data = load_data(ModelSpace.from_module(model, torch.zeros(2, *setting.shape), data=data_name), data_root)
    split = data.train
    assert isinstance(split, Split)
    images = as_inputs(torch.tensor(split.images))
    own.train(model, images, torch.tensor(split.labels), setting.epochs, flip=setting.flip)
    with torch.no_grad():
        print(f"{name}: test accuracy {score(model.eval(), data.test).accuracy:.4f} in full precision", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path)


def main() -> None:
    """Train the network unless its weights are there, and compare the methods on it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=list(NETWORKS), default="resnet14")
    parser.add_argument("--data-root", type=Path, help="folder with the files of Fashion-MNIST")
    parser.add_argument("--folder", type=Path, help="folder of photos of ten classes")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--budget", action="append", default=[])
    parser.add_argument("--method", action="append", default=[])
    parser.add_argument("--num-cpus", type=int)
    arguments = parser.parse_args()
    name, weights = arguments.network, RUNS / f"{arguments.network}.pt"
    setting = NETWORKS[name]
    if setting.data == "folder" and arguments.folder is None:
        parser.error(f"--network {name} needs photos; add --folder DIR")
    if setting.data != "folder" and arguments.folder is not None:
        parser.error(f"--network {name} is trained on {setting.data}; omit --folder")
    data = str(arguments.folder.resolve()) if arguments.folder else setting.data
    if not weights.exists():
        trained(name, data, weights, arguments.data_root)
    out = RUNS / name
    command = ["joint-vs-staged", f"--model={EXAMPLE}:{name}", f"--weights={weights}", f"--data={data}"]
    command += [f"--input={','.join(map(str, setting.shape))}", f"--out={out}", f"--seeds={arguments.seeds}"]
    command += [f"--first-seed={arguments.first_seed}"]
    changes = SETTINGS + [f"{part}.augment=crop_flip" for part in TRAININGS if setting.flip]
    command += [f"--set={change}" for change in changes] + [f"--{key}={value}" for key, value in SPEND.items()]
    command += [f"--data-root={arguments.data_root}"] if arguments.data_root else []
    command += [f"--budget={budget}" for budget in arguments.budget or BUDGETS]
    command += [f"--method={method}" for method in arguments.method or METHODS]
    command += [f"--num-cpus={arguments.num_cpus}"] if arguments.num_cpus else []
    apq_tune(command)
    RESULTS.mkdir(exist_ok=True)
    for file in ("results.csv", "means.csv", "seconds.csv"):
        shutil.copy(out / file, RESULTS / f"own_model_{name}_{file}")
    tests = tests_frame(pd.read_csv(out / "results.csv"), METHODS[0])
    tests.to_csv(RESULTS / f"own_model_{name}_tests.csv", index=False)


if __name__ == "__main__":
    with one_line_errors():
        main()
