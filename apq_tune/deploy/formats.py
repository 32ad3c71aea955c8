"""Formats of exported files; imports nothing, since commands need it for ``--help``."""

from __future__ import annotations

from typing import Literal, get_args

ExportFormat = Literal["onnx", "torch", "c", "tflite"]
"""Formats of exported files."""

FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)

SUFFIXES: dict[str, ExportFormat] = {".onnx": "onnx", ".pt2": "torch", ".c": "c", ".tflite": "tflite"}
"""Formats by the suffix of their files."""
