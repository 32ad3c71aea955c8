"""Exported networks: are they the networks that were found, and how fast are they?

Usage: ``python benchmarks/deploy.py [--out FOLDER] [--run RUN] [--data-root FOLDER]``. Takes networks with mixed bits
of a finished run, which is made on Fashion-MNIST (14 x 14 pixels) if none is given, and random candidates of its
quantized supernet if there are too few. For each of them, on the whole test set: agreement and accuracy of simulation
and ONNX file, rows that are equal between integer reference, onnxruntime and compiled C, integer operators in
onnxruntime's graph, and the size of the file against its bound. Then latency on one thread at batch 1 and 32: the int8
file against the float file of the same candidate, and the found network against the largest one at 8 bits; pairs are
measured in turns, in random order, and ratios are medians over rounds. At last the same ratio of float to int8 for
untrained networks of larger and larger spaces. Prints three tables, writes ``agreement.csv``, ``latency.csv`` and
``sizes.csv``. Measure on a quiet machine.
"""

from __future__ import annotations

import argparse
import functools
import math
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from apq_tune import FoundNetwork, NetworkEncoding, SearchSpace, Subnet, export, load_data
from apq_tune.cli.ending import one_line_errors
from apq_tune.deploy import reference
from apq_tune.deploy.exported import on_resized, open_file
from apq_tune.deploy.load import open_networks
from apq_tune.deploy.lowering import program_of
from apq_tune.deploy.onnx_file import FileMetadata, onnx_model
from apq_tune.deploy.onnx_graph import graph_of
from apq_tune.deploy.onnx_session import session
from apq_tune.deploy.op_models import model_bytes
from apq_tune.deploy.program import (
    LOGITS,
    AddStep,
    ConvStep,
    FloatTensor,
    IntegerTensor,
    LinearStep,
    MeanStep,
    Program,
    QuantizeStep,
    RequantizeStep,
)
from apq_tune.network.layer import IMAGE
from apq_tune.pipeline.finished import load_supernets
from apq_tune.pipeline.run import PipelineRun
from apq_tune.problem.costs import Costs
from apq_tune.space.files import load_network_space
from apq_tune.supernet.batches import images_of
from apq_tune.supernet.found_network import CostValue, Preprocessing

SPACES = Path(__file__).parent / "spaces"  # of one input size each, as when the tables were measured
SPACE = str(SPACES / "mobilenet_fashion_mnist_14.yaml")
OUT = Path("runs/benchmarks/deploy")
BATCHES = (1, 32)
LARGER = (SPACE, str(SPACES / "mobilenet_fashion_mnist.yaml"), "apq_mobilenet")

LEAST_SECONDS = 0.002
"""Least duration of a timing."""

BOUND = 1.15, 20_000
"""Factor of ``weight_bytes``, and bytes on top, that a file may have."""


