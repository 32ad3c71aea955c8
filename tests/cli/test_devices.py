"""``apq-tune devices`` and ``--device-preset`` as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result
from torch import nn

from apq_tune import (
    ApqError,
    DeviceError,
    DevicePreset,
    Front,
    ModelSpace,
    Pairs,
    RunError,
    SearchSpace,
    check_network,
    fit_predictor,
    known_presets,
    load_preset,
)
from apq_tune.cli import cli
from apq_tune.cost import bit_ops, weight_bytes
from apq_tune.predict.files import predictor_bytes
from apq_tune.space.encodings import encoding_of
from apq_tune.space.measured import measured_values
from apq_tune.space.narrowing import Narrowing
from apq_tune.store.directory import RunDirectory

DIGITS = SearchSpace.load("digits")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], env={"COLUMNS": "200"})


def refusal(*arguments: object) -> str:
    result = call(*arguments)
    assert isinstance(result.exception, ApqError), result.output
    assert "\n" not in str(result.exception)
    return str(result.exception)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Predictor of all of ``digits``, whose pairs measured 4 and 8 bits."""
    encoding = encoding_of(DIGITS)
    genomes = encoding.sample_policies(200, np.random.default_rng(0))
    loss = 2.0 - bit_ops(encoding)(genomes) / bit_ops(encoding).reachable()[1]
    path = tmp_path_factory.mktemp("predictor") / "predictor.npz"
    learned = fit_predictor(encoding, Pairs(genomes, loss), "ridge")
    path.write_bytes(predictor_bytes(learned, measured_values(encoding, genomes)))
    return path


def test_devices_lists_all_presets_and_shows_one_with_its_sources() -> None:
    listed = call("devices").output
    assert all(name in listed for name in known_presets())
    shown = " ".join(call("devices", "max78000").output.split())
    assert "convolutions: weights of 1, 2, 4 or 8, inputs of 8 bits, kernels 1 or 3 (https://" in shown
    assert "depthwise convolutions: not run" in shown
    assert "flash: 432 KiB" in shown
    assert "not searched: weights of 1 bit, which no search space offers" in shown
    assert "known: bitfusion" in refusal("devices", "max")


def test_search_finds_what_the_device_runs_within_its_memory(predictor: Path, tmp_path: Path) -> None:
    result = call(
        "search",
        "digits",
        "--predictor",
        predictor,
        "--device-preset",
        "max78002",
        "--evaluations",
        300,
        "--out",
        tmp_path,
    )
    assert result.exit_code == 0, result.output
    (candidate,) = Front.load(tmp_path / "front.json").candidates
    check_network(load_preset("max78002"), DIGITS.network.at(DIGITS.values_of(candidate)))
    assert "weight_bytes" in result.output


def test_a_device_of_ones_own_is_read_from_a_file(predictor: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "format: 1\nname: mine\ntitle: My board\nops: {conv: {w_bits: 8, a_bits: 8}}\nflash: {bytes: 1kB}\n", "utf-8"
    )
    said = refusal("search", "digits", "--predictor", predictor, "--device-preset", tmp_path / "mine.yaml")
    assert said.startswith("no candidate reaches weight_bytes <= 1000: ")
    (tmp_path / "mine.yaml").write_text("format: 1\nname: mine\ntitle: My board\nops: {conv: {w_bits: 8}}\n", "utf-8")
    said = refusal("search", "digits", "--objective", "macs", "--device-preset", tmp_path / "mine.yaml")
    assert (
        said
        == f"{tmp_path / 'mine.yaml'}: ops.conv: needs w_bits and a_bits, or pairs such as [[4, 8], [8, 8]]; add them"
    )


def test_candidates_to_start_with_are_refused_with_the_layer_and_the_rule(tmp_path: Path) -> None:
    encoding = encoding_of(DIGITS)
    (candidate,) = encoding.decode(encoding.at_bits(encoding.ends()[:1], 4))
    (tmp_path / "start.json").write_text(json.dumps([candidate.to_dict()]))
    start = ("--start", tmp_path / "start.json", "--evaluations", 20)
    said = refusal("search", "digits", "--objective", "macs", "--device-preset", "litert", *start)
    assert said.startswith("candidate 0: 1.1.expand: a_bits is 4, but litert runs convolutions with inputs of 8 bits; ")
    assert call("search", "digits", "--objective", "macs", "--device-preset", "mpic", *start).exit_code == 0


