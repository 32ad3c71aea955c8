"""Laws of a finished run: what a stage reads it depends on, and what is told of its products is true of them."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau

from apq_tune import Candidate, Front, NetworkEncoding, load_run
from apq_tune.data import Data
from apq_tune.methods import Bench, Question, predicted
from apq_tune.methods.bench import Counts
from apq_tune.pipeline.finished import open_run
from apq_tune.pipeline.learning import read_losses
from apq_tune.pipeline.own_model import BEGIN_WITH_MODEL, ONLY_MODELS
from apq_tune.pipeline.settings import RunSettings
from apq_tune.pipeline.stages import STAGES
from apq_tune.predict.chosen import choose_form
from apq_tune.problem.costs import Costs
from apq_tune.space.gene import BIT_KINDS
from apq_tune.studies.halving import Halving
from apq_tune.supernet.qat import QATTask
from apq_tune.supernet.train import Training

pytestmark = pytest.mark.slow

WITHOUT_EFFECT = {"checkpoint_steps", "minutes"}
"""Settings that change no result, or only by changing others."""


def depends_on(name: str) -> set[str]:
    """A stage, and all whose products its own are made from."""
    needs = next(stage.needs for stage in STAGES if stage.name == name)
    return {name}.union(*map(depends_on, needs))


def test_a_stage_depends_on_every_setting_and_every_stage_that_it_reads(base) -> None:
    """Else a change of one would leave stale results that say "already done"."""
    assert base.run.is_dir()
    of_models = {stage: set(ONLY_MODELS) for stage in BEGIN_WITH_MODEL}  # recorded by runs on models of users only
    declared = {stage.name: set(stage.settings) | of_models.get(stage.name, set()) for stage in STAGES}
    assert {stage for stage, _ in base.read} == set(declared)
    for stage, name in base.read:
        if name in declared:
            assert name in depends_on(stage), f"{stage} reads {name}"
        elif name not in WITHOUT_EFFECT:
            assert any(name in declared[own] for own in depends_on(stage)), f"{stage} reads {name}"
    assert set().union(*declared.values()) == set(RunSettings.model_fields) - WITHOUT_EFFECT


def test_networks_begin_at_the_supernet_of_their_precision(base) -> None:
    assert base.run.is_dir()
    weights = {"supernet", "quantized_supernet"}
    read = {
        stage: {name for own, name in base.read if own == stage} & weights - {stage}
        for stage in depends_on("finalists")
    }
    assert {stage: names for stage, names in read.items() if names} == {
        "quantized_supernet": {"supernet"},
        "fp32_losses": {"supernet"},
        "proxy_losses": {"quantized_supernet"},
        "qat_pairs": {"quantized_supernet"},
        "finalists": {"quantized_supernet"},
    }


def test_what_is_reported_of_pairs_is_what_their_table_says(base, n_search: int) -> None:
    pairs = pd.read_csv(base.run / "5_qat_pairs" / "losses.csv")
    report = json.loads((base.run / "7_predictors" / "report.json").read_text())
    split_half = kendalltau(pairs["loss_even"], pairs["loss_odd"]).statistic
    assert report["split_half"]["qat pairs"]["kendall_tau"] == pytest.approx(split_half)
    assert split_half < 1
    error = ((1 - pairs["accuracy"]) * n_search + 0.5) / (n_search + 1)
    assert report["error_law"] == pytest.approx(np.polyfit(np.log(pairs["loss"]), np.log(error), 1).tolist())


def test_the_search_asks_the_predictor_of_qat_and_keeps_its_limit(world, data: Data, base) -> None:
    world.use(data)
    finished = load_run(base.run)
    encoding = NetworkEncoding(finished.space)
    for name in ("best", "front"):
        front = Front.load(base.run / "8_search" / f"{name}.json")
        predicted = finished.predictor(encoding.encode(list(front.candidates)))
        np.testing.assert_allclose(front.metrics["predicted_loss"], predicted, rtol=1e-6)  # float32
    table = pd.read_csv(base.run / "results.csv")
    limit = 0.5 * table.set_index("name").loc["largest_8bit", "bit_ops"]
    assert table.set_index("name").loc["best", "bit_ops"] <= limit
    assert table.set_index("name").loc["best", "bit_ops"] > 0.1 * limit


def test_the_front_of_a_refinement_is_that_of_its_longest_trainings(base) -> None:
    table = pd.read_csv(base.refine / "results.csv")
    final = table[table["epochs"] == table["epochs"].max()]
    best = {
        row.candidate_json
        for row in final.itertuples()
        if not any(
            other.search_loss <= row.search_loss and other.bit_ops <= row.bit_ops and other.Index != row.Index
            for other in final.itertuples()
        )
    }
    front = Front.load(base.refine / "front.json")
    assert [c.to_json() for c in front.candidates] == [
        row.candidate_json for row in final.sort_values("search_loss").itertuples() if row.candidate_json in best
    ]
    assert Candidate.from_json(final.loc[final["search_loss"].idxmin(), "candidate_json"]) == front.candidates[0]


def test_a_shorter_training_has_a_lower_rate_in_proportion(world, data: Data, base, monkeypatch) -> None:
    world.use(data)
    rates = {}

    def train_candidate(_supernet, task: QATTask) -> None:
        rates[task.steps] = task.training.learning_rate
        raise LookupError

    monkeypatch.setattr("apq_tune.studies.halving.train_candidate", train_candidate)
    halving = Halving(load_run(base.run).supernet, Training(epochs=1, learning_rate=0.9), (2, 18), 2, 0)
    for steps in (2, 6, 18):
        with pytest.raises(LookupError):
            halving.train(None, steps)  # type: ignore[arg-type]
    assert rates == pytest.approx({2: 0.1, 6: 0.3, 18: 0.9})


def test_the_method_of_a_comparison_is_the_search_of_a_run(
    world, data: Data, base, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a bench that knows what the stages measured and nothing else, the method finds the same best network."""
    world.use(data)
    opened = open_run(base.run, ("search",))
    own, encoding = opened.settings, NetworkEncoding(opened.space)
    known: dict[str, dict[bytes, float]] = {}
    for stage in ("fp32_losses", "proxy_losses", "qat_pairs"):
        genomes, losses = read_losses(opened.stages[stage], encoding)[0]
        genomes = encoding.at_largest(genomes, BIT_KINDS) if stage == "fp32_losses" else genomes
        known[stage] = {g.tobytes(): loss for g, loss in zip(genomes.astype(np.int16), losses, strict=True)}

    def served(name: str):
        return lambda genomes: np.array([known[name][genome.tobytes()] for genome in genomes])

    measures = {"fp32": served("fp32_losses"), "proxy": served("proxy_losses"), "short": served("qat_pairs")}
    n_proxy = len(known["fp32_losses"]) + own.n_proxy  # a repeated measurement is free
    bench = Bench(encoding, measures | {"fine": lambda genomes: np.ones(len(genomes))}, Counts(n_proxy, own.n_pairs, 3))
    monkeypatch.setattr(predicted, "N_FP32", own.n_fp32)
    monkeypatch.setattr(predicted, "N_PROXY", n_proxy - own.n_fp32)
    monkeypatch.setattr(predicted, "EVALUATIONS", own.n_evaluations)
    monkeypatch.setattr(predicted, "choose_form", partial(choose_form, folds=own.folds))
    limits = tuple(Costs.of(encoding).limits(own.constraints))
    predicted.predictor(Question(encoding, limits, bench, own.seed))
    best = Front.load(base.run / "8_search" / "best.json").candidates[0]
    assert encoding.decode(bench.measured("fine").genomes)[0] == best
