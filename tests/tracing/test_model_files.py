"""Factories, programs and weights of users: what fits is loaded, all else is refused in one line."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from apq_tune.errors import ApqError, ModelError
from apq_tune.tracing.model_files import load_model, load_weights
from apq_tune.tracing.trace import trace
from tests.tracing.zoo import example_of, network

SOURCE = """
from torch import nn
from neighbour import WIDTH

class Net(nn.Sequential):
    def __init__(self, width=WIDTH):
        super().__init__(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))

def build():
    return Net()

def wide(width):
    return Net(width)

def failing():
    return Net("a")

def pair():
    return Net(), 1

ready, number = Net(), 3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder with a file of factories."""
    (tmp_path / "own_net.py").write_text(SOURCE)
    (tmp_path / "neighbour.py").write_text("WIDTH = 8")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "width"), [("build", 8), ("Net", 8), ("ready", 8), ("wide(width=5)", 5), ("Net(width=2)", 2)]
)
def test_factories_of_files(folder, name, width):
    model = load_model(f"{folder / 'own_net.py'}:{name}")
    assert model[0].weight.shape[0] == width


def test_factories_of_packages():
    assert load_model("torchvision.models:resnet18(num_classes=7)").fc.weight.shape == (7, 512)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("own_net.py:nothing", "it defines Net, build, wide, failing, pair, ready"),
        ("own_net.py:wide", "'width'); write its arguments as wide(NAME=VALUE)"),
        ("own_net.py:failing", "fails at own_net.py:7 (TypeError"),
        ("own_net.py:pair", "returns a tuple, not a torch.nn.Module"),
        ("own_net.py:number", "is of type int"),
        ("own_net.py:wide(5)", "FACTORY(NAME=VALUE)"),
        ("own_net.py:wide(width=print())", "plain values"),
        ("own_net.py", "FILE.py:FACTORY"),
        ("missing.py:build", "no such file"),
        ("missing.pt2", "No such file"),
        ("neighbour.pt2", "not a program"),
        ("wrong.py:build", "cannot be imported at wrong.py:2 (SyntaxError"),
        ("lacking.py:build", "cannot be imported at lacking.py:2 (ModuleNotFoundError: No module named 'nowhere'"),
        ("leaving.py:build", "cannot be imported at leaving.py:1 (SystemExit: 3)"),
    ],
)
def test_wrong_factories_are_refused(folder, name, part):
    (folder / "wrong.py").write_text("x = 1\ndef f(:\n")
    (folder / "lacking.py").write_text("import torch\nimport nowhere\n")
    (folder / "leaving.py").write_text("raise SystemExit(3)\n")
    (folder / "neighbour.pt2").write_text("text")
    with pytest.raises(ModelError) as caught:
        load_model(f"{folder}/{name}")
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nowhere.at_all:build", "torch.nowhere:build", ":build", "torch", ""])
def test_wrong_import_paths_are_refused(name):
    with pytest.raises(ModelError, match=r"FILE\.pt2"):
        load_model(name)


def export(folder: Path, **settings: object) -> Path:
    """File of an exported network."""
    program = torch.export.export(network("mobilenet_v2"), (example_of("mobilenet_v2"),), **settings)
    torch.export.save(program, folder / "net.pt2")
    return folder / "net.pt2"


def test_programs_have_the_graph_of_their_module(tmp_path):
    module, example = network("mobilenet_v2"), example_of("mobilenet_v2")
    path = export(tmp_path, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    loaded = load_model(str(path))
    assert trace(loaded, example).digest == trace(module, example).digest
    names = [name for name in module.state_dict() if "num_batches" not in name]
    assert all(torch.equal(loaded.state_dict()[name], module.state_dict()[name]) for name in names)


def test_programs_of_one_batch_are_refused(tmp_path):
    with pytest.raises(ModelError, match="dynamic_shapes"):
        trace(load_model(str(export(tmp_path))), example_of("mobilenet_v2"))


class Touching:
    """Object whose unpickling makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.mkdir, (str(self.path), 0o777)


def test_code_in_programs_is_not_run(tmp_path):
    path, trap = export(tmp_path, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)), tmp_path / "trap"
    content = io.BytesIO()
    torch.save(Touching(trap), content)
    pickle.loads(pickle.dumps(Touching(tmp_path / "proof")))
    assert (tmp_path / "proof").exists()
    before = {name: zipfile.ZipFile(path).read(name) for name in zipfile.ZipFile(path).namelist()}
    for part in ("sample_inputs", "weights/weight_0", "model_weights_config"):
        with zipfile.ZipFile(tmp_path / "changed.pt2", "w") as archive:
            for name, value in before.items():
                if part == "model_weights_config" and part in name:
                    value = value.replace(b'"use_pickle": false', b'"use_pickle": true')
                elif part in name or (part == "model_weights_config" and "weights/weight_" in name):
                    value = content.getvalue()
                archive.writestr(name, value)
        with pytest.raises(ModelError) as caught:
            load_model(str(tmp_path / "changed.pt2"))
        assert "\n" not in str(caught.value)
        assert not trap.exists()
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("net/data/constants/custom_obj_0", "x")
    with pytest.raises(ModelError, match="holds code"):
        load_model(str(path))


def test_weights_are_found_in_checkpoints(folder):
    model = load_model(f"{folder / 'own_net.py'}:build")
    state = {name: torch.rand_like(value) for name, value in model.state_dict().items()}
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, folder / "w.pt")
    load_weights(model, folder / "w.pt")
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda state: state.pop("3.bias"), "lacks '3.bias' of the model Net"),
        (lambda state: state.update(more=torch.ones(1)), "has 'more', which Net lacks"),
        (lambda state: state.update({"3.weight": torch.ones(5, 8)}), "3.weight has the shape (5, 8), in Net (10, 8)"),
        (lambda state: state.update({"3.weight": torch.full((10, 8), torch.nan)}), "not finite"),
        (lambda state: state.update({"3.weight": 1}), "3.weight has the shape ()"),
    ],
)
def test_weights_that_do_not_fit_are_refused(folder, change, part):
    model = load_model(f"{folder / 'own_net.py'}:build")
    state = dict(model.state_dict())
    change(state)
    torch.save(state, folder / "w.pt")
    with pytest.raises(ApqError) as caught:
        load_weights(model, folder / "w.pt")
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_old_state_dicts_need_no_counters(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    torch.save({k: v for k, v in model.state_dict().items() if "num_batches" not in k}, tmp_path / "w.pt")
    load_weights(model, tmp_path / "w.pt")


@pytest.mark.parametrize("prefix", ["", "net.", "_orig_mod.module.", "module."])
def test_names_may_have_the_prefix_of_a_module_around_the_model(tmp_path, prefix):
    model, wrapped = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), nn.Sequential(nn.Conv2d(3, 4, 1))
    wrapped.append(nn.BatchNorm2d(4))
    torch.save({"state_dict": {f"{prefix}{name}": value for name, value in model.state_dict().items()}}, tmp_path / "w")
    for other in (wrapped, nn.DataParallel(wrapped)):
        nn.init.zeros_(wrapped[0].weight)
        load_weights(other, tmp_path / "w")
        assert torch.equal(wrapped[0].weight, model[0].weight)