@pytest.mark.parametrize("command", ["run", "search", "compare", "sweep", "joint-vs-staged"])
def test_a_device_that_runs_no_network_is_refused_before_any_work(command: str, tmp_path: Path) -> None:
    more = {"search": ["--objective", "macs"], "compare": ["--front", "macs,bit_ops"], "sweep": ["--objective", "macs"]}
    said = refusal(command, "digits", "--device-preset", "max78000", "--out", tmp_path / "out", *more.get(command, ()))
    assert said.startswith("1.1.depthwise: max78000 runs no depthwise convolutions; take other blocks (block: ")
    assert not (tmp_path / "out").exists()


def test_named_choices_have_no_device(tmp_path: Path) -> None:
    (tmp_path / "choices.yaml").write_text("name: choices\nchoices: {a: [1, 2]}\n", "utf-8")
    result = call("search", tmp_path / "choices.yaml", "--objective", "a", "--device-preset", "mpic")
    assert "--device-preset mpic: choices has no networks; leave it out" in result.output


def test_a_predictor_of_what_one_device_runs_is_not_one_of_all(tmp_path: Path) -> None:
    encoding = encoding_of(DIGITS.narrowed(load_preset("litert")))
    genomes = encoding.sample(50, np.random.default_rng(0))
    path = tmp_path / "predictor.npz"
    path.write_bytes(predictor_bytes(fit_predictor(encoding, Pairs(genomes, 1.0 + genomes[:, 0]), "ridge")))
    said = refusal("search", "digits", "--predictor", path, "--evaluations", 20)
    assert "was fitted on digits as narrowed for litert; give --device-preset litert, or another predictor" in said
    arguments = ("search", "digits", "--predictor", path, "--evaluations", 20, "--device-preset")
    assert call(*arguments, "litert").exit_code == 0
    assert "was fitted on digits as narrowed for litert" in refusal(*arguments, "mpic")


LITERT = DIGITS.narrowed(load_preset("litert"))
CHANGED = DIGITS.narrowed(DevicePreset.from_dict(load_preset("litert").to_dict() | {"title": "Another one"}))


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (DIGITS, "is a run for litert, not for none; give the --device-preset that it was begun with, or choose"),
        (DIGITS.narrowed(load_preset("mpic")), "is a run for litert, not for mpic; give"),
        (CHANGED, "is a run for litert with another preset of that name; give"),
    ],
)
def test_a_run_goes_on_for_its_device_only(space: SearchSpace, said: str, tmp_path: Path) -> None:
    RunDirectory(tmp_path, LITERT, {}, "apq-tune run").release()
    RunDirectory(tmp_path, LITERT, {}, "apq-tune run").release()
    assert SearchSpace.load(tmp_path / "space.yaml") == LITERT
    with pytest.raises(RunError, match=said):
        RunDirectory(tmp_path, space, {}, "apq-tune run")


def test_a_run_without_a_device_does_not_go_on_for_one(tmp_path: Path) -> None:
    RunDirectory(tmp_path, DIGITS, {}, "apq-tune run").release()
    assert "device" not in json.loads((tmp_path / "run.json").read_text())
    with pytest.raises(RunError, match="is a run for no device, not for litert; give"):
        RunDirectory(tmp_path, LITERT, {}, "apq-tune run")


def test_networks_of_the_space_at_2_bits_are_no_networks_of_the_device() -> None:
    encoding = encoding_of(DIGITS)
    (candidate,) = encoding.decode(encoding.at_bits(encoding.ends()[1:], 2))
    with pytest.raises(
        DeviceError, match=r"1.1.expand: w_bits is 2, but onnxruntime_cpu runs convolutions with weights of 8"
    ):
        check_network(load_preset("onnxruntime_cpu"), DIGITS.network.at(DIGITS.values_of(candidate)))


def scored(space: object, candidates: list[object], folder: Path, *more: object) -> Result:
    (folder / "c.json").write_text(json.dumps([candidate.to_dict() for candidate in candidates]))
    return call("score", space, "--candidates", folder / "c.json", "--out", folder / "s.csv", *more)


