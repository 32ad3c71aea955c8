"""Which sampler finds the best front of NAS-Bench-Macro, ours or one of Optuna's, and is the difference more than luck?

All 6,561 networks of the benchmark were trained, so the exact front of accuracy and FLOPs is known. The same as

    apq-tune compare --lookup macro.csv --maximize accuracy --minimize flops --at 200,1000

on the benchmark's JSON file, written as a table. Finished searches are kept in runs/benchmarks/compare_samplers.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import pandas as pd

from apq_tune.cli import main as apq_tune

RUN = Path("runs/benchmarks/compare_samplers")
RESULTS = Path(__file__).parent / "results"


def as_table(path: Path) -> pd.DataFrame:
    """One row a network: the operation of each of its 8 layers, mean accuracy in percent, FLOPs."""
    rows = [
        {f"layer{place}": int(operation) for place, operation in enumerate(network)}
        | {"accuracy": trained["mean_acc"], "flops": trained["flops"]}
        for network, trained in sorted(json.loads(path.read_text()).items())
    ]
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--macro", type=Path, required=True, help="NAS-Bench-Macro's JSON file")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--num-cpus", type=int)
    arguments = parser.parse_args()
    RUN.parent.mkdir(parents=True, exist_ok=True)
    table = RUN.parent / "nas_bench_macro.csv"
    as_table(arguments.macro).to_csv(table, index=False)
    command = ["compare", f"--lookup={table}", "--maximize=accuracy", "--minimize=flops", "--at=200,1000"]
    command += [f"--seeds={arguments.seeds}", f"--out={RUN}", "--resume"]
    apq_tune([*command, *([f"--num-cpus={arguments.num_cpus}"] if arguments.num_cpus else [])])
    RESULTS.mkdir(exist_ok=True)
    for name in ("medians", "tests"):
        shutil.copy(RUN / f"{name}.csv", RESULTS / f"compare_samplers_{name}.csv")


if __name__ == "__main__":
    main()
