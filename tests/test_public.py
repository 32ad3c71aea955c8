"""The public interface: what ``import apq_tune`` offers, and that its functions are called alike."""

from __future__ import annotations

import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import apq_tune
from apq_tune.cli import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_no_public_name_hides_a_module_of_the_package() -> None:
    modules = {module.name for module in pkgutil.iter_modules(apq_tune.__path__)}
    assert {"space", "predict", "errors"} <= modules
    assert not modules & set(apq_tune.__all__)


def test_every_public_name_is_there_once_and_seen_by_dir() -> None:
    assert len(set(apq_tune.__all__)) == len(apq_tune.__all__)
    assert set(apq_tune.LAZY) <= set(apq_tune.__all__) <= set(dir(apq_tune))
    for name in apq_tune.__all__:
        assert getattr(apq_tune, name).__doc__, name
    kinds = [kind for kind in vars(apq_tune.errors).values() if isinstance(kind, type)]
    assert {kind.__name__ for kind in kinds if issubclass(kind, apq_tune.ApqError)} <= set(apq_tune.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'serach'"):
        _ = apq_tune.serach  # type: ignore[attr-defined]


def test_importing_the_package_loads_no_heavy_library() -> None:
    heavy = {"torch", "torchvision", "ray", "optuna", "sklearn", "matplotlib", "PIL"}
    code = f"import sys, apq_tune; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_documentation_imports_public_names_only(page: Path) -> None:
    text = page.read_text("utf-8")
    for names in re.findall(r"^from apq_tune import (?:\(([^)]*)\)|([^(\n]*))", text, re.MULTILINE):
        assert {name.strip() for name in "".join(names).split(",") if name.strip()} <= set(apq_tune.__all__)
    assert not re.findall(r"^from apq_tune\.\S+ import", text, re.MULTILINE)


def parameters() -> dict[str, dict[str, object]]:
    """Name of a parameter -> what takes it -> its default."""
    found: dict[str, dict[str, object]] = {}
    for name in apq_tune.__all__:
        owner = getattr(apq_tune, name)
        if not callable(owner) or (isinstance(owner, type) and issubclass(owner, Exception)):
            continue
        for parameter in inspect.signature(owner).parameters.values():
            found.setdefault(parameter.name, {})[name] = parameter.default
    return found


def test_what_means_the_same_has_one_name_and_one_default() -> None:
    taken = parameters()
    assert set(taken["seed"].values()) == {0}
    assert len(taken["seed"]) >= 7
    assert not {"limits", "evaluations", "n_trials", "rng", "root", "file", "filename"} & set(taken)
    options = {option.name: option for option in cli.commands["search"].params}
    assert taken["n_evaluations"]["search"] == options["evaluations"].default
    assert taken["seed"]["search"] == options["seed"].default
    loaders = {name for name in apq_tune.__all__ if name.startswith("load_")}
    assert {next(iter(inspect.signature(getattr(apq_tune, name)).parameters)) for name in loaders} == {"path", "space"}
    for name in loaders - {"load_data"}:
        assert str(inspect.signature(getattr(apq_tune, name)).parameters["path"].annotation) == "str | Path", name


def test_a_predictor_is_fitted_to_pairs_in_one_call() -> None:
    encoding = apq_tune.FlatEncoding(apq_tune.SearchSpace.from_choices({"a": [1, 2, 3, 4], "b": [1, 2, 3, 4]}))
    genomes = encoding.sample(12, np.random.default_rng(0))
    predictor = apq_tune.fit_predictor(encoding, apq_tune.Pairs(genomes, 0.5 + 0.1 * genomes[:, 0]), "ridge")
    assert np.corrcoef(predictor(genomes), genomes[:, 0])[0, 1] > 0.99
    with pytest.raises(apq_tune.ProblemError, match="unknown form 'oracle'; known: "):
        apq_tune.fit_predictor(encoding, apq_tune.Pairs(genomes, genomes[:, 0]), "oracle")  # type: ignore[arg-type]
