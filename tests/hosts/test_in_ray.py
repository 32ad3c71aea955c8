"""``APQObjective`` and ``ApqSearch`` inside Ray Tune: results, failures, deaths and trackers."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray import cloudpickle, tune
from ray.tune.schedulers import AsyncHyperBandScheduler

from apq_tune import (
    APQObjective,
    ApqSearch,
    Constraint,
    FunctionMetric,
    NetworkEncoding,
    Objective,
    Problem,
    QATLoss,
    SearchSpace,
    TrainedSupernet,
)
from apq_tune.cost import bit_ops, weight_bytes
from apq_tune.data import load_data
from apq_tune.hosts.ray import cluster
from apq_tune.supernet.evaluate import calibrate_quantizers
from apq_tune.supernet.network import Supernet
from apq_tune.supernet.train import Training

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def hardly_trained() -> TrainedSupernet:
    torch.manual_seed(0)
    space = SearchSpace.load("digits")
    encoding, data = NetworkEncoding(space), load_data(space)
    network = Supernet(space)
    images = torch.from_numpy(data.train.images[:64])
    calibrate_quantizers(network, [lambda: network.recalibrate(images, encoding.extremes()[1])])
    return TrainedSupernet(space, network.state_dict(), data, 64)


@pytest.fixture(scope="module")
def supernet() -> TrainedSupernet:
    return hardly_trained()


@pytest.fixture(scope="module", autouse=True)
def two_processors() -> Iterator[None]:
    with cluster(None, 2):
        yield


@dataclasses.dataclass(frozen=True)
class KillsItsWorker(QATLoss):
    """Writes down each epoch, and kills its own process when the second one is done for the first time."""

    folder: str = ""

    def train(self, candidate: Any, report: Any, checkpoint: bytes | None = None) -> None:
        def watched(epoch: int, scores: Any, state: Any) -> None:
            with Path(self.folder, "epochs").open("a") as file:
                file.write(f"{epoch} ")
            if epoch == 2 and not Path(self.folder, "killed").exists():
                Path(self.folder, "killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            report(epoch, scores, state)

        super().train(candidate, watched, checkpoint)


def run_config(path: Path, **more: Any) -> tune.RunConfig:
    return tune.RunConfig(name="tuned", storage_path=str(path), verbose=0, **more)


def test_tune_run_with_our_search_reports_everything_and_keeps_the_constraint(
    supernet: TrainedSupernet, tmp_path: Path
) -> None:
    encoding = NetworkEncoding(supernet.space)
    ops = bit_ops(encoding)
    problem = Problem(encoding, [Objective(weight_bytes(encoding), "maximize"), Objective(ops)], [Constraint(ops, 1e7)])
    search = ApqSearch(problem, seed=1)
    analysis = tune.run(
        APQObjective(problem),
        config=supernet.space.to_tune() | {"note": "mine"},
        search_alg=search,
        num_samples=8,
        storage_path=str(tmp_path),
        reuse_actors=True,
        verbose=0,
    )
    frame = analysis.results_df
    assert len(frame) == 8
    assert frame["candidate"].nunique() == 8
    assert {"weight_bytes", "bit_ops", "violation_bit_ops_max", "violation", "fidelity", "seconds"} <= set(frame)
    assert set(search.to_dataframe()["candidate"]) == set(frame["candidate"])
    kept = frame[frame["violation"] == 0]
    assert {c.to_json() for c in search.front().candidates} <= set(kept["candidate"])
    assert (kept["bit_ops"] <= 1e7).all()


def test_the_trainable_is_small_whatever_the_supernet_weighs(supernet: TrainedSupernet) -> None:
    problem = Problem(NetworkEncoding(supernet.space), [Objective(QATLoss(supernet))])
    assert len(cloudpickle.dumps(problem)) > 200_000
    objective = APQObjective(problem)
    pickled = cloudpickle.dumps(objective)
    assert len(pickled) < 1000
    again = cloudpickle.loads(pickled)
    assert again.problem.encoding.space == supernet.space
    assert again.directions == ["minimize"]


def test_a_trial_that_raises_and_one_that_gives_nan_fail_with_their_reasons_and_the_others_go_on(
    tmp_path: Path,
) -> None:
    space = SearchSpace.from_choices({"x": list(range(8))})

    def fragile(genomes: np.ndarray) -> np.ndarray:
        if (genomes == 3).any():
            raise ZeroDivisionError("the oven is broken")
        return np.where(genomes[:, 0] == 5, np.nan, genomes[:, 0]).astype(float)

    problem = Problem(space, [Objective(FunctionMetric("heat", "", fragile))])
    search = ApqSearch(problem, max_concurrent=2)
    tuner = tune.Tuner(
        APQObjective(problem),
        param_space=space.to_tune(),
        tune_config=tune.TuneConfig(search_alg=search, num_samples=8, reuse_actors=True),
        run_config=run_config(tmp_path),
    )
    results = tuner.fit()
    assert len(results) == 8
    assert results.num_errors == 2
    said = {results[i].config["x"]: str(results[i].error) for i in range(8) if results[i].error}
    assert "the oven is broken" in said[3]
    assert "heat is nan for candidate x=5; it must be finite" in said[5]
    states = {
        trial.params["x"]: trial.state.name for trial in search.study.trials if "duplicate" not in trial.user_attrs
    }
    assert states == {x: "FAIL" if x in (3, 5) else "COMPLETE" for x in range(8)}
    assert search.front().metrics["heat"].tolist() == [0.0]


def test_a_worker_killed_in_the_middle_of_qat_goes_on_from_its_last_epoch(
    supernet: TrainedSupernet, tmp_path: Path
) -> None:
    training = Training(epochs=4, batch_size=64, learning_rate=2e-3, images=256)
    metric = KillsItsWorker(supernet, training, folder=str(tmp_path))
    candidate = NetworkEncoding(supernet.space).extremes()[0].with_bits(4)
    tuner = tune.Tuner(
        APQObjective(Problem(supernet.space, [Objective(metric)])),
        param_space=supernet.space.to_config(candidate),
        run_config=run_config(tmp_path, failure_config=tune.FailureConfig(max_failures=1)),
    )
    (result,) = tuner.fit()
    assert result.error is None
    assert (tmp_path / "epochs").read_text().split() == ["1", "2", "2", "3", "4"]  # 2 was done and not yet reported
    undisturbed = APQObjective(Problem(supernet.space, [Objective(QATLoss(supernet, training))])).evaluate(candidate)
    assert result.metrics["loss_nats"] == undisturbed["loss_nats"]
    assert result.metrics["fidelity"] == "QAT, 4 epochs"


def test_a_scheduler_stops_trainings_and_the_study_calls_them_pruned(supernet: TrainedSupernet, tmp_path: Path) -> None:
    metric = QATLoss(supernet, Training(epochs=3, batch_size=64, learning_rate=2e-3, images=256))
    problem = Problem(supernet.space, [Objective(metric)])
    search = ApqSearch(problem, max_concurrent=2)
    scheduler = AsyncHyperBandScheduler(
        time_attr="epoch", metric="loss_nats", mode="min", grace_period=1, max_t=3, reduction_factor=2
    )
    tuner = tune.Tuner(
        APQObjective(problem),
        param_space=supernet.space.to_tune() | {"learning_rate": tune.loguniform(1e-4, 1e-2)},
        tune_config=tune.TuneConfig(search_alg=search, scheduler=scheduler, num_samples=8, reuse_actors=True),
        run_config=run_config(tmp_path),
    )
    results = tuner.fit()
    epochs = {results[i].metrics["candidate"]: results[i].metrics["epoch"] for i in range(8)}
    frame = search.to_dataframe()
    assert {row.candidate: row.epoch for row in frame.itertuples()} == epochs
    assert dict(zip(frame["epoch"] == 3, frame["state"], strict=True)) == {True: "COMPLETE", False: "PRUNED"}
    assert frame["learning_rate"].between(1e-4, 1e-2).all()
    assert frame["learning_rate"].nunique() == 8


def events(path: Path) -> Iterator[Any]:
    """TensorBoard's records: length, its checksum, the event, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    content, at = path.read_bytes(), 0
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        yield Event.FromString(content[at + 12 : at + 12 + length])
        at += 16 + length


