"""Is there a zero-cost proxy for our own bit policies? EMQ's evolution (Dong 2023) on the measured pairs of runs.

    apq-tune run digits --seed 7 --out runs/digits7
    python examples/evolve_proxy.py runs/digits7 [RUN ...] --out proxies.csv

Experimental. Expressions of weights, activations and gradients of each layer, times the layer's bits and added up, are
evolved to rank a part of a run's candidates as their losses after QAT do, and judged on the others, over several
splits; beside them what costs nothing (bits, bytes), what is fitted to the same pairs (ridge regression), as many
random expressions as were evolved, and the quantized supernet's losses. With several runs, what was evolved on all
pairs of one run is judged on the others, too: where pairs can be measured a ridge regression can be fitted, so that a
proxy is of use only elsewhere. Takes minutes a run on one core.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from apq_tune import ApqError, SupernetLoss
from apq_tune.pipeline.finished import load_supernets, open_run
from apq_tune.pipeline.learning import read_losses
from apq_tune.predict import Pairs, fit_ridge
from apq_tune.predict.curve import shuffled
from apq_tune.predict.evolution import EvolvedProxy, ProxyEvolution, evolve_proxy
from apq_tune.predict.expressions import Expression, LayerTensors, scores_of, text_of
from apq_tune.predict.pairs import networks_of
from apq_tune.predict.ridge import ALPHAS
from apq_tune.predict.scores import kendall_tau
from apq_tune.problem.costs import Costs
from apq_tune.space.encodings import encoding_of
from apq_tune.space.gene_encoding import GeneEncoding
from apq_tune.supernet.batches import batches
from apq_tune.supernet.layer_tensors import candidate_tensors

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

KNOWN: dict[str, Expression] = {
    "snip x bits": ("sum", ("abs", ("multiply", "weight", "gradient"))),
    "grad_norm x bits": ("norm", "gradient"),
    "norm of weights x bits": ("norm", "weight"),
}
"""Proxies made by hand."""


class Measured(NamedTuple):
    """Measured pairs of a run, and what is known of them without training."""

    name: str
    encoding: GeneEncoding
    pairs: Pairs
    tensors: LayerTensors
    free: dict[str, Floats]  # rankings that need no pairs, lower values being better


def read(path: Path, n_images: int, n_pairs: int | None) -> Measured:
    """Pairs of a run, tensors of their layers in its full-precision supernet, and rankings that need no pairs."""
    nets = load_supernets(path)
    encoding = encoding_of(nets.space)
    pairs, _ = read_losses(open_run(path, ("qat_pairs",)).stages["qat_pairs"], encoding)
    pairs = pairs.rows(np.arange(len(pairs.target))[:n_pairs])
    split = nets.fp32.data.search.first(n_images)
    ((images, labels),) = batches(split, np.arange(len(split.labels)), len(split.labels), "cpu")
    tensors = candidate_tensors(nets.fp32.network, pairs.genomes, images, labels)
    there = (tensors.entries >= 0).sum(axis=1)
    free = {"mean bits": -tensors.bits.sum(axis=1) / there, "sum of bits": -tensors.bits.sum(axis=1)}
    costs = Costs.of(encoding).metrics
    free |= {name: -costs[name](pairs.genomes) for name in ("weight_bytes", "bit_ops", "macs")}
    for name, expression in KNOWN.items():
        if (scores := scores_of(expression, tensors)) is not None:
            free[name] = -scores
    free["quantized supernet"] = SupernetLoss(nets.quantized)(pairs.genomes)
    return Measured(str(path), encoding, pairs, tensors, free)


def ridge_on_bits(run: Measured, known: Rows) -> Floats:
    """Predictions by a ridge regression on one-hot bits alone, which like the proxies knows no architecture."""
    from sklearn.linear_model import RidgeCV

    bits = run.encoding.features(run.pairs.genomes)[:, run.encoding.n_arch_features :]
    return np.asarray(RidgeCV(ALPHAS).fit(bits[known], np.log(run.pairs.target[known])).predict(bits))


def rankings(
    run: Measured, known: Rows, seed: int, settings: ProxyEvolution, elsewhere: dict[str, EvolvedProxy]
) -> dict[str, Floats]:
    """Everything that ranks the candidates of a run after it has seen the pairs ``known``, lower being better."""
    fitted: dict[str, Floats] = {}
    tensors, target = run.tensors.rows(known), run.pairs.target[known]
    for name, own in (("evolved", settings), ("random expressions", replace(settings, newcomers=1.0))):
        fitted[name] = scored(evolve_proxy(tensors, target, seed=seed, settings=own), run.tensors)
    fitted["ridge, one-hot bits"] = ridge_on_bits(run, known)
    fitted["ridge, one-hot genes"] = fit_ridge(run.encoding, run.pairs.rows(known), seed)(run.pairs.genomes)
    fitted |= {f"evolved on {name}": scored(own, run.tensors) for name, own in elsewhere.items() if name != run.name}
    return fitted | run.free


def scored(proxy: EvolvedProxy, tensors: LayerTensors) -> Floats:
    """Scores of a proxy, zero for all candidates if it is not finite for one that it was not evolved on."""
    scores = scores_of(proxy.expression, tensors)
    return np.zeros(len(tensors.bits)) if scores is None else proxy.sign * scores


def agreements(run: Measured, splits: int, measure: Callable[[Rows, int], dict[str, Floats]]) -> pd.DataFrame:
    """Rank correlations of all rankings with the losses, on the known and on the held-out third of each split."""
    networks, n = networks_of(run.pairs.genomes), len(run.pairs.target)
    rows = []
    for seed in range(splits):
        order, first = shuffled(networks, n // 3, np.random.default_rng(seed))
        known, unseen = np.sort(order[:first]), np.sort(order[first:])
        for name, values in measure(known, seed).items():
            row = {"run": run.name, "ranking": name, "split": seed, "known": len(known), "unseen": len(unseen)}
            for part, chosen in (("known", known), ("unseen", unseen)):
                row[f"spearman_{part}"] = spearman(values[chosen], run.pairs.target[chosen])
            rows.append(row | {"tau_unseen": kendall_tau(values[unseen], run.pairs.target[unseen])})
    return pd.DataFrame(rows)


def spearman(one: Floats, other: Floats) -> float:
    """Spearman's rank correlation; 0 if a ranking is constant."""
    return 0.0 if np.ptp(one) == 0 else float(spearmanr(one, other).statistic)


