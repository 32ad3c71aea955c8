"""ONNX files of found networks: written with all that is known of the network, read back with care."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import onnx
from google.protobuf.message import DecodeError
from onnx import helper

from apq_tune.data import is_folder
from apq_tune.deploy.lowering import program_of
from apq_tune.deploy.onnx_graph import graph_of
from apq_tune.deploy.program import Program
from apq_tune.errors import ApqError, DeployError
from apq_tune.inputs.documents import load_json
from apq_tune.space.candidate import read_candidate
from apq_tune.space.network_space import NetworkCandidate, NetworkSpace
from apq_tune.store.files import write_atomically
from apq_tune.supernet.found_network import CostValue, FoundNetwork, Preprocessing

FORMAT = 1
"""Format of the metadata; raise it when older files cannot be read."""

PREFIX = "apq_tune."
"""Prefix of the keys of our metadata."""

DIGEST = f"{PREFIX}sha256"
"""Key of the digest of the graph and of all other metadata."""

LIBRARIES = ("apq-tune", "torch", "numpy", "onnx")
"""Libraries whose versions are recorded."""


class FileMetadata(NamedTuple):
    """What a file says about its network.

    Attributes:
        name: Name of the network in the folder that it is from.
        space: Plain data of the search space; of a traced model its digest alone.
        candidate: Architecture and bits.
        scores: ``loss`` and ``accuracy`` by split, as measured after training.
        costs: Costs that the search promised, by name.
        preprocessing: How images become inputs of the network, which are then resized to what the file reads.
        versions: Versions of the libraries that wrote the file, by name.
        program: Digest of the integer program.
    """

    name: str
    space: Mapping[str, Any]
    candidate: NetworkCandidate
    scores: Mapping[str, Mapping[str, float]]
    costs: Mapping[str, CostValue]
    preprocessing: Preprocessing
    versions: Mapping[str, str]
    program: str

    @classmethod
    def of(cls, network: FoundNetwork, program: Program) -> FileMetadata:
        """Metadata of a found network.

        Args:
            network: Network.
            program: Its integer program.
        """
        return cls(
            network.name,
            _plain(network.space),
            network.candidate,
            network.scores,
            network.costs,
            network.preprocessing,
            {name: metadata.version(name) for name in LIBRARIES},
            program.digest,
        )

    @property
    def reads(self) -> int:
        """Side length of the images that the file reads: that of the candidate, or that of preprocessed ones."""
        return self.candidate.resolution or self.preprocessing.size

    @property
    def data(self) -> str | None:
        """Name of the data set of the search space."""
        return self.space.get("data")

    def texts(self) -> dict[str, str]:
        """Metadata as text by key, the form in which ONNX keeps it."""
        values = {
            "format": FORMAT,
            "name": self.name,
            "space": self.space,
            "candidate": self.candidate.to_dict(),
            "scores": self.scores,
            "costs": {name: [cost.value, cost.unit] for name, cost in self.costs.items()},
            "preprocessing": self.preprocessing._asdict() | {"resolution": self.reads},
            "versions": self.versions,
            "program": self.program,
        }
        texts = {f"{PREFIX}{key}": json.dumps(value) for key, value in values.items()}
        return texts | {f"{PREFIX}notation": str(self.candidate)}

    @classmethod
    def from_texts(cls, texts: Mapping[str, str]) -> FileMetadata:
        """Inverse of ``texts``.

        Raises:
            ApqError, KeyError, TypeError, ValueError: If the texts are not of that form.
        """
        values = {
            key.removeprefix(PREFIX): load_json(text, key)
            for key, text in texts.items()
            if key not in (DIGEST, f"{PREFIX}notation")
        }
        given = values["preprocessing"]
        return cls(
            str(values["name"]),
            dict(values["space"]),
            read_candidate(values["candidate"]),
            {split: {kind: float(own[kind]) for kind in own} for split, own in values["scores"].items()},
            {name: CostValue(float(value), str(unit)) for name, (value, unit) in values["costs"].items()},
            Preprocessing(
                int(given["channels"]), int(given["size"]), *(tuple(given[key]) for key in ("mean", "std", "classes"))
            ),
            {name: str(version) for name, version in values["versions"].items()},
            str(values["program"]),
        )


class ONNXFile(NamedTuple):
    """Model of a file, and what the file says about it."""

    model: onnx.ModelProto
    metadata: FileMetadata


def _plain(space: NetworkSpace) -> dict[str, Any]:
    """Search space without the path of a folder of images, which is nothing to those who get the file.

    The graph of a traced model, which may have more bytes than the weights of a small network, is left out, too.
    """
    plain = (space.with_data(None) if is_folder(space.data) else space).to_dict()
    plain.pop("model", None)
    return plain


def onnx_model(program: Program, about: FileMetadata, *, pack_weights: bool = True) -> onnx.ModelProto:
    """ONNX model of a program: images as ``Preprocessing`` gives them, resized, in, logits out, any batch size.

    Args:
        program: Integer program.
        about: Metadata.
        pack_weights: Whether weights below 7 bits are packed; see ``graph_of``.
    """
    graph, opset = graph_of(program, pack_weights=pack_weights)
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(
        graph,
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),
        producer_name="apq-tune",
        producer_version=about.versions.get("apq-tune", ""),
    )
    helper.set_model_props(model, about.texts())
    helper.set_model_props(model, {**about.texts(), DIGEST: _digest(model)})
    onnx.checker.check_model(model, full_check=True)
    return model


def write_onnx(network: FoundNetwork, path: Path, *, pack_weights: bool = True) -> onnx.ModelProto:
    """Write a found network as an ONNX file, atomically.

    Args:
        network: Network.
        path: Path of the file.
        pack_weights: Whether weights below 7 bits are packed; see ``graph_of``.

    Returns:
        Model in the file.

    Raises:
        RunError: If the file cannot be written.
        DeployError: If the network cannot be written as an integer program.
    """
    program = program_of(network)
    model = onnx_model(program, FileMetadata.of(network, program), pack_weights=pack_weights)
    write_atomically(path, model.SerializeToString())
    return model


def parse_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX file of any program.

    Raises:
        DeployError: If the file is missing, is no ONNX file, is truncated, or keeps its weights in other files.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DeployError(f"{path}: cannot be read ({error.strerror}); give an exported .onnx file") from None
    model = onnx.ModelProto()
    try:
        model.ParseFromString(content)
    except DecodeError:
        raise DeployError(f"{path}: is truncated or no ONNX file; export it again") from None
    texts = [text for prop in model.metadata_props for text in (prop.key, prop.value)]
    if not model.graph.node or not model.opset_import or not all(isinstance(text, str) for text in texts):
        raise DeployError(f"{path}: is truncated or no ONNX file; export it again")
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise DeployError(f"{path}: keeps its weights in other files; save it as one file")
    return model


def texts_of(model: onnx.ModelProto) -> dict[str, str]:
    """Metadata of a model by key."""
    return {prop.key: prop.value for prop in model.metadata_props}


def read_onnx(path: Path) -> ONNXFile:
    """Read an ONNX file that ``write_onnx`` wrote.

    Raises:
        DeployError: If the file is missing, is no ONNX file, is truncated or changed, or is not from this package.
    """
    model = parse_onnx(path)
    texts = texts_of(model)
    if DIGEST not in texts:
        raise DeployError(f"{path}: was not written by apq-tune; give a file of: apq-tune export RUN --format onnx")
    if texts[DIGEST] != _digest(model):
        raise DeployError(f"{path}: is damaged, or was changed after its export; export it again")
    if texts.get(f"{PREFIX}format") != str(FORMAT):
        raise DeployError(
            f"{path}: is of format {texts.get(f'{PREFIX}format')}, this version reads {FORMAT}; export again"
        )
    return ONNXFile(model, metadata_of(path, texts))


def metadata_of(path: Path, texts: Mapping[str, str]) -> FileMetadata:
    """Metadata of a file of any format.

    Args:
        path: Path of the file, for messages.
        texts: Metadata as ``FileMetadata.texts`` gives them.

    Raises:
        DeployError: If they are not those of an exported network.
    """
    try:
        return FileMetadata.from_texts(texts)
    except (ApqError, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise DeployError(f"{path}: has unreadable metadata ({reason}); export it again") from None


def _digest(model: onnx.ModelProto) -> str:
    """SHA-256 of the graph, the operator set and all metadata but the digest itself."""
    total = hashlib.sha256(model.graph.SerializeToString(deterministic=True))
    others: list[Any] = sorted((prop.key, prop.value) for prop in model.metadata_props if prop.key != DIGEST)
    others += [(own.domain, own.version) for own in model.opset_import]
    total.update(repr(others).encode())
    return total.hexdigest()
