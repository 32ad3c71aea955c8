"""Checkpoints of others: each way in which one is wrong has its own words, and what is only wrapped is read."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from apq_tune import NetworkEncoding, RunError, SearchSpace, load_predictor, load_supernet
from apq_tune.inputs.checkpoints import read_state, tensor

SPACE = SearchSpace.load("apq_mobilenet")


def saved(path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, path, **options)
    return path


def refusal(read: Callable[[], object]) -> str:
    with pytest.raises(RunError) as caught:
        read()
    message = str(caught.value)
    assert "\n" not in message
    assert "weights_only" not in message
    return message


@pytest.mark.parametrize("wrap", ["plain", "data_parallel", "compiled", "training", "training_data_parallel", "legacy"])
def test_what_is_only_wrapped_is_read(tmp_path: Path, wrap: str) -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    state: Any = network.state_dict()
    if "data_parallel" in wrap:
        state = {f"module.{name}": value for name, value in state.items()}
    if wrap == "compiled":
        state = {f"_orig_mod.{name}": value for name, value in state.items()}
    if "training" in wrap:
        state = {"epoch": 3, "model_state_dict": state, "optimizer": {"state": {}}}
    path = saved(tmp_path / "a.pt", state, _use_new_zipfile_serialization=wrap != "legacy")
    found = read_state(path)
    assert set(found) == set(network.state_dict())
    assert torch.equal(tensor(path, found, "0.weight"), network[0].weight)


def test_parameters_lose_their_gradients_and_halves_become_floats(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pt", {"p": nn.Parameter(torch.ones(2)), "h": torch.ones(2).half()})
    state = read_state(path)
    for name in state:
        value = tensor(path, state, name)
        assert not value.requires_grad
        assert value.dtype == torch.float32
        assert value.tolist() == [1, 1]


WRONG_VALUES: dict[str, tuple[Any, str]] = {
    "list": ([1.0], "w is a list, not a tensor"),
    "number": (1.0, "w is a float, not a tensor"),
    "meta": (torch.ones(2, device="meta"), "w has a shape but no numbers"),
    "sparse": (torch.eye(2).to_sparse(), "w is sparse (sparse_coo); save it after .to_dense()"),
    "csr": (torch.eye(2).to_sparse_csr(), "w is sparse (sparse_csr)"),
    "quantized": (torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), "w is quantized (qint8)"),
    "int": (torch.ones(2, dtype=torch.int8), "w is of int8; give floats"),
    "complex": (torch.ones(2, dtype=torch.complex64), "w is of complex64; give floats"),
    "nan": (torch.tensor([1, float("nan")]), "w has 1 of 2 values that are not finite"),
    "inf": (torch.tensor([[1, -float("inf")]]), "w has 1 of 2 values that are not finite"),
    "double": (torch.tensor([1e300], dtype=torch.float64), "w has 1 of 1 values that are not finite"),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("kind", WRONG_VALUES)
def test_a_value_that_is_no_dense_finite_tensor_is_named(tmp_path: Path, kind: str) -> None:
    value, said = WRONG_VALUES[kind]
    path = saved(tmp_path / "a.pt", {"w": value})
    assert f"a.pt: {said}" in refusal(lambda: tensor(path, read_state(path), "w"))


def content_of(kind: str, path: Path) -> None:
    if kind == "module":
        torch.save(nn.Linear(2, 2), path)
    elif kind == "script":
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), path)
    elif kind == "list":
        torch.save([torch.ones(2)], path)
    elif kind == "numbered":
        torch.save({0: torch.ones(2)}, path)
    elif kind == "nothing in it":
        torch.save({}, path)
    elif kind == "folder":
        path.mkdir()
    elif kind != "absent":
        path.write_bytes(RAW[kind])


RAW = {
    "empty": b"",
    "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2\nsize 12345\n",
    "page": b"\n<!DOCTYPE html><html><body>Sign in</body></html>",
    "text": b"hello there, this is no checkpoint",
    "zeros": bytes(1000),
    "zip": b"PK\x03\x04" + bytes(40),
}
FILES = {
    "absent": "cannot be read (No such file or directory)",
    "folder": "cannot be read (Is a directory)",
    "empty": "is empty; get the file again",
    "pointer": "is a Git LFS pointer, not the file itself; get that with: git lfs pull",
    "page": "is a web page, not a checkpoint",
    "text": "is not a checkpoint of torch.save, or is damaged",
    "zeros": "is not a checkpoint of torch.save, or is damaged",
    "zip": "is not a checkpoint of torch.save, or is damaged",
    "module": "holds Python objects, which are not loaded, since that would run code from the file; give its tensors",
    "script": "is a TorchScript program; give its tensors alone: torch.save(model.state_dict(), PATH)",
    "list": "holds a list, not names and tensors",
    "numbered": "holds a dict, not names and tensors",
    "nothing in it": "holds a dict, not names and tensors",
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("suffix", [".pt", ".pth"])
@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_no_checkpoint_is_told_by_what_it_is(tmp_path: Path, kind: str, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    content_of(kind, path)
    for read in (lambda: load_supernet(path), lambda: load_predictor(path)):
        assert f"a{suffix}: {FILES[kind]}" in refusal(read)


@pytest.mark.parametrize("legacy", [False, True])
def test_damage_anywhere_is_one_line_or_changes_nothing(tmp_path: Path, legacy: bool) -> None:
    """The older format has no checksums: there only the words are promised."""
    state = {f"layer{i}.weight": torch.randn(20, generator=torch.Generator().manual_seed(i)) for i in range(3)}
    path = saved(tmp_path / "a.pt", state, _use_new_zipfile_serialization=not legacy)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for trial in range(300):
        damaged = bytearray(whole)
        if trial % 3:
            place = int(rng.integers(len(damaged) - 4))
            damaged[place : place + 4] = bytes(byte ^ 0xFF for byte in damaged[place : place + 4])
        else:
            del damaged[int(rng.integers(len(damaged))) :]
        path.write_bytes(damaged)
        try:
            found = read_state(path)
            values = {name: tensor(path, found, name) for name in found}
        except RunError as error:
            assert re.match(r".*a\.pt: [^\n]+$", str(error))
            continue
        if not legacy:
            assert set(values) == set(state)
            assert all(torch.equal(values[name], state[name]) for name in state)


def test_predictors_and_supernets_read_what_is_wrapped_and_refuse_what_is_not_finite(
    shared_data: Callable[[str], Path], tmp_path: Path
) -> None:
    published = shared_data("apq/predictor_random.pt")
    state = torch.load(published, weights_only=True)
    genomes = NetworkEncoding(SPACE).sample(5, np.random.default_rng(0))
    expected = load_predictor(published)(genomes)
    wrapped = {f"module.{name}": nn.Parameter(value) for name, value in state.items()}
    assert (load_predictor(saved(tmp_path / "a.pt", wrapped))(genomes) == expected).all()
    name = next(iter(state))
    path = saved(tmp_path / "b.pt", state | {name: torch.full_like(state[name], float("nan"))})
    assert f"{name} has {state[name].numel()} of" in refusal(lambda: load_predictor(path))
    published = shared_data("apq/once_for_all_random_fp16.pt")
    state = read_state(published)
    path = saved(tmp_path / "c.pt", {"epoch": 1, "state_dict": {f"module.{n}": v for n, v in state.items()}})
    plain, same = load_supernet(published).supernet.state_dict(), load_supernet(path).supernet.state_dict()
    assert all(torch.equal(plain[n], same[n]) for n in plain)
    state["classifier.linear.bias"][3] = float("inf")
    path = saved(tmp_path / "d.pt", state)
    assert "classifier.linear.bias has 1 of 1000 values that are not" in refusal(lambda: load_supernet(path))
