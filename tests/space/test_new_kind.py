"""A kind of search space that the package does not know: stacks of 3x3 convolutions, without blocks or a supernet."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import numpy as np
import optuna
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier

import apq_tune
from apq_tune import Configuration, Constraint, FlatEncoding, Front, FunctionMetric, Gene, Objective, Problem
from apq_tune.network.layer import IMAGE, Layer, Op, Tensor, conv, linear
from apq_tune.network.network import Network, Part
from apq_tune.studies.compare import CompareTask, Contest, curves_frame, run_entry, yardstick_of

WIDTHS, BITS, SIZE, CLASSES, LAYERS = (2, 4, 8), (2, 4, 8), 8, 10, (1, 2, 3)


def convolution(number: int, source: str):
    def describe(_, *choices):
        before, width, w_bits, a_bits = choices if number > 1 else (1, *choices)
        return (conv(f"{number}.conv", source, Op(before, width, 3, 1, SIZE, SIZE, w_bits, a_bits), 8, "relu"),)

    before = (f"{number - 1} width",) if number > 1 else ()
    return Part(str(number), (*before, *(f"{number} {kind}" for kind in ("width", "w_bits", "a_bits"))), describe)


class Stacks(apq_tune.Space):
    """Three convolutions with widths and bits, the mean over all pixels, a classifier."""

    name = "stacks"

    @functools.cached_property
    def genes(self) -> tuple[Gene, ...]:
        kinds = (("width", WIDTHS), ("w_bits", BITS), ("a_bits", BITS))
        return tuple(Gene(f"{n} {kind}", kind, values, block=str(n)) for n in LAYERS for kind, values in kinds)

    def candidate_of(self, values):
        return Configuration(tuple((name, values[name]) for name in self.parameters))

    def values_of(self, candidate):
        return dict(candidate.values)

    @functools.cached_property
    def network(self) -> Network:
        pool = Part("pool", ("3 width",), lambda _, c: (Layer("pool", "pool", ("3",), Tensor(c, 1, 8)),))
        ends = lambda _, c: (linear("classifier", "pool", Op(c, CLASSES, 1, 1, 1, 1, 8, 8), 8),)  # noqa: E731
        layers = [convolution(n, str(n - 1) if n > 1 else IMAGE) for n in LAYERS]
        return Network(self.parameters, (SIZE,), None, 1, 8, (*layers, pool, Part("classifier", ("3 width",), ends)))


ENCODING = FlatEncoding(STACKS := Stacks())


def quantized(x: np.ndarray, bits: int) -> np.ndarray:
    return np.round(x * (scale := 2 ** (bits - 1) / np.abs(x).max())) / scale


@functools.cache
def accuracy(candidate: Configuration) -> float:
    """Accuracy of a linear classifier of 100 digits on what random, quantized convolutions see of 200 others."""
    (images, labels), rng = load_digits(return_X_y=True), np.random.default_rng(0)
    x = images[:300].reshape(-1, 1, SIZE, SIZE).astype(np.float32) / 16
    for n in LAYERS:
        weights = quantized(rng.normal(size=(8, 8, 9)).astype(np.float32), candidate[f"{n} w_bits"])
        padded = np.pad(quantized(x, candidate[f"{n} a_bits"]), ((0, 0), (0, 0), (1, 1), (1, 1)))
        shifts = [padded[:, :, i : i + SIZE, j : j + SIZE] for i, j in itertools.product(range(3), repeat=2)]
        own = weights[: candidate[f"{n} width"], : x.shape[1]]
        x = sum(np.tensordot(own[:, :, k], shift, (1, 1)) for k, shift in enumerate(shifts)).swapaxes(0, 1).clip(0)
    seen = x.reshape(len(x), -1, 4, 2, 4, 2).mean(axis=(3, 5)).reshape(len(x), -1)
    return float(RidgeClassifier().fit(seen[:100], labels[:100]).score(seen[100:], labels[100:300]))


REAL = FunctionMetric.of_candidates("accuracy", "", lambda candidates: [accuracy(c) for c in candidates], STACKS)
MACS, BIT_OPS, FLASH, RAM = apq_tune.cost_models(ENCODING)


@pytest.fixture(scope="module")
def problem() -> Problem:
    """Accuracy, learned from 20 measured stacks, against BitOps, under a limit of flash."""
    pairs = apq_tune.Pairs(genomes := ENCODING.sample(20, np.random.default_rng(0)), REAL(genomes))
    learned = apq_tune.fit_predictor(ENCODING, pairs, "gp")
    return Problem(STACKS, [Objective(learned, "maximize"), Objective(BIT_OPS)], [Constraint(FLASH, 400)])


def test_costs_are_those_of_a_plain_loop_and_their_ranges_are_exact() -> None:
    everything = ENCODING.enumerate()
    for genome, candidate in zip(everything[::997], ENCODING.decode(everything[::997]), strict=True):
        widths = [1, *(candidate[f"{n} width"] for n in LAYERS)]
        assert MACS(genome[None])[0] == sum(9 * 64 * a * b for a, b in itertools.pairwise(widths)) + 10 * widths[-1]
    for cost in (MACS, BIT_OPS, FLASH, RAM):
        assert cost.reachable() == pytest.approx((cost(everything).min(), cost(everything).max()))


def test_a_search_finds_stacks_that_keep_the_limit_and_are_better_than_most(problem: Problem, tmp_path: Path):
    front = apq_tune.search(problem, n_evaluations=500, seed=0)
    front.save(tmp_path / "front.json")
    assert Front.load(tmp_path / "front.json").candidates == front.candidates
    genomes = ENCODING.encode(front.candidates)
    assert (FLASH(genomes) <= 400).all()
    assert REAL(genomes).max() > np.median(REAL(ENCODING.sample(20, np.random.default_rng(0))))


def test_compare_and_optuna_take_it_as_any_other(problem: Problem) -> None:
    entries = [CompareTask(sampler, 0) for sampler in ("evolution", "random", "optuna-tpe")]
    results = {entry.key: run_entry(entry, Contest(problem, 60)).metrics for entry in entries}
    yardstick, exact = yardstick_of(problem, list(results.values()))
    shares = curves_frame(entries, results, yardstick, [60]).groupby("sampler")["share"].last()
    assert exact and shares.between(0.5, 1).all() and set(shares.index) == {"evolution", "random", "optuna-tpe"}
    study = optuna.create_study(sampler=apq_tune.EvolutionSampler(space=STACKS, seed=0))
    study.optimize(lambda trial: float(MACS(ENCODING.encode([STACKS.suggest(trial)]))[0]), n_trials=30)
    assert STACKS.from_config(study.best_params) in ENCODING.decode(ENCODING.enumerate())
