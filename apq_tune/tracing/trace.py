"""Graph of a torch module, by ``torch.export``: every operation with the user's names and its place in the source."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.backends import cudnn

from apq_tune.errors import ModelError
from apq_tune.network.graph import Graph
from apq_tune.tracing.exporting import checked_example, evaluated, export, first_line, unwrapped, without_writes
from apq_tune.tracing.functions import run_graph
from apq_tune.tracing.simplify import simplified
from apq_tune.tracing.walk import attribute, graph_of, is_inplace

TOLERANCE = 1e-6
"""Largest difference between a graph and its module, relative to the largest output."""

ROUNDING = 1e-3
"""Largest relative difference that may be that of roundings."""


SOFTMAX = ("aten.softmax.int", "aten._softmax.default")
"""Operations after which outputs are probabilities."""


def trace(module: nn.Module, example: Tensor) -> Graph:
    """Trace a model.

    Args:
        module: Model with one tensor of images as input and one of shape ``(batch, classes)`` as output. It is neither
            changed nor kept; it is traced as it is evaluated, without dropout and with stored statistics.
        example: Images that it takes, shape ``(batch, channels, h, w)``; any batch.

    Returns:
        Graph whose output equals that of the module for every batch.

    Raises:
        ModelError: If it cannot be traced; the message names the operation, the place in the source and the remedy.
    """
    if not isinstance(module, nn.Module):
        raise ModelError(f"the model is of type {type(module).__name__}; pass a torch.nn.Module")
    with evaluated(unwrapped(module)) as own, torch.no_grad():
        example = checked_example(own, example)
        program = export(own, example)
        graph = simplified(graph_of(own, program))
        if (wrong := _difference(graph, own, example)) is None:
            _check_logits(graph, own, example)
            return graph
        if any(is_inplace(node) for node in program.graph.nodes):  # a view that was written to
            graph = simplified(graph_of(own, without_writes(own, program)))
            if (wrong := _difference(graph, own, example)) is None:
                _check_logits(graph, own, example)
                return graph
    raise ModelError(f"{type(module).__name__}: {wrong}; its forward may depend on values, the batch or its own state")


def weights_of(module: nn.Module, graph: Graph) -> dict[str, Tensor]:
    """Parameters and buffers that a graph names.

    Args:
        module: Model that was traced, or another one of the same architecture.
        graph: Its graph.

    Returns:
        Tensors by name, without gradients; they share memory with the module's.

    Raises:
        ModelError: If the module lacks one, or has it in another shape; the message names it.
    """
    module = unwrapped(module)
    tensors = {}
    for name, shape in graph.shapes.items():
        found = attribute(module, name)
        if found is None:
            raise ModelError(f"{type(module).__name__}: has no tensor {name!r}; trace this model again")
        if tuple(found.shape) != tuple(shape):
            raise ModelError(
                f"{type(module).__name__}: {name} has the shape {tuple(found.shape)}, but {tuple(shape)} was traced; "
                "trace this model again"
            )
        tensors[name] = found.detach()
    return tensors


def _difference(graph: Graph, module: nn.Module, example: Tensor) -> str | None:
    """What is different between a graph and its module on batches of several sizes; ``None`` if they are equal.

    A function that was written out and is one node has other roundings, which deep models enlarge; such differences are
    gone in double precision.
    """
    tensors = weights_of(module, graph)
    noise = _noise(example)
    for images in (example[:1], noise):
        batch = f"with a batch of {len(images)}"
        try:
            share = _share(graph, tensors, module, images)
            if TOLERANCE < share <= ROUNDING:
                doubles = {name: value.double() for name, value in tensors.items()}
                share = _share(graph, doubles, copy.deepcopy(module).double(), images.double())
        except Exception as error:
            return f"fails {batch} ({first_line(error)})"
        if not share <= TOLERANCE:
            return f"differs from its trace by {share:.1e} of its largest output {batch}"
    return None


def _noise(example: Tensor) -> Tensor:
    """Three random images."""
    noise = torch.randn((3, *example.shape[1:]), generator=torch.Generator().manual_seed(0))
    return noise.to(example.device)


def _check_logits(graph: Graph, module: nn.Module, example: Tensor) -> None:
    """Refuse a model whose outputs are no logits of each image by itself.

    Raises:
        ModelError: If it ends with a softmax, or mixes the images of a batch.
    """
    name, last = type(module).__name__, graph.nodes[-1]
    if last.kind == "opaque" and last.settings["target"] in SOFTMAX:
        raise ModelError(
            f"{name}: ends with a softmax{f' at {last.place}' if last.place else ''}; training needs the logits, so "
            "let its forward return what goes into the softmax"
        )
    images = _noise(example)
    images += torch.arange(3, device=images.device)[:, None, None, None]
    together = module(images.clone())
    alone = torch.cat([module(image[None].clone()) for image in images])
    if float((together - alone).abs().max()) > ROUNDING * max(float(alone.abs().max()), 1e-30):
        raise ModelError(
            f"{name}: its outputs for an image depend on the other images of the batch; compute means and the like "
            "over the channels and pixels of each image alone"
        )


def _share(graph: Graph, tensors: Mapping[str, Tensor], module: nn.Module, images: Tensor) -> float:
    """Largest difference between the outputs of a graph and a module, relative to the largest output."""
    with cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        expected = module(images.clone())  # which it may write to
        found = run_graph(graph, tensors, images)
    if found.shape != expected.shape:
        raise ValueError(f"the output has the shape {tuple(expected.shape)}, traced {tuple(found.shape)}")
    if not bool(expected.isfinite().all()):
        raise ValueError("outputs are not finite numbers")
    if torch.equal(found, expected):
        return 0.0
    return float((found - expected).abs().max()) / max(float(expected.abs().max()), 1e-30)
