"""From which step may trainings part? Instability (Frankle 2020) of a network of digits, and of its quantized supernet.

    python examples/branching.py --out branching.png

On the left a plain network: two trainings share their first steps and then see other batches; the picture shows the
error on the line between their ends. On the right one candidate's quantization-aware training from a supernet that was
trained with random bits for fewer or more epochs: if the line is flat, where it starts from decides where it ends, and
candidates that start there can be compared after short trainings. Takes about three minutes on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional

from apq_tune import Instability, SearchSpace, Training, instability, instability_by_step, load_data
from apq_tune.data import Data
from apq_tune.space.encodings import encoding_of
from apq_tune.supernet.batches import first_images
from apq_tune.supernet.evaluate import calibrate_quantizers, subnet_from
from apq_tune.supernet.kinds import supernet_of
from apq_tune.supernet.strategies import train_supernet
from apq_tune.supernet.train import finetune, optimizer_for

STEPS, BATCH = 600, 32
PARTED = (0, 10, 30, 100, 300)
EPOCHS, BEFORE = (0, 2, 8, 24), 24
"""Epochs with random bits from which QAT starts, and epochs in full precision before them."""


def network() -> nn.Sequential:
    """Convolutional network with batch norm."""
    parts: list[nn.Module] = []
    for inner, outer, stride in ((1, 16, 1), (16, 32, 2), (32, 32, 1)):
        parts += [nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer), nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


class Digits:
    """Images, the training of the plain network, and its error."""

    def __init__(self, data: Data, steps: int) -> None:
        self.steps = steps
        self.images, self.labels = first_images(data.train, len(data.train.labels)), torch.tensor(data.train.labels)
        self.test = first_images(data.test, len(data.test.labels)), torch.tensor(data.test.labels)

    def train(self, model: nn.Module, first: int, last: int | None, seed: int) -> None:
        """SGD with momentum and a cosine to zero; the batches of a step depend on the seed and the step."""
        optimizer = torch.optim.SGD(model.parameters(), momentum=0.9, weight_decay=5e-4)
        model.train()
        for step in range(first, self.steps if last is None else last):
            rows = torch.from_numpy(np.random.default_rng((seed, step)).integers(len(self.images), size=BATCH))
            optimizer.param_groups[0]["lr"] = 0.05 * (1 + np.cos(np.pi * step / self.steps))
            optimizer.zero_grad()
            functional.cross_entropy(model(self.images[rows]), self.labels[rows]).backward()
            optimizer.step()

    def error(self, model: nn.Module) -> float:
        """Share of the test images that a model gets wrong."""
        images, labels = self.test
        return float((model(images).argmax(1) != labels).float().mean())

    def calibration(self) -> list[Tensor]:
        """Batches for batch norm."""
        return list(torch.split(self.images, 250))


def of_supernet(
    space: SearchSpace, data: Data, digits: Digits, epochs: tuple[int, ...], warm_up: int
) -> dict[int, Instability]:
    """Instability of QAT of one candidate, by the epochs that the supernet was trained with random bits before."""
    torch.manual_seed(0)
    encoding, supernet = encoding_of(space), supernet_of(space)
    images = first_images(data.train, 256)
    whole = Training(epochs=warm_up, batch_size=BATCH, learning_rate=1e-2)
    train_supernet(supernet, encoding, optimizer_for(supernet, whole), data.train, whole, "single_path", (0, 1))
    candidates = encoding.decode(encoding.sample(8, np.random.default_rng(0)))
    calibrate_quantizers(supernet, [lambda one=one: supernet.recalibrate(images, one) for one in candidates])
    genome = encoding.at_bits(encoding.encode([encoding.extremes()[1]]), encoding.uniform_bits()[0])
    (candidate,) = encoding.decode(genome)
    qat = Training(epochs=6, batch_size=BATCH, learning_rate=5e-3)
    found, before = {}, 0
    for epoch in epochs:
        if epoch > before:
            part = Training(epochs=epoch - before, batch_size=BATCH, learning_rate=1e-2 * 0.5)
            optimizer = optimizer_for(supernet, part)
            train_supernet(supernet, encoding, optimizer, data.train, part, "single_path", (0, 2, epoch), quantize=True)
        before = epoch
        subnet = subnet_from(supernet, candidate, images, quantize=True)
        found[epoch] = instability(
            subnet, lambda own, seed: finetune(own, data.train, qat, (seed, 3)), digits.error, points=11
        )
    return found


def draw(axes: Axes, found: dict[int, Instability], title: str, unit: str) -> None:
    """Draw the lines of one network."""
    for number, (step, own) in enumerate(found.items()):
        color = str(0.75 - 0.75 * number / max(1, len(found) - 1))
        axes.plot(own.shares, [100 * error for error in own.errors], color=color, label=f"{step} {unit}")
    axes.set(title=title, xlabel="share of the second end in the weights", ylabel="error in %", ylim=(0, None))
    axes.legend(title="parted after", frameon=False, loc="upper left", bbox_to_anchor=(1, 1))


def main() -> None:
    """Measure both, print the heights and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("branching.png"))
    parser.add_argument("--tiny", action="store_true", help="few steps, to try the script")
    given = parser.parse_args()
    torch.set_num_threads(1)
    space = SearchSpace.load("digits")
    data = load_data(space)
    digits = Digits(data, 40 if given.tiny else STEPS)
    torch.manual_seed(0)
    parted = PARTED[:2] if given.tiny else PARTED
    plain = instability_by_step(network(), digits.train, digits.error, parted, calibration=digits.calibration())
    epochs, warm_up = ((0, 1), 1) if given.tiny else (EPOCHS, BEFORE)
    quantized = of_supernet(space, data, digits, epochs, warm_up)
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw(left, plain, "Plain network", "steps")
    draw(right, quantized, "QAT from the quantized supernet", "epochs")
    figure.savefig(given.out, dpi=120)
    for name, found in (("plain network", plain), ("QAT from the quantized supernet", quantized)):
        for step, own in found.items():
            ends = 50 * (own.errors[0] + own.errors[-1])
            print(f"{name}, parted after {step}: error of the ends {ends:.1f}%, height {100 * own.height:.1f}")


if __name__ == "__main__":
    main()
