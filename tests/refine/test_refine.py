"""The whole command on a tiny run: what it leaves, killed and resumed, and what it refuses."""

from __future__ import annotations

import gc
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result

from apq_tune import ApqError, Candidate, Front, NetworkEncoding, SearchSpace, load_run
from apq_tune.cli import cli
from apq_tune.cost import bit_ops
from apq_tune.errors import RunError
from apq_tune.pipeline.run import PipelineRun
from apq_tune.pipeline.settings import RunSettings
from apq_tune.refine.refine import Refinement
from apq_tune.refine.settings import RefineSettings, training_of
from apq_tune.store.digests import read_record, write_record
from apq_tune.supernet.evaluate import score

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("serial")]

RUN = {
    "supernet.epochs": 1,
    "supernet.images": 256,
    "quantized.epochs": 1,
    "quantized.images": 256,
    "n_fp32": 10,
    "n_proxy": 10,
    "batch": 20,
    "n_pairs": 12,
    "pair.images": 128,
    "folds": 2,
    "final.epochs": 2,
    "final.images": 128,
    "n_evaluations": 200,
    "n_calibration": 64,
    "n_search": 100,
}
REFINE = ["--rounds=2", "--batch=4", "--epochs=1", "--final-epochs=2", "--seed=5", "--num-cpus=2"]
PROGRAM = str(Path(sys.executable).with_name("apq-tune"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As far as its predictors: a refinement needs no more."""
    out = tmp_path_factory.mktemp("run") / "digits"
    PipelineRun(SearchSpace.load("digits"), RunSettings().updated(RUN), out, num_cpus=1).run_until("predictors")
    return out


def arguments(run: Path, out: Path, *changes: str) -> list[str]:
    return ["refine", str(run), f"--out={out}", *REFINE, *changes]


def refine(run: Path, out: Path, *changes: str) -> Result:
    """The command in this process."""
    return CliRunner().invoke(cli, arguments(run, out, *changes), env={"COLUMNS": "250"})


@pytest.fixture(scope="module")
def undisturbed(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    out = tmp_path_factory.mktemp("refined") / "out"
    command = [PROGRAM, *arguments(run, out)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    return out, result


def test_every_result_states_its_fidelity_and_only_the_longest_training_decides(run: Path, undisturbed) -> None:
    out, result = undisturbed
    table = pd.read_csv(out / "results.csv")
    assert table["stage"].tolist() == ["round 1"] * 4 + ["round 2"] * 4 + ["rung 2"] * 4
    assert table["epochs"].tolist() == [1] * 8 + [2] * 4
    assert (table["fidelity"] == "QAT, " + table["epochs"].astype(str) + " epochs").all()
    rounds, final = table[table["epochs"] == 1], table[table["epochs"] == 2]
    assert rounds["candidate_json"].nunique() == 8  # nothing is trained twice at one length
    of_run = pd.read_csv(run / "5_qat_pairs" / "losses.csv")["candidate"]  # of the same training
    assert not set(rounds["candidate_json"]) & set(of_run)
    assert rounds["test_loss"].isna().all()
    assert final["test_accuracy"].between(0, 1).all()
    limit = 0.25 * bit_ops(NetworkEncoding(load_run(run).space)).reachable()[1]
    assert (table["bit_ops"] <= limit).all()
    uniform = rounds[rounds["uniform"]]
    assert {json.loads(text)["pw_w_bits"][0] for text in uniform["candidate_json"]} >= {2, 4}
    assert set(rounds.nsmallest(3, "search_loss")["name"]) <= set(final["name"])
    assert uniform.nsmallest(1, "search_loss")["name"].item() in set(final["name"])
    (staged,) = rounds[rounds["found"] == "staged"]["name"]
    assert staged in set(final["name"])
    assert "staged" in result.stdout
    best = final.loc[final["search_loss"].idxmin()]
    assert f"Chosen: {best['name']}, with the least loss on search images of the 4 of 4" in result.stdout
    assert f"loss {best['search_loss']:.4f}" in result.stdout
    assert re.search(r"bit_ops [\d.]+ M BitOps: \d+% of the limit <= 14.66 M BitOps", result.stdout)
    assert table["feasible"].all()
    assert table.loc[table["chosen"], "name"].tolist() == [best["name"]]
    assert table.loc[table["chosen"], "epochs"].tolist() == [2]
    assert json.loads((out / "best.json").read_text())["name"] == best["name"]
    front = Front.load(out / "front.json")
    assert front.candidates[0].to_json() == best["candidate_json"]
    assert front.provenance["fidelity"] == "QAT, 2 epochs"
    assert (out / "front.png").read_bytes().startswith(b"\x89PNG")


def test_a_report_has_all_rounds_and_a_run_without_finalists_has_none(run: Path, undisturbed, tmp_path) -> None:
    out, result = undisturbed
    assert f"Report: {out / 'report.html'}" in result.stdout
    listed = pd.read_csv(out / "candidates.csv")
    kinds = {"trained in full (QAT, 2 epochs)": 4, "round 1 (QAT, 1 epochs)": 4, "round 2 (QAT, 1 epochs)": 4}
    assert listed["stage"].value_counts().to_dict() == kinds
    table = pd.read_csv(out / "results.csv")
    page = (out / "report.html").read_text("utf-8")
    assert f"{table.loc[table['chosen'], 'name'].item()} fits: bit_ops" in page
    assert "predicted loss on search images" in page
    unfinished = CliRunner().invoke(cli, ["report", str(run)])
    assert unfinished.exit_code == 1
    assert "its stage search is not done; go on with" in str(unfinished.exception)
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    assert CliRunner().invoke(cli, ["report", str(copy)]).exit_code == 0
    shutil.rmtree(copy / "rung_2")
    left = CliRunner().invoke(cli, ["report", str(copy)])
    assert "its rung 2 is not done; go on with:" in str(left.exception)
    record = read_record(copy / "round_2" / "stage.json", "")
    record["basis"]["needs"] = {"round 1": "of another round"}
    write_record(copy / "round_2" / "stage.json", record)
    of_another = CliRunner().invoke(cli, ["report", str(copy)])
    assert "its round 2 was done for another run or round; do it again with" in str(of_another.exception)


def test_the_weights_are_those_of_the_best_network(run: Path, undisturbed) -> None:
    out, _ = undisturbed
    table = pd.read_csv(out / "results.csv", dtype={"test_accuracy": str})  # to the last digit
    final = table[table["epochs"] == 2]
    best = final.loc[final["search_loss"].idxmin()]
    supernet = load_run(run).supernet
    network = supernet.subnet(Candidate.from_json(best["candidate_json"]))
    before = score(network, supernet.data.search).loss
    network.load_state_dict(torch.load(out / "best.pt", weights_only=True))
    assert score(network, supernet.data.search).loss == pytest.approx(best["search_loss"], rel=1e-6)
    assert before != pytest.approx(best["search_loss"], rel=1e-3)
    assert score(network, supernet.data.test).accuracy == float(best["test_accuracy"])


def test_interrupted_in_rounds_and_rungs_it_ends_with_the_same_bytes(run: Path, undisturbed, tmp_path: Path) -> None:
    out = tmp_path / "interrupted"
    kept: dict[Path, int] = {}

    def remember(stage: str) -> None:
        assert json.loads((out / stage / "stage.json").read_text())["status"] == "started"
        kept.update({path: path.stat().st_mtime_ns for path in out.glob("*/items/*.json")})

    def advance(listener: object, title: str, done: int, total: int) -> None:
        if title.startswith("round 2") and done:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("apq_tune.report.progress.RichListener.advance", advance)
        result = refine(run, out)
    assert result.exit_code == 130
    assert "interrupted; the same command goes on where it stopped" in result.output
    assert "Traceback" not in result.output
    remember("round_2")
    del result  # its traceback keeps the lock
    gc.collect()
    process = subprocess.Popen([PROGRAM, *arguments(run, out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list((out / "rung_2").glob("items/*.json")):
        time.sleep(0.002)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "ended before the rung was reached"
    remember("rung_2")
    result = refine(run, out)
    assert result.exit_code == 0, result.output
    for name in ("results.csv", "front.json", "best.pt"):
        assert (out / name).read_bytes() == (undisturbed[0] / name).read_bytes(), name
    assert len(kept) >= 4 + 4 + 1
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # nothing finished was done again


def test_a_longer_last_training_reuses_the_rounds_and_says_what_is_new(run: Path, undisturbed, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    shutil.copytree(undisturbed[0], out)
    result = refine(run, out, "--survivors=2")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "round 1, QAT of 1 epochs: already done" in lines[0]
    assert "round 2, QAT of 1 epochs: already done" in lines[1]
    assert "done again: survivors None -> 2" in lines[2]
    before, after = (pd.read_csv(path / "results.csv").set_index(["name", "epochs"]) for path in (undisturbed[0], out))
    assert len(after) == 8 + 2
    same = [frame.drop(columns="chosen") for frame in (after, before.loc[after.index])]
    pd.testing.assert_frame_equal(*same)  # one at a time or two, the same results
    final = after[after.index.get_level_values("epochs") == 2]
    assert after.index[after["chosen"]].tolist() == [final["search_loss"].idxmin()]


def test_fidelities_are_pooled_only_if_the_trainings_are_the_same(run: Path, tmp_path: Path) -> None:
    settings = load_run(run).settings
    assert training_of(1, settings) == settings.pair
    assert training_of(2, settings) == settings.final
    assert training_of(3, settings).learning_rate == settings.final.learning_rate
    same, longer = (
        Refinement(run, RefineSettings.checked(epochs=epochs, final_epochs=4), tmp_path / str(epochs))
        for epochs in (1, 3)
    )
    assert [len(pairs.target) for pairs in same._rungs([])] == [12]
    assert [len(pairs.target) for pairs in longer._rungs([])] == [12, 0]
    assert len(same._known([])) == 12
    assert len(longer._known([])) == 0


def refusal(*arguments: object) -> str:
    result = CliRunner().invoke(cli, ["refine", *map(str, arguments)])
    assert isinstance(result.exception, ApqError), result.output
    assert "\n" not in str(result.exception)
    return str(result.exception)


def test_what_cannot_be_done_is_refused_in_one_line(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "is not a run directory; make one with: apq-tune run" in refusal(tmp_path)
    out = f"--out={tmp_path / 'out'}"
    assert "no candidate reaches bit_ops <= 10" in refusal(run, out, "--constraint=bit_ops<=10")
    assert "unknown metric 'watts'" in refusal(run, out, "--constraint=watts<=10")
    assert "final epochs are 1, those of the rounds 2" in refusal(run, out, "--final-epochs=1")
    assert not (tmp_path / "out").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    assert "exists and is not a refinement" in refusal(run, f"--out={tmp_path / 'mine'}")
    monkeypatch.setattr("apq_tune.hosts.executor.SerialExecutor.n_gpus", 0.0)
    assert "--gpus-per-trial 1: this process has 0 GPUs" in refusal(run, out, "--gpus-per-trial=1")
    bad = CliRunner().invoke(cli, ["refine", str(run), "--rounds=0"])
    assert bad.exit_code == 2
    assert "give a whole number from 1 to 1000, got '0'" in bad.output
    with pytest.raises(RunError, match=r"setting batch: give a whole number from 1 to 10000, got 0"):
        RefineSettings.checked(batch=0)


def test_a_device_that_is_not_there_is_one_line(run: Path) -> None:
    import dataclasses

    supernet = load_run(run).supernet
    with pytest.raises(RunError, match="device is 'tpu'; give 'cpu' or 'cuda'"):
        dataclasses.replace(supernet, device="tpu")  # type: ignore[arg-type]
    if not torch.cuda.is_available():
        there = dataclasses.replace(supernet, device="cuda")  # what a process without a GPU hands to a trial with one
        candidate = NetworkEncoding(supernet.space).extremes()[0]
        with pytest.raises(RunError, match="device is 'cuda', but torch sees no GPU here"):
            there.subnet(candidate)
    assert np.isfinite(score(supernet.subnet(NetworkEncoding(supernet.space).extremes()[0]), supernet.data.search).loss)
