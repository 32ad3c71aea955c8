"""``apq-tune model inspect``: what can be chosen in a user's model, against the model itself and torch's counter."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch.utils.flop_counter import FlopCounterMode

from apq_tune.cli import cli, main
from apq_tune.report.model_tables import n_macs, n_parameters
from apq_tune.tracing.trace import trace
from tests.tracing.zoo import ZOO, example_of, network

ZOO_FILE = str(Path(__file__).parents[1] / "tracing" / "zoo.py")


def inspect(*arguments: str) -> str:
    """Output of the command in one line, without the gaps of tables."""
    result = CliRunner().invoke(cli, ["model", "inspect", *arguments], catch_exceptions=False, env={"COLUMNS": "150"})
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_inspect_prints_groups_blocks_and_reasons():
    said = inspect(f"{ZOO_FILE}:ResNet(blocks=2)", "--input", "1,3,32,32", "--keep", "layer2.*")
    assert said.startswith("ResNet: 16 layers, 44,370 parameters, 6,775,104 MACs; input 3x32x32, 10 classes;")
    assert "layer3.0.conv2 layer3.0.conv2, layer3.0.shortcut.0, layer3.1.conv2 32 8, 16, 24, 32" in said
    assert "4 more groups cannot shrink" in said
    assert "layer3.1 2 18,560 1,179,648" in said
    assert "layer2.0.conv1 16 'layer2.0.conv1' is kept as it is by keep=['layer2.*']" in said
    assert "macs" in said


def test_operations_that_stay_are_named(tmp_path: Path):
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.Softmax(1), nn.Conv2d(16, 32, 3),\n"
        "                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))\n"
    )
    said = inspect(f"{tmp_path / 'net.py'}:build", "--input", "3,16,16")
    assert "aten.softmax.int 1" in said
    assert "0 16 '1' is the operation aten.softmax.int" in said


def test_weights_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    torch.save(network("resnet8").state_dict(), tmp_path / "w.pt")
    arguments = ["--input", "1,3,32,32", "--weights", str(tmp_path / "w.pt")]
    inspect(f"{ZOO_FILE}:ResNet(blocks=1)", *arguments)
    with pytest.raises(SystemExit):
        main(["model", "inspect", f"{ZOO_FILE}:ResNet(blocks=2)", *arguments])
    said = capsys.readouterr().err
    assert "lacks 'layer1.1.conv1.weight'" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("source", "shape", "part"),
    [
        ("ViT", "1,3,32,32", "models with attention cannot be searched"),
        ("BranchingNet", "1,3,32,32", "zoo.py:"),
        ("ResNet(blocks=1)", "1,1,32,32", "to have 3 channels"),
        ("ResNet(blocks=1)", "1,32", "--input '1,32' is not a shape"),
        ("ResNet(blocks=1)", "1,3,32,-2", "is not a shape"),
        ("ResNet", "1,3,32,32", "ResNet(NAME=VALUE)"),
    ],
)
def test_wrong_models_are_one_line(source: str, shape: str, part: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["model", "inspect", f"{ZOO_FILE}:{source}", "--input", shape])
    said = capsys.readouterr().err
    assert part in said
    assert "Traceback" not in said


@pytest.mark.parametrize("name", ZOO)
def test_sums_are_those_of_torch(name: str):
    module, example = network(name), example_of(name, 1)
    graph = trace(module, example)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(example)
    assert n_macs(graph) * 2 == counter.get_total_flops()
    assert n_parameters(graph) == sum(value.numel() for value in module.parameters())
