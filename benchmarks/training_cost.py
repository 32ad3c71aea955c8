"""Cost of a step of quantization-aware training and of supernet training.

All figures are relative to a full-precision step of the same network with folded batch norm and channels_last
activations, on one CPU. The kinds of steps take turns within each repetition, so that other load on the machine affects
all of them; the table has medians and quartiles of the ratios within a repetition.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from apq_tune.cli.ending import one_line_errors
from apq_tune.data import Split
from apq_tune.space.candidate import Candidate
from apq_tune.space.network_encoding import NetworkEncoding
from apq_tune.space.search_space import SearchSpace
from apq_tune.supernet.evaluate import calibrate_quantizers, subnet_from
from apq_tune.supernet.network import Supernet
from apq_tune.supernet.train import MAX_GRADIENT_NORM, Training, optimizer_for, precision, replayed

RESULTS = Path(__file__).parent / "results"
WARM_UP = 2
TRAINING = Training(epochs=1, learning_rate=1e-4)


def stepper(network: nn.Module, forward: Callable[[], Tensor], labels: Tensor, *, bf16: bool) -> Callable[[], float]:
    """Seconds of one step: CPU time, or wall time on a GPU."""
    optimizer = optimizer_for(network, TRAINING)

    def step() -> float:
        start = clock(labels.device)
        optimizer.zero_grad(set_to_none=True)
        with precision(labels.device, bf16=bf16):
            loss = functional.cross_entropy(forward(), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        return clock(labels.device) - start

    return step


def clock(device: torch.device) -> float:
    """Current CPU time, or wall time on a GPU after synchronization."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def kinds(
    space: SearchSpace, candidate: Candidate, batch: int, device: str, recordings: contextlib.ExitStack
) -> dict[str, Callable[[], float]]:
    """Step functions by name; captured CUDA graphs stay in use until ``recordings`` is closed."""
    torch.manual_seed(0)
    images = torch.rand(batch, space.input.channels, space.resolutions[-1], space.resolutions[-1]).to(device)
    labels = torch.randint(space.classes, (batch,)).to(device)
    supernet = Supernet(space).to(device)
    calibrate_quantizers(supernet, [lambda: supernet.recalibrate(images, candidate)])

    def steps(bf16: bool) -> dict[str, Callable[[], float]]:
        plain, aware = (subnet_from(supernet, candidate, images, quantize=True).train() for _ in range(2))
        own = {
            "fp32": stepper(plain, lambda: plain(images, quantize=False), labels, bf16=bf16),
            "QAT": stepper(aware, lambda: aware(images), labels, bf16=bf16),
            "supernet, fp32": stepper(supernet, lambda: supernet(images, candidate), labels, bf16=bf16),
            "supernet, random bits": stepper(
                supernet, lambda: supernet(images, candidate, quantize=True), labels, bf16=bf16
            ),
        }
        if device == "cuda":
            graph = subnet_from(supernet, candidate, images, quantize=True).train()
            split = Split(images.cpu().numpy(), labels.cpu().numpy())
            recordings.enter_context(replayed(graph, split, dataclasses.replace(TRAINING, batch_size=batch, bf16=bf16)))
            own["QAT, replayed"] = stepper(graph, lambda: graph(images), labels, bf16=bf16)
        return {f"{name}, bfloat16" if bf16 else name: step for name, step in own.items()}

    return steps(False) | (steps(True) if device == "cuda" else {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--space", default=str(Path(__file__).parent / "spaces/mobilenet_fashion_mnist.yaml"))
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=12)
    parser.add_argument(
        "--networks", type=int, default=3, help="number of random networks, in addition to the largest at 4 bits"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    space = SearchSpace.load(arguments.space)
    encoding = NetworkEncoding(space)
    candidates = {"largest": encoding.extremes()[1].with_bits(4)}
    sample = encoding.decode(encoding.sample(arguments.networks, np.random.default_rng(0)))
    candidates |= {f"random {i}": candidate for i, candidate in enumerate(sample, start=1)}
    rows = []
    for name, candidate in candidates.items():
        with contextlib.ExitStack() as recordings:
            steps = kinds(space, candidate, arguments.batch, arguments.device, recordings)
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
    table.round(3).to_csv(RESULTS / f"training_cost_{space.name}_{arguments.device}.csv")
    print(table.round(2).to_string())


if __name__ == "__main__":
    with one_line_errors():
        main()
