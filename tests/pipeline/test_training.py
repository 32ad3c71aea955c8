"""Supernet training, killed in the middle of an epoch, and its refusals."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from apq_tune import SearchSpace
from apq_tune.errors import RunError
from apq_tune.pipeline.run import PipelineRun
from apq_tune.store.stage import StageDirectory

CHANGES = {
    "checkpoint_steps": 5,
    "supernet.epochs": 2,
    "quantized.epochs": 2,
    "supernet.images": 400,
    "quantized.images": 400,
    "supernet.augment": "crop",
    "quantized.ema": 0.9,
    "quantized.label_smoothing": 0.1,
}


def train(space: SearchSpace, out: Path, **changes: object) -> dict[str, torch.Tensor]:
    run = PipelineRun(space, None, out, changes=CHANGES | changes)
    run.run_until("quantized_supernet")
    loaded: dict[str, torch.Tensor] = torch.load(out / "2_quantized_supernet" / "weights.pt", weights_only=True)
    return loaded


@pytest.fixture(scope="module", autouse=True)
def few_probes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("apq_tune.pipeline.estimate.PROBE_SECONDS", 0.0)
        yield


@pytest.fixture(scope="module")
def undisturbed(tiny_digits: SearchSpace, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return train(tiny_digits, tmp_path_factory.mktemp("undisturbed") / "run")


@pytest.mark.parametrize("last", [2, 5, 9])  # of the 3 + 3 checkpoints of each stage
def test_stopped_within_an_epoch_it_ends_with_the_same_weights(
    tiny_digits: SearchSpace,
    undisturbed: dict[str, torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    last: int,
) -> None:
    written = []

    def write(stage: StageDirectory, name: str, content: bytes) -> None:
        written.append(name)
        original(stage, name, content)
        if written.count("checkpoint.pt") == last:
            raise KeyboardInterrupt

    original = StageDirectory.write
    with monkeypatch.context() as patch:
        patch.setattr(StageDirectory, "write", write)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_digits, tmp_path / "run")
    weights = train(tiny_digits, tmp_path / "run")
    assert all(torch.equal(weights[name], undisturbed[name]) for name in undisturbed)


def test_what_a_training_is_told_changes_it(
    tiny_digits: SearchSpace, undisturbed: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    name = "stem.weight"
    changed = train(tiny_digits, tmp_path / "run", **{"quantized.ema": 0})
    assert not torch.equal(changed[name], undisturbed[name])
    smooth = train(tiny_digits, tmp_path / "run", **{"quantized.label_smoothing": 0})[name]
    assert not torch.equal(smooth, undisturbed[name])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="torch sees no GPU here"):
        PipelineRun(SearchSpace.load("digits"), None, tmp_path / "run", device="cuda")
    assert not (tmp_path / "run").exists()
    assert PipelineRun(SearchSpace.load("digits"), None, tmp_path / "run", device="auto").device == "cpu"
