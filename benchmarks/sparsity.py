"""Is magnitude pruning as good as learned sparsity up to 90%, and is a ticket that is reset to its start worse?

What Gale 2019 found on ResNet-50 is asked of a small network on Fashion-MNIST at 14 x 14 pixels:

    python benchmarks/sparsity.py --data-root FOLDER

Rules, written before any run:

- One network (three convolutions with batch norm, one linear layer, 23,824 weights) and one training of ``STEPS`` steps
  of Adam with a cosine to zero, the same batches for all methods of a seed, no weight decay. All weights may be
  pruned, first and last layer included, and sparsity is exact, so that all methods have as many weights left.
- ``dense`` is trained as it is. ``magnitude`` prunes the smallest weights of all layers with the cubic schedule over
  the first three quarters (Zhu 2017), ``random`` weights at random with the same schedule, layers alike.
- ``l0`` has a gate for each weight; for three quarters the expected share of open gates above the same schedule is
  penalised (factor ``PENALTY``), so that no factor has to be tuned. ``variational`` has the factor of the divergence
  grow from 0 to 1 over one half of the training. Both prune after three quarters, the gates most likely closed and the
  noisiest weights, and train the last quarter with this mask and without gates and noise. Gates and variances have
  ``FASTER`` times the learning rate, since at that of the weights so few steps cannot move them to where they prune.
- ``lottery`` starts from the initial weights with the mask that ``magnitude`` ended with, and trains for ``STEPS``
  steps (Frankle 2019), so that it spends two trainings.
- ``magnitude-longer`` is ``magnitude`` in one training of twice the steps, the spend of ``lottery``. It is the only row
  that was added after the others had been run: ``lottery`` was ahead of ``magnitude``, at twice the spend.
- Nothing is chosen by results: ``FASTER`` and ``PENALTY`` were set so that open gates follow the schedule, without a
  look at accuracies, and the test split is scored once at the end of each training.
- Read as: a method is ahead of another at a sparsity if the difference of means over seeds is more than twice its
  standard error (of paired differences). "Magnitude as good as anything" fails at a sparsity where ``l0`` or
  ``variational`` is ahead of it; "resets are behind" holds where ``magnitude`` is ahead of ``lottery``.

Interrupted, the same command goes on. ``--tiny`` tries the script on few images and steps and writes no result.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from apq_tune import SearchSpace, load_data
from apq_tune.cli.ending import one_line_errors
from apq_tune.data import AnySplit
from apq_tune.sparsity.footprint import footprint
from apq_tune.sparsity.layers import weighted_layers
from apq_tune.sparsity.schedule import CubicSchedule
from apq_tune.sparsity.sparsifier import Sparsifier
from apq_tune.sparsity.variational import VariationalDropout
from apq_tune.sparsity.weight_gates import WeightGates
from apq_tune.studies.rules import check_comparison
from apq_tune.supernet.batches import first_images

RESULTS, RUNS = Path(__file__).parent / "results", Path("runs/benchmarks/sparsity")
SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98)
TWICE = ("lottery", "magnitude-longer")
"""Methods that spend two trainings."""
STEPS, IMAGES, BATCH, RATE, FASTER, PENALTY = 700, 12_000, 100, 5e-3, 20, 100.0


class Task:
    """Images of one run, and the training that all methods share."""

    def __init__(self, data_root: Path | None, seeds: int, *, tiny: bool) -> None:
        data = load_data(SearchSpace.load("mobilenet_fashion_mnist_14"), data_root)
        self.steps, n = (24, 600) if tiny else (STEPS, IMAGES)
        self.seeds = 1 if tiny else seeds
        self.sparsities: tuple[float, ...] = SPARSITIES[2:3] if tiny else SPARSITIES
        self.pruned: dict[tuple[float, int], nn.Module] = {}  # by magnitude, by sparsity and seed
        self.images, self.labels = _loaded(data.train, n)
        self.test = _loaded(data.test, 500 if tiny else len(data.test.labels))

    @property
    def schedule(self) -> CubicSchedule:
        """Schedule of sparsity."""
        return CubicSchedule.over(self.steps)

    def train(
        self,
        model: nn.Module,
        seed: int,
        penalty: Callable[[int], Tensor] | None = None,
        at_three_quarters: Callable[[], None] | None = None,
        sparsifier: Sparsifier | None = None,
    ) -> None:
        """Train a model in place.

        Args:
            model: Model.
            seed: Seed of the batches.
            penalty: Function from the number of finished steps to what is added to the loss for three quarters.
            at_three_quarters: Called when they are over.
            sparsifier: Sparsifier that follows the training.
        """
        learned = [own for name, own in model.named_parameters() if name.endswith(("log_alpha", "log_variance"))]
        weights = [own for own in model.parameters() if all(own is not other for other in learned)]
        optimizer, rng = torch.optim.Adam([{"params": weights}]), np.random.default_rng(seed)
        if learned:
            optimizer.add_param_group({"params": learned})
        if sparsifier is not None:
            sparsifier.follow(optimizer)
        model.train()
        order: list[int] = []
        for step in range(self.steps):
            if step == self.schedule.end and at_three_quarters is not None:
                at_three_quarters()
            if len(order) < BATCH:
                order = rng.permutation(len(self.images)).tolist()
            rows, order = torch.tensor(order[:BATCH]), order[BATCH:]
            for group, rate in zip(optimizer.param_groups, (RATE, FASTER * RATE), strict=False):
                group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / self.steps))
            optimizer.zero_grad()
            loss = functional.cross_entropy(model(self.images[rows]), self.labels[rows])
            if penalty is not None and step < self.schedule.end:
                loss = loss + penalty(step)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        model.eval()


def _loaded(split: AnySplit, n: int) -> tuple[Tensor, Tensor]:
    return first_images(split, n), torch.tensor(split.first(n).labels)


def network(seed: int) -> nn.Sequential:
    """Network with the initial weights of a seed."""
    torch.manual_seed(seed)
    parts: list[nn.Module] = []
    for inner, outer, stride in ((1, 16, 1), (16, 32, 2), (32, 64, 2)):
        conv = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        parts += [conv, nn.BatchNorm2d(outer), nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def by_magnitude(task: Task, sparsity: float, seed: int) -> nn.Module:
    """Magnitude pruning, trained once, since the lottery ticket needs its mask."""
    if (known := task.pruned.get((sparsity, seed))) is not None:
        return known
    model = network(seed)
    sparsifier = Sparsifier(model, sparsity, schedule=task.schedule, scope="global")
    task.train(model, seed, sparsifier=sparsifier)
    sparsifier.finish()
    task.pruned[sparsity, seed] = model
    return model


def at_random(task: Task, sparsity: float, seed: int) -> nn.Module:
    """Random pruning."""
    model = network(seed)
    sparsifier = Sparsifier(model, sparsity, schedule=task.schedule, criterion="random", seed=seed)
    task.train(model, seed, sparsifier=sparsifier)
    sparsifier.finish()
    return model


def by_gates(task: Task, sparsity: float, seed: int) -> nn.Module:
    """Gates for three quarters of the training."""
    model = network(seed)
    gates = WeightGates(model)

    def penalty(step: int) -> Tensor:
        return PENALTY * (gates.expected_open() - (1 - task.schedule.at(step, sparsity))).clamp_min(0)

    return _pruned_later(task, model, gates, sparsity, seed, penalty)


def by_noise(task: Task, sparsity: float, seed: int) -> nn.Module:
    """Variational dropout for three quarters of the training."""
    model = network(seed)
    dropout = VariationalDropout(model)

    def penalty(step: int) -> Tensor:
        return min(1.0, 2 * step / task.steps) * dropout.divergence() / len(task.images)

    return _pruned_later(task, model, dropout, sparsity, seed, penalty)


def _pruned_later(
    task: Task, model: nn.Module, method: Any, sparsity: float, seed: int, penalty: Callable[[int], Tensor]
) -> nn.Module:
    masks: list[Sparsifier] = []

    def prune() -> None:
        method.finish(sparsity)
        masks.append(Sparsifier(model, sparsity, scope="global"))  # the weights that are zero now

    task.train(model, seed, penalty, prune)
    masks[0].finish()
    return model


def by_lottery(task: Task, sparsity: float, seed: int) -> nn.Module:
    """Initial weights with the mask of magnitude pruning."""
    masks = [layer.weight != 0 for layer in weighted_layers(by_magnitude(task, sparsity, seed))]
    model = network(seed)
    with torch.no_grad():
        for layer, mask in zip(weighted_layers(model), masks, strict=True):
            layer.weight.mul_(mask)
    sparsifier = Sparsifier(model, sparsity, scope="global")
    task.train(model, seed, sparsifier=sparsifier)
    sparsifier.finish()
    return model


def by_magnitude_longer(task: Task, sparsity: float, seed: int) -> nn.Module:
    """Magnitude pruning in one training of twice the steps."""
    longer = copy.copy(task)
    longer.steps, longer.pruned = 2 * task.steps, {}
    return by_magnitude(longer, sparsity, seed)


def not_at_all(task: Task, _: float, seed: int) -> nn.Module:
    """Training of the whole network."""
    model = network(seed)
    task.train(model, seed)
    return model


METHODS: dict[str, Callable[[Task, float, int], nn.Module]] = {
    "dense": not_at_all,
    "magnitude": by_magnitude,
    "random": at_random,
    "l0": by_gates,
    "variational": by_noise,
    "lottery": by_lottery,
    "magnitude-longer": by_magnitude_longer,
}


def measured(task: Task, method: str, sparsity: float, seed: int) -> dict[str, Any]:
    """Train one network and score it."""
    model = METHODS[method](task, sparsity, seed)
    images, labels = task.test
    with torch.no_grad():
        logits = torch.cat([model(part) for part in torch.split(images, 500)])
    top5 = logits.topk(5).indices == labels[:, None]
    own = footprint(model, images[:1], storage="dense" if method == "dense" else "bitmap")
    return {
        "budget": sparsity,
        "method": method,
        "seed": seed,
        "test_accuracy": float(top5[:, 0].double().mean()),
        "test_top5": float(top5.any(1).double().mean()),
        "sparsity": own.sparsity,
        "weight_bytes": own.weight_bytes,
        "macs": own.macs,
        "compression": own.compression,
        "speed_up": own.speed_up,
        "n steps": task.steps * (2 if method in TWICE else 1),
    }


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation of the accuracy of each method at each sparsity, and how far magnitude is ahead."""
    accuracy = frame.pivot(index=["method", "seed"], columns="budget", values="test_accuracy")
    ahead = accuracy.loc["magnitude"] - accuracy  # seed by seed
    groups = frame.groupby(["budget", "method"], sort=False)
    sizes = groups[["weight_bytes", "compression", "macs", "speed_up", "test_top5"]].mean()
    means = groups["test_accuracy"].agg(["mean", "std", "count"])
    error = ahead.groupby("method").sem().stack().rename("its error")
    behind = ahead.groupby("method").mean().stack().rename("behind magnitude")
    compared = pd.concat([behind, error], axis=1).reorder_levels(["budget", "method"])
    return means.join(compared).join(sizes).round(4).reset_index()


