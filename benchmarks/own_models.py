"""What works on 24 models as users have them, and which ones are refused.

Usage: ``python benchmarks/own_models.py [NAME ...] [--limit SECONDS]``. Each model has random weights (nothing is
downloaded) and random batch norm statistics, and is checked in a process of its own. torchvision's and timm's models
have images of 224 pixels; timm is in the extra ``dev``, and its models are skipped without it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from onnx import helper
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from apq_tune.cli.ending import one_line_errors
from apq_tune.cost import cost_models, macs
from apq_tune.deploy import onnx_session
from apq_tune.deploy.lowering import program_of
from apq_tune.deploy.onnx_graph import graph_of
from apq_tune.deploy.onnx_session import FLOAT_KERNELS, INTEGER_KERNELS
from apq_tune.deploy.program import Program
from apq_tune.errors import ApqError, SpaceError
from apq_tune.network.coupling import Coupling, couple
from apq_tune.network.graph import Graph
from apq_tune.network.layer import IMAGE
from apq_tune.network.liveness import live_bits
from apq_tune.network.network import Network
from apq_tune.network.removable import removable_blocks, without
from apq_tune.network.shapes import resized
from apq_tune.space.encodings import encoding_of
from apq_tune.space.gene import BIT_KINDS
from apq_tune.space.model_space import ModelSpace
from apq_tune.supernet.evaluate import calibrate_quantizers
from apq_tune.supernet.graph_subnet import GraphSubnet
from apq_tune.supernet.graph_supernet import GraphSupernet
from apq_tune.supernet.quantize import ActivationQuantizer
from apq_tune.tracing.functions import run_graph
from apq_tune.tracing.masking import difference, random_kept
from apq_tune.tracing.plain_module import fold_norms, plain_module, source
from apq_tune.tracing.trace import trace, weights_of

IMAGENET = (3, 224, 224)
N_IMAGES, DIFFERENT = 16, 1e-3
"""Images on which an exported network is compared, and largest share of levels that may be rounded differently."""

ROOT = Path(__file__).parents[1]


class Model(NamedTuple):
    """A model: how it is made, and the shape of its images."""

    make: Callable[[], nn.Module]
    image: tuple[int, int, int] = IMAGENET


class Subject(NamedTuple):
    """A traced model: the module in evaluation mode, its graph, tensors and coupled channels, and two random images."""

    module: nn.Module
    graph: Graph
    tensors: Mapping[str, Tensor]
    coupling: Coupling
    images: Tensor


def torchvision_model(name: str, **settings: Any) -> Model:
    """Model of torchvision with random weights."""
    return Model(lambda: importlib.import_module("torchvision.models").get_model(name, weights=None, **settings))


def timm_model(name: str) -> Model:
    """Model of timm with random weights."""
    return Model(lambda: importlib.import_module("timm").create_model(name, pretrained=False))


def zoo_model(name: str, image: tuple[int, int, int] = (3, 32, 32)) -> Model:
    """Small model of the tests."""
    return Model(lambda: importlib.import_module("tests.tracing.zoo").network(name), image)


MODELS: dict[str, Model] = {
    "ResNet-18": torchvision_model("resnet18"),
    "MobileNetV2": torchvision_model("mobilenet_v2"),
    "MobileNetV3-small": torchvision_model("mobilenet_v3_small"),
    "EfficientNet-B0": torchvision_model("efficientnet_b0"),
    "ShuffleNetV2": torchvision_model("shufflenet_v2_x1_0"),
    "DenseNet-121": torchvision_model("densenet121"),
    "VGG-11-BN": torchvision_model("vgg11_bn"),
    "SqueezeNet": torchvision_model("squeezenet1_0"),
    "RegNetY-400MF": torchvision_model("regnet_y_400mf"),
    "ConvNeXt-tiny": torchvision_model("convnext_tiny"),
    "GoogLeNet": torchvision_model("googlenet", init_weights=False),
    "MNASNet": torchvision_model("mnasnet1_0"),
    "EfficientNet-Lite0": timm_model("efficientnet_lite0"),
    "ResNet-18d": timm_model("resnet18d"),
    "RepVGG-A0": timm_model("repvgg_a0"),
    "MobileOne-S0": timm_model("mobileone_s0"),
    "GhostNet": timm_model("ghostnet_100"),
    "ResNeXt-50": timm_model("resnext50_32x4d"),
    "DLA-34": timm_model("dla34"),
    "FBNet-C": timm_model("fbnetc_100"),
    "DS-CNN": zoo_model("ds_cnn_speech", (1, 49, 10)),
    "ResNet8": zoo_model("resnet8"),
    "plain VGG": zoo_model("plain_vgg"),
    "U-Net": zoo_model("unet"),
}
"""Models that must pass every check."""

OTHERS: dict[str, Model] = {
    "MixNet-S": timm_model("mixnet_s"),
    "ViT-tiny": timm_model("vit_tiny_patch16_224"),
    "branching": zoo_model("branching"),
}
"""Models that are partly locked, or refused."""


def nodes(subject: Subject) -> str:
    """Number of nodes, and of those of each kind."""
    kinds = Counter(node.kind for node in subject.graph.nodes)
    return f"{len(subject.graph.nodes)}: " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())


def opaque(subject: Subject) -> str:
    """Operations that no kind of node does."""
    targets = Counter(node.settings["target"] for node in subject.graph.nodes if node.kind == "opaque")
    return ", ".join(f"{count} {target.split('.')[1]}" for target, count in targets.most_common()) or "none"


def same_output(subject: Subject) -> str:
    """Largest difference between the graph and the module, relative to the largest output."""
    expected = subject.module(subject.images)
    found = run_graph(subject.graph, subject.tensors, subject.images)
    difference = float((found - expected).abs().max() / expected.abs().max())
    assert difference <= 1e-6, f"{difference:.1e}"
    return f"{difference:.1e}"


def coupled(subject: Subject) -> str:
    """Number of groups of coupled channels that can shrink, and of all."""
    groups = subject.coupling.groups
    assert subject.coupling.shrinkable, "no group can shrink"
    return f"{len(subject.coupling.shrinkable)} of {len(groups)} groups"


def sliced(subject: Subject) -> str:
    """Largest difference between sliced networks and the masked whole at random widths, twice without some blocks."""
    rng, worst = np.random.default_rng(0), 0.0
    blocks = removable_blocks(subject.graph, subject.coupling)
    for skips in (False, False, False, True, True):
        graph = without(subject.graph, [block for block in blocks if skips and rng.random() < 0.5])
        kept = random_kept(subject.coupling, rng)
        worst = max(worst, difference(graph, subject.coupling, kept, subject.tensors, subject.images))
    assert worst <= 1e-5, f"{worst:.1e}"
    return f"{worst:.1e}"


def removable(subject: Subject) -> str:
    """Number of residual blocks that can be left out."""
    return str(len(removable_blocks(subject.graph, subject.coupling)))


def other_size(subject: Subject) -> str:
    """Difference from the module at three quarters of the image size, whole, and of a sliced network there."""
    size = tuple(3 * pixels // 4 for pixels in subject.images.shape[2:])
    try:
        graph = resized(subject.graph, (size[0], size[1]))
    except SpaceError as error:
        return f"none: {error}"
    images = torch.randn(2, subject.images.shape[1], *size)
    expected = subject.module(images)
    found = run_graph(graph, subject.tensors, images)
    whole = float((found - expected).abs().max() / expected.abs().max())
    kept = random_kept(subject.coupling, np.random.default_rng(0))
    worst = max(whole, difference(graph, subject.coupling, kept, subject.tensors, images))
    assert worst <= 1e-5, f"{worst:.1e}"
    return f"{worst:.1e}"


def locked(subject: Subject) -> str:
    """Layers whose output channels cannot shrink, and the first reason."""
    groups = [group for group in subject.coupling.groups if group.locked]
    makers = {maker for group in groups for maker in group.makers}
    return f"{len(makers)} of {len(subject.graph.weighted)} layers: {groups[0].locked}" if groups else "none"


def genes(subject: Subject) -> str:
    """Number of genes by kind, and of networks with their bits."""
    space = ModelSpace.of_graph(subject.graph)
    kinds = Counter(gene.kind for gene in space.genes)
    return f"{len(space.genes)}: {', '.join(f'{n} {kind}' for kind, n in kinds.items())}; 10^{space.log10_size():.0f}"


def counted(subject: Subject) -> str:
    """MACs of the model; those of random networks are compared with torch's counter, and their layers with formulas."""
    encoding = encoding_of(ModelSpace.of_graph(subject.graph))
    genomes = np.concatenate([encoding.ends(), encoding.sample(3, np.random.default_rng(0))])
    network = encoding.space.network
    costs = macs(encoding)(genomes)
    for candidate, cost in zip(encoding.decode(genomes), costs, strict=True):
        plan = encoding.space.plan(candidate)
        tensors = {name: torch.ones(shape) for name, shape in plan.graph.shapes.items()}
        with FlopCounterMode(display=False) as counter:
            run_graph(plan.graph, tensors, torch.zeros(1, *plan.graph.image))
        assert counter.get_total_flops() == 2 * cost, f"{cost:.0f} MACs, torch counts {counter.get_total_flops()} FLOPs"
        formulas = Network.at(network, encoding.space.values_of(candidate))
        for one, other in zip(plan.layers, formulas, strict=True):
            assert (one.op, one.output, one.inputs) == (other.op, other.output, other.inputs), one.name
    with FlopCounterMode(display=False) as counter:
        subject.module(subject.images[:1])
    assert counter.get_total_flops() == 2 * costs[1], f"torch counts {counter.get_total_flops()} FLOPs of the module"
    return f"{costs[1] / 1e6:.1f} M"


