"""One objective for Optuna and Ray Tune: what it reports, how it fails, how trainings go on."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from apq_tune import (
    APQObjective,
    Candidate,
    Constraint,
    FunctionMetric,
    NetworkEncoding,
    Objective,
    Problem,
    ProblemError,
    QATLoss,
    SearchSpace,
    SupernetLoss,
    TrainedSupernet,
    load_run,
)
from apq_tune.cost import bit_ops, weight_bytes
from apq_tune.data import load_data
from apq_tune.errors import RunError
from apq_tune.problem.metric import reported_name
from apq_tune.store.directory import RunDirectory
from apq_tune.supernet.evaluate import calibrate_quantizers
from apq_tune.supernet.network import Supernet
from apq_tune.supernet.train import Training

optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.fixture(scope="module")
def cheap() -> Problem:
    encoding = NetworkEncoding(SearchSpace.load("digits"))
    ops = bit_ops(encoding)
    return Problem(encoding, [Objective(weight_bytes(encoding), "maximize"), Objective(ops)], [Constraint(ops, 1.2e7)])


@pytest.fixture(scope="module")
def supernet() -> TrainedSupernet:
    """Hardly trained: its losses differ, which is all that these tests need."""
    import torch

    torch.manual_seed(0)
    space = SearchSpace.load("digits")
    encoding, data = NetworkEncoding(space), load_data(space)
    network = Supernet(space)
    images = torch.from_numpy(data.train.images[:64])
    calibrate_quantizers(network, [lambda: network.recalibrate(images, encoding.extremes()[1])])
    return TrainedSupernet(space, network.state_dict(), data, 64)


def tiny_qat(supernet: TrainedSupernet, epochs: int = 3) -> QATLoss:
    return QATLoss(supernet, Training(epochs=epochs, batch_size=64, learning_rate=2e-3))


def test_a_study_gets_values_constraints_and_what_was_done(cheap: Problem) -> None:
    objective = APQObjective(cheap)
    study = optuna.create_study(
        directions=objective.directions, sampler=optuna.samplers.NSGAIISampler(population_size=10, seed=0)
    )
    study.optimize(objective, n_trials=40)
    for trial in study.trials:
        candidate = Candidate.from_json(trial.user_attrs["candidate"])
        genome = cheap.encoding.encode([candidate])
        size, ops = (metric(genome)[0] for metric in cheap.metrics)
        assert trial.values == [size, ops]
        assert (trial.user_attrs["weight_bytes"], trial.user_attrs["bit_ops"]) == (size, ops)
        assert trial.user_attrs["violation_bit_ops_max"] == pytest.approx(ops / 1.2e7 - 1)
        assert trial.user_attrs["violation"] == max(0.0, trial.user_attrs["violation_bit_ops_max"])
        assert cheap.encoding.space.from_config(trial.params) == candidate
    assert any(trial.user_attrs["violation"] > 0 for trial in study.trials)
    assert all(trial.values[1] <= 1.2e7 for trial in study.best_trials)  # Optuna knows the constraint


def test_a_study_in_the_wrong_direction_is_refused(cheap: Problem) -> None:
    study = optuna.create_study(directions=["minimize", "minimize"])
    with pytest.raises(ProblemError, match=r"directions are \['minimize', 'minimize'\], the problem's \['maximize'"):
        study.optimize(APQObjective(cheap), n_trials=1)


def test_a_metric_that_is_nan_fails_the_trial_with_its_reason_and_the_study_goes_on() -> None:
    space = SearchSpace.from_choices({"x": list(range(10))})
    odd = FunctionMetric("root", "", lambda genomes: np.where(genomes[:, 0] % 2, np.nan, genomes[:, 0]).astype(float))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(APQObjective(Problem(space, [Objective(odd)])), n_trials=30)
    states = {trial.params["x"] % 2: trial.state for trial in study.trials}
    assert states == {0: optuna.trial.TrialState.COMPLETE, 1: optuna.trial.TrialState.FAIL}
    failed = next(t for t in study.trials if t.state == optuna.trial.TrialState.FAIL)
    assert failed.user_attrs["reason"] == f"root is nan for candidate x={failed.params['x']}; it must be finite"


def test_names_of_metrics_have_their_units() -> None:
    def name(metric: str, unit: str) -> str:
        return reported_name(FunctionMetric(metric, unit, len))  # type: ignore[arg-type]

    assert name("loss", "nats") == "loss_nats"
    assert name("latency_ms", "ms") == "latency_ms"
    assert name("bit_ops", "BitOps") == "bit_ops"
    assert name("accuracy", "fraction") == "accuracy"


def test_supernet_loss_is_not_asked_of_candidates_that_break_a_constraint(supernet: TrainedSupernet) -> None:
    encoding = NetworkEncoding(supernet.space)
    ops = bit_ops(encoding)
    problem = Problem(encoding, [Objective(SupernetLoss(supernet))], [Constraint(ops, 1e7)])
    objective = APQObjective(problem)
    smallest, largest = encoding.extremes()
    refused = objective.evaluate(largest)
    assert refused["loss_nats"] == np.inf
    assert refused["violation"] > 0
    assert refused["fidelity"] == "not run: breaks a constraint"
    kept = objective.evaluate(smallest.with_bits(4))
    assert 0 < kept["loss_nats"] < 100
    assert kept["fidelity"] == "quantized supernet"
    full = SupernetLoss(supernet, quantize=False)(encoding.encode([smallest.with_bits(2), smallest.with_bits(8)]))
    assert full[0] == full[1]  # full precision knows no bits
    bits = SupernetLoss(supernet)(encoding.encode([smallest.with_bits(2), smallest.with_bits(8)]))
    assert bits[0] != bits[1]


@pytest.mark.slow
def test_a_training_that_goes_on_from_a_checkpoint_equals_one_that_never_stopped(supernet: TrainedSupernet) -> None:
    candidate = NetworkEncoding(supernet.space).extremes()[0].with_bits(4)
    steps: list[tuple[int, dict[str, float], bytes]] = []
    tiny_qat(supernet).train(candidate, lambda epoch, scores, state: steps.append((epoch, dict(scores), state())))
    assert [epoch for epoch, _, _ in steps] == [1, 2, 3]
    again: list[tuple[int, dict[str, float]]] = []
    tiny_qat(supernet).train(candidate, lambda epoch, scores, _: again.append((epoch, dict(scores))), steps[0][2])
    assert again == [(epoch, scores) for epoch, scores, _ in steps[1:]]
    last: list[dict[str, float]] = []
    tiny_qat(supernet).train(candidate, lambda _, scores, __: last.append(dict(scores)), steps[2][2])
    assert last == [steps[2][1]]  # done already: told once more
    with pytest.raises(RunError, match="cannot be read"):
        tiny_qat(supernet).train(candidate, lambda *_: None, b"broken")


@pytest.mark.slow
def test_a_pruner_ends_trainings_and_settings_come_from_the_trial(supernet: TrainedSupernet) -> None:
    problem = Problem(NetworkEncoding(supernet.space), [Objective(tiny_qat(supernet))])
    objective = APQObjective(problem)

    def with_rate(trial: optuna.Trial) -> Any:
        trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
        return objective(trial)

    pruner = optuna.pruners.ThresholdPruner(upper=0.0, n_warmup_steps=1)  # everything is too bad
    study = optuna.create_study(pruner=pruner, sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(with_rate, n_trials=1)
    assert study.trials[0].state == optuna.trial.TrialState.PRUNED
    assert list(study.trials[0].intermediate_values) == [1]
    losses = []
    for rate in (1e-9, 3e-3):
        seen: list[dict[str, Any]] = []
        candidate = NetworkEncoding(supernet.space).extremes()[0]
        objective.evaluate(candidate, {"learning_rate": rate}, lambda _, metrics, __, to=seen: to.append(metrics))
        assert [metrics["epoch"] for metrics in seen] == [1, 2, 3]
        assert {"loss_nats", "accuracy", "candidate", "seconds", "violation"} <= set(seen[-1])
        assert seen[-1]["fidelity"] == "QAT, 3 epochs"
        losses.append(seen[-1]["loss_nats"])
    assert losses[1] < 0.95 * losses[0]


def test_at_most_one_metric_trains_and_it_is_an_objective(supernet: TrainedSupernet) -> None:
    space, ops = supernet.space, bit_ops(NetworkEncoding(supernet.space))
    with pytest.raises(ProblemError, match="loss: give at most one metric that trains, as an objective"):
        APQObjective(Problem(space, [Objective(ops)], also=[tiny_qat(supernet)]))


def test_without_ray_it_pickles_by_value(supernet: TrainedSupernet) -> None:
    problem = Problem(NetworkEncoding(supernet.space), [Objective(SupernetLoss(supernet))])
    again = pickle.loads(pickle.dumps(APQObjective(problem)))
    candidate = NetworkEncoding(supernet.space).extremes()[0]
    first, second = (objective.evaluate(candidate) for objective in (APQObjective(problem), again))
    assert first["loss_nats"] == second["loss_nats"]


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run directory; make one with"):
        load_run(tmp_path)
    RunDirectory(tmp_path, SearchSpace.load("digits"), {}, "")
    with pytest.raises(RunError, match="its stage supernet is not done; go on with"):
        load_run(tmp_path)
