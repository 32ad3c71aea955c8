"""Networks of few and of many bits under one budget: their losses in the supernet, and after training.

Under one budget, networks of fewer bits have more channels. For each kind of policy (one bit-width for all weights, or
mixed ones with a mean near it), the network with the lowest loss in the quantized supernet is searched for, and trained
at two lengths. Needs the supernets of a run, such as those of ``own_model_methods.py``:

    python benchmarks/levels_of_bits.py runs/benchmarks/own_model/resnet14/runs/seed_000 --budget memory-tight
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from apq_tune.cli.ending import one_line_errors
from apq_tune.errors import ProblemError
from apq_tune.methods import Bench, Question, Subspace
from apq_tune.methods.bench import Counts
from apq_tune.methods.explore import best_of, explore, joined
from apq_tune.methods.levels import kinds, levels_of, mean_weight_bits
from apq_tune.methods.projections import everything, uniform_wa_bits
from apq_tune.pipeline.finished import load_supernets
from apq_tune.predict import Pairs
from apq_tune.problem.costs import BUDGETS, Costs
from apq_tune.space.encodings import encoding_of
from apq_tune.studies.halving import Halving
from apq_tune.supernet.metrics import SupernetLoss

N, IMAGES, LOOKED_AT = 60, 2000, 6
"""Evaluations of each kind of policy, images of each, and candidates of each kind that are scored on all images."""

STEPS = (180, 720)
RESULTS = Path(__file__).parent / "results"


def searched(question: Question) -> Pairs:
    """Candidates of every level of bits, first with one bit-width for all weights, then with any."""
    encoding, bench = question.encoding, question.bench
    known = Pairs(np.zeros((0, encoding.n_genes), np.int16), np.zeros(0))
    for stage, project in enumerate((uniform_wa_bits(encoding), everything)):
        part = Subspace(encoding, project)
        for number, level in enumerate(levels_of(encoding)):
            limits = [*question.limits, level.limit(encoding)]
            try:
                own = explore(question, part, limits, bench.proxy, N, question.rng(stage, number), known=known)
            except ProblemError as error:
                print(error, flush=True)
                continue
            known = joined(known, own)
    return known


def main() -> None:
    """Search each kind, train its best candidate, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--budget", choices=BUDGETS, default="memory-tight")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    nets = load_supernets(arguments.run)
    encoding = encoding_of(nets.space)
    measures: dict[Any, Any] = {
        "proxy": SupernetLoss(nets.quantized.on_first(IMAGES)),
        "fine": SupernetLoss(nets.quantized),
    }
    bench = Bench(encoding, measures, Counts(10_000, 0, 10_000))
    known = searched(Question(encoding, Costs.of(encoding).budget(arguments.budget), bench, 0))
    kind, rows = kinds(encoding, known.genomes, levels_of(encoding)), []
    for own in np.unique(kind[kind >= 0]):
        few = best_of(known.rows(np.flatnonzero(kind == own)), LOOKED_AT)
        losses = bench.fine(few.genomes)
        genome, place = few.genomes[[losses.argmin()]], int(losses.argmin())
        row: dict[str, Any] = {
            "weights": "mixed" if own % 2 else "one bit-width",
            "mean weight bits": round(float(mean_weight_bits(encoding, genome)[0]), 1),
            f"supernet, {IMAGES} images": round(float(few.target[place]), 4),
            "supernet, all images": round(float(losses.min()), 4),
        }
        for steps in STEPS:
            halving = Halving(nets.quantized, nets.settings.final, (20, steps), 1, 0)
            trained = halving.train(encoding.decode(genome)[0], steps)
            row[f"{steps} steps"] = round(trained.loss, 4)
            row[f"test, {steps} steps"] = round(trained.scores["test"]["loss"], 4)
        rows.append(row)
        print(row, flush=True)
    RESULTS.mkdir(exist_ok=True)
    pd.DataFrame(rows).to_csv(RESULTS / f"levels_of_bits_{nets.space.name}_{arguments.budget}.csv", index=False)


if __name__ == "__main__":
    with one_line_errors():
        main()
