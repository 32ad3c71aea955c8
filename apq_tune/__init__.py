"""Find a network's architecture, channel pruning and per-layer bit-widths together (APQ, Wang 2020)."""

import importlib
from typing import TYPE_CHECKING, Any

from apq_tune.cost import AdditiveMetric, GeneTable, LayerTable, cost_models, load_additive_tables, load_cost_table
from apq_tune.errors import (
    ApqError,
    CandidateError,
    DeployError,
    DeviceError,
    DocumentError,
    ModelError,
    ProblemError,
    ReachError,
    RunError,
    SpaceError,
    StudyError,
    TableError,
)
from apq_tune.hosts.objective import APQObjective
from apq_tune.methods.one_at_a_time import measure_one_at_a_time
from apq_tune.predict import MixerSettings, Pairs, Predictor, fit_mixer, fit_predictor
from apq_tune.predict.files import load_predictor
from apq_tune.problem.device import device_limits
from apq_tune.problem.front import Front
from apq_tune.problem.limits import parse_constraint
from apq_tune.problem.lookup import load_lookup
from apq_tune.problem.metric import FunctionMetric, Metric
from apq_tune.problem.problem import Constraint, Evaluation, Objective, Problem
from apq_tune.searchers import NSGA2, Evolution, ModelBased, RandomSearch, search, solve_exactly
from apq_tune.searchers.layerwise.algorithm import LayerwiseDDPG
from apq_tune.searchers.layerwise.settings import AgentSettings, PassSettings
from apq_tune.space.candidate import Candidate, Configuration
from apq_tune.space.choices import ChoiceSpace
from apq_tune.space.device import DevicePreset, known_presets, load_preset
from apq_tune.space.device_rules import check_network
from apq_tune.space.encoding import Encoding
from apq_tune.space.flat_encoding import FlatEncoding
from apq_tune.space.gene import Gene
from apq_tune.space.model_candidate import ModelCandidate
from apq_tune.space.model_encoding import ModelEncoding
from apq_tune.space.model_space import ModelSpace
from apq_tune.space.network_encoding import NetworkEncoding
from apq_tune.space.parameters import Space
from apq_tune.space.search_space import SearchSpace
from apq_tune.space.shipped import known_spaces

if TYPE_CHECKING:
    from apq_tune.data import load_data
    from apq_tune.deploy.evaluate import FileScores, evaluate
    from apq_tune.deploy.export import ExportedFile, export
    from apq_tune.deploy.load import load_network
    from apq_tune.deploy.profiling import profile
    from apq_tune.deploy.vela import VelaEstimate, vela_estimate
    from apq_tune.hosts.optuna import EvolutionSampler, NSGA2Sampler
    from apq_tune.hosts.optuna_layerwise import LayerwiseDDPGSampler
    from apq_tune.hosts.optuna_model import ModelSampler
    from apq_tune.hosts.searcher import ApqSearch
    from apq_tune.methods.raised import raise_bits
    from apq_tune.pipeline.answers import Solution, Solutions
    from apq_tune.pipeline.finished import FinishedRun, load_run
    from apq_tune.pipeline.sensitivity_table import SensitivityTable, measure_sensitivity
    from apq_tune.pipeline.solve import solve
    from apq_tune.report.html import write_report
    from apq_tune.searchers.gates.costs import CostLoss
    from apq_tune.searchers.gates.distribution import GeneDistribution
    from apq_tune.searchers.gates.training import GateTraining
    from apq_tune.sparsity.branching import Instability, instability, instability_by_step
    from apq_tune.sparsity.channel_gates import ChannelGates
    from apq_tune.sparsity.footprint import Footprint, footprint
    from apq_tune.sparsity.layers import ends_of
    from apq_tune.sparsity.schedule import CubicSchedule
    from apq_tune.sparsity.sparsifier import Sparsifier
    from apq_tune.sparsity.tickets import Ticket, iterative_pruning
    from apq_tune.sparsity.variational import VariationalDropout
    from apq_tune.sparsity.weight_gates import WeightGates
    from apq_tune.supernet.calibrated import CalibratedModel
    from apq_tune.supernet.candidate_statistics import CandidateStatistics
    from apq_tune.supernet.differentiable import differentiable_search
    from apq_tune.supernet.found_network import FoundNetwork, Preprocessing
    from apq_tune.supernet.hessian import layer_omegas
    from apq_tune.supernet.metrics import QATLoss, SupernetLoss
    from apq_tune.supernet.published import load_supernet
    from apq_tune.supernet.subnet import Subnet
    from apq_tune.supernet.train import Training
    from apq_tune.supernet.trained import TrainedSupernet
    from apq_tune.supernet.zero_cost import ZeroCostProxy, layer_statistics

__version__ = "0.1.0"

