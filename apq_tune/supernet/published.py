"""Reader of the published once-for-all checkpoint of APQ's search space."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from apq_tune.errors import RunError
from apq_tune.inputs.checkpoints import read_state, tensor
from apq_tune.space.candidate import Candidate
from apq_tune.space.search_space import SearchSpace
from apq_tune.supernet.defaults import plain_torch
from apq_tune.supernet.elastic import ElasticConv, Statistics
from apq_tune.supernet.network import Supernet


class PublishedSupernet(NamedTuple):
    """Supernet with published weights, and the batch norm statistics of its checkpoint."""

    supernet: Supernet
    statistics: Callable[[Candidate], Statistics]
    """Running statistics of the checkpoint for a candidate; recalibrated ones are better (Cai 2020)."""


class _Norm(NamedTuple):
    mean: Tensor
    variance: Tensor


@plain_torch()
def load_supernet(path: str | Path, space: SearchSpace | None = None) -> PublishedSupernet:
    """Read a checkpoint in the format of APQ's once-for-all network (Wang 2020).

    Args:
        path: Path of the checkpoint; only tensors are read from it.
        space: Search space of inverted bottlenecks without squeeze-excite; by default ``apq_mobilenet``.

    Raises:
        RunError: If the file cannot be read, or a tensor is missing, not finite, or of another shape than the space
            needs.
    """
    path, space = Path(path), space or SearchSpace.load("apq_mobilenet")
    state = read_state(path)
    if "first_conv.conv.weight" not in state:
        raise RunError(f"{path}: has no 'first_conv.conv.weight'; give the once-for-all checkpoint of {space.name}")
    supernet = Supernet(space)
    norms = _Reader(path, state, space.name).fill(supernet)
    return PublishedSupernet(supernet, lambda candidate: _cut(norms, supernet, candidate))


class _Reader:
    """Copies tensors by their published names and checks their shapes."""

    def __init__(self, path: Path, state: Mapping[str, Any], space: str) -> None:
        self._path, self._state, self._space = path, state, space

    def fill(self, supernet: Supernet) -> dict[ElasticConv, _Norm]:
        """Copy all weights into the supernet and return the running statistics of each convolution."""
        convs = {supernet.stem: ("first_conv.conv", "first_conv.bn")}
        first = "blocks.0.mobile_inverted_conv"
        if supernet.space.first is not None:
            convs[supernet.first_depthwise] = (f"{first}.depth_conv.conv", f"{first}.depth_conv.bn")
            convs[supernet.first_project] = (f"{first}.point_linear.conv", f"{first}.point_linear.bn")
        for number, module in enumerate(supernet.blocks, start=1):
            block, name = cast(Any, module), f"blocks.{number}.mobile_inverted_conv"
            for conv, layer in (
                (block.expand, "inverted_bottleneck"),
                (block.depthwise, "depth_conv"),
                (block.project, "point_linear"),
            ):
                convs[conv] = (f"{name}.{layer}.conv.conv", f"{name}.{layer}.bn.bn")
        convs[supernet.head] = ("feature_mix_layer.conv", "feature_mix_layer.bn")
        norms = {conv: self._conv(conv, *names) for conv, names in convs.items()}
        self._copy(supernet.classifier.weight, "classifier.linear.weight")
        self._copy(supernet.classifier.bias, "classifier.linear.bias")
        return norms

    def _conv(self, conv: ElasticConv, name: str, norm: str) -> _Norm:
        self._copy(conv.weight, f"{name}.weight")
        self._copy(conv.gamma, f"{norm}.weight")
        self._copy(conv.beta, f"{norm}.bias")
        for index, matrix in enumerate(conv.transforms):
            large, small = conv.kernel_sizes[index + 1], conv.kernel_sizes[index]
            self._copy(matrix, f"{name.removesuffix('.conv')}.{large}to{small}_matrix")
        mean, variance = torch.empty_like(conv.beta), torch.empty_like(conv.beta)
        self._copy(mean, f"{norm}.running_mean")
        self._copy(variance, f"{norm}.running_var")
        return _Norm(mean.detach(), variance.detach())

    @torch.no_grad()
    def _copy(self, target: Tensor, name: str) -> None:
        if name not in self._state:
            raise RunError(f"{self._path}: has no {name!r}, which {self._space} needs; give its own checkpoint")
        source = tensor(self._path, self._state, name)
        if source.shape != target.shape:
            raise RunError(
                f"{self._path}: {name} is {tuple(source.shape)}, {self._space} needs {tuple(target.shape)}; "
                "give the space that it was trained on"
            )
        target.copy_(source)


def _cut(norms: dict[ElasticConv, _Norm], supernet: Supernet, candidate: Candidate) -> Statistics:
    """Statistics of each batch norm in the order of the forward pass, sliced to the candidate's channels."""

    def widths() -> Iterator[tuple[ElasticConv, int]]:
        yield supernet.stem, supernet.space.stem.channels
        if supernet.space.first is not None:
            yield supernet.first_depthwise, supernet.space.stem.channels
            yield supernet.first_project, supernet.space.first.channels
        for block, layers in supernet.chosen(candidate):
            for layer in layers:
                if layer.kind == "conv":
                    yield cast(ElasticConv, block.get_submodule(layer.role)), cast(int, layer.output.channels)
        yield supernet.head, supernet.space.head.channels

    return [(norms[conv].mean[:width], norms[conv].variance[:width]) for conv, width in widths()]
