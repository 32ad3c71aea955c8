"""Rank agreement of proxies with losses after longer QAT, on a run's own supernets.

Usage: ``apq-tune run ... --out RUN; python benchmarks/rank_agreement.py RUN [RUN ...]``. Samples networks within the
limits of each run (or, with ``--anywhere``, of the whole space), trains each like the finalists of the run, and prints
Kendall's tau with their losses on the search split: of the predictor that the search used, of both supernets, of MACs
and BitOps and, for a run on a model of the user, of that model's own weights without training (channels removed by
importance, batch norm shifted, PTQ). With several runs, such as those of several seeds, their means come last. A folder
of ``joint-vs-staged`` has runs without predictors in ``runs/seed_...``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from apq_tune import CalibratedModel, ModelSpace, Objective, Problem, RunError, SupernetLoss, load_predictor
from apq_tune.cli.ending import one_line_errors
from apq_tune.pipeline.finished import load_supernets, open_run
from apq_tune.pipeline.learning import PREDICTOR
from apq_tune.pipeline.own_model import user_model
from apq_tune.predict.scores import kendall_tau
from apq_tune.predict.trust import tau_interval
from apq_tune.problem.costs import Costs
from apq_tune.space.encoding import Genomes
from apq_tune.space.encodings import encoding_of
from apq_tune.store.directory import kept_tables
from apq_tune.supernet.evaluate import score
from apq_tune.supernet.qat import QATTask, train_candidate

DRAWN = 20_000
"""Number of candidates that are sampled to find feasible ones."""

Ranking = Callable[[Genomes], NDArray[np.float64]]


def rankings_of(path: Path, nets: Any, costs: Costs, n_search: int) -> dict[str, Ranking]:
    """What ranks candidates, lower values being better, by name."""
    encoding, metrics = costs.encoding, costs.metrics
    on_few = [nets.fp32.on_first(n_search), nets.quantized.on_first(n_search)]
    found: dict[str, Ranking] = {
        "quantized supernet": SupernetLoss(on_few[1]),
        "full-precision supernet": SupernetLoss(on_few[0], quantize=False),
    }
    try:
        stage = open_run(path, ("predictors",)).stages["predictors"]
        found = {"predictor": load_predictor(stage.checked(PREDICTOR), encoding), **found}
    except RunError:
        pass  # a run up to its supernets
    if isinstance(encoding.space, ModelSpace):
        model = user_model(encoding.space, None, path, "cpu")
        assert model is not None
        calibrated = CalibratedModel.of(encoding.space, model.weights, nets.quantized.calibration)
        split = on_few[1].data.search

        def untrained(genomes: Genomes) -> NDArray[np.float64]:
            return np.array([score(calibrated.subnet(c), split).loss for c in encoding.decode(genomes)])

        found["the user's weights, PTQ"] = untrained
    for name in ("macs", "bit_ops"):
        found[f"- {name}"] = lambda genomes, cost=metrics[name]: -cost(genomes)  # type: ignore[misc]
    return found


def taus_of(path: Path, arguments: argparse.Namespace) -> dict[str, float]:
    """Train candidates of a run, and print one line per ranking."""
    nets = load_supernets(path)
    encoding, rng = encoding_of(nets.space), np.random.default_rng(arguments.seed)
    costs = Costs.of(encoding, kept_tables(path))
    limits = [] if arguments.anywhere else costs.limits(nets.settings.constraints)
    problem = Problem(encoding, [Objective(costs.metrics["macs"])], limits)
    drawn = np.unique(encoding.sample_policies(DRAWN, rng), axis=0)
    feasible = np.flatnonzero(problem.evaluate(drawn).feasible)
    genomes = drawn[rng.choice(feasible, arguments.candidates, replace=False)]
    losses, accuracies = [], []
    for number, candidate in enumerate(encoding.decode(genomes), start=1):
        task = QATTask(candidate, nets.settings.final, (arguments.seed, 8), steps=arguments.steps)
        found = train_candidate(nets.quantized, task).scores["search"]
        losses.append(found.loss)
        accuracies.append(found.accuracy)
        print(f"{number}: loss {found.loss:.3f}, accuracy {100 * found.accuracy:.1f}%", flush=True)
    measured = np.array(losses)
    where = f"within {', '.join(map(str, limits))}" if limits else "of the whole space"
    length = f"{arguments.steps} steps" if arguments.steps else f"{nets.settings.final.epochs} epochs"
    print(f"{path}: {len(losses)} random networks {where}, after QAT of {length}: ", end="")
    print(f"accuracy {100 * min(accuracies):.1f} to {100 * max(accuracies):.1f}%")
    taus = {}
    for name, ranking in rankings_of(path, nets, costs, arguments.images).items():
        taus[name] = kendall_tau(np.asarray(ranking(genomes)), measured)
        low, high = tau_interval(taus[name], len(losses))
        print(f"{name}: Kendall's tau {taus[name]:.2f} (95% interval {low:.2f} to {high:.2f})", flush=True)
    return taus


def main() -> None:
    """Measure each run; the means over several come last."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--candidates", type=int, default=16)
    parser.add_argument("--steps", type=int, help="steps of QAT; by default the epochs of the run's finalists")
    parser.add_argument("--images", type=int, default=2_000, help="search images that proxies see")
    parser.add_argument("--anywhere", action="store_true", help="sample the whole space rather than within the limits")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="CSV file of the taus, a row for each run")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    table = pd.DataFrame({str(path): taus_of(path, arguments) for path in arguments.runs}).T
    if len(table) > 1:
        print("mean of", len(table), "runs:", ", ".join(f"{name} {tau:.2f}" for name, tau in table.mean().items()))
    if arguments.out is not None:
        table.rename_axis("run").to_csv(arguments.out, float_format="%.3f")


if __name__ == "__main__":
    with one_line_errors():
        main()
