"""A search that is stopped, saved, and loaded elsewhere, against the same search left alone."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apq_tune import (
    NSGA2,
    Constraint,
    Evolution,
    FunctionMetric,
    NetworkEncoding,
    Objective,
    Problem,
    ProblemError,
    RandomSearch,
    RunError,
    search,
)
from apq_tune.cost import bit_ops, macs, weight_bytes
from apq_tune.searchers import Searching
from apq_tune.searchers.layerwise.algorithm import LayerwiseDDPG
from apq_tune.searchers.layerwise.settings import AMC, HAQ, AgentSettings


def wavy(encoding: NetworkEncoding) -> FunctionMetric:
    weights = np.random.default_rng(7).normal(size=encoding.n_genes)
    return FunctionMetric("wavy", "", lambda genomes: np.sin(genomes @ weights) + (genomes @ weights) / 9)


def one_limit(encoding: NetworkEncoding) -> Problem:
    low, high = bit_ops(encoding).reachable()
    return Problem(encoding, [Objective(wavy(encoding))], [Constraint(bit_ops(encoding), low + (high - low) / 4)])


def trade_off(encoding: NetworkEncoding) -> Problem:
    return Problem(encoding, [Objective(wavy(encoding)), Objective(bit_ops(encoding))], also=[macs(encoding)])


QUICK_DDPG = LayerwiseDDPG(
    *(replace(own, warm_up=10, agent=AgentSettings(hidden=8, batch=8)) for own in (AMC, HAQ)),
)

CASES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "evolution": (one_limit, Evolution(max_age=3), {"n_evaluations": 900}),
    "islands": (one_limit, Evolution(population=30), {"n_evaluations": 1000, "islands": 3}),
    "front": (trade_off, NSGA2(), {"n_evaluations": 700}),
    "islands of a front": (trade_off, NSGA2(), {"n_evaluations": 700, "islands": 2}),
    "patience": (one_limit, Evolution(), {"n_evaluations": 5000, "patience": 600}),
    "patience with a front": (trade_off, NSGA2(population=50), {"n_evaluations": 3000, "patience": 200}),
    "random": (trade_off, RandomSearch(), {"n_evaluations": 1000}),
    "ddpg": (trade_off, QUICK_DDPG, {"n_evaluations": 14}),
}


@pytest.mark.parametrize("every", [1, 3, 7])
@pytest.mark.parametrize("case", CASES)
def test_saved_and_loaded_after_every_few_steps_the_front_is_the_undisturbed_one(
    encoding: NetworkEncoding, case: str, every: int
) -> None:
    ask, algorithm, settings = CASES[case]
    expected = search(ask(encoding), algorithm, seed=5, **settings)
    searching, stops = Searching(ask(encoding), algorithm, seed=5, **settings), 0
    while not searching.done:
        searching.step(every)
        content = searching.to_bytes()
        searching = Searching(ask(encoding), algorithm, seed=5, **settings)
        searching.load(content)
        assert searching.to_bytes() == content
        stops += 1
    assert stops >= 2
    assert searching.n_evaluations == expected.provenance["n_evaluations"]
    assert searching.front().to_json() == expected.to_json()


def test_a_whole_small_space_is_enumerated_in_steps(tiny: NetworkEncoding) -> None:
    size = weight_bytes(tiny)
    searching = Searching(Problem(tiny, [Objective(size)]), Evolution(1000), n_evaluations=10**5)
    searching.step(4)
    content = searching.to_bytes()
    fresh = Searching(Problem(tiny, [Objective(size)]), Evolution(1000), n_evaluations=10**5)
    fresh.load(content)
    fresh.step(None)
    assert fresh.n_evaluations == tiny.size()
    assert fresh.front().metrics["weight_bytes"].tolist() == [size.reachable()[0]]


def test_it_goes_on_in_another_process(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from apq_tune import NSGA2, NetworkEncoding, Objective, Problem, SearchSpace
from apq_tune.cost import bit_ops, macs
from apq_tune.searchers import Searching
from apq_tune.searchers.layerwise.algorithm import LayerwiseDDPG
from apq_tune.searchers.layerwise.settings import AMC, HAQ, AgentSettings
encoding = NetworkEncoding(SearchSpace.load("digits"))
searching = Searching(Problem(encoding, [Objective(macs(encoding), "maximize"), Objective(bit_ops(encoding))]))
state = Path(sys.argv[1])
if state.exists():
    searching.load(state.read_bytes())
searching.step(int(sys.argv[2]))
state.write_bytes(searching.to_bytes())
"""

    def run(state: str, steps: int) -> None:
        subprocess.run([sys.executable, "-c", program, str(tmp_path / state), str(steps)], check=True, timeout=120)

    run("stopped", 20)
    run("stopped", 15)
    run("whole", 35)
    assert (tmp_path / "stopped").read_bytes() == (tmp_path / "whole").read_bytes()


def test_how_close_a_search_came_is_saved_too(tiny: NetworkEncoding) -> None:
    few, many = macs(tiny), weight_bytes(tiny)
    limits = [Constraint(few, few.reachable()[0] * 1.1), Constraint(many, many.reachable()[1] * 0.9, ">=")]
    problem = Problem(tiny, [Objective(bit_ops(tiny))], limits)
    with pytest.raises(ProblemError) as expected:
        search(problem, "evolution", n_evaluations=400)
    searching = Searching(problem, n_evaluations=400)
    while not searching.done:
        searching.step()
        content = searching.to_bytes()
        searching = Searching(problem, n_evaluations=400)
        searching.load(content)
    with pytest.raises(ProblemError, match=re.escape(str(expected.value))):
        searching.front()


def test_a_damaged_or_foreign_state_is_refused_and_changes_nothing(encoding: NetworkEncoding) -> None:
    searching = Searching(one_limit(encoding), n_evaluations=500, seed=1)
    searching.step(2)
    content = searching.to_bytes()
    for broken in (b"", content[:-100], content[: len(content) // 2], b"PK" + content[2:50]):
        with pytest.raises(RunError, match=r"^here.npz: is damaged \(.*\); delete it to restart that search$"):
            searching.load(broken, "here.npz")
    other = Searching(one_limit(encoding), n_evaluations=500, seed=2)
    with pytest.raises(RunError, match="saved search: its seed is 1, not 2; load it with what it began with"):
        other.load(content)
    assert searching.to_bytes() == content
    assert other.n_evaluations == 0


def test_the_front_of_an_unfinished_search_holds_what_was_evaluated(tiny: NetworkEncoding) -> None:
    asked: list[float] = []

    def remembered(genomes: np.ndarray) -> np.ndarray:
        asked.extend(values := genomes.sum(axis=1).astype(float))
        return np.asarray(values)

    searching = Searching(Problem(tiny, [Objective(FunctionMetric("sum", "", remembered))]), n_evaluations=500)
    for _ in range(4):
        searching.step()
        assert searching.front().metrics["sum"][0] == min(asked)
        assert searching.n_evaluations == len(asked) < 500
