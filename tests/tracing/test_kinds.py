"""Each form in which users write an operation becomes the node that it is, and computes the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from apq_tune.tracing.functions import run_graph
from apq_tune.tracing.plain_module import plain_module
from apq_tune.tracing.trace import trace, weights_of


class Body(nn.Module):
    """Any function of ``(8, 13, 11)`` between two layers."""

    def __init__(self, function: Callable[[Tensor], Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.first, self.layers, self.function = nn.Conv2d(3, 8, 1), nn.ModuleList(layers), function
        self.scales = nn.Parameter(torch.rand(8, 1, 1) + 0.5)
        self.register_buffer("offsets", torch.randn(1, 8, 1, 1), persistent=False)
        self.vector = nn.Parameter(torch.rand(8) + 0.5)
        self.constant = torch.rand(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.function(self.first(x), self) if not self.layers else self.first(x)
        for layer in self.layers:
            x = layer(x)
        return x.mean((2, 3)) if x.ndim == 4 else x


def shuffle(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    return x.reshape(n, groups, c // groups, h, w).permute(0, 2, 1, 3, 4).reshape(n, c, h, w)


def chunked(x: Tensor) -> Tensor:
    one, two, three = torch.chunk(x, 3, 1)
    return torch.cat([two, one, three, three], 1)


def inplace(x: Tensor) -> Tensor:
    y = x
    x.relu_()
    return x + y


def copied(x: Tensor) -> Tensor:
    y = x.clone()
    x.relu_()
    return x + y


def gate(x: Tensor) -> Tensor:
    return torch.sigmoid(x.mean((2, 3), keepdim=True))


def conv(*args: object, **keywords: object) -> tuple[None, nn.Module]:
    return None, nn.Conv2d(8, 6, *args, **keywords)  # type: ignore[arg-type]


FUNCTIONS: dict[str, tuple[Callable[[Tensor, Body], Tensor], list[str]]] = {
    "relu": (lambda x, _: x.relu(), ["relu"]),
    "clamp": (lambda x, _: x.clamp(min=0), ["relu"]),
    "clip 6": (lambda x, _: x.clamp(0, 6), ["relu6"]),
    "hardtanh": (lambda x, _: functional.hardtanh(x, 0.0, 6.0), ["relu6"]),
    "relu6": (lambda x, _: functional.relu6(x), ["relu6"]),
    "hardswish": (lambda x, _: functional.hardswish(x), ["h_swish"]),
    "written hardswish": (lambda x, _: x * (functional.relu6(x + 3) / 6), ["h_swish"]),
    "written swish": (lambda x, _: torch.sigmoid(x) * x, ["silu"]),
    "leaky": (lambda x, _: functional.leaky_relu(x, 0.2), ["leaky_relu"]),
    "elu": (lambda x, _: functional.elu(x), ["elu"]),
    "gelu": (lambda x, _: functional.gelu(x), ["gelu"]),
    "tanh": (lambda x, _: x.tanh_(), ["tanh"]),
    "halved": (lambda x, _: x / 2 - 1, ["scale", "scale"]),
    "from one": (lambda x, _: 1 - x, ["scale"]),
    "no change": (lambda x, _: (x + 0) * 1, []),
    "doubled": (lambda x, _: x + x, ["add"]),
    "square": (lambda x, _: x * x, ["multiply"]),
    "in place": (lambda x, _: inplace(x), ["relu", "add"]),
    "copied": (lambda x, _: copied(x), ["relu", "add"]),
    "scales": (lambda x, body: body.scales * x, ["affine"]),
    "offsets": (lambda x, body: x + body.offsets, ["affine"]),
    "viewed scales": (lambda x, body: x * body.vector.view(1, -1, 1, 1), ["affine"]),
    "unsqueezed": (lambda x, body: body.vector[:, None, None] + x, ["affine"]),
    "viewed for more": (lambda x, body: x - body.vector.view(8, 1, 1) ** 2, ["opaque", "opaque", "opaque"]),
    "constant": (lambda x, body: x * body.constant, ["affine"]),
    "gate": (lambda x, _: gate(x) * x, ["mean", "sigmoid", "multiply"]),
    "expanded gate": (lambda x, _: x * gate(x).expand_as(x), ["mean", "sigmoid", "multiply"]),
    "chunk": (lambda x, _: chunked(x), ["slice", "slice", "slice", "concat"]),
    "split": (lambda x, _: x.split(3, 1)[2], ["slice"]),
    "sizes": (lambda x, _: x.split([1, 7], 1)[1], ["slice"]),
    "index": (lambda x, _: x[:, 2:5], ["slice"]),
    "negative": (lambda x, _: x[:, :-2], ["slice"]),
    "every second channel": (lambda x, _: x[:, ::2], ["select"]),
    "every second pixel": (lambda x, _: x[:, :, ::2, ::2], ["max_pool", "max_pool"]),
    "every third row": (lambda x, _: x[:, :, ::3], ["max_pool"]),
    "narrow": (lambda x, _: x.narrow(1, 1, 3), ["slice"]),
    "shuffle": (lambda x, _: shuffle(x, 4), ["shuffle"]),
    "largest": (lambda x, _: x.amax((2, 3), keepdim=True), ["max_pool"]),
    "pixel by pixel": (lambda x, _: x.mean(3).mean(2), ["mean"]),
    "flat mean": (lambda x, _: x.flatten(2).mean(-1), ["mean"]),
    "whole pool": (lambda x, _: functional.avg_pool2d(x, x.shape[2:]), ["mean"]),
    "squeezed": (lambda x, _: functional.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1), ["mean", "flatten"]),
    "all dims": (lambda x, _: x.mean([-1, -2]).view(x.shape[0], -1, 1, 1), ["mean", "flatten"]),
    "nearest": (lambda x, _: functional.interpolate(x, size=(26, 22)), ["upsample"]),
    "bilinear": (lambda x, _: functional.interpolate(x, scale_factor=3, mode="bilinear"), ["upsample"]),
    "same size": (lambda x, _: functional.interpolate(x, size=(13, 11)), []),
    "permute": (lambda x, _: functional.layer_norm(x.permute(0, 2, 3, 1), (8,)), ["permute", "layer_norm"]),
    "no softmax": (lambda x, _: x.softmax(1), ["opaque"]),
    "corners": (
        lambda x, _: functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True),
        ["opaque"],
    ),
    "tanh gelu": (lambda x, _: functional.gelu(x, approximate="tanh"), ["opaque"]),
    "strange clip": (lambda x, _: x.clamp(-1, 1), ["opaque"]),
    "no batch": (lambda x, _: x - x.mean(1, keepdim=True), ["opaque", "opaque"]),
}

LAYERS: dict[str, tuple[Callable[[], list[nn.Module]], list[str]]] = {
    "stride": (lambda: [nn.Conv2d(8, 6, 3, (2, 1), (1, 0), (1, 2))], ["conv"]),
    "same": (lambda: [nn.Conv2d(8, 6, 4, padding="same")], ["conv"]),
    "valid": (lambda: [nn.Conv2d(8, 6, (1, 4), padding="valid", groups=2)], ["conv"]),
    "padded before": (lambda: [nn.ZeroPad2d((0, 1, 2, 3)), nn.Conv2d(8, 6, 3, padding=1)], ["conv"]),
    "padded by one": (lambda: [nn.ConstantPad2d(1, 1.0), nn.Conv2d(8, 6, 3)], ["pad", "conv"]),
    "reflected": (lambda: [nn.Conv2d(8, 6, 3, padding=1, padding_mode="reflect")], ["opaque", "conv"]),
    "norm": (lambda: [nn.BatchNorm2d(8), nn.BatchNorm2d(8, affine=False, eps=1e-3)], ["norm", "norm"]),
    "max pool": (lambda: [nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, ceil_mode=True)], ["max_pool", "max_pool"]),
    "dilated": (lambda: [nn.MaxPool2d(3, 2, 1, dilation=2, ceil_mode=True)], ["max_pool"]),
    "mean pool": (lambda: [nn.AvgPool2d(3, 2, 1), nn.AvgPool2d((2, 1))], ["avg_pool", "avg_pool"]),
    "ceil": (lambda: [nn.AvgPool2d(2, ceil_mode=True)], ["avg_pool"]),
    "uncounted": (lambda: [nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False)], ["avg_pool"]),
    "counted ceil": (lambda: [nn.AvgPool2d(4, 3, 1, ceil_mode=True)], ["opaque"]),
    "largest": (lambda: [nn.Conv2d(8, 4, 3), nn.AdaptiveMaxPool2d(1)], ["conv", "max_pool"]),
    "adaptive": (lambda: [nn.AvgPool2d((1, 1), (2, 2)), nn.AdaptiveAvgPool2d((7, 3))], ["avg_pool", "avg_pool"]),
    "uneven": (lambda: [nn.AdaptiveAvgPool2d(5)], ["opaque"]),
    "linear": (lambda: [nn.Flatten(), nn.Linear(8 * 13 * 11, 5), nn.BatchNorm1d(5)], ["flatten", "linear", "norm"]),
    "transposed": (lambda: [nn.ConvTranspose2d(8, 6, 2, 2)], ["opaque"]),
    "groups": (lambda: [nn.GroupNorm(2, 8), nn.PReLU()], ["opaque", "opaque"]),
}


def kinds_of(model: nn.Module) -> list[str]:
    """Kinds of nodes, functions by their own name, after a check of the outputs of the graph and of its source."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
    x = torch.randn(3, 3, 13, 11)
    graph = trace(model, x[:1])
    with torch.no_grad():
        expected = model.eval()(x.clone())
        plain = plain_module(graph, weights_of(model, graph))(x)
    found = run_graph(graph, weights_of(model, graph), x)
    for own in (found, plain):
        torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-6)
    names = [node.settings["name"] if node.kind == "function" else node.kind for node in graph.nodes]
    assert names[0] == "conv"
    return names[1:]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name):
    function, expected = FUNCTIONS[name]
    names = kinds_of(Body(function))
    assert names[: len(expected)] == expected
    assert names[len(expected) :] in ([], ["mean"])


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
    layers, expected = LAYERS[name]
    names = kinds_of(Body(lambda x, _: x, *layers()))
    assert names[: len(expected)] == expected
    assert names[len(expected) :] in ([], ["mean"])


def test_names_are_those_of_the_user():
    from tests.tracing.zoo import example_of, network

    graph = trace(network("resnet8"), example_of("resnet8"))
    names = [node.name for node in graph.nodes if node.name.startswith("layer2")]
    assert names == [
        "layer2.0.conv1",
        "layer2.0.bn1",
        "layer2.0.relu",
        "layer2.0.conv2",
        "layer2.0.bn2",
        "layer2.0.shortcut.0",
        "layer2.0.shortcut.1",
        "layer2.0.add",
        "layer2.0.relu_2",
    ]
    place = graph.by_name["layer2.0.add"].place
    source = Path(network.__code__.co_filename).read_text().splitlines()
    assert "y += self.shortcut(x)" in source[int(place.removeprefix("zoo.py:")) - 1]
