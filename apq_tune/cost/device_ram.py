"""RAM as devices count it: whole bytes, in-place additions, lifetimes, and the scratch of the runtime's kernels.

The buffer model, image by image:

- A value takes whole bytes: one at up to 8 bits. The runtimes of microcontrollers do not pack
  activations of fewer bits.
- A tensor is in memory from the layer that writes it to the last layer that reads it. While a layer runs, its inputs,
  its output, every tensor that a later layer reads, and its scratch are in memory.
- An addition writes over one of its inputs if no later layer reads that; functions, scaling and flattening write over
  their first input likewise. Convolutions, pooling and concatenation have an output of their own.
- The size is the largest sum over the layers. A runtime adds what it keeps for itself (descriptors, alignment), and
  where tensors cannot be placed without gaps a planner needs more; chains with residual blocks have no gaps.

``device_ram_bytes`` has no scratch, ``cmsis_nn_ram_bytes`` that of CMSIS-NN on cores with the DSP extension, and
``cmsis_nn_mve_ram_bytes`` that with Helium; see ``apq_tune.cost.cmsis_nn``.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from apq_tune.cost.activation_bytes import peak_of
from apq_tune.cost.cmsis_nn import Extension, scratch_bytes
from apq_tune.cost.model import CostModel
from apq_tune.network.layer import Layer, Numbers, Tensor
from apq_tune.network.liveness import BufferModel, no_scratch

IN_PLACE = ("add", "multiply", "function", "norm", "affine", "flatten")
"""Kinds of layers that write over an input; an addition over either one, the others over the first."""


def whole_bytes(tensor: Tensor) -> Numbers:
    """Bits of a tensor whose values take whole bytes."""
    return tensor._replace(bits=8 * -(-np.asarray(tensor.bits) // 8)).n_bits


def overwrites(layer: Layer) -> int:
    """Number of inputs of a layer, the first ones, that it may write its output over."""
    return 2 if layer.kind == "add" else int(layer.kind in IN_PLACE)


def _scratch_bits(layer: Layer, extension: Extension) -> Numbers:
    scratch: Numbers = 8 * scratch_bytes(layer, extension)
    return scratch


TENSORS = BufferModel(whole_bytes, no_scratch, overwrites)
"""Tensors alone."""

CMSIS_NN = BufferModel(whole_bytes, functools.partial(_scratch_bits, extension="DSP"), overwrites)
CMSIS_NN_MVE = BufferModel(whole_bytes, functools.partial(_scratch_bits, extension="MVE"), overwrites)

BUFFERS = {
    "device_ram_bytes": TENSORS,
    "cmsis_nn_ram_bytes": CMSIS_NN,
    "cmsis_nn_mve_ram_bytes": CMSIS_NN_MVE,
}
"""Buffer models by the name of their cost."""


def device_ram_bytes(name: str, encoding: Any) -> CostModel:
    """Largest number of bytes in memory while a layer runs.

    Args:
        name: One of ``BUFFERS``.
        encoding: Encoding of a search space that has networks.
    """
    return peak_of(name, encoding, BUFFERS[name])
