"""Every search method on the space of a traced model, with made-up losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from apq_tune import ModelSpace
from apq_tune.methods import METHODS, Bench, Question, differentiable, paper, predicted, rounds
from apq_tune.methods.bench import Counts
from apq_tune.network.liveness import live_bits
from apq_tune.problem.costs import Costs
from apq_tune.space.encodings import encoding_of
from apq_tune.space.model_encoding import ModelEncoding
from apq_tune.tracing.trace import trace
from tests.methods.test_methods import curvature, gates
from tests.tracing.zoo import example_of, network

ALLOWED = Counts.of(48, 6)


@pytest.fixture(scope="module")
def encoding() -> ModelEncoding:
    return encoding_of(ModelSpace.of_graph(trace(network("resnet14"), example_of("resnet14")), step=4))


def made_up(encoding: ModelEncoding, kind: str) -> Any:
    """Losses that fall with MACs and bits of each layer that is there."""

    def measure(genomes: np.ndarray) -> np.ndarray:
        losses = []
        for candidate in encoding.decode(genomes):
            layers = [layer.op for layer in encoding.space.plan(candidate).layers if layer.op is not None]
            bits = [1.0 if kind == "fp32" else 1 - 2.0**-op.w_bits - 2.0**-op.a_bits for op in layers]
            losses.append(float(np.exp(-sum(b * np.log2(op.macs) for op, b in zip(layers, bits, strict=True)) / 100)))
        return np.array(losses)

    return measure


QUICK = ("uniform", "hawq", "size-rank", "random")


@pytest.mark.parametrize(
    "method", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in METHODS]
)
def test_every_method_spends_its_budget_and_keeps_the_limits(
    encoding: ModelEncoding, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (differentiable, paper, predicted, rounds):
        monkeypatch.setattr(module, "EVALUATIONS", 500)
    limits = Costs.of(encoding).budget("memory" if method in ("uniform-8", "magnitude") else "memory-tight")
    measures = {kind: made_up(encoding, kind) for kind in ("fp32", "proxy", "fine", "short")}
    bench = Bench(encoding, measures, ALLOWED, hessian=curvature(encoding), gates=gates(encoding))
    asked = Question(encoding, limits, bench, 3)
    found = METHODS[method].propose(asked)
    assert len(found) == len(np.unique(found, axis=0)) == asked.bench.count("short")
    assert len(found) == ALLOWED.short or (method == "magnitude" and len(found))  # which may have tried all of its own
    image = encoding.space.network.image(32)
    for candidate in encoding.decode(found):
        layers = encoding.space.plan(candidate).layers
        flash = sum(
            layer.op.n_weights * layer.op.w_bits / 8 + 8 * layer.op.out_channels for layer in layers if layer.op
        )
        assert flash <= limits[0].bound
        assert max(live_bits(layers, image).values()) / 8 <= limits[1].bound
        if method in ("uniform", "uniform-8", "uniform-4", "magnitude"):
            assert len({bits for _, bits in (*candidate.w_bits, *candidate.a_bits)}) == 1
