"""Optuna's own tests of what a sampler must do, on ours: as they come, and with children from the first trials on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)

from apq_tune.hosts.optuna import EvolutionSampler, NSGA2Sampler
from apq_tune.hosts.optuna_layerwise import LayerwiseDDPGSampler
from apq_tune.hosts.optuna_model import ModelSampler
from apq_tune.searchers.layerwise.settings import AMC, AgentSettings

SETTINGS: list[dict[str, Any]] = [
    {},
    {"population": 1, "parents": 3, "crossover": 1.0, "mutation": (5.0, 50.0), "max_age": 2},
]
"""With the defaults, few of these tests live to see the second generation."""


class TestEvolutionSampler(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    @pytest.fixture(params=SETTINGS, ids=str)
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        return partial(EvolutionSampler, seed=0, **request.param)


class TestNSGA2Sampler(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture(params=SETTINGS, ids=str)
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        return partial(NSGA2Sampler, seed=0, **request.param)


class TestModelSampler(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture(params=[{"initial": 1, "pool": 20}, {"initial": 2, "modelled": 3}], ids=str)
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        return partial(ModelSampler, seed=0, **request.param)


LEARNING = {"channels": replace(AMC, warm_up=2, agent=AgentSettings(hidden=8, batch=4))}


class TestLayerwiseDDPGSampler(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture(params=[{}, LEARNING], ids=["default", "learning"])
    def sampler(self, request: pytest.FixtureRequest) -> Callable[[], BaseSampler]:
        return partial(LayerwiseDDPGSampler, seed=0, **request.param)
