"""Exported files of any format, and foreign ONNX and TensorFlow Lite files, opened to be run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apq_tune.deploy.c_file import load_c
from apq_tune.deploy.formats import SUFFIXES, ExportFormat
from apq_tune.deploy.onnx_file import DIGEST, FileMetadata, metadata_of, parse_onnx, read_onnx, texts_of
from apq_tune.deploy.onnx_session import FLOAT_KERNELS, INTEGER_KERNELS, kernels, session
from apq_tune.deploy.tflite_file import ends_of, interpreter, read_tflite, runner_of_tflite
from apq_tune.deploy.torch_file import load_torch
from apq_tune.errors import DeployError
from apq_tune.supernet.batches import numpy_resized

Floats = NDArray[np.float32]

BATCH = 256
"""Images at a time."""


class Kernels(NamedTuple):
    """Numbers of operators with weights in the graph that onnxruntime runs."""

    integer: int
    floating: int


class OpenFile(NamedTuple):
    """Exported file that can be run.

    Attributes:
        path: Path of the file.
        format: ``"onnx"``, ``"torch"``, ``"c"`` or ``"tflite"``.
        about: Metadata of the file; ``None`` if another program wrote it.
        channels: Number of channels of the images.
        size: Side length of preprocessed images in pixels.
        reads: Side length of the images that the file reads, to which preprocessed ones are resized.
        classes: Number of classes.
        run: Function from preprocessed images to logits.
        kernels: Operators that onnxruntime runs; ``None`` for other formats.
    """

    path: Path
    format: ExportFormat
    about: FileMetadata | None
    channels: int
    size: int
    reads: int
    classes: int
    run: Callable[[Floats], Floats]
    kernels: Kernels | None


def open_file(path: Path) -> OpenFile:
    """Open an exported file, or an ONNX or TensorFlow Lite file of another program that maps images to logits.

    Raises:
        DeployError: If it cannot be read, is damaged, of an unknown format, or does not map images to logits.
    """
    if path.suffix not in SUFFIXES:
        raise DeployError(f"{path}: has no known format; the name of an exported file ends in {', '.join(SUFFIXES)}")
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise DeployError(f"{path}: is empty; export it again")
    except OSError as error:
        raise DeployError(f"{path}: cannot be read ({error.strerror}); give an exported file") from None
    if path.suffix == ".onnx":
        return _onnx(path)
    if path.suffix == ".tflite":
        return _tflite(path)
    run, texts = (load_torch if path.suffix == ".pt2" else load_c)(path)
    about = metadata_of(path, texts)
    given, run = about.preprocessing, on_resized(_in_batches(run), about.reads)
    kind = SUFFIXES[path.suffix]
    return OpenFile(path, kind, about, given.channels, given.size, about.reads, len(given.classes), run, None)


def _onnx(path: Path) -> OpenFile:
    model = parse_onnx(path)
    about = read_onnx(path).metadata if DIGEST in texts_of(model) else None
    own = session(model)
    ends = own.get_inputs(), own.get_outputs()
    if tuple(map(len, ends)) != (1, 1):
        raise DeployError(f"{path}: has {len(ends[0])} inputs and {len(ends[1])} outputs; one of each can be evaluated")
    (image,), (logits,) = ends
    if image.type != "tensor(float)" or logits.type != "tensor(float)":
        raise DeployError(f"{path}: maps {image.type} to {logits.type}; only float images and logits can be evaluated")
    channels, height, width = _fixed(path, image, 4)
    (classes,) = _fixed(path, logits, 2)
    if height != width:
        raise DeployError(f"{path}: reads images of {height} x {width} pixels; only square ones can be evaluated")
    batch = image.shape[0] if isinstance(image.shape[0], int) else None

    def run(images: Floats) -> Floats:
        try:
            return np.asarray(own.run(None, {image.name: images})[0], np.float32)
        except Exception as error:  # its exceptions have no common base class
            reason = str(error).splitlines()[0][-200:]
            raise DeployError(
                f"{path}: onnxruntime cannot run it on {len(images)} images ({reason}); export it again"
            ) from None

    found = kernels(model)
    counts = Kernels(*(sum(found[kind] for kind in kinds) for kinds in (INTEGER_KERNELS, FLOAT_KERNELS)))
    size = height if about is None else about.preprocessing.size
    whole = on_resized(_in_batches(run, batch), height) if size != height else _in_batches(run, batch)
    return OpenFile(path, "onnx", about, channels, size, height, classes, whole, counts)


def _tflite(path: Path) -> OpenFile:
    content, texts = read_tflite(path)
    about = None if texts is None else metadata_of(path, texts)
    ends = ends_of(path, interpreter(path, content))
    (height, width, channels), classes = (int(n) for n in ends[0]["shape"][1:]), int(ends[1]["shape"][1])
    if height != width:
        raise DeployError(f"{path}: reads images of {height} x {width} pixels; only square ones can be evaluated")
    size = height if about is None else about.preprocessing.size
    run = on_resized(runner_of_tflite(path, content), height)
    return OpenFile(path, "tflite", about, channels, size, height, classes, run, None)


def _fixed(path: Path, end: Any, dimensions: int) -> list[int]:
    """Sizes of all dimensions of an input or an output but the batch.

    Raises:
        DeployError: If it has another number of dimensions, or one of them is open.
    """
    sizes = list(end.shape[1:])
    if len(end.shape) != dimensions or not all(isinstance(size, int) and size > 0 for size in sizes):
        wanted = "(batch, channels, size, size)" if dimensions == 4 else "(batch, classes)"
        raise DeployError(f"{path}: {end.name} has the shape {tuple(end.shape)}; only {wanted} can be evaluated")
    return sizes


def _in_batches(run: Callable[[Floats], Floats], batch: int | None = None) -> Callable[[Floats], Floats]:
    """Function that runs a network on any number of images.

    Args:
        run: Function that runs it on a batch.
        batch: Number of images that it takes at once; ``None`` for any number.
    """

    def all_of(images: Floats) -> Floats:
        size, n = batch or BATCH, len(images)
        rest = -n % size if batch else 0
        padded = np.concatenate([images, np.repeat(images[-1:], rest, axis=0)]) if rest else images
        parts = [run(padded[first : first + size]) for first in range(0, len(padded), size)]
        return np.concatenate(parts)[:n]

    return all_of


def on_resized(run: Callable[[Floats], Floats], size: int) -> Callable[[Floats], Floats]:
    """Function of preprocessed images, which are resized as in the simulation.

    Args:
        run: Function of images of the right size.
        size: Their side length.
    """
    return lambda images: run(images if images.shape[-1] == size else numpy_resized(images, size, size))
