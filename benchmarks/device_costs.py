"""How far are the cost models of devices from what was published of the devices?

Fits the rates of ``stm32h7_ms`` to the measurements of ST's model zoo, prints the errors of the module's rates, also of
families of networks that are left out of the fit and of another board, and compares ``ne16_cycles`` and ``gap8_cycles``
with measured cycles. Needs no files and takes a second.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from apq_tune.cli.ending import one_line_errors
from apq_tune.cost import gap8, ne16, stm32h7
from apq_tune.network.layer import Op

RATES = ("dense", "few_inputs", "depthwise", "linear")
MODULE = (stm32h7.DENSE, stm32h7.FEW_INPUTS, stm32h7.DEPTHWISE, stm32h7.LINEAR)


class Measured(NamedTuple):
    """A network with its measured latency.

    Attributes:
        family: Kind of the network.
        name: What distinguishes it from others of its family.
        ops: Its convolutions and linear layers.
        ms: Latency in milliseconds.
    """

    family: str
    name: str
    ops: list[Op]
    ms: float


def conv(inputs: int, outputs: int, kernel: int, size: int, stride: int = 1, groups: int = 1) -> Op:
    """Convolution with padding as in TensorFlow's "same", at 8 bits."""
    return Op(inputs, outputs, kernel, groups, size, -(-size // stride), 8, 8, stride)


def linear(inputs: int, outputs: int) -> Op:
    """Linear layer at 8 bits."""
    return Op(inputs, outputs, 1, 1, 1, 1, 8, 8)


def separable(width: float, size: int, channels: int, classes: int, layers: Sequence[tuple[int, int]]) -> list[Op]:
    """MobileNetV1 and FD-MobileNet: a convolution, then depthwise and pointwise ones, then a linear layer."""
    c, found = int(32 * width), [conv(channels, int(32 * width), 3, size, 2)]
    size = -(-size // 2)
    for outputs, stride in layers:
        found.append(conv(c, c, 3, size, stride, c))
        size = -(-size // stride)
        found.append(conv(c, int(outputs * width), 1, size))
        c = int(outputs * width)
    return [*found, linear(c, classes)]


V1 = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1)]
FD = [(64, 2), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 4, (1024, 1)]
V2 = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
FIRE = [(16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256)]


def divisible(channels: float) -> int:
    """Multiple of 8 near a number, as in MobileNetV2."""
    near = max(8, int(channels + 4) // 8 * 8)
    return near + 8 if near < 0.9 * channels else near


def mobilenet_v2(width: float, size: int, classes: int) -> list[Op]:
    """MobileNetV2 of Keras."""
    c = divisible(32 * width)
    found, size = [conv(3, c, 3, size, 2)], -(-size // 2)
    for ratio, outputs, repeats, stride in V2:
        for number in range(repeats):
            middle, step = c * ratio, stride if number == 0 else 1
            found += [conv(c, middle, 1, size)] if ratio > 1 else []
            found.append(conv(middle, middle, 3, size, step, middle))
            size, c = -(-size // step), divisible(int(outputs * width))
            found.append(conv(middle, c, 1, size))
    last = 1280 if width <= 1 else divisible(1280 * width)
    return [*found, conv(c, last, 1, size), linear(last, classes)]


def resnet(blocks: int, classes: int) -> list[Op]:
    """ResNet v1 for 32 x 32 pixels with three stages of blocks."""
    c, size, found = 16, 32, [conv(3, 16, 3, 32)]
    for stage, outputs in enumerate((16, 32, 64)):
        for number in range(blocks):
            stride = 2 if stage and not number else 1
            found += [conv(c, outputs, 3, size, stride), conv(outputs, outputs, 3, -(-size // stride))]
            found += [conv(c, outputs, 1, size, stride)] if stride == 2 else []
            c, size = outputs, -(-size // stride)
    return [*found, linear(64, classes)]


def squeezenet(size: int, classes: int) -> list[Op]:
    """SqueezeNet 1.1."""
    c, found = 64, [conv(3, 64, 3, size, 2)]
    size = -(-size // 4)  # after the convolution and the first pooling
    for number, (squeezed, outputs) in enumerate(FIRE):
        found += [conv(c, squeezed, 1, size), conv(squeezed, outputs, 1, size), conv(squeezed, outputs, 3, size)]
        c, size = 2 * outputs, -(-size // 2) if number in (1, 3) else size
    return [*found, conv(c, classes, 1, size)]


def ds_cnn() -> list[Op]:
    """The keyword spotter of MLPerf Tiny, 49 x 10 inputs."""
    first = Op(1, 64, 10, 1, 49, 25, 8, 8, 2, kernel_width=4, in_width=10, out_width=5)
    spatial = Op(64, 64, 3, 64, 25, 25, 8, 8, in_width=5, out_width=5)
    pointwise = spatial._replace(kernel_size=1, groups=1)
    return [first, *[spatial, pointwise] * 4, linear(64, 12)]


def autoencoder() -> list[Op]:
    """The anomaly detector of MLPerf Tiny."""
    widths = [640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640]
    return [linear(*pair) for pair in itertools.pairwise(widths)]


# github.com/STMicroelectronics/stm32ai-modelzoo, image_classification/*/README.md, "Reference MCU inference time":
# STM32H747I-DISCO, one Cortex-M7 at 400 MHz, STM32Cube.AI 10.0.0, int8.
ZOO = [
    Measured("MobileNetV1", ".25, 224, 5 classes", separable(0.25, 224, 3, 5, V1), 163.78),
    Measured("MobileNetV1", ".5, 224, 5 classes", separable(0.5, 224, 3, 5, V1), 485.79),
    Measured("MobileNetV1", ".25, 96, 5 classes", separable(0.25, 96, 3, 5, V1), 29.94),
    Measured("MobileNetV1", ".25, 96 grey, 5 classes", separable(0.25, 96, 1, 5, V1), 28.34),
    Measured("MobileNetV1", ".25, 224, ImageNet", separable(0.25, 224, 3, 1000, V1), 166.75),
    Measured("MobileNetV1", ".5, 224, ImageNet", separable(0.5, 224, 3, 1000, V1), 504.37),
    Measured("MobileNetV1", "1.0, 224, ImageNet", separable(1.0, 224, 3, 1000, V1), 1641.84),
    Measured("MobileNetV2", ".35, 128, 5 classes", mobilenet_v2(0.35, 128, 5), 94.34),
    Measured("MobileNetV2", ".35, 224, 5 classes", mobilenet_v2(0.35, 224, 5), 290.75),
    Measured("MobileNetV2", ".35, 128, ImageNet", mobilenet_v2(0.35, 128, 1000), 116.13),
    Measured("MobileNetV2", ".35, 224, ImageNet", mobilenet_v2(0.35, 224, 1000), 313.92),
    Measured("MobileNetV2", "1.0, 224, ImageNet", mobilenet_v2(1.0, 224, 1000), 1106.64),
    Measured("MobileNetV2", "1.4, 224, ImageNet", mobilenet_v2(1.4, 224, 1000), 2010.66),
    Measured("FD-MobileNet", ".25, 224, 5 classes", separable(0.25, 224, 3, 5, FD), 53.52),
    Measured("FD-MobileNet", ".25, 128, 5 classes", separable(0.25, 128, 3, 5, FD), 17.73),
    Measured("ResNet v1", "8 layers, CIFAR-10", resnet(1, 10), 28.67),
    Measured("ResNet v1", "32 layers, CIFAR-100", resnet(5, 100), 177.7),
    Measured("SqueezeNet 1.1", "128, 5 classes", squeezenet(128, 5), 216.67),
    Measured("SqueezeNet 1.1", "224, 5 classes", squeezenet(224, 5), 693.3),
]

MLPERF: dict[str, list[Op]] = {
    "image classification (ResNet-8)": resnet(1, 10),
    "keyword spotting (DS-CNN)": ds_cnn(),
    "visual wake words (MobileNetV1 .25)": separable(0.25, 96, 3, 2, V1),
    "anomaly detection (linear layers)": autoencoder(),
}
"""Networks of MLPerf Tiny."""

# github.com/mlcommons/tiny_results_v1.0, closed/*/results/*/*/performance/results.txt, inferences in a second.
H7A3 = (18.401, 59.667, 19.722, 547.707)  # STMicroelectronics, NUCLEO-H7A3ZI-Q at 280 MHz, X-CUBE-AI 7.3.0
GAP9 = (1622.888, 2103.209, 889.041, 5691.597)  # GreenWaves, GAP9 at 370 MHz with NE16, 8 bits

# Garofalo 2019 (arXiv:1908.11263): 15.5 multiply-accumulates in a cycle, 64 filters of 3x3x32 on 16x16 pixels, 8 bits.
PULP_NN = conv(32, 64, 3, 16), 15.5


def macs_of(network: Measured) -> NDArray[np.float64]:
    """Millions of multiply-accumulates by the rate at which they run, shape ``(4,)``."""
    macs = [[float(stm32h7.kinds_of(op)[rate]) for rate in RATES] for op in network.ops]
    return np.asarray(np.sum(macs, axis=0) / 1e6)


def fitted(networks: Sequence[Measured]) -> NDArray[np.float64]:
    """Rates with the least relative squared error, none of them negative, shape ``(4,)``."""
    macs, ms = np.array([macs_of(network) for network in networks]), np.array([network.ms for network in networks])
    return np.asarray(nnls(macs / ms[:, None], np.ones(len(ms)))[0])


def errors(networks: Sequence[Measured], rates: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Relative errors of the latencies, shape ``(n,)``."""
    return np.array([float(macs_of(network) @ np.asarray(rates)) / network.ms - 1 for network in networks])


def held_out() -> dict[str, NDArray[np.float64]]:
    """Errors of each family of networks when the rates are fitted to all others."""
    found = {}
    for family in dict.fromkeys(network.family for network in ZOO):
        others = [network for network in ZOO if network.family != family]
        found[family] = errors([network for network in ZOO if network.family == family], fitted(others))
    return found


def cycles(ops: Sequence[Op], cost: Callable[[Op], object]) -> float:
    """Cycles of a network, without what a cost model does not cover."""
    return float(np.nansum([float(cost(op)) for op in ops]))  # type: ignore[arg-type]


def main() -> None:
    """Print the tables."""
    print("stm32h7_ms: milliseconds for a million multiply-accumulates")
    for rate, new, kept in zip(RATES, fitted(ZOO), MODULE, strict=True):
        print(f"  {rate:12} fitted {new:6.2f}, in the module {kept:6.2f}")
    own, without = errors(ZOO, MODULE), held_out()
    print(f"errors: mean {np.abs(own).mean():.1%}, largest {np.abs(own).max():.1%}")
    for network, error in zip(ZOO, own, strict=True):
        print(f"  {network.family} {network.name}: {network.ms} ms, {error:+.1%}")
    for family, found in without.items():
        print(f"  fitted without {family}: {', '.join(f'{error:+.1%}' for error in found)}")
    print("MLPerf Tiny: STM32H7A3 at 280 MHz, stm32h7_ms times 400/280; GAP9, ne16_cycles of what NE16 covers")
    for (name, ops), h7, gap9 in zip(MLPERF.items(), H7A3, GAP9, strict=True):
        ms = sum(float(stm32h7.op_ms(op)) for op in ops) * 400 / 280
        measured, computed = 370e6 / gap9, cycles(ops, ne16.op_cycles)
        print(
            f"  {name}: {1000 / h7:.2f} ms, computed {ms:.2f} ({ms * h7 / 1000 - 1:+.0%}); "
            f"{measured:,.0f} cycles, computed {computed:,.0f} ({computed / measured:.0%})"
        )
    op, published = PULP_NN
    print(f"gap8_cycles: {float(op.macs / gap8.op_cycles(op)):.1f} MACs in a cycle, published {published}")


if __name__ == "__main__":
    with one_line_errors():
        main()
