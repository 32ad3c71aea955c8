"""Learning curves of forms of predictors, transferred or not, by number of quantized pairs.

For each search space and seed, both supernets are trained, and full-precision losses, losses of the quantized supernet
and 240 QAT pairs are measured as in a run. In random splits, each form of predictor is fitted to 10 to 200 pairs and
predicts 40 held-out ones. The score of a seed is the mean over its splits; means, standard deviations and tests are
over seeds. ``--space digits:4,6,8`` sets other bit-widths: with these quantization has little effect, with ``2,4,8`` it
dominates. For Fashion-MNIST use ``--space benchmarks/spaces/mobilenet_fashion_mnist_14.yaml`` and the same with
``:4,6,8``; its supernets are trained like those of ``joint_vs_staged.py``.

An interrupted run is resumed; the scores of a seed are kept in its run directory.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml
from scipy.stats import ttest_1samp

from apq_tune.cli.ending import one_line_errors
from apq_tune.pipeline.defaults import PAIR_IMAGES
from apq_tune.pipeline.predictor_report import MOST_TEST, report_predictors
from apq_tune.pipeline.run import PipelineRun
from apq_tune.pipeline.settings import RunSettings
from apq_tune.report.predictors import TITLES, curve_picture
from apq_tune.space.search_space import SearchSpace
from apq_tune.store.files import write_atomically

RUNS, RESULTS = Path("runs/benchmarks/transfer"), Path(__file__).parent / "results"
COUNTS = (10, 20, 50, 100, 200)
DEFAULT = RunSettings().predictor
SETTINGS = {
    "fashion_mnist": {
        **{f"{stage}.epochs": 8 for stage in ("supernet", "quantized")},
        **{f"{stage}.batch_size": 128 for stage in ("supernet", "quantized")},
        "pair.batch_size": 64,
        "pair.images": PAIR_IMAGES,
        "n_search": 2_000,
    }
}
"""Settings that differ from the defaults, by data set."""


def load_space(text: str) -> SearchSpace:
    """Load a search space by name or file, with a suffix such as ``:4,6,8`` for other bit-widths of every layer."""
    name, _, bits = text.partition(":")
    space: SearchSpace = SearchSpace.load(name)
    if not bits:
        return space
    data = yaml.safe_load(space.to_yaml())
    data["name"] = f"{space.name}_{bits.replace(',', '')}"
    data["choices"] |= {
        field: [int(b) for b in bits.split(",")] for field in data["choices"] if field.endswith("_bits")
    }
    return SearchSpace.from_dict(data)


def one_seed(
    space: SearchSpace, seed: int, n_splits: int, num_cpus: int | None, data_root: Path | None
) -> pd.DataFrame:
    """Scores of every form by number of pairs, mean over splits, and the split-half agreement as 0 pairs."""
    changes = SETTINGS.get(str(space.data), {}) | {"seed": seed, "n_pairs": COUNTS[-1] + MOST_TEST}
    path = RUNS / space.name / f"seed_{seed}"
    run = PipelineRun(space, RunSettings().updated(changes), path, num_cpus=num_cpus, data_root=data_root)
    run.run_until("qat_pairs")
    cache = path / f"curve_{n_splits}.csv"
    if not cache.exists():
        report = report_predictors(path, counts=COUNTS, n_splits=n_splits, seed=seed, coverage_at=(50,))
        split_half = pd.DataFrame(
            [{"form": "split-half agreement", "n": 0, **{s: report.split_half.get(s) for s in TITLES}}]
        )
        scores = pd.concat([report.summary[["form", "n", *TITLES]], split_half])
        write_atomically(cache, scores.assign(space=space.name, seed=seed).to_csv(index=False))
    return pd.read_csv(cache)


def show(table: pd.DataFrame) -> None:
    """Print all scores of one space, and tests of the default form against the others."""
    n_seeds = table["seed"].nunique()
    for score in TITLES:
        grouped = table[table[score].notna()].groupby(["form", "n"], sort=False)[score]
        shown = grouped.mean().map("{:.3f}".format) + " ± " + grouped.std().map("{:.3f}".format)
        print(f"\n{TITLES[score]} on {MOST_TEST} held-out pairs, mean ± sd over {n_seeds} seeds")
        print(shown.unstack("n").fillna("").to_string())
    taus = table[table["n"] > 0].pivot_table("kendall_tau", ["form", "n"], "seed", sort=False)
    print(f"\nKendall's tau of {DEFAULT} minus that of another form: mean over seeds, p-value of a paired t-test")
    for form in taus.index.unique("form").drop(DEFAULT):
        cells = []
        for n in COUNTS:
            difference = taus.loc[DEFAULT, n] - taus.loc[form, n]
            p = ttest_1samp(difference, 0).pvalue if n_seeds > 1 else np.nan
            cells.append(f"{difference.mean():+.3f} p {p:.3f}")
        print(f"{form:14}", " ".join(f"{cell:>16}" for cell in cells))
    scratch = taus.loc["scratch"].mean(axis=1)
    for n in COUNTS:
        own = taus.loc[DEFAULT, n].mean()
        enough = [m for m in COUNTS if scratch[m] >= own]
        needs = f"{enough[0]}" if enough else f"more than {COUNTS[-1]}"
        print(f"{DEFAULT} has tau {own:.3f} after {n} pairs; scratch needs {needs} pairs")


def picture(table: pd.DataFrame) -> bytes:
    """Plot means over seeds with 95% confidence intervals."""
    from scipy.stats import t

    known, n_seeds = table[table["n"] > 0], table["seed"].nunique()
    factor = t.ppf(0.975, n_seeds - 1) / np.sqrt(n_seeds) if n_seeds > 1 else 0.0
    grouped = known.groupby(["form", "n"], sort=False)[list(TITLES)]
    mean, half = grouped.mean(), factor * grouped.std()
    ends = [(mean - half).add_suffix("_low"), (mean + half).add_suffix("_high")]
    summary = pd.concat([mean, *ends], axis=1).reset_index()
    split_half = table[table["form"] == "split-half agreement"][list(TITLES)].mean()
    return curve_picture(summary, dict(split_half))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", action="append", help="NAME or NAME:BITS; repeatable.  [digits, digits:4,6,8]")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--data-root", type=Path, help="folder with the files of data sets")
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--num-cpus", type=int, help="number of concurrent trials; by default all CPUs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    spaces = [load_space(text) for text in arguments.space or ["digits", "digits:4,6,8"]]
    RESULTS.mkdir(exist_ok=True)
    for space in spaces:
        seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
        options = (arguments.splits, arguments.num_cpus, arguments.data_root)
        table = pd.concat([one_seed(space, seed, *options) for seed in seeds])
        table.to_csv(RESULTS / f"transfer_{space.name}.csv", index=False)
        (RESULTS / f"transfer_{space.name}.png").write_bytes(picture(table))
        print(f"\n== {space.name}")
        show(table)


if __name__ == "__main__":
    with one_line_errors():
        main()
