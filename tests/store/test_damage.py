"""Every file of a finished run and of a finished refinement, damaged in five ways: refused in one line, or no matter.

Trials run here one after the other in this process: what they give does not depend on where they run.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apq_tune import NetworkEncoding, RunError, SearchSpace, load_run
from apq_tune.pipeline.finished import open_run
from apq_tune.pipeline.learning import read_losses
from apq_tune.pipeline.run import PipelineRun
from apq_tune.refine.refine import Refinement
from apq_tune.refine.settings import RefineSettings

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("serial")]

FAST = {
    "supernet.epochs": 1,
    "supernet.images": 128,
    "quantized.epochs": 1,
    "quantized.images": 128,
    "n_fp32": 10,
    "n_proxy": 10,
    "n_pairs": 10,
    "pair.images": 64,
    "final.epochs": 1,
    "final.images": 64,
    "n_evaluations": 150,
    "n_front": 1,
    "folds": 2,
    "n_search": 60,
    "n_calibration": 32,
}
REFINE = RefineSettings.checked(rounds=1, batch=3, epochs=1, final_epochs=2)
OUTPUTS = {"results.csv", "summary.json", "front.json", "front.png", "best.json", "random.json", "space.yaml"}


def go_on(path: Path) -> dict[str, str]:
    """The same command again: what it finds."""
    outcome = PipelineRun(SearchSpace.load("digits"), None, path, changes=FAST).run()
    found = {name: front.to_json() for name, front in outcome.fronts.items()}
    return found | {"table": outcome.table.to_csv(), "predictors": repr(outcome.predictors)}


def read(path: Path) -> list[Any]:
    """What later commands read of a run."""
    run = load_run(path)
    opened = open_run(path, ("fp32_losses", "proxy_losses", "qat_pairs"))
    encoding = NetworkEncoding(run.space)
    genomes = encoding.sample(5, np.random.default_rng(0))
    losses = [read_losses(opened.stages[name], encoding)[0].target for name in ("proxy_losses", "qat_pairs")]
    weights = [v.numpy() for supernet in (run.fp32_supernet, run.supernet) for v in supernet.weights.values()]
    return [run.predictor(genomes), *losses, *weights, np.array([str(run.settings)])]


def refine(run: Path, out: Path) -> dict[str, Any]:
    refined = Refinement(run, REFINE, out).run()
    return {
        "table": refined.table.to_csv(),
        "front": refined.front.to_json(),
        "weights": refined.weights.read_bytes(),
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    path = tmp_path_factory.mktemp("finished") / "run"
    return path, go_on(path)


@pytest.fixture(scope="module")
def refined(finished: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    path = tmp_path_factory.mktemp("refined") / "out"
    return path, refine(finished[0], path)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def another(folder: Path, name: str) -> bytes:
    """A file of another stage that is meant for the same, or at least of the same kind."""
    stage, own = Path(name).parts[0], Path(name).name
    others = [path for path in sorted(folder.rglob("*")) if path.is_file() and stage not in path.parts]
    alike = [path for path in others if path.name == own] or [p for p in others if p.suffix == Path(name).suffix]
    return (alike or others)[0].read_bytes()


DAMAGES: dict[str, Callable[[bytes, bytes], bytes]] = {
    "half": lambda content, _: content[: len(content) // 2],
    "empty": lambda *_: b"",
    "flipped": lambda content, _: (
        content[: (h := len(content) // 2)] + bytes(b ^ 0xFF for b in content[h : h + 4]) + content[h + 4 :]
    ),
    "swapped": lambda _, other: other,
}


def chosen_files(folder: Path, damage: str) -> list[str]:
    """Every file flipped; of the other damages, which are told apart by nothing, a third each; few records swapped."""
    names = files(folder)
    if damage == "swapped":
        return [name for name in names if not name.endswith("stage.json") or name[0] in "69"]
    return names if damage == "flipped" else names[sorted(DAMAGES).index(damage) :: 3]


def same(one: list[Any], other: list[Any]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def refusal(do: Callable[[], Any]) -> str | None:
    try:
        do()
    except RunError as error:
        assert "\n" not in str(error)
        return str(error)
    return None


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_of_a_run_is_refused_by_name_or_changes_nothing(
    finished: tuple[Path, dict[str, str]], tmp_path: Path, damage: str
) -> None:
    original, found = finished
    path = tmp_path / "run"
    shutil.copytree(original, path)
    expected, refused = read(path), 0
    for name in chosen_files(original, damage):
        content, results = (original / name).read_bytes(), list[Any]()
        (path / name).write_bytes(DAMAGES[damage](content, another(original, name)))
        said = refusal(lambda: results.append(read(path)))  # noqa: B023
        if said is None:
            assert same(results.pop(), expected), name
        else:
            assert f"{path}" in said
            assert "the program that began it" in said or "repeat the command that made it" in said
        said = refusal(lambda: results.append(go_on(path)))  # noqa: B023
        if said is None:
            assert damage == "swapped" or name in OUTPUTS, name
            assert results == [found], name
            shutil.rmtree(path)
            shutil.copytree(original, path)
        else:
            refused += 1
            assert f"/{name}: is damaged" in said
            assert "delete" in said
            assert "the same command makes it anew" in said
            (path / name).write_bytes(content)
    assert refused >= 10


def test_a_missing_file_of_a_run_is_made_anew_with_the_same_bytes(
    finished: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    original, found = finished
    names = [
        "items",
        "stage.json",
        "weights.pt",
        "losses.csv",
        "predictor.npz",
        "report.json",
        "rivals.json",
        "best.pt",
    ]
    path = tmp_path / "run"
    for name in names:
        shutil.copytree(original, path)
        for there in [*path.glob(f"*/{name}")][-1:]:
            shutil.rmtree(there) if there.is_dir() else there.unlink()
            assert go_on(path) == found, there
            for other in files(original):
                if not other.endswith(("stage.json", "run.json")):
                    assert (path / other).read_bytes() == (original / other).read_bytes(), (there, other)
        shutil.rmtree(path)
    shutil.copytree(original, path)
    (path / "run.json").unlink()
    assert go_on(path) == found


def test_files_of_others_are_left_out_of_account(finished: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    original, found = finished
    path = tmp_path / "run"
    shutil.copytree(original, path)
    items = path / "9_finalists" / "items"
    shutil.copy(items / "best.json", items / "front_99.json")
    shutil.copy(path / "9_finalists/best.pt", path / "9_finalists/front_99.pt")
    (path / "3_fp32_losses/items/notes.json").write_text("{")
    assert go_on(path) == found


@pytest.mark.parametrize("damage", [*DAMAGES, "gone"])
def test_every_file_of_a_refinement(
    finished: tuple[Path, Any], refined: tuple[Path, dict[str, Any]], tmp_path: Path, damage: str
) -> None:
    original, found = refined
    path = tmp_path / "out"
    for name in files(original):
        shutil.copytree(original, path)
        content = (original / name).read_bytes()
        if damage == "gone":
            (path / name).unlink()
            said = None
        else:
            (path / name).write_bytes(DAMAGES[damage](content, another(original, name)))
            said = refusal(lambda: refine(finished[0], path))
        if said is None:
            assert damage in ("gone", "swapped") or name == "refine.json"
            assert refine(finished[0], path) == found, name  # without a word, or after the file was made anew
        else:
            assert f"/{name}: is damaged" in said
        shutil.rmtree(path)
