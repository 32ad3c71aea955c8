"""Export of found networks to files, each of which is run before it is kept."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apq_tune.data import Data, DataRoot, WantedImages, read_images
from apq_tune.deploy.c_file import SEAL, c_bytes
from apq_tune.deploy.device import check_found
from apq_tune.deploy.exported import Kernels, on_resized, open_file
from apq_tune.deploy.file_memory import FileMemory, MemoryLimit, broken_limits, memory_limits, memory_of_file
from apq_tune.deploy.formats import FORMATS, SUFFIXES, ExportFormat
from apq_tune.deploy.lowering import program_of
from apq_tune.deploy.onnx_file import DIGEST, FileMetadata, onnx_model, parse_onnx, texts_of
from apq_tune.deploy.program import Program
from apq_tune.deploy.tflite_builder import logits_scaling
from apq_tune.deploy.tflite_check import check_steps
from apq_tune.deploy.tflite_file import read_tflite, tflite_bytes
from apq_tune.deploy.tflite_graph import TFLiteGraph, tflite_graph
from apq_tune.deploy.tflite_writer import schema
from apq_tune.deploy.torch_file import read_torch, runner_of, torch_bytes
from apq_tune.errors import DeployError, RunError
from apq_tune.network.layer import IMAGE
from apq_tune.space.device import DevicePreset, load_preset
from apq_tune.store.files import cannot_write
from apq_tune.supernet.batches import images_of
from apq_tune.supernet.found_network import FoundNetwork
from apq_tune.supernet.train import is_finite

SUFFIX_OF = {name: suffix for suffix, name in SUFFIXES.items()}

ENOUGH = 0.99
"""Share of images on which a file must choose the class that the simulation chooses, or the integer program."""

LEAST = 0.8
"""Share for the simulation if the file is the integer program: in deep networks single roundings change all that
follows. EfficientNet-Lite0 with 4 bits everywhere has .868, though each of its 50 layers agrees."""

IMAGES = 500
"""Number of images that a file is run on after it is written."""

STEP_IMAGES = 4
"""Number of images on which each operation of a TensorFlow Lite file is compared with the integer program."""

FOUND = "search images"
"""Description of the images of the search."""

FEWEST, C_MACS = 32, 3e10
"""Smallest number of images that a C file is run on, and largest number of MACs for more images than that."""


class FileAgreement(NamedTuple):
    """Comparison of two ways to run a network.

    Attributes:
        share: Share of images with the same class.
        n: Number of images.
        images: Description of the images.
    """

    share: float
    n: int
    images: str


class ExportedFile(NamedTuple):
    """Result of an export.

    Attributes:
        path: Path of the file.
        format: Its format.
        n_bytes: Its size.
        promised: ``weight_bytes`` of the network, which the search promised.
        agreement: Agreement of the file with the simulation.
        exact: Agreement of the file with the integer program, which is measured if that with the simulation is low.
        reads: Shape of the images that the file reads, ``(channels, height, width)``.
        kernels: Operators with weights that onnxruntime runs in integers and in floating point; ``None`` for other
            formats.
        float_steps: Names of the steps of the network that need floating point.
        memory: Memory that the file takes on a device.
        memory_limits: Limits on it, of the device or of the search.
        narrow: Number of layers whose weights a TensorFlow Lite file stores as int4, and of those with fewer than 8
            bits that it stores as bytes.
        over_search: What of it is over the limits of the search, each in one line with a remedy.
    """

    path: Path
    format: ExportFormat
    n_bytes: int
    promised: float
    agreement: FileAgreement
    kernels: Kernels | None
    float_steps: tuple[str, ...]
    memory: FileMemory
    memory_limits: tuple[MemoryLimit, ...] = ()
    exact: FileAgreement | None = None
    reads: tuple[int, ...] = ()
    narrow: tuple[int, int] = (0, 0)
    over_search: tuple[str, ...] = ()


def export(
    network: FoundNetwork,
    path: str | Path,
    format: ExportFormat = "onnx",  # noqa: A002, it is the name of the option
    *,
    packed: bool = True,
    device: DevicePreset | str | Path | None = None,
    over_limits: bool = False,
    data_root: str | Path | None = None,
) -> ExportedFile:
    """Write a network to a file, run the file, and keep it if it agrees with the network.

    Args:
        network: Network, as ``load_network`` returns it.
        path: Path of the file, whose name ends in ``.onnx``, ``.pt2``, ``.c`` or ``.tflite``. An earlier export is
            replaced.
        format: ``"onnx"``: quantized ONNX for integer runtimes; ``"torch"``: a program of ``torch.export``; ``"c"``:
            one C99 file with plain kernels; ``"tflite"``: TensorFlow Lite in int8, which needs the extra ``[tflite]``.
        packed: Whether weights of ONNX of 2 to 6 bits, and of TensorFlow Lite of 2 to 4, are packed, which needs a
            recent runtime; otherwise each is a byte.
        device: Preset of the device that the file is for, its name or its file.
        over_limits: Whether a file that takes more memory than the device has is kept.
        data_root: Folder with the files of named data sets, whose search images the file is run on. Nothing is
            downloaded; random images are taken where there are none.

    Raises:
        DeployError: If the format cannot hold the network, the path holds a file of another origin, the file takes more
            memory than the device has, or the file and the network disagree by more than roundings explain.
        DeviceError: If the device does not run a layer of the network, or has no memory for it.
        RunError: If the file cannot be written.
    """
    path = Path(path)
    check_target(path, format)
    if not packed and format not in ("onnx", "tflite"):
        raise DeployError(
            f"{path}: only weights in the onnx and tflite formats can be unpacked; export it as one of these, or leave "
            "that out"
        )
    if not is_finite(network):
        raise DeployError(
            f"{path}: the network has weights that are not finite; train it again at a lower learning rate"
        )
    preset = load_preset(device) if isinstance(device, str | Path) else device
    if preset is not None:
        check_found(preset, network)
    if format == "tflite":
        schema()  # refuse before any work if the extra is not there
    program = program_of(network)
    n = IMAGES if format != "c" else int(max(FEWEST, min(IMAGES, C_MACS / network.costs["macs"].value)))
    images, origin = _images(network, n, data_root)
    graph = None
    if format == "tflite":
        if origin != FOUND:
            raise DeployError(
                f"{path}: logits of the tflite format are int8, and their range is measured on search images, which "
                "are not here; put them where the run read them (data_root), or export with --format onnx"
            )
        graph = tflite_graph(program, logits_scaling(network.logits(images)), pack_weights=packed)
    content = _content(network, program, format, graph, packed=packed)
    memory, limits = memory_of_file(content, format), memory_limits(network, preset)
    broken = broken_limits(network, program, memory, limits, format, packed=packed)
    if not over_limits and (of_device := [said for limit, said in broken.items() if limit.device is not None]):
        raise DeployError(f"{path}: {of_device[0]}, or keep the file with --over-limits")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            new = Path(folder) / path.name
            new.write_bytes(content)
            opened = open_file(new)
            if graph is not None:
                read = on_resized(lambda own: own, opened.reads)(images[:STEP_IMAGES])
                check_steps(program, graph, content, read, path)
            agreement = agreement_of(opened.run, network.logits, images, origin)
            exact = None
            if agreement.share < ENOUGH:
                exact = agreement_of(opened.run, on_resized(runner_of(program), opened.reads), images, origin)
                enough = ENOUGH if graph is None else LEAST  # of tflite, each operation has been compared
                if exact.share < enough or agreement.share < LEAST:
                    raise DeployError(f"{path}: {_disagreement(agreement, exact, enough)}")
            new.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from None
    promised = network.costs["weight_bytes"].value
    about = (promised, agreement, opened.kernels, program.float_steps, memory, limits, exact)
    narrow = (0, 0) if graph is None else graph.narrow
    of_search = tuple(said for limit, said in broken.items() if limit.device is None)
    return ExportedFile(path, format, len(content), *about, program.tensors[IMAGE].shape, narrow, of_search)


def _disagreement(agreement: FileAgreement, exact: FileAgreement, enough: float) -> str:
    """Why a file is not kept."""
    if exact.share < enough:
        return (
            f"the file and the network choose the same class for {agreement.share:.1%} of {agreement.n} "
            f"{agreement.images}, fewer than {enough:.0%}; nothing was written: try another --format"
        )
    return (
        f"in integers the network chooses the class that it chooses in floating point for {agreement.share:.1%} of "
        f"{agreement.n} {agreement.images}, fewer than {LEAST:.0%}; nothing was written: give its layers more bits"
    )


def check_target(path: Path, kind: str) -> None:
    """Check the format and that a file may be written to a path.

    Raises:
        DeployError: If the format is unknown, the suffix is that of another one, or the path holds something that no
            export has written.
    """
    if kind not in FORMATS:
        raise DeployError(f"unknown format {kind!r}; known: {', '.join(FORMATS)}")
    if path.suffix != SUFFIX_OF[kind]:
        raise DeployError(f"{path}: format {kind} is written to names that end in {SUFFIX_OF[kind]}")
    if not path.exists():
        return
    if path.is_dir():
        raise DeployError(f"{path}: is a folder; give the name of a file")
    if not _is_ours(path):
        raise DeployError(f"{path}: exists and was not written by apq-tune export; choose another --out")


def _is_ours(path: Path) -> bool:
    """Whether a file was written by an export, or is empty."""
    try:
        if not path.stat().st_size:
            return True
        if path.suffix == ".onnx":
            return DIGEST in texts_of(parse_onnx(path))
        if path.suffix == ".pt2":
            return bool(read_torch(path))
        if path.suffix == ".tflite":
            return read_tflite(path).texts is not None
        return SEAL.match(path.read_bytes()) is not None
    except (DeployError, OSError):
        return False


def _content(
    network: FoundNetwork, program: Program, kind: ExportFormat, graph: TFLiteGraph | None, *, packed: bool
) -> bytes:
    about = FileMetadata.of(network, program)
    if graph is not None:
        return tflite_bytes(graph, about.texts())
    if kind == "onnx":
        return bytes(onnx_model(program, about, pack_weights=packed).SerializeToString())
    return (torch_bytes if kind == "torch" else c_bytes)(program, about.texts())


def _images(network: FoundNetwork, n: int, data_root: str | Path | None) -> tuple[NDArray[np.float32], str]:
    """Images of the search split; random ones if they are not there."""
    space, given = network.space, network.preprocessing
    wanted = WantedImages(space.name, given.channels, given.size, space.classes, normalisation=given.normalisation)
    try:
        data: Data = read_images(space.data, wanted, DataRoot.of(data_root)._replace(download=False))
        return images_of(data.search, n), FOUND
    except RunError:
        rng = np.random.default_rng(0)
        levels = rng.integers(0, 256, (n, given.channels, given.size, given.size), np.uint8)
        return given(levels).numpy(), "random images (those of the search are not here)"


def agreement_of(
    one: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    other: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    images: NDArray[np.float32],
    origin: str,
) -> FileAgreement:
    """Agreement of two functions from preprocessed images to logits.

    Args:
        one: First function.
        other: Second function.
        images: Preprocessed images, shape ``(n, channels, size, size)``.
        origin: Description of the images.
    """
    same = one(images).argmax(axis=1) == other(images).argmax(axis=1)
    return FileAgreement(float(same.mean()), len(images), origin)
