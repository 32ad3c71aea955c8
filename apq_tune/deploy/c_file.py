"""Integer programs as one file of C99 without dependencies, with plain reference kernels.

Weights are packed at their bits. The kernels favour clarity over speed; a port to a device replaces them and compares.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apq_tune.deploy.arena import arena_of
from apq_tune.deploy.c_calls import call, channels_of, check_steps, literal
from apq_tune.deploy.c_kernels import KERNELS, MAIN
from apq_tune.deploy.program import (
    LOGITS,
    ConvStep,
    Program,
    WeightedStep,
)
from apq_tune.errors import DeployError
from apq_tune.network.layer import IMAGE

SEAL = re.compile(rb"/\* apq-tune export; SHA-256 of what follows: ([0-9a-f]{64}) \*/\n")
METADATA = re.compile(r"^/\* metadata: (\{.*\}) \*/$", re.MULTILINE)

COMPILER = ("gcc", "-std=c99", "-Wall", "-Werror", "-O2")

PER_LINE = 20
"""Numbers on a line of a table."""


def c_bytes(program: Program, metadata: Mapping[str, Any]) -> bytes:
    """Source of one C file: ``void apq_run(const float *image, float *logits)``.

    Args:
        program: Integer program.
        metadata: Plain data that are kept in a comment as JSON.

    Raises:
        DeployError: If the network has a step that the C format does not have; the message names it.
    """
    check_steps(program)
    text = "\n".join([*_head(program, metadata), KERNELS, *_tables(program), *_body(program), MAIN])
    body = text.encode("ascii", "backslashreplace")
    digest = hashlib.sha256(body).hexdigest()
    return f"/* apq-tune export; SHA-256 of what follows: {digest} */\n".encode() + body


def flash_bytes(program: Program) -> int:
    """Bytes of the constant tables: packed weights, int32 biases, float32 multipliers, and uint16 channel numbers."""
    own = [step for step in program.steps if isinstance(step, WeightedStep)]
    weights = sum(len(packed(step.weights.values, step.weights.bits)) + 8 * len(step.weights.bias) for step in own)
    return weights + sum(2 * len(channels_of(program, step)) for step in program.steps)


def packed(values: NDArray[np.int8], bits: int) -> NDArray[np.uint8]:
    """Integers as a stream of bits, the lowest bit of the first one first, padded to whole bytes."""
    levels = values.reshape(-1, 1).astype(np.uint8)
    return np.packbits(levels >> np.arange(bits, dtype=np.uint8) & 1, bitorder="little")


def _head(program: Program, metadata: Mapping[str, Any]) -> Iterator[str]:
    image, logits = program.tensors[IMAGE], program.tensors[LOGITS]
    channels, height, width = image.shape
    arena = arena_of(program)
    note = json.dumps(dict(metadata), sort_keys=True).replace("/", "\\/")  # no end of a comment in the comment
    yield f"/* metadata: {note} */"
    yield "/*"
    yield " * void apq_run(const float *image, float *logits)"
    yield f" *   image: {channels} x {height} x {width} floats by channel, row and column, preprocessed as noted above;"
    yield " *   logits: one float for each class."
    yield f" * RAM: {arena.n_bytes} bytes for activations (one byte each) and {4 * _width(program)} for sums,"
    yield " *   beside the image and the logits."
    yield f" * Flash: {flash_bytes(program)} bytes of constants, beside the code."
    yield " * C99 with IEEE floats and 32-bit int; link with -lm. -DAPQ_MAIN adds a program from stdin to stdout."
    yield " */"
    yield "#include <math.h>"
    yield "#include <stddef.h>"
    yield "#include <stdint.h>"
    yield "#include <string.h>"
    yield ""
    yield f"#define APQ_INPUTS {math.prod(image.shape)}"
    yield f"#define APQ_CLASSES {math.prod(logits.shape)}"
    yield f"#define APQ_ARENA {arena.n_bytes}"
    yield f"#define APQ_WIDTH {_width(program)}"
    yield ""
    yield "void apq_run(const float *image, float *logits);"
    yield ""


def _tables(program: Program) -> Iterator[str]:
    for number, step in enumerate(program.steps):
        if isinstance(step, WeightedStep):
            values = packed(step.weights.values, step.weights.bits)
            shape = "x".join(map(str, step.weights.values.shape))
            yield f"/* {_comment(step.name)}: {shape}, {step.weights.bits} bits */"
            yield _array("uint8_t", f"w{number}", map(str, values.tolist()))
            biases = (str(value) if value > -(2**31) else "INT32_MIN" for value in step.weights.bias.tolist())
            yield _array("int32_t", f"b{number}", biases)
            yield _array("float", f"m{number}", (literal(value) for value in step.multipliers))
            yield ""
        elif indices := channels_of(program, step):
            yield f"/* {_comment(step.name)} */"
            yield _array("uint16_t", f"i{number}", map(str, indices))
            yield ""


def _array(kind: str, name: str, items: Any) -> str:
    values = list(items)
    lines = [", ".join(values[i : i + PER_LINE]) for i in range(0, len(values), PER_LINE)]
    return f"static const {kind} {name}[] = {{\n" + ",\n".join(lines) + "};"


def _comment(name: str) -> str:
    """Name of a layer in a comment that it cannot end."""
    return name.replace("/", "\\/").replace("\n", " ")


def _body(program: Program) -> Iterator[str]:
    arena = arena_of(program)
    yield "static uint8_t apq_arena[APQ_ARENA];"
    yield ""
    yield "void apq_run(const float *image, float *logits)"
    yield "{"
    for number, step in enumerate(program.steps):
        yield f"    {call(program, arena.offsets, step, number)} /* {_comment(step.name)} */"
    yield "}"
    yield ""


def _width(program: Program) -> int:
    """Largest width of the output of a convolution in pixels."""
    return max(program.tensors[step.output].shape[-1] if isinstance(step, ConvStep) else 1 for step in program.steps)


def read_c(path: Path) -> dict[str, Any]:
    """Metadata of a file of ``c_bytes``.

    Raises:
        DeployError: If it is another file, or has been changed.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DeployError(f"{path}: cannot be read ({error.strerror}); export it again") from None
    match = SEAL.match(content)
    if match is None:
        raise DeployError(f"{path}: was not written by apq-tune export --format c; only those files are run")
    if hashlib.sha256(content[match.end() :]).hexdigest() != match[1].decode():
        raise DeployError(f"{path}: is damaged or was changed (its content is not what was written); export it again")
    metadata = METADATA.search(content.decode("ascii", "replace"))
    return dict(json.loads(metadata[1])) if metadata else {}


def load_c(path: Path) -> tuple[Callable[[NDArray[np.float32]], NDArray[np.float32]], dict[str, Any]]:
    """Function that compiles a file of ``c_bytes`` and runs it, and its metadata.

    Raises:
        DeployError: If it is another file, has been changed, or there is no gcc.
    """
    metadata = read_c(path)
    if shutil.which(COMPILER[0]) is None:
        raise DeployError(f"{path}: cannot be compiled, there is no {COMPILER[0]} here; install it")
    folder = tempfile.TemporaryDirectory()  # removed with the function that keeps it
    program = Path(folder.name) / "program"
    command = [*COMPILER, "-DAPQ_MAIN", "-x", "c", str(path.absolute()), "-o", str(program), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip() or "no message").splitlines()[0]
        raise DeployError(f"{path}: cannot be compiled ({reason[:200]}); export it again")

    def run(images: NDArray[np.float32], _folder: object = folder) -> NDArray[np.float32]:
        sent = np.ascontiguousarray(images, "<f4").tobytes()
        out = subprocess.run([str(program)], input=sent, capture_output=True, check=False).stdout
        return np.frombuffer(out, "<f4").reshape(len(images), -1)

    return run, metadata
