"""Formats of exported files, and what is estimated of them; imports nothing, since commands need it for ``--help``."""

from __future__ import annotations

from typing import Literal, get_args

ExportFormat = Literal["onnx", "torch", "c", "tflite"]
"""Formats of exported files."""

FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)

SUFFIXES: dict[str, ExportFormat] = {".onnx": "onnx", ".pt2": "torch", ".c": "c", ".tflite": "tflite"}
"""Formats by the suffix of their files."""

VELA_ACCELERATORS = (
    *(f"ethos-u55-{n}" for n in (32, 64, 128, 256)),
    *(f"ethos-u65-{n}" for n in (256, 512)),
    *(f"ethos-u85-{n}" for n in (128, 256, 512, 1024, 2048)),
)
"""Accelerators that Vela compiles for, with their MACs a cycle."""
