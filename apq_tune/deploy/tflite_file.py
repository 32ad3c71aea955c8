"""TensorFlow Lite files of found networks: written with all that is known of the network, read back with care."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apq_tune.deploy.tflite_graph import TFLiteGraph
from apq_tune.deploy.tflite_writer import EXTRA, IDENTIFIER, schema
from apq_tune.errors import DeployError
from apq_tune.network.layer import IMAGE

METADATA = "apq_tune"
"""Name of our metadata: texts as JSON, the digest among them."""

SEAL = "apq_tune.sha256"
"""Key of the SHA-256 of the file with zeros in its place."""

UNSEALED = "0" * 64

PART = 32
"""Images that are run at a time."""

Floats = NDArray[np.float32]


class TFLiteFile(NamedTuple):
    """File in the format.

    Attributes:
        content: Its content.
        texts: Our metadata by key; ``None`` if another program wrote it.
    """

    content: bytes
    texts: Mapping[str, str] | None


def tflite_bytes(graph: TFLiteGraph, texts: Mapping[str, str]) -> bytes:
    """Content of a file.

    Args:
        graph: Graph of a program.
        texts: Metadata as ``FileMetadata.texts`` gives them.
    """
    note = json.dumps({**texts, SEAL: UNSEALED}, sort_keys=True).encode()
    content = graph.writer.content(graph.values[IMAGE], graph.logits, {METADATA: note})
    place = content.index(_sealed(UNSEALED)) + len(_sealed(""))
    return content[: place - 1] + hashlib.sha256(content).hexdigest().encode() + content[place - 1 + len(UNSEALED) :]


def _sealed(digest: str) -> bytes:
    return json.dumps({SEAL: digest})[1:-1].encode()


def read_tflite(path: Path) -> TFLiteFile:
    """Read a file of ours, or of another program.

    Raises:
        DeployError: If it cannot be read, is no TensorFlow Lite file, or is ours and was changed.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DeployError(f"{path}: cannot be read ({error.strerror}); give an exported .tflite file") from None
    damaged = DeployError(f"{path}: is damaged or no TensorFlow Lite file; export it again")
    if content[4:8] != IDENTIFIER:
        raise damaged
    try:
        note = _metadata(content)
        texts = None if note is None else dict(json.loads(note))
    except (struct.error, ValueError, IndexError, TypeError, AttributeError):
        raise damaged from None
    if texts is None and SEAL.encode() not in content:
        return TFLiteFile(content, None)
    digest = str((texts or {}).pop(SEAL, ""))
    again = content.replace(_sealed(digest), _sealed(UNSEALED), 1)
    if not digest or hashlib.sha256(again).hexdigest() != digest:
        raise DeployError(f"{path}: is damaged, or was changed after its export; export it again")
    return TFLiteFile(content, texts)


def _metadata(content: bytes) -> bytes | None:
    """Our metadata, if there are any."""
    model = schema().Model.GetRootAs(content, 0)
    for number in range(model.MetadataLength()):
        entry = model.Metadata(number)
        if entry.Name() == METADATA.encode():
            return bytes(model.Buffers(entry.Buffer()).DataAsNumpy())
    return None


def constant_bytes(content: bytes) -> int:
    """Bytes of the weights of a file as they are stored, of its biases, and of the scales of weights.

    The scales of biases are products of others; single numbers, shapes and indices are not counted.
    """
    own = schema()
    model, total = own.Model.GetRootAs(content, 0), 0
    graph = model.Subgraphs(0)
    for number in range(graph.TensorsLength()):
        tensor = graph.Tensors(number)
        buffer, about = model.Buffers(tensor.Buffer()), tensor.Quantization()
        if about is not None and tensor.ShapeLength() and buffer.DataLength() > 1:
            weights = tensor.Type() != own.TensorType.INT32
            total += buffer.DataLength() + (4 * about.ScaleLength() if weights else 0)
    return int(total)


