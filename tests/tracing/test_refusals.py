"""Models that cannot be traced are refused in one line that names the place in the source and the remedy."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from apq_tune.errors import ModelError
from apq_tune.network.graph import Graph
from apq_tune.tracing.opaque import operation
from apq_tune.tracing.trace import trace, weights_of
from tests.tracing.zoo import example_of, network

IMAGES = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Base(nn.Module):
    """Convolution, any function, linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 10)

    def middle(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.middle(self.conv(x)).mean((2, 3)))


class Dropping(Base):
    def middle(self, x: Tensor) -> Tensor:
        return functional.dropout(x)


class Noisy(Base):
    def middle(self, x: Tensor) -> Tensor:
        return x + torch.randn(8, 1, 1)


class Counting(Base):
    def middle(self, x: Tensor) -> Tensor:
        return x * float(x.max())


class ByBatch(Base):
    def middle(self, x: Tensor) -> Tensor:
        return x * 2 if x.shape[0] > 1 else x


class OneImage(Base):
    def middle(self, x: Tensor) -> Tensor:
        return x.view(1, 8, 16, 16)


class Unnormalised(Base):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8, track_running_stats=False)

    def middle(self, x: Tensor) -> Tensor:
        return self.norm(x)


class Twice(Base):
    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Conv2d(8, 8, 1)

    def middle(self, x: Tensor) -> Tensor:
        return self.again(self.again(x))


class Endless(Base):
    def middle(self, x: Tensor) -> Tensor:
        return x / 0


class Mixed(Base):
    def middle(self, x: Tensor) -> Tensor:
        return x - x.mean((0, 2, 3), keepdim=True)


class Probable(Base):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x).softmax(1)


class NotNumbers(Base):
    def __init__(self) -> None:
        super().__init__()
        nn.init.constant_(self.conv.weight, float("nan"))


class Many(Base):
    def forward(self, x: Tensor) -> Any:
        return {"logits": super().forward(x), "features": x}


class Pair(Base):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), x


class Map(Base):
    def forward(self, x: Tensor) -> Any:
        return self.conv(x)


class Unflattened(Base):
    def forward(self, x: Tensor) -> Any:
        return self.conv(x).mean((2, 3), keepdim=True)


class TwoInputs(Base):
    def forward(self, x: Tensor, y: Tensor) -> Any:
        return super().forward(x + y)


def line_of(function: Callable[..., Any], offset: int = 1) -> str:
    """Place of a line of a function of this file."""
    return f"test_refusals.py:{inspect.getsourcelines(function)[1] + offset}"


FORWARD = line_of(Base.forward)
"""Place of an operation in a function that a forward calls: exporting keeps the lines of forwards."""

REFUSED: list[tuple[type[nn.Module], list[str]]] = [
    (Dropping, ["dropout draws random numbers", FORWARD, "self.training"]),
    (Noisy, ["randn draws random numbers", FORWARD]),
    (Counting, ["decides by the values", line_of(Counting.middle), "torch.where"]),
    (ByBatch, ["ByBatch", "with a batch of 1", "the batch"]),
    (OneImage, ["a batch of 2", line_of(OneImage.middle), "x.shape[0] or -1"]),
    (Unnormalised, ["norm", FORWARD, "track_running_stats=True"]),
    (Twice, ["'again.weight' is used twice", FORWARD, "copy.deepcopy"]),
    (Endless, ["not finite"]),
    (Mixed, ["Mixed", "depend on the other images of the batch"]),
    (Probable, ["ends with a softmax", line_of(Probable.forward), "what goes into the softmax"]),
    (NotNumbers, ["NotNumbers: conv.weight has values that are not finite"]),
    (Many, ["a dict with 'logits', 'features'", "self.model(x)['logits']"]),
    (Pair, ["a tuple of 2", "self.model(x)[0]"]),
    (Map, ["(1, 8, 16, 16), not (batch, classes)"]),
    (Unflattened, [".flatten(1)"]),
    (TwoInputs, ["'y'", "images alone"]),
]