def peak(subject: Subject) -> str:
    """Range of the peak memory of activations, and CPU seconds for the costs without a device of 500 candidates."""
    encoding = encoding_of(ModelSpace.of_graph(subject.graph))
    rng, network = np.random.default_rng(0), encoding.space.network
    genomes, costs = encoding.sample(500, rng), cost_models(encoding)
    begun = time.process_time()
    values = {cost.name: cost(genomes) for cost in costs}
    seconds = time.process_time() - begun
    image = network.image(network.sizes[-1])
    for candidate, found in zip(encoding.decode(genomes[:3]), values["peak_activation_bytes"], strict=False):
        bits = max(live_bits(encoding.space.plan(candidate).layers, image).values())
        assert bits == 8 * found, f"{found} bytes, {bits / 8} by liveness"
    own = next(cost for cost in costs if cost.name == "peak_activation_bytes")
    low, high = own.reachable()
    assert low <= values[own.name].min() and values[own.name].max() <= high
    kind = "" if own.reach.exact else " (bounds)"
    return f"{low / 1e3:.0f} to {high / 1e3:.0f} kB{kind}, 500 in {seconds:.2f} s"


def exported(subject: Subject) -> str:
    """Agreement of onnxruntime with the simulation at random bits, and operators with weights that run in integers."""
    bits = tuple(range(2, 9))
    own = GraphSupernet(ModelSpace.of_graph(subject.graph, w_bits=bits, a_bits=bits))
    own.load_model(subject.module.state_dict())
    rng, encoding = np.random.default_rng(0), encoding_of(own.space)
    values = own.space.values_of(encoding.extremes()[1])
    for gene in own.space.genes:
        if gene.kind in BIT_KINDS:
            values[gene.name] = int(rng.choice(gene.values))
    candidate = own.space.candidate_of(values)
    coarse = torch.randn(2 * N_IMAGES, subject.images.shape[1], 8, 8)
    smooth = nn.functional.interpolate(coarse, size=subject.images.shape[2:], mode="bicubic")
    calibrate_quantizers(own, [lambda: own.recalibrate(smooth[:N_IMAGES], candidate)])
    network = own.extract(candidate, own.recalibrate(smooth[:N_IMAGES], candidate, quantize=True)).eval()
    program = program_of(network)
    model = model_of(program)
    images = smooth[N_IMAGES:]
    given, simulated = onnx_session.logits(model, images.numpy(), 8), network(images).numpy()
    same = float((given.argmax(1) == simulated.argmax(1)).mean())
    found = onnx_session.kernels(model)
    integer, real = (sum(found[kind] for kind in kinds) for kinds in (INTEGER_KERNELS, FLOAT_KERNELS))
    other = 1 - equal_levels(network, program, images[:4])
    text = f"{integer} of {integer + real} operators in integers, {other:.1e} of levels differ, top-1 {same:.2f}"
    assert other <= DIFFERENT, text
    return text


