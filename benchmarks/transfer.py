"""Does transfer help, by number of quantized pairs?

For each seed: train both supernets, measure fp32 losses, quantized-supernet losses and QAT pairs as a run does, but
more pairs. Each form learns from the first n of them and predicts the last 40, which no form ever sees.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from apq_tune.encoding import Encoding
from apq_tune.pipeline.learning import measured, noise_floor
from apq_tune.pipeline.run import PipelineRun
from apq_tune.pipeline.settings import Settings
from apq_tune.predict import MLPPredictor, Pairs, Predictor, agreement, fit_fp32, fit_mlp, forms
from apq_tune.space import SearchSpace

RUNS, RESULTS = Path("runs/benchmarks/transfer"), Path(__file__).parent / "results"
COUNTS, HELD_OUT = (10, 20, 40, 80), 40


def one_seed(seed: int) -> list[dict[str, Any]]:
    settings = Settings().updated({"seed": seed, "n_pairs": COUNTS[-1] + HELD_OUT})
    run = PipelineRun(SearchSpace.load("digits"), settings, RUNS / f"seed_{seed}")
    run.run_until("qat_pairs")
    encoding: Encoding = run.encoding
    fp32 = fit_fp32(encoding, measured(run, "fp32_losses")[0], seed)
    proxy = fit_mlp(encoding, measured(run, "proxy_losses")[0], seed, bits=True, start=fp32)
    pairs, table = measured(run, "qat_pairs")
    unseen = pairs.rows(np.arange(COUNTS[-1], COUNTS[-1] + HELD_OUT))
    predicted = {
        (str(form), n): fit for n in COUNTS for form, fit in _fitted(fp32, proxy, encoding, pairs, n, seed).items()
    }
    predicted |= {("fp32 alone", 0): fp32, ("proxy alone", 0): proxy}
    scores = {
        key: agreement(predictor(unseen.genomes), unseen.target)._asdict() for key, predictor in predicted.items()
    }
    scores["noise floor", 0] = noise_floor(table[-HELD_OUT:])
    return [score | {"seed": seed, "form": form, "n": n} for (form, n), score in scores.items()]


def _fitted(
    fp32: MLPPredictor, proxy: MLPPredictor, encoding: Encoding, pairs: Pairs, n: int, seed: int
) -> dict[str, Predictor]:
    known = pairs.rows(np.arange(n))
    return {name: fit(encoding, known, seed) for name, fit in forms(fp32, proxy).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    torch.set_num_threads(1)
    rows = [row for seed in range(parser.parse_args().seeds) for row in one_seed(seed)]
    table = pd.DataFrame(rows)
    RESULTS.mkdir(exist_ok=True)
    table.to_csv(RESULTS / "transfer.csv", index=False)
    for score in ("kendall_tau", "pairwise_accuracy", "rmse_log"):
        grouped = table.groupby(["form", "n"], sort=False)[score]
        shown = grouped.mean().map("{:.3f}".format) + " ± " + grouped.std().map("{:.3f}".format)
        print(f"\n{score} on {HELD_OUT} held-out pairs, mean ± sd over {table['seed'].nunique()} seeds")
        print(shown.unstack("n").fillna("").to_string())


if __name__ == "__main__":
    main()