@pytest.mark.parametrize(("make", "parts"), REFUSED)
def test_models_are_refused_in_one_line(make, parts):
    with pytest.raises(ModelError) as caught:
        trace(make(), IMAGES)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_control_flow_names_its_place(capsys):
    with pytest.raises(ModelError, match=r"decides by the values of a tensor at zoo\.py:\d+; .*torch\.where"):
        trace(network("branching"), example_of("branching"))
    assert capsys.readouterr() == ("", "")  # torch prints the program so far


@pytest.mark.parametrize(
    ("example", "part"),
    [
        (IMAGES.double(), "float64; pass float32"),
        (IMAGES.to(torch.uint8), "uint8; pass float32"),
        (IMAGES[0], "(3, 16, 16); pass images of shape (batch, channels, h, w)"),
        (IMAGES[:0], "(0, 3, 16, 16)"),
        (IMAGES[:, :1], "to have 3 channels"),
        ([IMAGES], "is a list"),
        (IMAGES.numpy(), "is a ndarray; pass a tensor"),
    ],
)
def test_wrong_example_inputs_are_refused(example, part):
    with pytest.raises(ModelError) as caught:
        trace(Base(), example)
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "part"),
    [
        (lambda x: x, "type function; pass a torch.nn.Module"),
        (Base().double(), "conv.weight is of float64"),
        (Base().half(), "float16"),
        (Base().to("meta"), "load its weights first"),
    ],
)
def test_wrong_models_are_refused(model, part):
    with pytest.raises(ModelError) as caught:
        trace(model, IMAGES)
    assert part in str(caught.value)


def test_weights_of_another_model_are_refused():
    graph = trace(Base(), IMAGES)
    other = Base()
    other.fc = nn.Linear(8, 11)
    with pytest.raises(ModelError, match=r"fc.weight has the shape \(11, 8\), but \(10, 8\)"):
        weights_of(other, graph)
    other.fc = nn.Identity()
    with pytest.raises(ModelError, match=r"no tensor 'fc.weight'"):
        weights_of(other, graph)


def test_the_model_is_left_as_it_was():
    class Writing(Base):
        def middle(self, x: Tensor) -> Tensor:
            return x.sub_(0.5)

    model = Writing().train()
    model.fc.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = IMAGES.clone()
    trace(model, images)
    assert model.training
    assert model.conv.training
    assert not model.fc.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(images, IMAGES)
    assert all(value.requires_grad for value in model.parameters())


@pytest.mark.parametrize(
    "target",
    [
        "aten.save.default",
        "aten.from_file.default",
        "aten.relu_.default",
        "prim.Print.default",
        "os.system",
        "aten.x.y",
    ],
)
def test_graphs_from_files_run_no_operation_with_effects(target):
    with pytest.raises(ModelError, match="only computes tensors"):
        operation(target)


def test_opaque_graphs_survive_a_file():
    import json

    graph = trace(network("vit"), example_of("vit"))
    again = Graph.from_plain(json.loads(json.dumps(graph.to_plain())))
    assert again.digest == graph.digest


class WritesToAView(Base):
    def middle(self, x: Tensor) -> Tensor:
        x[:, :4].mul_(2)
        return x


def test_what_stops_torch_from_removing_writes_is_told_in_one_short_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """EfficientViT of timm, as an example, whose 150,000 symbols torch lists in its message."""
    graph = trace(WritesToAView(), IMAGES)
    assert graph.nodes

    def fail(*_: Any) -> None:
        raise RuntimeError(f"Pending symbols {', '.join(map(str, range(10_000)))}\nsecond line")

    monkeypatch.setattr(torch.export.ExportedProgram, "run_decompositions", fail)
    with pytest.raises(ModelError) as caught:
        trace(WritesToAView(), IMAGES)
    said = str(caught.value)
    assert said.startswith("WritesToAView: cannot be traced by torch.export ")
    assert "(Pending symbols 0, 1, 2, " in said
    assert len(said) < 500
    assert "\n" not in said