def main() -> None:
    """Export the networks, compare, measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, help="folder for files and tables.  [default: %(default)s]")
    parser.add_argument("--run", type=Path, help="finished run; by default one is made in OUT/run")
    parser.add_argument("--data-root", type=Path, help="folder with the files of data sets")
    parser.add_argument("--networks", type=int, default=6, help="number of networks with mixed bits")
    parser.add_argument("--rows", type=int, default=1000, help="test images that are run in C and in NumPy")
    parser.add_argument("--rounds", type=int, default=60, help="rounds of timings")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    run = arguments.run or arguments.out / "run"
    if arguments.run is None:
        PipelineRun(load_network_space(SPACE), None, run, data_root=arguments.data_root).run()
    networks = {network.name: network for network in chosen(run, arguments.networks)}
    opened = open_networks(run)
    largest, root = opened.load("largest_8bit"), arguments.data_root or opened.data_root
    test = load_data(largest.space, root).test
    images, labels = images_of(test, len(test.labels)), test.labels
    rows = []
    for network in networks.values():
        rows.append(compared(network, images, labels, arguments.out, arguments.rows, root))
        print(pd.DataFrame(rows[-1:]).to_string(index=False), flush=True)
    agreement = pd.DataFrame(rows)
    agreement.to_csv(arguments.out / "agreement.csv", index=False)
    print(agreement.to_string(index=False))
    latency = pd.DataFrame(measured(networks, largest, arguments.rounds))
    latency.to_csv(arguments.out / "latency.csv", index=False)
    print(latency.to_string(index=False))
    sizes = pd.DataFrame([row for name in LARGER for row in by_size(name, arguments.rounds)])
    sizes.to_csv(arguments.out / "sizes.csv", index=False)
    print(sizes.to_string(index=False))


def widths_of(program: Program) -> list[int]:
    """Distinct bit-widths of weights."""
    return sorted({step.weights.bits for step in program.steps if isinstance(step, ConvStep | LinearStep)})


def chosen(run: Path, n: int) -> list[FoundNetwork]:
    """Networks of a run with mixed bits, then random candidates of its quantized supernet."""
    opened = open_networks(run)
    found = [opened.load(name) for name in opened.kept if not name.startswith("largest")]
    mixed = [network for network in found if len(widths_of(program_of(network))) > 1][:n]
    if len(mixed) < n:
        supernet, encoding = load_supernets(run).quantized, NetworkEncoding(opened.space)
        genomes = encoding.sample(n - len(mixed), np.random.default_rng(0))
        metrics = Costs.of(encoding).metrics
        for number, candidate in enumerate(encoding.decode(genomes)):
            own = FoundNetwork(
                supernet.subnet(candidate),
                name=f"random_{number}",
                costs={
                    name: CostValue(float(metric(genomes[number : number + 1])[0]), metric.unit)
                    for name, metric in metrics.items()
                },
                scores={},
                preprocessing=Preprocessing.of(opened.space, opened.classes),
            )
            mixed.append(own)
    return mixed


def compared(
    network: FoundNetwork,
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    out: Path,
    n_rows: int,
    data_root: Path | str | None,
) -> dict[str, Any]:
    """Simulation, integer reference, onnxruntime and C on test images."""
    program, path = program_of(network), out / f"{network.name}.onnx"
    export(network, path, over_limits=True, data_root=data_root)
    file, simulated = open_file(path), network.logits(images)
    given, first = file.run(images), images[:n_rows]
    exact = on_resized(functools.partial(reference.run, program), file.reads)(first)
    in_c = math.nan
    if shutil.which("gcc") is not None:
        own = open_file(
            export(network, out / f"{network.name}.c", "c", over_limits=True, data_root=data_root).path
        ).run(first)
        in_c = float((own == exact).all(axis=1).mean())
    assert file.kernels is not None
    accuracies = [float((logits.argmax(axis=1) == labels).mean()) for logits in (simulated, given)]
    n_bytes, promised = path.stat().st_size, network.costs["weight_bytes"].value
    return {
        "network": network.name,
        "weight bits": "/".join(map(str, widths_of(program))),
        "images": len(images),
        "agreement": float((simulated.argmax(axis=1) == given.argmax(axis=1)).mean()),
        "accuracy, simulation": accuracies[0],
        "accuracy, file": accuracies[1],
        "rows": len(first),
        "onnxruntime = reference": float((given[: len(first)] == exact).all(axis=1).mean()),
        "C = reference": in_c,
        "integer operators": f"{file.kernels.integer} of {file.kernels.integer + file.kernels.floating}",
        "file bytes": n_bytes,
        "weight_bytes": int(promised),
        "within bound": n_bytes <= BOUND[0] * promised + BOUND[1],
    }


def float_model(program: Program) -> onnx.ModelProto:
    """The same network in floating point: dequantized weights, and clips where activations saturate at zero."""
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def constant(name: str, values: NDArray[Any]) -> str:
        constants.append(numpy_helper.from_array(np.asarray(values, np.float32), name))
        return name

    for step in program.steps:
        inputs, output = list(step.inputs), program.tensors[step.output]
        if isinstance(step, QuantizeStep | RequantizeStep):
            nodes.append(helper.make_node("Identity", inputs, [step.output]))
            continue
        if isinstance(step, ConvStep | LinearStep):
            along = (-1, *[1] * (step.weights.values.ndim - 1))
            scales, source = step.weights.scales, program.integer(step.inputs[0])
            inputs.append(constant(f"{step.name}.w", step.weights.values * scales.reshape(along)))
            inputs.append(constant(f"{step.name}.b", step.weights.bias * (scales * source.scale)))
        positive = isinstance(output, IntegerTensor) and not output.signed
        made = f"{step.output}.sum" if positive else step.output
        if isinstance(step, ConvStep):
            how: dict[str, Any] = {
                "strides": step.stride,
                "pads": step.padding,
                "dilations": step.dilation,
                "group": step.groups,
            }
            nodes.append(helper.make_node("Conv", inputs, [made], **how))
        elif isinstance(step, LinearStep):
            nodes.append(helper.make_node("Gemm", inputs, [made], transB=1))
        elif isinstance(step, AddStep):
            nodes.append(helper.make_node("Add", inputs, [made]))
        elif isinstance(step, MeanStep):
            nodes.append(helper.make_node("GlobalAveragePool", inputs, [f"{made}.pixels"]))
            nodes.append(helper.make_node("Flatten", [f"{made}.pixels"], [made]))
        else:
            raise SystemExit(f"step {step.name}: has no float form here")
        if positive:
            assert isinstance(output, IntegerTensor)
            limits = [constant(f"{made}.{end}", np.array(end * output.scale)) for end in (output.low, output.high)]
            nodes.append(helper.make_node("Clip", [made, *limits], [step.output]))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *program.tensors[name].shape])
        for name in (IMAGE, LOGITS)
    ]
    assert all(isinstance(program.tensors[name], FloatTensor) for name in (IMAGE, LOGITS))
    graph = helper.make_graph(nodes, "float", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def measured(networks: Mapping[str, FoundNetwork], largest: FoundNetwork, rounds: int) -> Iterator[dict[str, Any]]:
    """Latencies of all networks in milliseconds, and ratios of pairs, at each batch size."""
    sessions = {}
    for network in (*networks.values(), largest):
        program = program_of(network)
        integers = onnx_model(program, FileMetadata.of(network, program))
        for kind, model in (("int8", integers), ("fp32", float_model(program))):
            sessions[network.name, kind] = session(model)
    shapes = {key: one.get_inputs()[0].shape[1:] for key, one in sessions.items()}  # sizes may differ
    for batch in BATCHES:
        rng = np.random.default_rng(0)
        images = {
            shape: rng.random((batch, *shape), np.float32) for shape in dict.fromkeys(map(tuple, shapes.values()))
        }
        calls = {
            key: functools.partial(one.run, None, {IMAGE: images[tuple(shapes[key])]}) for key, one in sessions.items()
        }
        times = _in_turns(calls, rounds)
        for name in networks:
            int8, fp32, large = times[name, "int8"], times[name, "fp32"], times[largest.name, "int8"]
            yield {
                "network": name,
                "batch": batch,
                "int8 ms": 1000 * float(np.median(int8)),
                "fp32 ms": 1000 * float(np.median(fp32)),
                "largest int8 ms": 1000 * float(np.median(large)),
                **_ratio("fp32 / int8", fp32 / int8),
                **_ratio("largest / found", large / int8),
            }


def by_size(name: str, rounds: int) -> Iterator[dict[str, Any]]:
    """Latencies of untrained networks of a space as integers and in floating point."""
    space = SearchSpace.load(name)
    encoding, rng = NetworkEncoding(space), np.random.default_rng(0)
    largest = encoding.extremes()[1]
    candidates = {"largest, 8 bits": largest.with_bits(8), "largest, 4 bits": largest.with_bits(4)}
    candidates["random, mixed bits"] = encoding.decode(encoding.sample_policies(1, rng))[0]
    sessions, macs = {}, Costs.of(encoding).metrics["macs"](encoding.encode([*candidates.values()], check=False))
    for key, candidate in candidates.items():
        program = program_of(Subnet(space, candidate).eval())
        sessions[key, "int8"] = session(onnx.load_from_string(model_bytes(*graph_of(program))))
        sessions[key, "fp32"] = session(float_model(program))
    for batch in BATCHES:
        images = rng.random((batch, space.input.channels, *[space.resolutions[-1]] * 2), np.float32)
        calls = {key: functools.partial(one.run, None, {IMAGE: images}) for key, one in sessions.items()}
        times = _in_turns(calls, max(5, rounds // batch))
        for key, n_macs in zip(candidates, macs, strict=True):
            ratio = _ratio("fp32 / int8", times[key, "fp32"] / times[key, "int8"])
            yield {"space": space.name, "network": key, "MMACs": n_macs / 1e6, "batch": batch, **ratio}


def _ratio(name: str, values: NDArray[np.float64]) -> dict[str, float]:
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
    return {name: float(middle), f"{name}, 10%": float(low), f"{name}, 90%": float(high)}


def _in_turns(
    calls: Mapping[tuple[str, str], Callable[[], object]], rounds: int
) -> dict[tuple[str, str], NDArray[np.float64]]:
    """Seconds of a call of each function in each round, shape ``(rounds,)``; each round has an order of its own."""
    rng, keys = random.Random(0), list(calls)
    repeats = {}
    for key, call in calls.items():
        for _ in range(3):
            call()
        begun = time.perf_counter()
        call()
        repeats[key] = max(1, math.ceil(LEAST_SECONDS / (time.perf_counter() - begun)))
    times: dict[tuple[str, str], list[float]] = {key: [] for key in keys}
    for _ in range(rounds):
        for key in rng.sample(keys, len(keys)):
            begun = time.perf_counter()
            for _ in range(repeats[key]):
                calls[key]()
            times[key].append((time.perf_counter() - begun) / repeats[key])
    return {key: np.array(values) for key, values in times.items()}


if __name__ == "__main__":
    with one_line_errors():
        main()
