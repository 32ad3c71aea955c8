"""Which space images get: by their size and by the limits; and what a refusal names instead."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from apq_tune import NetworkEncoding, SearchSpace
from apq_tune.cli import main
from apq_tune.cost import cost_models
from apq_tune.data import choose_space, spaces_that_keep
from apq_tune.errors import ProblemError, ReachError
from apq_tune.pipeline.reach import complaints
from apq_tune.problem.limits import read_limits


def photos(path: Path, side: int) -> str:
    for i, name in enumerate(("a", "b")):
        (path / name).mkdir(parents=True)
        for k in range(5):
            Image.new("RGB", (side, side), (80 * i, k, 0)).save(path / name / f"{k}.png")
    return str(path)


@pytest.mark.parametrize(
    ("side", "limits", "name", "sizes"),
    [
        (32, [], "mobilenet_cifar", (20, 24, 28, 32)),
        (32, ["flash<=400kB", "ram<=200kB"], "mobilenet_cifar", (20, 24, 28, 32)),
        (32, ["flash<=200kB", "ram<=80kB"], "mcu_color", (32, 48)),
        (96, ["flash<=200kB", "ram<=80kB"], "mcu_color", (32, 48, 64, 80, 96)),
        (224, ["ram<=1.3MB"], "apq_mobilenet", (224,)),
        (224, ["ram<=1MB"], "mcu_color", (32, 48, 64, 80, 96)),  # the other one's smallest network has 0.8 MB
        (224, ["flash<=100kB"], "mcu_color", (32, 48, 64, 80, 96)),
        (20, ["flash<=8kB"], "mobilenet_fashion_mnist_14", (10, 12, 14)),
    ],
)
def test_the_space_is_the_nearest_that_can_keep_the_limits(
    tmp_path: Path, side: int, limits: list[str], name: str, sizes: tuple[int, ...]
) -> None:
    choice = choose_space(photos(tmp_path, side), None, complaints(limits) if limits else None)
    assert (choice.space.name, choice.space.resolutions) == (name, sizes)
    assert choice.reason.startswith(f"space: {name}, ")
    encoding = NetworkEncoding(choice.space)
    read_limits(encoding, {model.name: model for model in cost_models(encoding)}, limits)  # within reach


def test_the_reason_names_what_was_passed_over(tmp_path: Path) -> None:
    reason = choose_space(photos(tmp_path, 32), None, complaints(["ram<=80kB"])).reason
    assert reason.startswith(
        "space: mcu_color, 32 to 48 pixels, nearest to the images' 32 among the shipped ones that satisfy"
    )
    assert "unlike mobilenet_cifar at 32 pixels: peak_activation_bytes <= 80000 leaves no room, its " in reason
    assert "smallest network has 61440" in reason  # its smaller inputs would keep the limit


def test_limits_that_no_shipped_space_keeps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ReachError, match=r"keeps all limits; mobilenet_cifar at 32 pixels: no candidate reaches"):
        choose_space(photos(tmp_path, 32), None, complaints(["flash<=1kB"]))


def test_a_limit_that_cannot_be_read_is_no_matter_of_spaces(tmp_path: Path) -> None:
    with pytest.raises(ProblemError) as caught:
        choose_space(photos(tmp_path, 32), None, complaints(["flush<=1kB"]))
    assert "no shipped space" not in str(caught.value)


def test_spaces_that_keep_limits_are_those_within_reach() -> None:
    names = spaces_that_keep(SearchSpace.load("mobilenet_cifar"), complaints(["flash<=20kB"]))
    assert set(names) == {"digits", "mobilenet_fashion_mnist", "mobilenet_fashion_mnist_14", "mcu_color"}
    for name in names:
        (flash,) = (m for m in cost_models(NetworkEncoding(SearchSpace.load(name))) if m.name == "weight_bytes")
        assert flash.reachable()[0] <= 20_000


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["mobilenet_cifar", "--constraint", "flash<=30kB"],
            "give a bound in that range; shipped spaces that keep all limits: digits, mobilenet_fashion_mnist_14, ",
        ),
        (["digits", "--constraint", "flash<=1"], "give a bound in that range; no shipped space does"),
        (["--data", ""], "--data '' is not a folder; give a folder"),
        (["digits", "--data", " "], "--data ' ' is not a folder; give a folder"),
    ],
)
def test_refusals_of_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    with pytest.raises(SystemExit):
        main(["run", *arguments, "--out", str(tmp_path / "out")])
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
