"""ONNX nodes of operations of ATen that a traced model holds and the package has no kind of layer for."""

from __future__ import annotations

from apq_tune.deploy.onnx_writer import GraphWriter
from apq_tune.deploy.program import FloatStep
from apq_tune.errors import DeployError


def write_opaque(writer: GraphWriter, step: FloatStep, inputs: list[str]) -> None:  # noqa: ARG001
    """Append the nodes of an operation of ATen.

    Raises:
        DeployError: If it has no form in ONNX yet.
    """
    target = step.settings["target"]
    raise DeployError(f"layer {step.name}: the operation {target} has no ONNX form yet")