def test_score_refuses_or_skips_what_the_device_does_not_run_or_has_no_memory_for(tmp_path: Path) -> None:
    encoding = encoding_of(DIGITS)
    small, large = (encoding.decode(encoding.at_bits(encoding.ends()[i : i + 1], 8))[0] for i in (0, 1))
    (narrow,) = encoding.decode(encoding.at_bits(encoding.ends()[:1], 2))
    (tmp_path / "mine.yaml").write_text(
        "format: 1\nname: mine\ntitle: My board\nops: {conv: {w_bits: 8, a_bits: 8}}\nflash: {bytes: 12kB}\n", "utf-8"
    )
    preset = ("--device-preset", tmp_path / "mine.yaml")
    said = str(scored("digits", [small, narrow], tmp_path, *preset).exception)
    assert said.startswith("candidate 1: 1.1.expand: w_bits is 2, but mine runs convolutions with weights of 8 bits; ")
    assert said.endswith("; --skip-invalid goes on without it")
    said = str(scored("digits", [large], tmp_path, *preset).exception)
    assert said.startswith("candidate 0: weight_bytes is ")
    assert "but mine has 12000 bytes; take a smaller network, or another device; --skip-invalid goes on" in said
    assert not (tmp_path / "s.csv").exists()
    result = scored("digits", [narrow, small, large], tmp_path, *preset, "--skip-invalid")
    assert result.exit_code == 0, result.output
    assert "1 candidates scored, 2 skipped" in result.output
    table = pd.read_csv(tmp_path / "s.csv")
    assert table["position"].tolist() == [1]
    assert table["weight_bytes"].item() == weight_bytes(encoding)(encoding.encode([small]))[0]
    assert scored("digits", [narrow, small, large], tmp_path).exit_code == 0


def test_score_takes_candidates_of_a_model_and_of_what_a_device_runs_of_it(tmp_path: Path) -> None:
    layers = [nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 3)]
    space = ModelSpace.from_module(nn.Sequential(*layers), torch.zeros(1, 1, 8, 8), w_bits=[4, 8], a_bits=[4, 8])
    part, encoding = encoding_of(space.narrowed(load_preset("litert"))), encoding_of(space)
    (tmp_path / "space.yaml").write_text(space.to_yaml(), "utf-8")
    inside = part.decode(part.ends())
    wide = encoding.decode(Narrowing(space, part.space).widen(part.ends()))
    assert inside[0].to_dict() != wide[0].to_dict()
    tables = []
    for own in (inside, wide):
        result = scored(tmp_path / "space.yaml", own, tmp_path, "--device-preset", "litert")
        assert result.exit_code == 0, result.exception
        tables.append(pd.read_csv(tmp_path / "s.csv"))
    pd.testing.assert_frame_equal(*tables)
    assert scored(tmp_path / "space.yaml", wide, tmp_path).exit_code == 0
    np.testing.assert_array_equal(pd.read_csv(tmp_path / "s.csv")["weight_bytes"], tables[0]["weight_bytes"])
    (narrow,) = encoding.decode(encoding.at_bits(encoding.ends()[:1], 4))
    said = str(scored(tmp_path / "space.yaml", [narrow], tmp_path, "--device-preset", "litert").exception)
    assert "a_bits is 4, but litert runs" in said


@pytest.mark.parametrize("command", ["search", "sweep", "compare", "run", "joint-vs-staged"])
def test_memory_of_a_device_that_the_file_of_a_space_names_is_a_limit(command: str, tmp_path: Path) -> None:
    preset = load_preset("litert").to_dict() | {"flash": {"bytes": "1kB"}}
    (tmp_path / "mine.yaml").write_text(DIGITS.narrowed(DevicePreset.from_dict(preset)).to_yaml(), "utf-8")
    more = {"compare": ["--front", "macs,bit_ops"], "run": [], "joint-vs-staged": []}
    arguments = more.get(command, ["--objective", "macs"])
    said = refusal(command, tmp_path / "mine.yaml", *arguments, "--out", tmp_path / "out")
    assert "no candidate reaches weight_bytes <= 1000: " in said
    assert not (tmp_path / "out").exists()