def test_tensorboard_files_hold_our_metrics(supernet: TrainedSupernet, tmp_path: Path) -> None:
    metric = QATLoss(supernet, Training(epochs=2, batch_size=64, learning_rate=2e-3, images=256))
    encoding = NetworkEncoding(supernet.space)
    ops = bit_ops(encoding)
    candidate = encoding.extremes()[0]
    tuner = tune.Tuner(
        APQObjective(Problem(encoding, [Objective(metric), Objective(ops)])),
        param_space=supernet.space.to_config(candidate),
        run_config=run_config(tmp_path),
    )
    tuner.fit()
    (file,) = tmp_path.rglob("events.out.tfevents*")
    seen: dict[str, list[float]] = {}
    for event in events(file):
        for value in event.summary.value:
            seen.setdefault(value.tag, []).append(value.simple_value)
    assert len(seen["ray/tune/loss_nats"]) == 2
    assert len(seen["ray/tune/accuracy"]) == 2
    assert seen["ray/tune/bit_ops"] == pytest.approx([float(ops(encoding.encode([candidate]))[0])] * 2)


DRIVER = """
import sys
sys.path.insert(0, {tests!r})
from test_in_ray import *

def main(path):
    with cluster(None, 1):
        supernet = hardly_trained()
        problem = Problem(supernet.space, [Objective(QATLoss(supernet, Training(2, 64, 2e-3, images=256)))])
        objective, folder = APQObjective(problem), path / "tuned"
        if tune.Tuner.can_restore(str(folder)):
            tuner = tune.Tuner.restore(str(folder), objective, resume_errored=True)
        else:
            tuner = tune.Tuner(
                objective,
                param_space=supernet.space.to_tune(),
                tune_config=tune.TuneConfig(
                    search_alg=ApqSearch(problem, max_concurrent=1, seed=2), num_samples=4, reuse_actors=True
                ),
                run_config=run_config(path),
            )
        results = tuner.fit()
        print(len(results), results.num_errors)
        for result in results:
            print(result.metrics["candidate"], result.metrics["loss_nats"], result.metrics["epoch"])

main(Path(sys.argv[1]))
"""


def finished_trials(path: Path) -> list[Path]:
    """Results of the trials that Tune has written down as finished."""
    states = list(path.rglob("experiment_state-*.json"))
    if not states:
        return []
    try:
        trials = [json.loads(trial) for trial, _ in json.loads(states[0].read_text())["trial_data"]]
    except ValueError:  # it is being written
        return []
    done = [trial["trial_id"] for trial in trials if trial["status"] == "TERMINATED"]
    return [file for file in path.rglob("result.json") if any(name in file.parent.name for name in done)]


def test_a_driver_killed_in_qat_is_restored_and_nothing_finished_is_done_again(tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(DRIVER.format(tests=str(Path(__file__).parent)))
    environment = os.environ | {"TUNE_GLOBAL_CHECKPOINT_S": "0"}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, str(script), str(tmp_path / "runs")]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(finished_trials(tmp_path)) < 2:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = {file: file.read_text() for file in finished_trials(tmp_path)}
    assert len(before) >= 2
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=240)
    head, *rows = done.stdout.strip().splitlines()[-5:]
    assert head == "4 0"
    assert all(row.endswith(" 2") for row in rows)
    assert len({row.rsplit(" ", 2)[0] for row in rows}) == 4
    for file, content in before.items():
        assert file.read_text() == content