def model_of(program: Program, outputs: Sequence[str] = ()) -> onnx.ModelProto:
    """ONNX model of a program, checked, with some of its integer tensors as outputs."""
    graph, opset = graph_of(program)
    for name in outputs:
        shape: list[str | int | None] = ["n", *program.tensors[name].shape]
        graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, shape))
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))
    onnx.checker.check_model(model, full_check=True)
    return model


def equal_levels(network: GraphSubnet, program: Program, images: Tensor) -> float:
    """Share of levels of the simulation that onnxruntime has as well, where both have read the same levels.

    Random networks of few bits are chaotic: a level that is rounded to the other side changes every later one. So each
    tensor of the simulation is compared, and then replaced by that of onnxruntime.
    """
    stored = {name: own for name, own in network.stored_quantizers().items() if name in program.tensors}
    names = {quantizer: name for name, quantizer in stored.items()}
    values = onnx_session.session(model_of(program, list(stored))).run(list(stored), {IMAGE: images.numpy()})
    levels = dict(zip(stored, values, strict=True))
    counts: list[tuple[int, int]] = []

    def replace(quantizer: ActivationQuantizer, _: Any, output: Tensor) -> Tensor | None:
        name = names.get(quantizer)
        if name is None or name not in levels:  # quantized again, for a reader of fewer bits
            return None
        tensor = program.integer(name)
        exact = torch.from_numpy((levels.pop(name).astype(np.float32) - tensor.zero) * tensor.scale)
        counts.append((int(torch.isclose(exact, output, atol=1e-6).sum()), output.numel()))
        return exact

    handles = [own.register_forward_hook(replace) for own in stored.values()]
    network(images)
    for handle in handles:
        handle.remove()
    equal, total = np.sum(counts, axis=0)
    return float(equal / total)


