"""Memory that an exported file takes on a device, read from the file, and the limits that it has to keep.

Flash is what the file holds of the network: weights as they are stored, biases, scales of channels, parameters in
floating point, and the tables of a C file. RAM is the arena that a C file declares, in which all tensors have a place;
the other formats leave RAM to what runs them. Not counted is what a port replaces or shares with the rest of a program:
code, graphs and metadata, the sums of the plain C kernels, the image, the logits and the stack.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from typing import Literal, NamedTuple

import onnx

from apq_tune.deploy.c_file import flash_bytes
from apq_tune.deploy.formats import ExportFormat
from apq_tune.deploy.program import Program
from apq_tune.deploy.tflite_file import constant_bytes
from apq_tune.space.device import DevicePreset
from apq_tune.supernet.found_network import FoundNetwork

MemoryKind = Literal["flash", "ram"]

MEMORY_OF: dict[str, MemoryKind] = {
    "weight_bytes": "flash",
    "peak_activation_bytes": "ram",
    "device_ram_bytes": "ram",
    "cmsis_nn_ram_bytes": "ram",
    "cmsis_nn_mve_ram_bytes": "ram",
}
"""Kind of memory of each cost that counts it."""

TABLE = re.compile(rb"^static const (\w+) \w+\[\] = \{([^}]*)\};", re.MULTILINE)
ARENA = re.compile(rb"^#define APQ_ARENA (\d+)$", re.MULTILINE)
NAMES: dict[MemoryKind, str] = {"flash": "flash", "ram": "RAM"}
"""Kinds of memory in messages."""

WHOLE = 8
"""Bits of a value in an arena."""

ITEM_BYTES = {b"uint8_t": 1, b"uint16_t": 2, b"int32_t": 4, b"float": 4}

TORCH_WEIGHTS = re.compile(r"(^|/)(data/weights/\w*weight_\d+|serialized_state_dict\.pt)$")
"""Entries of the archive of a torch program that hold its parameters."""


class FileMemory(NamedTuple):
    """Memory that a file takes.

    Attributes:
        flash: Bytes of its constants.
        ram: Bytes of its arena; ``None`` for formats that have none.
    """

    flash: int
    ram: int | None


class MemoryLimit(NamedTuple):
    """Limit on the memory that a file takes.

    Attributes:
        memory: Kind of memory.
        n_bytes: Largest number of bytes.
        device: Name of the device; ``None`` for a limit of the search.
        cost: Cost by which the search counted that memory.
    """

    memory: MemoryKind
    n_bytes: float
    device: str | None
    cost: str

    def __str__(self) -> str:
        if self.device is not None:
            return f"{self.device} has {self.n_bytes:.0f}"
        return f"the limit of its search is {self.cost} <= {self.n_bytes:.0f}"


def memory_of_file(content: bytes, kind: ExportFormat) -> FileMemory:
    """Memory that a file takes.

    Args:
        content: Content of the file, as ``export`` writes it.
        kind: Its format.
    """
    if kind == "c":
        flash = sum(ITEM_BYTES[item] * (numbers.count(b",") + 1) for item, numbers in TABLE.findall(content))
        arena = ARENA.search(content)
        assert arena is not None
        return FileMemory(flash, int(arena[1]))
    if kind == "onnx":
        return FileMemory(sum(_onnx_constants(onnx.ModelProto.FromString(content).graph)), None)
    if kind == "tflite":
        return FileMemory(constant_bytes(content), None)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return FileMemory(sum(e.file_size for e in archive.infolist() if TORCH_WEIGHTS.search(e.filename)), None)


def _onnx_constants(graph: onnx.GraphProto) -> Iterator[int]:
    """Bytes of each initializer but those that a device has no use for.

    These are zero points, scales of biases, which are products of two other scales, single numbers, and shapes and
    indices.
    """
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    cast = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}
    left_out = set()
    for node in graph.node:
        first = cast.get(node.input[0], node.input[0]) if node.input else ""
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            left_out.update(node.input[2:])
        if node.op_type in ("DequantizeLinear", "Mul") and types.get(first) == onnx.TensorProto.INT32:
            left_out.add(node.input[1])
    for tensor in graph.initializer:
        if tensor.dims and tensor.data_type != onnx.TensorProto.INT64 and tensor.name not in left_out:
            yield len(tensor.raw_data)


def memory_limits(network: FoundNetwork, preset: DevicePreset | None) -> tuple[MemoryLimit, ...]:
    """Limits on the memory that the file of a network takes: of each kind the tightest of a device and of its search.

    Args:
        network: Trained network. The limits of its search count, and those of the device that its space was narrowed
            for.
        preset: Device that the file is for, if one is named.
    """
    found = []
    for device in (preset, network.space.device):
        if device is not None:
            found += [MemoryLimit(MEMORY_OF[cost], size, device.name, cost) for cost, size in device.limits.items()]
    for cost, bound in network.bounds.items():
        if cost in MEMORY_OF:
            found.append(MemoryLimit(MEMORY_OF[cost], bound, None, cost))
    tightest: dict[tuple[MemoryKind, bool], MemoryLimit] = {}
    for limit in found:
        key = limit.memory, limit.device is None
        if key not in tightest or limit.n_bytes < tightest[key].n_bytes:
            tightest[key] = limit
    return tuple(tightest.values())


def broken_limits(
    network: FoundNetwork,
    program: Program,
    memory: FileMemory,
    limits: tuple[MemoryLimit, ...],
    kind: ExportFormat,
    *,
    packed: bool,
) -> dict[MemoryLimit, str]:
    """Limits that a file breaks, each with what takes the memory, its bytes, the limit and a remedy in one line.

    A device has no more memory than it has. The limits of a search are on costs, which count packed weights and values,
    so that a file of another layout may break them and be of use all the same.

    Args:
        network: Network in the file.
        program: Its integer program.
        memory: Memory that the file takes.
        limits: Its limits.
        kind: Its format.
        packed: Whether weights are packed.
    """
    broken = {}
    for limit in limits:
        taken = memory.flash if limit.memory == "flash" else memory.ram
        if taken is None or taken <= limit.n_bytes:
            continue
        what = "constants take" if limit.memory == "flash" else "arena takes"
        counted = network.costs[limit.cost].value
        remedy = f"search with --constraint '{limit.cost}<={int(counted * limit.n_bytes / taken)}'"
        if counted > limit.n_bytes:
            remedy = "take a network that keeps it"
        elif kind == "onnx" and not packed:
            remedy = "leave out --unpacked"
        elif kind != "c" and not program.float_steps and flash_bytes(program) <= limit.n_bytes:
            remedy = "export it as c, which packs weights at their bits"
        elif limit.memory == "ram" and any(layer.output.bits < WHOLE for layer in network.layers):
            remedy += ", since values of fewer than 8 bits take whole bytes"
        elif limit.memory == "flash" and any(one.op is not None and one.op.is_sparse for one in network.layers):
            remedy += ", or for dense weights, since files hold zeros like all other weights"
        broken[limit] = f"its {what} {taken} bytes of {NAMES[limit.memory]}, but {limit}; {remedy}"
    return broken