LAZY = {
    "ApqSearch": "apq_tune.hosts.searcher",
    "CalibratedModel": "apq_tune.supernet.calibrated",
    "CandidateStatistics": "apq_tune.supernet.candidate_statistics",
    "ChannelGates": "apq_tune.sparsity.channel_gates",
    "CostLoss": "apq_tune.searchers.gates.costs",
    "CubicSchedule": "apq_tune.sparsity.schedule",
    "EvolutionSampler": "apq_tune.hosts.optuna",
    "ExportedFile": "apq_tune.deploy.export",
    "FileScores": "apq_tune.deploy.evaluate",
    "FinishedRun": "apq_tune.pipeline.finished",
    "Footprint": "apq_tune.sparsity.footprint",
    "FoundNetwork": "apq_tune.supernet.found_network",
    "Instability": "apq_tune.sparsity.branching",
    "GateTraining": "apq_tune.searchers.gates.training",
    "GeneDistribution": "apq_tune.searchers.gates.distribution",
    "LayerwiseDDPGSampler": "apq_tune.hosts.optuna_layerwise",
    "ModelSampler": "apq_tune.hosts.optuna_model",
    "NSGA2Sampler": "apq_tune.hosts.optuna",
    "Preprocessing": "apq_tune.supernet.found_network",
    "QATLoss": "apq_tune.supernet.metrics",
    "SensitivityTable": "apq_tune.pipeline.sensitivity_table",
    "Solution": "apq_tune.pipeline.answers",
    "Solutions": "apq_tune.pipeline.answers",
    "Sparsifier": "apq_tune.sparsity.sparsifier",
    "Subnet": "apq_tune.supernet.subnet",
    "SupernetLoss": "apq_tune.supernet.metrics",
    "Ticket": "apq_tune.sparsity.tickets",
    "TrainedSupernet": "apq_tune.supernet.trained",
    "Training": "apq_tune.supernet.train",
    "VariationalDropout": "apq_tune.sparsity.variational",
    "VelaEstimate": "apq_tune.deploy.vela",
    "WeightGates": "apq_tune.sparsity.weight_gates",
    "differentiable_search": "apq_tune.supernet.differentiable",
    "ends_of": "apq_tune.sparsity.layers",
    "evaluate": "apq_tune.deploy.evaluate",
    "export": "apq_tune.deploy.export",
    "footprint": "apq_tune.sparsity.footprint",
    "ZeroCostProxy": "apq_tune.supernet.zero_cost",
    "instability": "apq_tune.sparsity.branching",
    "instability_by_step": "apq_tune.sparsity.branching",
    "iterative_pruning": "apq_tune.sparsity.tickets",
    "layer_omegas": "apq_tune.supernet.hessian",
    "layer_statistics": "apq_tune.supernet.zero_cost",
    "load_data": "apq_tune.data",
    "load_network": "apq_tune.deploy.load",
    "load_run": "apq_tune.pipeline.finished",
    "load_supernet": "apq_tune.supernet.published",
    "measure_sensitivity": "apq_tune.pipeline.sensitivity_table",
    "profile": "apq_tune.deploy.profiling",
    "raise_bits": "apq_tune.methods.raised",
    "solve": "apq_tune.pipeline.solve",
    "vela_estimate": "apq_tune.deploy.vela",
    "write_report": "apq_tune.report.html",
}
"""Public names whose modules import torch, Ray or Optuna, and those modules."""

__all__ = [
    "NSGA2",
    "APQObjective",
    "AdditiveMetric",
    "AgentSettings",
    "ApqError",
    "ApqSearch",
    "CalibratedModel",
    "Candidate",
    "CandidateError",
    "CandidateStatistics",
    "ChannelGates",
    "ChoiceSpace",
    "Configuration",
    "Constraint",
    "CostLoss",
    "CubicSchedule",
    "DeployError",
    "DeviceError",
    "DevicePreset",
    "DocumentError",
    "Encoding",
    "Evaluation",
    "Evolution",
    "EvolutionSampler",
    "ExportedFile",
    "FileScores",
    "FinishedRun",
    "FlatEncoding",
    "Footprint",
    "FoundNetwork",
    "Front",
    "FunctionMetric",
    "GateTraining",
    "Gene",
    "GeneDistribution",
    "GeneTable",
    "Instability",
    "LayerTable",
    "LayerwiseDDPG",
    "LayerwiseDDPGSampler",
    "Metric",
    "MixerSettings",
    "ModelBased",
    "ModelCandidate",
    "ModelEncoding",
    "ModelError",
    "ModelSampler",
    "ModelSpace",
    "NSGA2Sampler",
    "NetworkEncoding",
    "Objective",
    "Pairs",
    "PassSettings",
    "Predictor",
    "Preprocessing",
    "Problem",
    "ProblemError",
    "QATLoss",
    "RandomSearch",
    "ReachError",
    "RunError",
    "SearchSpace",
    "SensitivityTable",
    "Solution",
    "Solutions",
    "Space",
    "SpaceError",
    "Sparsifier",
    "StudyError",
    "Subnet",
    "SupernetLoss",
    "TableError",
    "Ticket",
    "TrainedSupernet",
    "Training",
    "VariationalDropout",
    "VelaEstimate",
    "WeightGates",
    "ZeroCostProxy",
    "check_network",
    "cost_models",
    "device_limits",
    "differentiable_search",
    "ends_of",
    "evaluate",
    "export",
    "fit_mixer",
    "fit_predictor",
    "footprint",
    "instability",
    "instability_by_step",
    "iterative_pruning",
    "known_presets",
    "known_spaces",
    "layer_omegas",
    "layer_statistics",
    "load_additive_tables",
    "load_cost_table",
    "load_data",
    "load_lookup",
    "load_network",
    "load_predictor",
    "load_preset",
    "load_run",
    "load_supernet",
    "measure_one_at_a_time",
    "measure_sensitivity",
    "parse_constraint",
    "profile",
    "raise_bits",
    "search",
    "solve",
    "solve_exactly",
    "vela_estimate",
    "write_report",
]


def __getattr__(name: str) -> Any:
    """Import a public name that is expensive to import when it is first used."""
    if name in LAZY:
        return getattr(importlib.import_module(LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names, those that are imported on first use included."""
    return sorted({*globals(), *__all__})
