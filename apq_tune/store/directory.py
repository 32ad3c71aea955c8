"""Run directories: plain files, written atomically, that record finished stages and what they depend on."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from apq_tune.errors import RunError
from apq_tune.space.device import DevicePreset
from apq_tune.space.network_space import NetworkSpace
from apq_tune.store.files import write_atomically
from apq_tune.store.folder import CommandFolder, digest
from apq_tune.store.stage import AGAIN, RECORD, StageFiles

FORMAT = 3
"""Format of run directories; raise it when older runs cannot be resumed.

Format 1 had no digests; networks of format 2 do not quantize what sums and the global mean read.
"""

TABLES = "tables"
"""Name of the folder of a run's cost tables."""


MODEL = "model.pt"
"""Name of the file with the weights of the user's model."""


class KeptModel(NamedTuple):
    """Model of a user as a run directory keeps it.

    Attributes:
        graph: Digest of its graph.
        weights: Digest of its weights.
        content: The weights as a file.
    """

    graph: str
    weights: str
    content: bytes


class RunDirectory(CommandFolder):
    """Directory of a run, locked by this process for the lifetime of the object.

    Attributes:
        tables: Digest of each cost table.
    """

    def __init__(
        self,
        path: Path,
        space: NetworkSpace,
        settings: Mapping[str, Any],
        command: str,
        data_root: Path | None = None,
        *,
        tables: Sequence[Path] = (),
        wait: float = 0.0,
        taken: Sequence[str] = (),
        images: Mapping[str, int] | None = None,
        classes: Sequence[str] = (),
        model: KeptModel | None = None,
    ) -> None:
        """Open or create a run directory.

        Args:
            path: Path of the folder.
            space: Search space of the run.
            settings: Settings of the run.
            command: Command line, for the record.
            data_root: Folder with the files of data sets.
            tables: Cost tables, which are copied into the folder.
            wait: Seconds to wait for another process that owns the folder to end.
            taken: Lines about the images, for the record.
            images: Number of images of each split, for the record.
            classes: Class names in the order of the labels, for the record.
            model: Model of the user that the space is of, whose weights are kept in the folder.

        Raises:
            RunError: If it cannot be written, is in use, or holds a run of another space, of another model, of other
                weights, for another device or of another version.
        """
        super().__init__(path, "run directory", "run.json", FORMAT, (f"1_*/{RECORD}",), wait=wait)
        before = self.read(f"delete it, {AGAIN}") or self._before()
        if before.get("data", space.data) != space.data:
            raise RunError(f"{path}: is a run on {before.get('data')}, not on {space.data}; choose another --out")
        if before.get("space", space.name) != space.name:
            raise RunError(
                f"{path}: is a run of space {before.get('space')!r}, not {space.name!r}; choose another --out"
            )
        self._check_device(before, space)
        self._check_model(before, model)
        self.tables = keep_tables(path, tables)
        yaml = space.to_yaml()
        content = {
            "space": space.name,
            "data": space.data,
            "data_root": None if data_root is None else str(data_root.absolute()),
            "classes": list(classes),
            "settings": dict(settings),
            "digests": {"space.yaml": hashlib.sha256(yaml.encode("utf-8")).hexdigest(), "tables": self.tables},
        } | ({"taken": list(taken)} if taken else {})
        content |= {"images": dict(images)} if images else {}
        content |= _of_device(space)
        if model is not None:
            content["model"] = {"graph": model.graph, "weights": model.weights}
            write_atomically(path / MODEL, model.content)
        write_atomically(path / "space.yaml", yaml)
        self.write(command, content)

    def _check_device(self, before: Mapping[str, Any], space: NetworkSpace) -> None:
        """Refuse a folder whose run is for another device, or for one whose preset has changed."""
        was, now = before.get("device"), _of_device(space).get("device")
        if not before or was == now:
            return
        mine, yours = (None if one is None else one["name"] for one in (was, now))
        what = f"is a run for {mine or 'no device'}, not for {yours or 'none'}"
        if mine == yours:
            what = f"is a run for {mine} with another preset of that name"
        raise RunError(f"{self.path}: {what}; give the --device-preset that it was begun with, or choose another --out")

    def _check_model(self, before: Mapping[str, Any], model: KeptModel | None) -> None:
        """Refuse a folder whose run is of another model, or of other weights of the same one."""
        was = before.get("model")
        if was is None or model is None:
            return
        if was["graph"] != model.graph:
            raise RunError(f"{self.path}: is a run of another model; give that model, or choose another --out")
        if was["weights"] != model.weights:
            raise RunError(
                f"{self.path}: is a run of this model with other weights; give those weights, or choose another --out"
            )

    def _before(self) -> dict[str, Any]:
        """Space and data as recorded by the first stage, for runs without ``run.json``."""
        for first in self.path.glob(f"1_*/{RECORD}"):
            space = StageFiles(first.parent, AGAIN).record()["basis"]["space"]
            preset = space.get("device")
            device = {} if preset is None else _of_preset(DevicePreset.from_dict(preset, str(first)))
            return {"space": space["name"], "data": space.get("data")} | device
        return {}


def _of_device(space: NetworkSpace) -> dict[str, Any]:
    """Record of the device that a space was narrowed for; empty if there is none."""
    return {} if space.device is None else _of_preset(space.device)


def _of_preset(preset: DevicePreset) -> dict[str, Any]:
    return {"device": {"name": preset.name, "digest": preset.digest}}


def keep_tables(folder: Path, tables: Sequence[Path]) -> list[str]:
    """Copy cost tables into the folder of a command, replacing earlier ones, so that later commands can use them.

    Args:
        folder: Folder of a run or of a refinement.
        tables: Cost tables.

    Returns:
        Digest of each table.

    Raises:
        RunError: If they cannot be written.
    """
    digests = [str(digest(table)) for table in tables]
    place = folder / TABLES
    if kept_digests(folder) == digests:
        return digests
    try:
        shutil.rmtree(place, ignore_errors=True)
        for number, table in enumerate(tables, start=1):
            place.mkdir(exist_ok=True)
            (shutil.copytree if table.is_dir() else shutil.copy)(table, place / f"{number}_{table.name}")
    except OSError as error:
        raise RunError(f"cannot write {place}: {error.strerror}; fix it or choose another --out") from None
    return digests


def kept_tables(folder: Path) -> list[Path]:
    """Cost tables that a run or a refinement has copied, in order."""
    place = folder / TABLES
    return sorted(place.iterdir(), key=lambda path: int(path.name.split("_")[0])) if place.is_dir() else []


def kept_digests(folder: Path) -> list[str]:
    """Digests of the cost tables that a run or a refinement has copied, in order."""
    return [str(digest(table)) for table in kept_tables(folder)]
