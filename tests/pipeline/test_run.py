"""The whole command, killed and resumed, on settings that make it quick."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import pandas as pd
import pytest
from click.testing import CliRunner

from apq_tune.cli import cli
from apq_tune.pipeline import finished, run
from apq_tune.predict import Form
from apq_tune.problem.front import Front
from apq_tune.report.progress import RichListener
from apq_tune.space.candidate import Candidate

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("serial")]

QUICK = {
    "supernet.epochs": 2,
    "supernet.images": 256,
    "quantized.epochs": 1,
    "quantized.images": 256,
    "n_fp32": 12,
    "n_proxy": 12,
    "batch": 6,
    "n_pairs": 10,
    "pair.images": 64,
    "folds": 2,
    "final.epochs": 1,
    "final.images": 128,
    "n_evaluations": 1000,
    "n_front": 2,
    "n_calibration": 64,
    "n_search": 100,
}
STAGES = [
    "1_supernet",
    "2_quantized_supernet",
    "3_fp32_losses",
    "4_proxy_losses",
    "5_qat_pairs",
    "6_fp32_predictor",
    "7_predictors",
    "8_search",
    "9_finalists",
    "10_raised",
]


def command(out, num_cpus=1, **changes):
    settings = [f"--set={name}={value}" for name, value in (QUICK | changes).items()]
    program = str(Path(sys.executable).with_name("apq-tune"))
    return [program, "run", "digits", "--seed=3", f"--out={out}", f"--num-cpus={num_cpus}", *settings]


def run_here(out, **changes):
    """The same in this process."""
    return CliRunner().invoke(cli, command(out, **changes)[1:])


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    result = subprocess.run(command(out, num_cpus=2), capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    return out, result


def test_a_run_leaves_the_table_the_picture_and_every_stages_product(undisturbed):
    out, result = undisturbed
    assert "largest_8bit" in result.stdout
    assert "transferred" in result.stdout
    assert result.stderr == ""
    assert (out / "front.png").read_bytes().startswith(b"\x89PNG")
    table = pd.read_csv(out / "results.csv")
    assert {"largest_8bit", "largest_4bit", "best"} <= set(table["name"])
    assert table["test_accuracy"].between(0, 1).all()
    limit = 0.25 * table["bit_ops"].max()
    assert table.set_index("name").loc["best", "bit_ops"] <= limit
    rivals = json.loads((out / "8_search" / "rivals.json").read_text())
    assert set(rivals) == {"uniform", "staged"}
    for rival in rivals.values():  # a row of their own, or found by another search as well
        assert Candidate.from_dict(rival).to_json() in set(table["candidate_json"])
        assert table.set_index("candidate_json").loc[Candidate.from_dict(rival).to_json(), "bit_ops"] <= limit
    assert len({bits for key in ("pw_w", "pw_a", "dw_w", "dw_a") for bits in rivals["uniform"][f"{key}_bits"]}) == 1
    assert table["candidate_json"].is_unique
    chosen = table[table["feasible"]].nsmallest(1, "search_loss")["name"].item()
    assert table.query("chosen")["name"].tolist() == [chosen]
    assert f"Chosen: {chosen}, with the least loss" in result.stdout
    assert (out / "best.pt").read_bytes() == (out / "9_finalists" / f"{chosen}.pt").read_bytes()
    assert json.loads((out / "best.json").read_text())["name"] == chosen
    assert (table.loc[~table["name"].str.startswith("largest"), "bit_ops"] <= limit).all()  # all may be chosen
    assert table["feasible"].sum() >= 4
    front = Front.load(out / "front.json")
    assert len(front) > 3
    assert front.provenance["n_evaluations"] == QUICK["n_evaluations"]
    for stage in STAGES:
        record = json.loads((out / stage / "stage.json").read_text())
        assert record["status"] == "done"
        assert not (out / stage / "work").exists()
    summary = json.loads((out / "summary.json").read_text())
    assert set(summary["predictors"]["held_out"]) == set(get_args(Form))
    assert summary["predictors"]["held_out"]["mean"]["n"] == QUICK["n_pairs"]
    run_record = json.loads((out / "run.json").read_text())
    assert run_record["settings"]["seed"] == 3
    assert "torch" in run_record["versions"]
    assert "apq-tune run digits" in run_record["command"]


def test_the_report_is_written_and_written_again_without_images(undisturbed, tmp_path, monkeypatch):
    out, result = undisturbed
    assert f"Report: {out / 'report.html'} (also candidates.csv, study.log)" in result.stdout
    table = pd.read_csv(out / "results.csv", index_col="name")
    page = (out / "report.html").read_text("utf-8")
    chosen = table.index[table["chosen"]].item()
    accuracy = table.loc[chosen, "test_accuracy"]
    assert f"{chosen} fits: bit_ops" in page
    assert f"{100 * accuracy:.1f}% of the test images ({round(450 * accuracy)} of 450;" in page
    assert "898 to train on, 449 for every choice, 450 to report on" in page
    listed = pd.read_csv(out / "candidates.csv")
    n_front = sum(len(json.loads((out / "8_search" / f"{n}.json").read_text())["candidates"]) for n in SEARCHES)
    assert len(listed) == len(table) + QUICK["n_pairs"] + QUICK["n_proxy"] + QUICK["n_fp32"] + n_front
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    (copy / "report.html").unlink()
    for module in (finished, run):  # both imported before: one that is imported under the patch would keep it
        monkeypatch.setattr(module, "load_data", None)
    again = CliRunner().invoke(cli, ["report", str(copy)])
    assert again.exit_code == 0, again.output
    assert (copy / "report.html").read_text("utf-8") == page.replace(str(out), str(copy), page.count(str(out)) - 1)


SEARCHES = ("best", "front", "random")
INTERRUPTED = {"supernet": 1, "proxy_losses": 6, "search": 1}
"""One stage of each kind, and how much of it is done by then."""


def test_interrupted_in_stages_of_every_kind_and_killed_it_ends_with_the_same_front(undisturbed, tmp_path):
    out = tmp_path / "interrupted"
    for stage, done in INTERRUPTED.items():
        interrupt_in(out, stage, done)
    kill_in(out, "9_finalists")
    result = run_here(out)
    assert result.exit_code == 0, result.output
    same_results(out, undisturbed[0])


def same_results(out, expected):
    for name in (
        "results.csv",
        "front.json",
        "best.json",
        "best.pt",
        "8_search/best.json",
        "3_fp32_losses/losses.csv",
        "5_qat_pairs/losses.csv",
    ):
        assert (out / name).read_bytes() == (expected / name).read_bytes(), name


def interrupt_in(out, stage, done):
    """The command in this process, with Ctrl-C when so much of a stage is done."""

    def advance(listener, name, now, total):
        if name == stage and now >= done:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RichListener, "advance", advance)
        result = run_here(out)
    assert result.exit_code == 130
    assert "interrupted; the same command goes on where it stopped" in result.output
    assert "Traceback" not in result.output
    (folder,) = out.glob(f"*_{stage}")
    assert json.loads((folder / "stage.json").read_text())["status"] == "started"


def kill_in(out, stage):
    """The command as users start it, killed without warning when one part of ``stage`` is done."""
    process = subprocess.Popen(command(out), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list((out / stage).glob("items/*.json")):
        time.sleep(0.002)
    process.kill()
    said = process.communicate(timeout=60)[1]
    assert process.returncode == -signal.SIGKILL, f"ended before {stage} was reached: {said}"
    assert said == ""
    assert json.loads((out / stage / "stage.json").read_text())["status"] == "started"


@pytest.mark.ray
def test_ray_comes_to_the_same_results(undisturbed, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(undisturbed[0], out)
    for folder in ("5_qat_pairs", "8_search", "9_finalists"):
        shutil.rmtree(out / folder)
    result = subprocess.run(
        [*command(out, num_cpus=2), "--executor=ray"], capture_output=True, text=True, check=False, timeout=300
    )
    assert (result.returncode, result.stderr) == (0, "")
    same_results(out, undisturbed[0])


def test_a_changed_setting_redoes_what_depends_on_it_and_says_so(undisturbed, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(undisturbed[0], out)
    result = run_here(out, n_front=1)
    assert result.exit_code == 0, result.output
    lines = {line.split("]")[0][1:]: line for line in result.stdout.splitlines() if line.startswith("[")}
    assert all("already done" in lines[f"{number}/10"] for number in range(1, 9))
    assert "done again: n_front 2 -> 1" in lines["9/10"]
    assert "done again: stage finalists changed" in lines["10/10"]


def test_a_damaged_checkpoint_is_one_line_and_loses_nothing(undisturbed, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(undisturbed[0], out)
    weights = out / "2_quantized_supernet" / "weights.pt"
    weights.write_bytes(weights.read_bytes()[:1000])
    shutil.rmtree(out / "9_finalists")
    said = str(run_here(out).exception)
    assert "\n" not in said
    assert "weights.pt: is damaged (its content is not what was written); delete it, the same" in said
    assert (out / "8_search" / "front.json").exists()
