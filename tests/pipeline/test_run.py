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

from apq_tune.predict import Form
from apq_tune.problem.front import Front
from apq_tune.space.candidate import Candidate

pytestmark = [pytest.mark.ray, pytest.mark.slow]

QUICK = {
    "supernet.epochs": 6,
    "quantized.epochs": 4,
    "n_fp32": 24,
    "n_proxy": 24,
    "batch": 6,
    "n_pairs": 12,
    "final.epochs": 1,
    "n_evaluations": 2000,
    "n_front": 2,
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
]


def command(out, num_cpus=1, **changes):
    """One process at a time unless more are asked for: each has to be started in every stage, and results are equal."""
    settings = [f"--set={name}={value}" for name, value in (QUICK | changes).items()]
    program = str(Path(sys.executable).with_name("apq-tune"))
    return [program, "run", "digits", "--seed=3", f"--out={out}", f"--num-cpus={num_cpus}", *settings]


def run(out, num_cpus=1, **changes):
    return subprocess.run(command(out, num_cpus, **changes), capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    result = run(out, num_cpus=2)
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


INTERRUPTED = {
    "1_supernet": signal.SIGKILL,
    "4_proxy_losses": signal.SIGINT,  # Ctrl-C
    "8_search": signal.SIGKILL,
}
"""One stage of each kind; each start of the command takes seconds."""


def test_killed_in_stages_of_every_kind_the_same_command_ends_with_the_same_front(undisturbed, tmp_path):
    out = tmp_path / "killed"
    for stage, number in INTERRUPTED.items():
        interrupt_in(out, stage, number)
    result = run(out)
    assert result.returncode == 0, result.stderr
    expected = undisturbed[0]
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


def interrupt_in(out, stage, number):
    """Start the command and send it a signal inside ``stage``, which was then begun and is not done."""
    process = subprocess.Popen(
        command(out),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test run in the background ignores it
    )
    parts = {"1": "checkpoint.pt", "8": "*.json"}.get(stage[0], "items/*.json")
    wanted = 2 if stage[0] == "8" else 1  # stage.json is there from the start
    while process.poll() is None and len(list((out / stage).glob(parts))) < wanted:
        time.sleep(0.002)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "interrupted; the same command goes on where it stopped" in said
        assert "Traceback" not in said
    else:
        assert process.returncode == -number, f"ended before {stage} was reached"
    assert json.loads((out / stage / "stage.json").read_text())["status"] == "started"


def test_a_changed_setting_redoes_what_depends_on_it_and_says_so(undisturbed, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(undisturbed[0], out)
    result = run(out, n_front=1)
    assert result.returncode == 0, result.stderr
    lines = {line.split("]")[0][1:]: line for line in result.stdout.splitlines() if line.startswith("[")}
    assert all("already done" in lines[f"{number}/9"] for number in range(1, 9))
    assert "done again: n_front 2 -> 1" in lines["9/9"]


def test_a_damaged_checkpoint_is_one_line_and_loses_nothing(undisturbed, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(undisturbed[0], out)
    weights = out / "2_quantized_supernet" / "weights.pt"
    weights.write_bytes(weights.read_bytes()[:1000])
    shutil.rmtree(out / "9_finalists")
    result = run(out)
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1
    assert "weights.pt: is damaged (its content is not what was written); delete it, the same" in result.stderr
    assert (out / "8_search" / "front.json").exists()
