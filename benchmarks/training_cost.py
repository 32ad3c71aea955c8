"""What does a step of quantization-aware training cost, and a step of the supernet?

Every figure is a multiple of a full-precision step of the same network, batch norm folded, activations in
channels_last, on one processor. The kinds take turns within each repetition, so that whatever else the machine does
hits all of them; the table has medians of the ratios within a repetition, and their quartiles.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from apq_tune.candidate import Candidate
from apq_tune.encoding import Encoding
from apq_tune.space import SearchSpace
from apq_tune.supernet.evaluate import calibrate_quantizers, subnet_from
from apq_tune.supernet.network import Supernet
from apq_tune.supernet.train import MAX_GRADIENT_NORM, Training, optimizer_for

RESULTS = Path(__file__).parent / "results"
WARM_UP = 2


def stepper(network: nn.Module, forward: Callable[[], Tensor], labels: Tensor) -> Callable[[], float]:
    """Processor seconds of one step."""
    optimizer = optimizer_for(network, Training(epochs=1, learning_rate=1e-4))

    def step() -> float:
        start = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(forward(), labels).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        return time.process_time() - start

    return step


def kinds(space: SearchSpace, candidate: Candidate, batch: int) -> dict[str, Callable[[], float]]:
    """Name -> one step of it."""
    torch.manual_seed(0)
    images = torch.rand(batch, space.input.channels, space.resolutions[-1], space.resolutions[-1])
    labels = torch.randint(space.classes, (batch,))
    supernet = Supernet(space)
    calibrate_quantizers(supernet, [lambda: supernet.recalibrate(images, candidate)])
    plain, aware = (subnet_from(supernet, candidate, images, quantize=True) for _ in range(2))
    return {
        "fp32": stepper(plain, lambda: plain(images, quantize=False), labels),
        "QAT": stepper(aware, lambda: aware(images), labels),
        "supernet, fp32": stepper(supernet, lambda: supernet(images, candidate), labels),
        "supernet, random bits": stepper(supernet, lambda: supernet(images, candidate, quantize=True), labels),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", default="mobilenet_fashion_mnist")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=12)
    parser.add_argument("--networks", type=int, default=3, help="random ones, beside the largest at 4 bits")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    space = SearchSpace.load(arguments.space)
    encoding = Encoding(space)
    candidates = {"largest": encoding.extremes()[1].with_bits(4)}
    sample = encoding.decode(encoding.sample(arguments.networks, np.random.default_rng(0)))
    candidates |= {f"random {i}": candidate for i, candidate in enumerate(sample, start=1)}
    rows = []
    for name, candidate in candidates.items():
        steps = kinds(space, candidate, arguments.batch)
        for repetition in range(-WARM_UP, arguments.repetitions):
            seconds = {kind: step() for kind, step in steps.items()}
            rows += [
                {"network": name, "kind": kind, "ms": 1e3 * value, "times fp32": value / seconds["fp32"]}
                for kind, value in seconds.items()
                if repetition >= 0
            ]
    groups = pd.DataFrame(rows).groupby(["network", "kind"], sort=False)
    table = groups["times fp32"].quantile([0.25, 0.5, 0.75]).unstack().set_axis(["25%", "times fp32", "75%"], axis=1)
    table.insert(0, "ms", groups["ms"].median())
    RESULTS.mkdir(exist_ok=True)
    table.round(3).to_csv(RESULTS / "training_cost.csv")
    print(table.round(2).to_string())


if __name__ == "__main__":
    main()
