"""Sessions of onnxruntime on the CPU."""

from __future__ import annotations

import functools
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper

from apq_tune.errors import DeployError
from apq_tune.network.layer import IMAGE

EXACT = "session.x64quantprecision"
"""Option that keeps onnxruntime from saturating sums of products on x86 processors without VNNI; it costs time."""

INTEGER_KERNELS = ("QLinearConv", "QGemm", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat")
"""Operators with weights that compute in integers."""

FLOAT_KERNELS = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")
"""Operators with weights that compute in floating point."""


def session(model: onnx.ModelProto, threads: int = 1, optimized: Path | None = None) -> onnxruntime.InferenceSession:
    """Session of a model.

    Args:
        model: Model.
        threads: Number of threads.
        optimized: File to which onnxruntime writes the graph that it runs.

    Raises:
        DeployError: If this version of onnxruntime cannot run the model.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    if saturates():
        options.add_session_config_entry(EXACT, "1")
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base class
        said = str(error).splitlines()[0]
        raise DeployError(
            f"onnxruntime {onnxruntime.__version__} cannot run the model ({said}); update it, or export again with "
            "--unpacked"
        ) from None


@functools.cache
def saturates() -> bool:
    """Whether onnxruntime's products of uint8 and int8 saturate on this processor, found out on the largest ones."""
    n, constants = 64, {"one": np.float32(1), "u0": np.uint8(0), "i0": np.int8(0), "scale": np.float32(255 * 127)}
    values = [onnx.numpy_helper.from_array(np.array(value), name) for name, value in constants.items()]
    values.append(onnx.numpy_helper.from_array(np.full((n, n), 127, np.int8), "w"))
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, [n, n]) for name in "xy"]
    node = helper.make_node("QLinearMatMul", ["x", "one", "u0", "w", "one", "i0", "scale", "u0"], ["y"])
    graph = helper.make_graph([node], "product", ends[:1], ends[1:], values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    own = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    product = own.run(None, {"x": np.full((n, n), 255, np.uint8)})[0]
    return bool((product != n).any())


def logits(model: onnx.ModelProto, images: NDArray[np.float32], batch: int = 256) -> NDArray[np.float32]:
    """Logits of images on one thread, shape ``(n, classes)``.

    Args:
        model: Model.
        images: Images as ``Preprocessing`` gives them, shape ``(n, channels, size, size)``.
        batch: Number of images at a time.
    """
    own = session(model)

    def parts() -> Iterator[NDArray[np.float32]]:
        for first in range(0, len(images), batch):
            yield own.run(None, {IMAGE: images[first : first + batch]})[0]

    return np.concatenate(list(parts()))


def kernels(model: onnx.ModelProto) -> Counter[str]:
    """Number of operators by type in the graph that onnxruntime runs, after its optimizations for this machine."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        session(model, optimized=path)
        return Counter(node.op_type for node in onnx.load(path).graph.node)
