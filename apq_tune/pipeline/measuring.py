"""Stages whose parts run on an executor: losses of many candidates, searches, and finetunings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from apq_tune.hosts.work import Result, Work
from apq_tune.methods.draws import PairBits, Source, draw
from apq_tune.pipeline.learning import BOUND, LOSSES, PREDICTOR, REPORT
from apq_tune.pipeline.stage import Parts, Run, trained_supernet
from apq_tune.pipeline.work import (
    InnerSearches,
    Scoring,
    final_task,
    pair_task,
    run_search,
    score_batch,
    train_batch,
    train_network,
)
from apq_tune.predict.files import load_predictor
from apq_tune.problem.front import Front
from apq_tune.space.candidate import read_candidate
from apq_tune.space.gene_encoding import GeneEncoding
from apq_tune.space.network_space import NetworkCandidate
from apq_tune.store.files import read_json
from apq_tune.supernet.qat import QATTask
from apq_tune.supernet.trained import TrainedSupernet

PAIR_BATCH = 4
"""Number of candidates in one part of the stage of short QAT."""

MORE = 2
"""Factor on the number of finalists from the front if the predictor ranks no better than chance."""

SEARCHES = ("best", "front", "random", "rivals")


def measure_fp32_losses(run: Run) -> Parts:
    """Measure losses of random networks in full precision."""
    shared = Scoring(_supernet(run, "supernet"), False, "supernet", run.settings.supernet.learning_rate)
    return _losses(run, "fp32_losses", score_batch, shared, run.settings.n_fp32, run.settings.batch)


def measure_proxy_losses(run: Run) -> Parts:
    """Measure losses of random candidates in the quantized supernet, from uniform to mixed policies."""
    shared = Scoring(_supernet(run, "quantized_supernet"), True, "quantized", run.settings.quantized.learning_rate)
    return _losses(run, "proxy_losses", score_batch, shared, run.settings.n_proxy, run.settings.batch)


def measure_pairs(run: Run) -> Parts:
    """Measure losses of random candidates after short QAT."""
    settings = run.settings

    def tasks(first: int, candidates: Sequence[NetworkCandidate]) -> list[QATTask]:
        return [pair_task(candidate, number, settings) for number, candidate in enumerate(candidates, start=first)]

    shared = _supernet(run, "quantized_supernet")
    return _losses(run, "qat_pairs", train_batch, shared, settings.n_pairs, PAIR_BATCH, tasks, settings.pair_bits)


def _supernet(run: Run, stage: str) -> TrainedSupernet:
    """The supernet after a training stage, for scoring on ``n_search`` search images."""
    return trained_supernet(run, stage).on_first(run.settings.n_search)


def _losses(
    run: Run,
    stage: Source,
    work: Work,
    shared: Any,
    n: int,
    batch: int,
    part_of: Callable[[int, Sequence[NetworkCandidate]], Sequence[Any]] = lambda _, candidates: candidates,
    bits: PairBits = "policies",
) -> Parts:
    """Draw candidates, return the parts that are not measured yet, and write ``losses.csv`` after the last one."""
    directory = run.directory(stage)
    drawn = draw(run.encoding, stage, n, run.settings.seed, bits=bits)
    candidates = run.encoding.decode(drawn)
    batches = {f"{first:05d}": candidates[first : first + batch] for first in range(0, n, batch)}
    finished = {key: item for key, item in directory.items.finished().items() if key in batches}

    under_way: dict[str, int] = {}

    def advance() -> None:
        begun = sum(done for key, done in under_way.items() if key not in finished)
        run.advance(stage, begun + sum(len(batches[key]) for key in finished), n)

    def on_progress(key: str, done: int) -> None:
        under_way[key] = done
        advance()

    def on_result(key: str, result: Result) -> None:
        directory.items.keep(key, result)
        finished[key] = result.metrics
        advance()

    def finish() -> None:
        scores = [score for key in batches for score in finished[key]["scores"]]
        table = pd.DataFrame(scores).assign(candidate=[c.to_json() for c in candidates])
        directory.write(LOSSES, table.to_csv(index=False))

    advance()
    items = {key: part_of(int(key), part) for key, part in batches.items() if key not in finished}
    return Parts(work, shared, items, on_result, finish, on_progress)


def measure_searches(run: Run) -> Parts:
    """Search for the best candidate and for the front, and run random search and the baselines for comparison."""
    directory = run.directory("search")
    file = BOUND if run.settings.kappa else PREDICTOR
    predictor = load_predictor(run.directory("predictors").checked(file), run.encoding)

    def missing() -> list[str]:
        return [name for name in SEARCHES if not directory.has(f"{name}.json")]

    def on_result(key: str, result: Result) -> None:
        directory.write(f"{key}.json", result.metrics["file"])
        run.advance("search", len(SEARCHES) - len(missing()), len(SEARCHES))

    fp32 = load_predictor(run.directory("fp32_predictor").checked(PREDICTOR), run.encoding)
    question = InnerSearches(run.encoding.space, predictor, fp32, run.settings, run.costs)
    return Parts(run_search, question, {name: name for name in missing()}, on_result, lambda: None)


def measure_finalists(run: Run) -> Parts:
    """Train the chosen candidates and the baselines at full length, all under the same conditions."""
    directory = run.directory("finalists")
    chosen = finalists(run)
    finished = directory.items.finished(weights=True)

    def on_result(key: str, result: Result) -> None:
        kept = result._replace(metrics=result.metrics | {"candidate": chosen[key].to_dict()})
        directory.items.keep(key, kept)
        finished[key] = result.metrics
        run.advance("finalists", len(finished), len(chosen))

    run.advance("finalists", len(finished), len(chosen))
    items = {key: final_task(candidate, run.settings) for key, candidate in chosen.items() if key not in finished}
    return Parts(train_network, trained_supernet(run, "quantized_supernet"), items, on_result, lambda: None)


def finalists(run: Run) -> dict[str, NetworkCandidate]:
    """Distinct candidates to train, by name: the baselines, the best one, its rivals, and points of the front.

    If the requested predictor ranks no better than chance, more points of the front are trained.
    """
    found = run.directory("search")
    chosen = baselines(run.encoding)
    chosen["best"] = Front.load(found.checked("best.json")).candidates[0]
    rivals = {name: c and read_candidate(c) for name, c in read_json(found.checked("rivals.json")).items()}
    chosen |= {name: c for name, c in rivals.items() if c is not None and c not in chosen.values()}
    front = Front.load(found.checked("front.json"))
    trusted = not read_json(run.directory("predictors").checked(REPORT))["useless"]
    n = run.settings.n_front * (1 if trusted else MORE)
    for number, index in enumerate(spread(np.log(front.metrics[front.objectives[1].name].to_numpy()), n), start=1):
        if front.candidates[index] not in chosen.values():
            chosen[f"front_{number}"] = front.candidates[index]
    return chosen


def baselines(encoding: GeneEncoding) -> dict[str, NetworkCandidate]:
    """The largest network with the most bits that all layers have in common and, if they have it, with half of them."""
    common, largest = encoding.uniform_bits()[::-1], encoding.ends()[1:]
    widths = common[:1] + [bits for bits in common[1:] if bits == common[0] // 2]
    return {f"largest_{bits}bit": encoding.decode(encoding.at_bits(largest, bits))[0] for bits in widths}


def spread(values: NDArray[np.float64], n: int) -> list[int]:
    """Indices of the values nearest to ``n`` evenly spaced points strictly between the smallest and the largest."""
    targets = np.linspace(values.min(), values.max(), n + 2)[1:-1]
    return sorted({int(np.abs(values - target).argmin()) for target in targets}, key=lambda i: values[i])
