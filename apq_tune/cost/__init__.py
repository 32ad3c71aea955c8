"""Cost models: analytic and tabulated costs of networks, one file per metric."""

from __future__ import annotations

from apq_tune.cost.activation_bytes import peak_activation_bytes
from apq_tune.cost.additive import AdditiveMetric
from apq_tune.cost.additive_file import load_additive_tables
from apq_tune.cost.bit_ops import bit_ops
from apq_tune.cost.bitfusion import bitfusion_energy_mj, bitfusion_latency_ms
from apq_tune.cost.formats import load_cost_table
from apq_tune.cost.gene_table import GeneTable
from apq_tune.cost.layer_table import LayerTable
from apq_tune.cost.macs import macs
from apq_tune.cost.model import CostModel
from apq_tune.cost.models import cost_models
from apq_tune.cost.named_costs import NAMED, named_cost
from apq_tune.cost.table import CostTable
from apq_tune.cost.weight_bytes import weight_bytes

__all__ = [
    "NAMED",
    "AdditiveMetric",
    "CostModel",
    "CostTable",
    "GeneTable",
    "LayerTable",
    "bit_ops",
    "bitfusion_energy_mj",
    "bitfusion_latency_ms",
    "cost_models",
    "load_additive_tables",
    "load_cost_table",
    "macs",
    "named_cost",
    "peak_activation_bytes",
    "weight_bytes",
]
