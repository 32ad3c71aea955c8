"""Runs on a network of the user: from a factory and a file of weights to networks that work everywhere."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from torch import nn
from torch.nn import functional

from apq_tune import ApqError, load_network, load_run
from apq_tune.cli import cli
from apq_tune.data import DataRoot, Split, WantedImages, read_images
from apq_tune.pipeline.defaults import default_settings
from apq_tune.pipeline.opened_model import open_model, read_options
from apq_tune.pipeline.own_model import judge
from apq_tune.pipeline.run import PipelineRun
from apq_tune.space.candidate import read_candidate
from apq_tune.supernet.graph_supernet import GraphSupernet
from apq_tune.supernet.user_model import UserModel, model_weights, weights_digest

FACTORY = """
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(n, n, 3, padding=1, bias=False), nn.BatchNorm2d(n)
        self.conv2, self.bn2 = nn.Conv2d(n, n, 3, padding=1, bias=False), nn.BatchNorm2d(n)

    def forward(self, x):
        return functional.relu(x + self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x))))))


class Net(nn.Module):
    def __init__(self, classes=10, channels=1):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(channels, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.one, self.two = Block(16), Block(16)
        self.wide, self.wide_norm = nn.Conv2d(16, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32)
        self.fc = nn.Linear(32, classes)

    def forward(self, x):
        x = self.two(self.one(functional.relu(self.norm(self.stem(x)))))
        return self.fc(functional.relu(self.wide_norm(self.wide(x))).mean((2, 3)))


def build(classes=10):
    return Net(classes)
"""

TINY = {
    "supernet.epochs": 2,
    "quantized.epochs": 2,
    "n_fp32": 30,
    "n_proxy": 30,
    "n_pairs": 12,
    "n_evaluations": 1_000,
    "n_front": 1,
    "final.epochs": 1,
    "folds": 3,
    "constraints": ["weight_bytes<=8000"],
}


def digits() -> Any:
    """The digits."""
    return read_images("digits", WantedImages("digits", 1, 8, 10), DataRoot.of(None))


@pytest.fixture(scope="module")
def mine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A trained network of the user: its source, its weights, and the module."""
    from apq_tune.tracing.model_files import load_model

    folder = tmp_path_factory.mktemp("mine")
    (folder / "net.py").write_text(FACTORY)
    source = f"{folder / 'net.py'}:build"
    torch.manual_seed(0)
    module, train = load_model(source), digits().train
    optimizer = torch.optim.AdamW(module.parameters(), 5e-3)
    images, labels = torch.tensor(train.images), torch.tensor(train.labels)
    for _ in range(4):
        for rows in torch.randperm(len(images)).split(32):
            optimizer.zero_grad()
            functional.cross_entropy(module(images[rows]), labels[rows]).backward()
            optimizer.step()
    torch.save(module.state_dict(), folder / "weights.pt")
    return SimpleNamespace(source=source, weights=folder / "weights.pt", module=module.eval(), folder=folder)


def right(module: nn.Module, split: Split) -> float:
    """Accuracy of a module."""
    with torch.no_grad():
        return float((module(torch.tensor(split.images)).argmax(1) == torch.tensor(split.labels)).double().mean())


@pytest.mark.slow
def test_the_model_as_it_is_has_the_accuracy_of_the_user(mine: Any) -> None:
    opened, search = open_model(mine.source, "digits", weights=mine.weights), digits().search
    own = UserModel(opened.space, model_weights(opened.space, opened.weights))
    expected = right(mine.module, search)
    assert own.score(search).accuracy == pytest.approx(expected, abs=1e-9)
    assert expected > 0.9
    assert judge(own, digits()).trained
    assert f"{expected:.1%} of {len(search.labels)}" in judge(own, digits()).line
    torch.manual_seed(1)
    fresh = open_model(mine.source, "digits")
    said = judge(UserModel(fresh.space, model_weights(fresh.space, fresh.weights)), digits())
    assert not said.trained
    assert "trained from the beginning" in said.line
    wrong = {name: value.flip(0) if "running_mean" in name else value for name, value in own.weights.items()}
    assert UserModel(own.space, wrong).score(search).accuracy < expected - 0.05


@pytest.mark.slow
@pytest.mark.usefixtures("serial")
def test_a_run_begins_with_the_weights_and_ends_with_networks_that_work_everywhere(mine: Any, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ["run", "--model", mine.source, "--weights", str(mine.weights), "--data", "digits", "--out", str(out)]
    arguments += ["--constraint", "weight_bytes<=8000", "--num-cpus", "2"]
    for name, value in TINY.items():
        arguments += [] if name == "constraints" else ["--set", f"{name}={value}"]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    network = load_network(out)
    test = digits().test
    assert right(network, test) == pytest.approx(network.scores["test"]["accuracy"], abs=1e-6)
    assert network.costs["weight_bytes"].value <= 8_000
    defined: dict[str, Any] = {"__name__": "best"}
    exec((out / "best.py").read_text(), defined)
    plain = defined["Network"]()
    plain.load_state_dict(torch.load(out / "best_state.pt", weights_only=True))
    with torch.no_grad():
        images = torch.tensor(test.images[:50])
        torch.testing.assert_close(plain.eval()(images), network(images, quantize=False), rtol=1e-4, atol=1e-4)
    finished = load_run(out)
    assert finished.supernet.score(network.candidate, quantize=True).accuracy > 0.5
    for kind, suffix in (("onnx", "onnx"), ("torch", "pt2")):
        file = tmp_path / f"net.{suffix}"
        exported = CliRunner().invoke(cli, ["export", str(out), "--format", kind, "--out", str(file)])
        assert exported.exit_code == 0, exported.output
        assert "for 100.00% of" in exported.output
    limits = ["--budgets", "flash=6kB,8kB,20kB", "--device-preset", "cortex_m_1mb"]
    answers = CliRunner().invoke(cli, ["solve", str(out), *limits, "--out", str(tmp_path / "answers")])
    assert answers.exit_code == 0, answers.output
    table = pd.read_csv(tmp_path / "answers" / "answers.csv")
    assert (table["weight_bytes"] <= table["limit weight_bytes"]).all()
    assert table["predicted_loss"].is_monotonic_decreasing
    found = [read_candidate(json.loads(text)) for text in table["candidate_json"]]
    assert {bits for one in found for _, bits in one.w_bits} <= {4, 8}
    assert {bits for one in found for _, bits in one.a_bits} == {8}
    again = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert again.exit_code == 0
    assert "already done" in again.output
    changed = torch.load(mine.weights, weights_only=True)
    changed["fc.bias"] += 1
    torch.save(changed, tmp_path / "other.pt")
    refused = CliRunner().invoke(cli, [*arguments, "--weights", str(tmp_path / "other.pt")])
    assert "is a run of this model with other weights" in str(refused.exception or refused.output)


@pytest.mark.slow
def test_the_supernet_begins_with_the_model_and_does_not_forget_it(mine: Any, tmp_path: Path) -> None:
    opened = open_model(mine.source, "digits", weights=mine.weights)
    changes = TINY | {"supernet.learning_rate": 1e-6, "supernet.epochs": 1}
    run = PipelineRun(opened.space, None, tmp_path / "run", changes=changes, weights=opened.weights)
    run.run_until("supernet")
    kept = GraphSupernet(opened.space)
    kept.load_state_dict(torch.load(tmp_path / "run" / "1_supernet" / "weights.pt", weights_only=True))
    for name, value in run.model.weights.items() if run.model else ():
        torch.testing.assert_close(kept.tensor(name).detach(), value, rtol=0, atol=1e-3)
    again = PipelineRun(opened.space, None, tmp_path / "run", changes=changes)  # the weights that the folder keeps
    assert again.model is not None and run.model is not None
    assert (
        again.model.digest == run.model.digest == weights_digest(model_weights(opened.space, mine.module.state_dict()))
    )


def test_trained_models_are_trained_on_shortly_and_others_from_the_beginning(mine: Any) -> None:
    space, data = open_model(mine.source, "digits").space, digits()
    general, trained, fresh = (default_settings(space, data, trained=own) for own in (None, True, False))
    assert trained.supernet.epochs == general.supernet.epochs / 2
    assert trained.supernet.learning_rate == general.supernet.learning_rate
    assert trained.distillation > 0
    assert fresh.supernet == general.supernet
    assert fresh.distillation == 0


def fixed(mine: Any, out: Path) -> PipelineRun:
    """Run in which everything is fixed."""
    opened = open_model(mine.source, "digits", options={"keep": ["*"], "w_bits": [8], "a_bits": [8]})
    return PipelineRun(opened.space, None, out, weights=opened.weights)


def test_what_does_not_fit_is_refused_in_one_line(mine: Any, tmp_path: Path) -> None:
    state = torch.load(mine.weights, weights_only=True)
    files = {"short": {k: v for k, v in state.items() if k != "fc.bias"}, "wide": state | {"fc.bias": torch.zeros(11)}}
    for name, own in files.items():
        torch.save(own, tmp_path / f"{name}.pt")
    (tmp_path / "genes.yaml").write_text("stepp: 4\n")
    (tmp_path / "step.yaml").write_text("step: 0\n")
    (tmp_path / "empty.yaml").write_text("")
    cases: list[tuple[Any, str]] = [
        (lambda: read_options(tmp_path / "step.yaml"), "step.yaml: step: give a whole number from 1"),
        (lambda: read_options(tmp_path / "empty.yaml"), "empty.yaml: is empty; its keys are"),
        (lambda: open_model(mine.source, "digits", weights=tmp_path / "short.pt"), "lacks 'fc.bias'"),
        (lambda: open_model(mine.source, "digits", weights=tmp_path / "wide.pt"), "fc.bias has the shape"),
        (lambda: open_model(mine.source + "(classes=7)", "digits"), "the model has 7 classes, digits has 10"),
        (lambda: open_model(mine.source, "digits", shape=(3, 8, 8)), "expected input"),
        (lambda: open_model(mine.source, "digits", shape=(1, 8, 9)), "square"),
        (lambda: open_model(mine.source, "digits", options={"keep": ["layer9.*"]}), "is the name of no layer"),
        (lambda: read_options(tmp_path / "genes.yaml"), "there is no 'stepp'"),
        (lambda: PipelineRun(open_model(mine.source, "digits").space, None, tmp_path / "run"), "give --weights FILE"),
        (lambda: fixed(mine, tmp_path / "run"), "has a single network, so that there is nothing to search"),
    ]
    for call, said in cases:
        with pytest.raises(ApqError, match=None) as error:
            call()
        assert said in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "net.py:build"], "--model needs images"),
        (["digits", "--model", "net.py:build", "--data", "digits"], "give one of them"),
        (["digits", "--keep", "a*"], "--keep is for a model of your own"),
        (["--model", "net.py:build", "--data", "digits", "--input", "8x8"], "is not a shape"),
        (["--model", "net.py:build", "--data", "digits", "--mean", "0.5"], "--mean and --std go together"),
    ],
)
def test_options_about_models_go_together(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(cli, ["run", *arguments])
    assert done.exit_code == 2
    assert said in done.output