def plain(subject: Subject) -> str:
    """Difference of the plain module with batch norm folded, and how many lines its file has."""
    graph, tensors = fold_norms(subject.graph, subject.tensors)
    expected = subject.module(subject.images)
    difference = float((plain_module(graph, tensors)(subject.images) - expected).abs().max() / expected.abs().max())
    assert difference <= 1e-4, f"{difference:.1e}"
    return f"{difference:.1e}, {len(source(graph, tensors).splitlines())} lines"


CHECKS: dict[str, Callable[[Subject], str]] = {
    "nodes": nodes,
    "opaque": opaque,
    "output": same_output,
    "coupled": coupled,
    "sliced": sliced,
    "removable blocks": removable,
    "at 3/4 of the size": other_size,
    "locked": locked,
    "genes": genes,
    "MACs": counted,
    "peak": peak,
    "ONNX at random bits": exported,
    "plain module": plain,
}
"""Columns of the table, each from a function that raises if a model does not pass."""


def check(name: str) -> dict[str, str]:
    """Row of a model; the value of a check that failed begins with ``FAILED``.

    Args:
        name: Name of the model.
    """
    model = {**MODELS, **OTHERS}[name]
    torch.manual_seed(0)
    try:
        module = model.make()
    except ImportError as error:
        return {"traced": f"skipped: {error}"}
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None:
            nn.init.normal_(norm.running_mean, std=0.1)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
            nn.init.normal_(norm.bias, std=0.1)
    for path, parameter in module.named_parameters():
        if path.endswith(("layer_scale", "gamma")):  # new ones hide the branch that they scale
            nn.init.uniform_(parameter, 0.5, 1.5)
    images = torch.randn(2, *model.image)
    begun = time.perf_counter()
    try:
        graph = trace(module, images[:1])
        coupling = couple(graph)
    except ApqError as error:
        return {"traced": f"refused: {error}"}
    row = {"traced": f"{time.perf_counter() - begun:.0f} s"}
    with torch.no_grad():
        subject = Subject(module.eval(), graph, weights_of(module, graph), coupling, images)
        return row | {column: passed(function, subject) for column, function in CHECKS.items()}


def passed(function: Callable[[Subject], str], subject: Subject) -> str:
    """Result of a check, or what it raises."""
    try:
        return function(subject)
    except Exception as error:
        return f"FAILED: {type(error).__name__}: {' '.join(str(error).split())[:200]}"


def in_process(name: str, limit: float) -> dict[str, str]:
    """Row of a model from a process of its own, which is ended after ``limit`` seconds."""
    command = [sys.executable, __file__, "--row", name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, cwd=ROOT, check=False)
    except subprocess.TimeoutExpired:
        return {"traced": f"FAILED: not finished after {limit:.0f} s"}
    if done.returncode != 0:
        return {"traced": f"FAILED: {done.stderr.strip().splitlines()[-1:]}"}
    row: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return row


def main() -> int:
    """Print the table; the status is 1 if a check fails or one of the 24 models is refused."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these models")
    parser.add_argument("--limit", type=float, default=600, help="seconds for each model")
    parser.add_argument("--row", metavar="NAME", help="print the row of one model as JSON")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    torch.set_num_threads(1)
    if arguments.row:
        print(json.dumps(check(arguments.row)))
        return 0
    columns = ["traced", *CHECKS]
    print(f"| model | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    failed = False
    for name in arguments.names or [*MODELS, *OTHERS]:
        row = in_process(name, arguments.limit)
        print(f"| {name} | {' | '.join(row.get(column, '') for column in columns)} |", flush=True)
        values = " ".join(row.values())
        failed |= "FAILED" in values or (name in MODELS and "refused" in values)
    return int(failed)


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