def has_int4(content: bytes) -> bool:
    """Whether a file has a tensor of 4-bit integers."""
    own = schema()
    model = own.Model.GetRootAs(content, 0)
    graphs = [model.Subgraphs(number) for number in range(model.SubgraphsLength())]
    kinds = {graph.Tensors(number).Type() for graph in graphs for number in range(graph.TensorsLength())}
    return own.TensorType.INT4 in kinds


def interpreter(path: Path, content: bytes, *, inspected: bool = False) -> Any:
    """Interpreter of LiteRT.

    Args:
        path: Path of the file, for messages.
        content: Its content.
        inspected: Whether all tensors can be read afterwards, for which its own kernels run and not those of XNNPACK.

    Raises:
        DeployError: If the package is not installed, or it does not run the file.
    """
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError:
        raise DeployError(f"{path}: TensorFlow Lite files need the extra [tflite]: {EXTRA}") from None
    kinds = OpResolverType
    kind = kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES if inspected else kinds.AUTO
    try:
        own = Interpreter(
            model_content=content,
            num_threads=1,
            experimental_op_resolver_type=kind,
            experimental_preserve_all_tensors=inspected,
        )
        own.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise DeployError(f"{path}: LiteRT cannot run it ({reason}); export it again") from None
    return own


def quantized(values: Floats, end: Mapping[str, Any]) -> NDArray[Any]:
    """Values as an input of an interpreter wants them."""
    if end["dtype"] == np.float32:
        return values
    scale, zero = end["quantization"]
    limits = np.iinfo(end["dtype"])
    levels = np.rint(values / np.float32(scale)) + zero
    return np.asarray(np.clip(levels, limits.min, limits.max), end["dtype"])


def real(values: NDArray[Any], end: Mapping[str, Any]) -> Floats:
    """Real values of an output of an interpreter."""
    if end["dtype"] == np.float32:
        return np.asarray(values, np.float32)
    scale, zero = end["quantization"]
    return np.asarray((values.astype(np.int32) - zero).astype(np.float32) * np.float32(scale), np.float32)


def ends_of(path: Path, own: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Input and output of an interpreter.

    Raises:
        DeployError: If it does not map images to one number for each class.
    """
    ends = own.get_input_details(), own.get_output_details()
    if tuple(map(len, ends)) != (1, 1):
        raise DeployError(f"{path}: has {len(ends[0])} inputs and {len(ends[1])} outputs; one of each can be evaluated")
    (image,), (logits,) = ends
    for end, dimensions, wanted in ((image, 4, "(1, height, width, channels)"), (logits, 2, "(1, classes)")):
        if len(end["shape"]) != dimensions or end["dtype"] not in (np.float32, np.int8, np.uint8):
            raise DeployError(
                f"{path}: {end['name']} has the shape {tuple(map(int, end['shape']))} and the type "
                f"{np.dtype(end['dtype']).name}; only float32, int8 or uint8 of {wanted} can be evaluated"
            )
        if end["dtype"] != np.float32 and not end["quantization"][0]:
            raise DeployError(f"{path}: {end['name']} has integers without a scale; only those with one are known")
    return image, logits


def runner_of_tflite(path: Path, content: bytes) -> Callable[[Floats], Floats]:
    """Function from images, channels first, to logits, in LiteRT as applications run it.

    Raises:
        DeployError: If the file cannot be run, or does not map images to one number for each class.
    """
    own = interpreter(path, content)
    image, logits = ends_of(path, own)

    def run(images: Floats) -> Floats:
        parts = []
        for first in range(0, len(images), PART):
            part = quantized(images[first : first + PART].transpose(0, 2, 3, 1), image)
            try:
                own.resize_tensor_input(image["index"], part.shape)
                own.allocate_tensors()
                own.set_tensor(image["index"], part)
                own.invoke()
                parts.append(real(own.get_tensor(logits["index"]), logits))
            except (ValueError, RuntimeError) as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
                raise DeployError(f"{path}: LiteRT cannot run it ({reason}); export it again") from None
        return np.concatenate(parts)

    return run