def main() -> None:
    """Evolve, judge, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--out", type=Path, help="CSV file of all splits")
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--evaluations", type=int, default=1000, help="expressions that are evaluated")
    parser.add_argument("--images", type=int, default=64, help="search images that gradients are of")
    parser.add_argument("--pairs", type=int, help="pairs of each run; by default all")
    given = parser.parse_args()
    torch.set_num_threads(1)
    settings = ProxyEvolution(evaluations=given.evaluations)
    runs = [read(path, given.images, given.pairs) for path in given.runs]
    whole = {run.name: evolve_proxy(run.tensors, run.pairs.target, settings=settings) for run in runs}
    for name, proxy in whole.items():
        print(
            f"{name}: of {proxy.evaluated} expressions the best on all pairs is {text_of(proxy.expression)}, "
            f"Spearman {proxy.fitness:.3f} on what it was evolved on; rejected: {dict(proxy.rejected)}"
        )
    tables = []
    for run in runs:
        table = agreements(run, given.splits, lambda known, seed, run=run: rankings(run, known, seed, settings, whole))  # type: ignore[misc]
        columns = ["spearman_known", "spearman_unseen", "tau_unseen"]
        means = table.groupby("ranking", sort=False)[columns].agg(["mean", "std"])
        n = table.iloc[0]
        print(f"\n{run.name}: {n['known']} pairs known, {n['unseen']} held out, {given.splits} splits")
        print(means.sort_values(("spearman_unseen", "mean"), ascending=False).to_string(float_format="%.3f"))
        tables.append(table)
    if given.out is not None:
        pd.concat(tables).to_csv(given.out, index=False, float_format="%.4f")


if __name__ == "__main__":
    try:
        main()
    except ApqError as error:
        sys.exit(f"error: {error}")
