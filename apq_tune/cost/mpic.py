"""Cycles on MPIC, a RISC-V core that multiplies weights and activations of 2, 4 and 8 bits (Ottavi 2020).

The rate depends on both widths alone: multiply-accumulates per cycle of the core's convolution kernels, as measured in
the paper (arXiv:2010.04073) and tabulated in ``plinio.cost.mpic_latency`` (github.com/eml-eda/plinio, Apache-2.0),
which uses them for depthwise convolutions and linear layers, too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from apq_tune.cost.op_model import OpModel
from apq_tune.network.layer import Op

MACS_PER_CYCLE = {
    (8, 8): 2.1,
    (4, 8): 2.3,
    (2, 8): 2.5,
    (8, 4): 2.1,
    (4, 4): 3.5,
    (2, 4): 3.9,
    (8, 2): 2.2,
    (4, 2): 4.0,
    (2, 2): 6.5,
}
"""Multiply-accumulates per cycle by bits of weights and of activations."""

_CYCLES = np.full((9, 9), np.nan)
for (_w, _a), _rate in MACS_PER_CYCLE.items():
    _CYCLES[_w, _a] = 1 / _rate


def op_cycles(op: Op) -> Any:
    """Cycles of one operation; NaN at bits other than 2, 4 and 8."""
    w_bits, a_bits = np.asarray(op.w_bits, np.intp), np.asarray(op.a_bits, np.intp)
    return op.macs * _CYCLES[w_bits, a_bits]


MPIC = OpModel("mpic_cycles", "cycles", op_cycles, "weights and inputs of 2, 4 and 8 bits")
