"""Accuracy of exported files on test images, and their agreement with the network that they were exported from."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apq_tune.data import DataRoot, WantedImages, is_folder, read_images
from apq_tune.data.classes import NAMES, numbered
from apq_tune.data.folder import read_folder
from apq_tune.data.named import SHAPES
from apq_tune.data.split import AnySplit
from apq_tune.deploy.exported import Kernels, OpenFile, open_file
from apq_tune.deploy.load import open_networks
from apq_tune.deploy.lowering import program_of
from apq_tune.errors import DeployError, RunError
from apq_tune.supernet.batches import numpy_batches
from apq_tune.supernet.found_network import CostValue, FoundNetwork

TOP_5 = 10
"""Number of classes from which on the five best are counted, too."""

Z = 1.96
"""Quantile of the normal distribution of a 95% interval."""

AROUND = 2
"""Number of folders around a file in which the run that it is from is looked for."""


class FileScores(NamedTuple):
    """Scores of an exported file.

    Attributes:
        path: Path of the file.
        format: Its format.
        n_bytes: Its size.
        data: Name or folder of the data set.
        n: Number of test images.
        loss: Mean cross-entropy in nats.
        accuracy: Share of images whose class is the first choice.
        interval: 95% interval of the accuracy (Wilson 1927).
        top_5: Share of images whose class is among the five first choices; ``None`` below ten classes.
        agreement: Share of images for which the simulation makes the same first choice; ``None`` without one.
        simulation: What the file was compared with, or why it was not.
        simulated: Accuracy of the simulation on the same images; ``None`` without one.
        costs: Costs that the search promised; empty for files of other programs.
        measured: Accuracy on test images after training, as the file says; ``None`` for files of other programs.
        kernels: Operators with weights that onnxruntime runs; ``None`` for other formats.
        reads: Channels and side length of the images that the file reads, and the side length of those it was given
            before they were resized.
    """

    path: Path
    format: str
    n_bytes: int
    data: str
    n: int
    loss: float
    accuracy: float
    interval: tuple[float, float]
    top_5: float | None
    agreement: float | None
    simulation: str
    simulated: float | None
    costs: dict[str, CostValue]
    measured: float | None
    kernels: Kernels | None
    reads: tuple[int, int, int]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        plain = {**self._asdict(), "path": str(self.path), "kernels": self.kernels and self.kernels._asdict()}
        return plain | {"costs": {name: cost._asdict() for name, cost in self.costs.items()}}


def evaluate(
    path: str | Path, *, data: str | None = None, data_root: str | Path | None = None, run: str | Path | None = None
) -> FileScores:
    """Run an exported file on test images.

    Args:
        path: File of ``export``, or an ONNX or TensorFlow Lite file of another program that maps images to logits.
        data: Folder of images or name of a data set; by default the data set that the file or its run names.
        data_root: Folder with the files of named data sets; by default that of the run.
        run: Directory of the run or refinement that the file is from; by default the folder around the file, if it is
            one.

    Raises:
        DeployError: If the file cannot be read or run, or is not from the run.
        RunError: If the images cannot be read, or do not fit the file.
    """
    path = Path(path)
    file = open_file(path)
    found, simulation = _simulation(file, run)
    network, root = (None, None) if found is None else found
    named = [data, file.about and file.about.data, None if network is None else network.space.data]
    source = next(filter(None, named), None)
    if source is None:
        raise DeployError(f"{path}: does not say which images it is for; name them with --data, or its run with --run")
    if source not in SHAPES and not is_folder(source):
        source = str(Path(source).resolve())
    _check_classes(file, source)
    split = read_images(source, _wanted(file), DataRoot.of(data_root or root)).test
    logits, own, labels = _logits(file, network, split)
    losses = -_log_softmax(logits)[np.arange(len(labels)), labels]
    right = logits.argmax(axis=1) == labels
    five = np.argsort(-logits, axis=1, kind="stable")[:, :5] == labels[:, None]
    return FileScores(
        path,
        file.format,
        path.stat().st_size,
        source,
        len(labels),
        float(losses.mean()),
        float(right.mean()),
        wilson(int(right.sum()), len(labels)),
        float(five.any(axis=1).mean()) if file.classes >= TOP_5 else None,
        None if own is None else float((own.argmax(axis=1) == logits.argmax(axis=1)).mean()),
        simulation,
        None if own is None else float((own.argmax(axis=1) == labels).mean()),
        {} if file.about is None else dict(file.about.costs),
        None if file.about is None else file.about.scores.get("test", {}).get("accuracy"),
        file.kernels,
        (file.channels, file.reads, file.size),
    )


def wilson(right: int, n: int) -> tuple[float, float]:
    """95% interval of a share (Wilson 1927).

    Args:
        right: Number of successes.
        n: Number of trials.
    """
    share, z2 = right / n, Z * Z / n
    middle, half = share + z2 / 2, Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n))
    return max(0.0, (middle - half) / (1 + z2)), min(1.0, (middle + half) / (1 + z2))


def _wanted(file: OpenFile) -> WantedImages:
    own = None if file.about is None else file.about.preprocessing.normalisation
    return WantedImages(str(file.path), file.channels, file.size, file.classes, is_file=True, normalisation=own)


def _check_classes(file: OpenFile, source: str) -> None:
    """Check that a folder or a named data set has the classes of a file, in the same order.

    Raises:
        DeployError: If it has others.
    """
    if file.about is None:
        return
    known = file.about.preprocessing.classes
    found = read_folder(source).classes if is_folder(source) else NAMES.get(source, numbered(len(known)))
    unnamed = known == numbered(len(known)) and file.about.data not in NAMES
    other = next((i for i, names in enumerate(zip(known, found, strict=False)) if names[0] != names[1]), None)
    if len(known) == len(found) and other is not None and not unnamed:
        raise DeployError(
            f"{file.path}: its class {other} is {known[other]!r}, that of {source} is {found[other]!r}; give images of "
            "the same classes"
        )


def _simulation(file: OpenFile, run: str | Path | None) -> tuple[tuple[FoundNetwork, str | None] | None, str]:
    """Network that a file was exported from, with the data root of its run, and where it is, or why there is none.

    Raises:
        DeployError: If the given run has another network.
    """
    if file.about is None:
        if run is not None:
            raise DeployError(f"{file.path}: was not exported from {run}; leave --run out")
        return None, "none: the file is of another program"
    if run is not None:
        opened = open_networks(Path(run))
        network = opened.load(file.about.name)
        if program_of(network).digest != file.about.program:
            raise DeployError(
                f"{file.path}: was not exported from the network {network.name} of {run} as it is now; give its own "
                "run, or leave --run out if the network was trained on before its export"
            )
        return (network, opened.data_root), f"{network.name} of {run}"
    for folder in list(file.path.absolute().parents)[:AROUND]:
        if any((folder / name).exists() for name in ("run.json", "refine.json", "fleet.json")):
            with contextlib.suppress(RunError):  # another run, or one that is not finished
                opened = open_networks(folder)
                network = opened.load(file.about.name)
                if program_of(network).digest == file.about.program:
                    return (network, opened.data_root), f"{network.name} of {folder}"
    return None, "none: name the run that the file is from with --run"


def _logits(
    file: OpenFile, network: FoundNetwork | None, split: AnySplit
) -> tuple[NDArray[np.float64], NDArray[np.float32] | None, NDArray[np.int64]]:
    """Logits of a file and of a network, and labels."""
    parts, own, labels = [], [], []
    for images, truth in numpy_batches(split):
        parts.append(file.run(images))
        labels.append(truth)
        if network is not None:
            own.append(network.logits(images))
    logits = np.concatenate(parts).astype(np.float64)
    if logits.shape != (len(split.labels), file.classes) or not np.isfinite(logits).all():
        raise DeployError(f"{file.path}: gives logits of shape {logits.shape} or that are not finite; export it again")
    return logits, np.concatenate(own) if own else None, np.concatenate(labels)


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), np.float64)