def main() -> None:
    """Train what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="folder with the files of Fashion-MNIST")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="few images, steps and settings; writes no result")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    task = Task(arguments.data_root, arguments.seeds, tiny=arguments.tiny)
    RUNS.mkdir(parents=True, exist_ok=True)
    path = RUNS / f"{'tiny' if arguments.tiny else 'full'}_{task.steps}_steps.csv"
    rows = pd.read_csv(path).to_dict("records") if path.exists() else []
    done = {(row["budget"], row["method"], row["seed"]) for row in rows}
    for seed in range(task.seeds):
        for sparsity in task.sparsities:
            for method in METHODS:
                if (sparsity, method, seed) in done:
                    continue
                dense = next((row for row in rows if method == row["method"] == "dense" and row["seed"] == seed), None)
                new = measured(task, method, sparsity, seed) if dense is None else dense | {"budget": sparsity}
                rows.append(new)
                pd.DataFrame(rows).to_csv(path.with_suffix(".part"), index=False)
                path.with_suffix(".part").replace(path)
                print({name: round(value, 4) if isinstance(value, float) else value for name, value in new.items()})
    frame = pd.DataFrame([row for row in rows if row["seed"] < task.seeds])
    print(table(frame).to_string(index=False))
    for rule in check_comparison(frame, n_classes=10):
        print("kept" if rule.met else "NOT KEPT", rule)
    if not arguments.tiny:
        RESULTS.mkdir(exist_ok=True)
        frame.round(5).to_csv(RESULTS / "sparsity_results.csv", index=False)
        table(frame).to_csv(RESULTS / "sparsity.csv", index=False)


if __name__ == "__main__":
    with one_line_errors():
        main()
