"""Rank agreement of a run's predictor and quantized supernet with losses after full training.

Usage: ``apq-tune run ... --out RUN; python benchmarks/rank_agreement.py RUN``. Samples networks within the limits of
the run, trains each like the finalists of the run, and prints Kendall's tau with their losses on the search split, of
the predictor that the search used, of the quantized supernet and of MACs.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from apq_tune import NetworkEncoding, Objective, Problem, SupernetLoss, load_run
from apq_tune.predict.scores import kendall_tau
from apq_tune.predict.trust import tau_interval
from apq_tune.problem.costs import Costs
from apq_tune.store.directory import kept_tables
from apq_tune.supernet.evaluate import score
from apq_tune.supernet.train import finetune

DRAWN = 20_000
"""Number of candidates that are sampled to find feasible ones."""


def main() -> None:
    """Train the networks and print one line per ranking."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run = load_run(arguments.run)
    encoding, rng = NetworkEncoding(run.space), np.random.default_rng(arguments.seed)
    costs = Costs.of(encoding, kept_tables(arguments.run))
    limits = costs.limits(run.settings.constraints)
    problem = Problem(encoding, [Objective(costs.metrics["macs"])], limits)
    drawn = np.unique(encoding.sample_policies(DRAWN, rng), axis=0)
    feasible = np.flatnonzero(problem.evaluate(drawn).feasible)
    genomes = drawn[rng.choice(feasible, arguments.candidates, replace=False)]
    data, losses, accuracies = run.supernet.data, [], []
    for number, candidate in enumerate(encoding.decode(genomes), start=1):
        subnet = run.supernet.subnet(candidate)
        finetune(subnet, data.train, run.settings.final, (arguments.seed, 8))
        found = score(subnet.eval(), data.search)
        losses.append(found.loss)
        accuracies.append(found.accuracy)
        print(f"{number}: loss {found.loss:.3f}, accuracy {100 * found.accuracy:.1f}%", flush=True)
    measured = np.array(losses)
    print(f"{len(losses)} random networks within {', '.join(map(str, limits)) or 'no limits'}, after QAT of ", end="")
    print(f"{run.settings.final.epochs} epochs: accuracy {100 * min(accuracies):.1f} to {100 * max(accuracies):.1f}%")
    for name, values in (
        ("predictor", run.predictor(genomes)),
        ("quantized supernet", SupernetLoss(run.supernet)(genomes)),
        ("MACs", -costs.metrics["macs"](genomes)),
    ):
        tau = kendall_tau(np.asarray(values), measured)
        low, high = tau_interval(tau, len(losses))
        print(f"{name}: Kendall's tau {tau:.2f} (95% interval {low:.2f} to {high:.2f})")


if __name__ == "__main__":
    main()
