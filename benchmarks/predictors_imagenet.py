"""Learning curves of predictors on ImageNet accuracies of few networks.

Usage: ``python benchmarks/predictors_imagenet.py --data ../shared/data/dynas``, for the once-for-all MobileNetV3
networks of width 1.0 that DyNAS-T evaluated. The files are pooled, with the mean accuracy of repeated networks. In each
of ten random 80/20 splits, each form of predictor is fitted to the first 25 to 400 networks of the 80% and ranks the
20%.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from apq_tune import NetworkEncoding, SearchSpace
from apq_tune.cli.ending import one_line_errors
from apq_tune.cost.given import check_macs
from apq_tune.predict import Pairs, agreement, plain_forms
from apq_tune.space.notation import candidate_from, read_candidates

RESULTS = Path(__file__).parent / "results" / "predictors_imagenet.csv"
COUNTS = (25, 50, 100, 200, 400)
TO_BEAT = (0.844, 0.883, 0.925, 0.954, 0.963)
"""Pairwise accuracy of a plain ridge on one-hot features of the files' own choices, inactive blocks included."""


def read_networks(folder: Path, encoding: NetworkEncoding) -> tuple[Pairs, float]:
    """Pairs of all files, one per network, and the standard deviation of repeated measurements."""
    genomes, accuracies = [], []
    for path in sorted(folder.glob("*.csv")):
        entries, table = read_candidates(path), pd.read_csv(path)
        genomes.append(encoding.encode([candidate_from(entry, encoding.space) for entry in entries]))
        check_macs(path, table, encoding, entries, genomes[-1])
        accuracies.append(table["Top-1 Acc (%)"].to_numpy() / 100)
    if not genomes:
        raise SystemExit(f"{folder}: has no .csv; give the folder of DyNAS-T's results with --data")
    accuracy = np.concatenate(accuracies)
    unique, place, times = np.unique(np.concatenate(genomes), axis=0, return_inverse=True, return_counts=True)
    mean = np.bincount(place.ravel(), accuracy) / times
    noise = np.sqrt(((accuracy - mean[place.ravel()]) ** 2).sum() / (times - 1).sum())
    return Pairs(unique, mean), float(noise)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--splits", type=int, default=10)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    encoding = NetworkEncoding(SearchSpace.load("ofa_mobilenetv3_w10"))
    pairs, noise = read_networks(arguments.data, encoding)
    spread = 100 * pairs.target.std()
    print(f"{len(pairs.target)} networks, accuracy spreads by {spread:.2f} points, repetitions by {100 * noise:.3f}")
    rows = []
    for split in range(arguments.splits):
        order = np.random.default_rng(split).permutation(len(pairs.target))
        pool, unseen = np.split(order, [int(0.8 * len(order))])
        for n in COUNTS:
            for form, fit in plain_forms(log=False).items():
                predictor = fit(encoding, pairs.rows(pool[:n]), split)
                scores = agreement(predictor(pairs.genomes[unseen]), pairs.target[unseen], log=False)
                rows.append({"split": split, "form": form, **scores._asdict(), "n": n})
    table = pd.DataFrame(rows)
    RESULTS.parent.mkdir(exist_ok=True)
    table.to_csv(RESULTS, index=False)
    for score in ("pairwise_accuracy", "kendall_tau", "rmse_log"):
        grouped = table.groupby(["form", "n"], sort=False)[score]
        shown = (grouped.mean().map("{:.4f}".format) + " ± " + grouped.std().map("{:.4f}".format)).unstack("n")
        if score == "pairwise_accuracy":
            shown.loc["to beat"] = [f"{value:.3f}" for value in TO_BEAT]
        title = "RMSE of accuracy" if score == "rmse_log" else score
        print(f"\n{title}, mean ± sd of {arguments.splits} splits, by networks learned from\n{shown.to_string()}")


if __name__ == "__main__":
    with one_line_errors():
        main()
