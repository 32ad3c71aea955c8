"""The last stage of a run: bits that cost nothing, trained as all finalists, and kept only where they are no worse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from apq_tune import Constraint, NetworkEncoding, load_network
from apq_tune.pipeline.finished import load_supernets, networks_of_run
from apq_tune.pipeline.measuring import finalists
from apq_tune.pipeline.raising import upgrade_of
from apq_tune.pipeline.reading import read_run
from apq_tune.pipeline.run import PipelineRun
from apq_tune.pipeline.settings import RunSettings
from apq_tune.pipeline.upgrade import Upgrade, latencies_of
from apq_tune.pipeline.work import final_task
from apq_tune.problem.costs import Costs
from apq_tune.report.html import write_report as write_page
from apq_tune.report.results import write_report
from apq_tune.report.screen import Screen
from apq_tune.space.device import load_preset
from apq_tune.space.gene import BIT_KINDS
from apq_tune.space.search_space import SearchSpace
from apq_tune.supernet.evaluate import Score
from apq_tune.supernet.qat import train_candidate
from tests.pipeline.quick import QUICK

SETTINGS = QUICK | {"constraints": ["macs<=80%"]}
"""Of bits nothing is asked, so that all can be raised where latency may grow."""


class Scores:
    """Supernet whose losses are given."""

    def __init__(self, *losses: float) -> None:
        self.losses, self.seen = list(losses), list[Any]()

    def score(self, candidate: Any, *, quantize: bool) -> Score:
        assert quantize
        self.seen.append(candidate)
        return Score(*[self.losses.pop(0)] * 3, 0.5, 0.9)


@pytest.mark.parametrize(("before", "after", "promising"), [(0.5, 0.4, True), (0.5, 0.5, True), (0.5, 0.6, False)])
def test_a_raised_network_is_promising_if_its_loss_in_the_supernet_is_not_worse(
    tiny: NetworkEncoding, before: float, after: float, promising: bool
) -> None:
    genome = np.zeros((1, tiny.n_genes), np.int16)
    (candidate,) = tiny.decode(genome)
    costs, supernet = Costs.of(tiny), Scores(before, after)
    size = costs.metrics["weight_bytes"]
    limits = [Constraint(costs.metrics["latency_ms"], 1e9), Constraint(size, float(size(genome)[0]) * 1.5)]
    upgrade = upgrade_of("best", candidate, _without_latency(costs), limits[1:], supernet)  # type: ignore[arg-type]
    assert upgrade is not None
    assert supernet.seen == [candidate, upgrade.candidate]
    assert upgrade.promising == promising
    assert upgrade.raises
    assert all(one.after > one.before for one in upgrade.raises)
    assert size(tiny.encode([upgrade.candidate]))[0] <= limits[1].bound
    assert Upgrade.from_dict(json.loads(json.dumps(upgrade.to_dict()))) == upgrade


def _without_latency(costs: Costs) -> Costs:
    return Costs(costs.encoding, {name: own for name, own in costs.metrics.items() if own.unit != "ms"})


def test_nothing_is_scored_where_nothing_can_be_raised(tiny: NetworkEncoding) -> None:
    (candidate,) = tiny.decode(tiny.ends()[1:])  # all at the most bits
    assert upgrade_of("best", candidate, Costs.of(tiny), [], Scores()) is None  # type: ignore[arg-type]


def test_the_latency_is_that_of_the_device(tiny_space: SearchSpace) -> None:
    costs = Costs.of(NetworkEncoding(tiny_space))
    assert [metric.name for metric in latencies_of(costs)] == ["latency_ms"]
    device = load_preset("mpic")
    narrowed = Costs.of(NetworkEncoding(tiny_space.narrowed(device)))
    assert device.cost_model is not None
    assert [metric.name for metric in latencies_of(narrowed)] == [device.cost_model.name]
    limits = [Constraint(narrowed.metrics["latency_ms"], 1.0)]
    assert {metric.name for metric in latencies_of(narrowed, limits)} == {"latency_ms", device.cost_model.name}
    none = Costs.of(NetworkEncoding(tiny_space.narrowed(device.model_copy(update={"cost_model": None}))))
    assert latencies_of(none) == ()


def at_fewest_bits(run: Any) -> dict[str, Any]:
    """Finalists of a run whose search has left all bits to be raised."""
    chosen, encoding = finalists(run), run.encoding
    genomes = encoding.encode(list(chosen.values()))
    for row, name in zip(genomes, chosen, strict=True):
        if not name.startswith("largest"):
            row[encoding.places_of([*BIT_KINDS, "kernel"])] = 0  # a large kernel forbids two bits
    return dict(zip(chosen, encoding.decode(genomes), strict=True))


@pytest.fixture(scope="module")
def run(tiny_digits: SearchSpace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which bits cost nothing."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("apq_tune.pipeline.measuring.finalists", at_fewest_bits)
        patch.setattr("apq_tune.pipeline.estimate.PROBE_SECONDS", 0.0)
        patch.setattr("apq_tune.pipeline.raising.latencies_of", lambda *_: ())
        outcome = PipelineRun(tiny_digits, RunSettings().updated(SETTINGS), path, executor="serial").run()
    write_report(outcome, path, Screen())
    return path


@pytest.mark.slow
@pytest.mark.usefixtures("serial")
def test_the_raised_network_is_trained_as_the_finalists_and_kept_if_it_is_no_worse(run: Path) -> None:
    outcome = read_run(run).outcome()
    upgrade, table = outcome.upgrade, outcome.table.set_index("name")
    assert upgrade is not None
    supernet = load_supernets(run).quantized
    kept = networks_of_run(run).kept
    losses = table.drop(index="raised", errors="ignore").query("feasible")["search_loss"]
    assert upgrade.of == losses.idxmin()
    of = networks_of_run(run).load(upgrade.of).candidate
    assert [upgrade.before, upgrade.after] == [
        supernet.score(one, quantize=True).loss for one in (of, upgrade.candidate)
    ]
    assert ("raised" in kept) == upgrade.promising
    if upgrade.promising:
        again = train_candidate(supernet, final_task(upgrade.candidate, outcome.settings))
        assert kept["raised"].scores["search"]["loss"] == again.scores["search"].loss
        better = table.loc["raised", "search_loss"] <= table.loc[upgrade.of, "search_loss"]
        assert table.loc["raised", "chosen"] == better
        record = json.loads((run / "best.json").read_text())
        assert record["name"] == ("raised" if better else upgrade.of)
        assert ("raised" in record) == better
        assert load_network(run).name == record["name"]
        assert (run / "best.pt").read_bytes() == networks_of_run(run).kept[record["name"]].weights().read_bytes()
    write_page(run)
    assert "Bits at no cost" in (run / "report.html").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.usefixtures("serial")
def test_runs_without_the_stage_are_read_and_the_stage_alone_is_done_again(
    run: Path, tmp_path: Path, tiny_digits: SearchSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "10_raised")
    old = read_run(copy).outcome()
    assert old.upgrade is None
    assert "raised" not in set(old.table["name"])
    monkeypatch.setattr("apq_tune.pipeline.raising.latencies_of", lambda *_: ())
    again = PipelineRun(tiny_digits, RunSettings().updated(SETTINGS), copy, executor="serial").run()
    pd.testing.assert_frame_equal(again.table, read_run(run).outcome().table)
    assert again.upgrade == read_run(run).outcome().upgrade
