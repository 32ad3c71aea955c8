"""TensorFlow Lite flatbuffers as they are written: tensors, constants, operators.

The schema is that of ``ai-edge-litert``, the runtime of the format by its authors, which runs the files, too: the
package ``tflite`` holds classes that read the format, and none that write it.
``apq_tune.deploy.tflite_graph`` says what the operators of each step are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apq_tune.errors import DeployError

IDENTIFIER = b"TFL3"
"""Identifier of the format in the first bytes of a file."""

SCHEMA = 3
"""Version of the format."""

ALIGNMENT = 16
"""Bytes to which constants are aligned, as the schema demands; the Python classes of it do not see to that."""

LARGEST_CODE = 127
"""Largest number of an operator that fits the old field for it."""

KINDS: Mapping[str, str] = {"int8": "INT8", "int32": "INT32", "float32": "FLOAT32"}
"""Types of constants by the type of their array."""

EXTRA = "pip install 'apq-tune[tflite]'"
"""How the packages for the format are installed."""


class Scaling(NamedTuple):
    """What the integers of an int8 tensor mean: ``(integer - zero) * scale``."""

    scale: np.float32
    zero: int


class Value(NamedTuple):
    """Tensor of a file.

    Attributes:
        number: Its number.
        shape: Height, width and channels; vectors have one pixel.
        scaling: Meaning of its int8 integers; ``None`` for float32.
        order: For each channel the index that it has in the tensor of the program, if that is another one.
    """

    number: int
    shape: tuple[int, int, int]
    scaling: Scaling | None
    order: tuple[int, ...] | None = None


def schema() -> Any:
    """Classes of the format.

    Raises:
        DeployError: If the package with them is not installed.
    """
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError:
        raise DeployError(f"TensorFlow Lite files need the extra [tflite]: {EXTRA}") from None
    return schema_py_generated


class TFLiteWriter:
    """Tensors and operators of a model so far."""

    def __init__(self) -> None:
        self.schema = schema()
        self._tensors: list[Any] = []
        self._buffers: list[bytes] = [b""]  # the first one is empty by convention
        self._operators: list[Any] = []
        self._codes: dict[tuple[int, int], int] = {}
        self._shared: dict[tuple[str, bytes, tuple[int, ...]], int] = {}

    def value(self, name: str, shape: tuple[int, int, int], scaling: Scaling | None) -> Value:
        """New tensor of int8 integers, or of float32 numbers if there is no scaling; one image at a time."""
        given = None if scaling is None else self._quantization([scaling.scale], [scaling.zero])
        kind = "FLOAT32" if scaling is None else "INT8"
        return Value(self._tensor(name, (1, *shape), kind, 0, given), shape, scaling)

    def constant(self, name: str, values: NDArray[Any], scaling: Scaling | None = None) -> int:
        """Number of a new constant of int8, int32 or float32; equal ones of int32 are kept once."""
        kind = KINDS[values.dtype.name]
        key = kind, values.tobytes(), values.shape
        if kind == "INT32" and key in self._shared:
            return self._shared[key]
        given = None if scaling is None else self._quantization([scaling.scale], [scaling.zero])
        self._shared[key] = index = self._tensor(name, values.shape, kind, self._buffer(values.tobytes()), given)
        return index

    def weights(
        self, name: str, values: NDArray[Any], scales: NDArray[np.float32], axis: int, packed: bytes | None = None
    ) -> int:
        """Number of a new constant with a scale for each index along an axis.

        Args:
            name: Name.
            values: Weights in int8, or a bias in int32.
            scales: Scales.
            axis: Axis.
            packed: Weights in 4 bits, two in a byte.
        """
        kind = KINDS[values.dtype.name] if packed is None else "INT4"
        buffer = self._buffer(values.tobytes() if packed is None else packed)
        given = self._quantization(scales, np.zeros(len(scales), np.int64), axis)
        return self._tensor(name, values.shape, kind, buffer, given)

    def operator(self, kind: str, inputs: Sequence[int], output: int, version: int = 1, options: Any = None) -> None:
        """Append an operator.

        Args:
            kind: Its name in the schema.
            inputs: Numbers of its inputs.
            output: Number of its output.
            version: Its first version that does what is asked for.
            options: Its options, an object of the schema.
        """
        own = self.schema
        code = getattr(own.BuiltinOperator, kind)
        place = self._codes.setdefault((code, version), len(self._codes))
        node = own.OperatorT(opcodeIndex=place, inputs=list(inputs), outputs=[output])
        if options is not None:
            node.builtinOptionsType = getattr(own.BuiltinOptions, type(options).__name__.removesuffix("T"))
            node.builtinOptions = options
        self._operators.append(node)

    def content(self, image: Value, logits: int, metadata: Mapping[str, bytes]) -> bytes:
        """Content of the file.

        Args:
            image: Input.
            logits: Number of the output.
            metadata: Metadata by name.
        """
        import flatbuffers

        own = self.schema
        first = len(self._buffers)
        notes = [own.MetadataT(name, first + number) for number, name in enumerate(metadata)]
        codes = [own.OperatorCodeT(min(code, LARGEST_CODE), None, number, code) for code, number in self._codes]
        graph = own.SubGraphT(self._tensors, [image.number], [logits], self._operators, "main")
        buffers = [_aligned(own, content) for content in (*self._buffers, *metadata.values())]
        model = own.ModelT(SCHEMA, codes, [graph], "apq-tune", buffers, metadata=notes)
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), IDENTIFIER)
        return bytes(builder.Output())

    def reshaped(self, x: Value, name: str, shape: Sequence[int]) -> int:
        """Number of a new tensor with the integers of another one in a shape without the batch."""
        assert x.scaling is not None
        given = self._quantization([x.scaling.scale], [x.scaling.zero])
        index = self._tensor(name, (1, *shape), "INT8", 0, given)
        self.operator("RESHAPE", [x.number, self.constant("shape", np.array([-1, *shape], np.int32))], index)
        return index

    def _buffer(self, content: bytes) -> int:
        self._buffers.append(content)
        return len(self._buffers) - 1

    def _tensor(self, name: str, shape: Sequence[int], kind: str, buffer: int, quantization: Any) -> int:
        number = getattr(self.schema.TensorType, kind)
        self._tensors.append(self.schema.TensorT(list(map(int, shape)), number, buffer, name, quantization))
        return len(self._tensors) - 1

    def _quantization(self, scales: Any, zeros: Any, axis: int = 0) -> Any:
        return self.schema.QuantizationParametersT(
            scale=np.asarray(scales, np.float32), zeroPoint=np.asarray(zeros, np.int64), quantizedDimension=axis
        )


def _aligned(own: Any, content: bytes) -> Any:
    """Buffer of the schema whose content is aligned."""

    class AlignedBuffer(own.BufferT):  # type: ignore[misc]
        def Pack(self, builder: Any) -> Any:  # noqa: N802, it is the name in the schema
            data = None
            if content:
                builder.StartVector(1, len(content), ALIGNMENT)
                builder.head -= len(content)
                builder.Bytes[builder.head : builder.head + len(content)] = content
                data = builder.EndVector()
            own.BufferStart(builder)
            if data is not None:
                own.BufferAddData(builder, data)
            return own.BufferEnd(builder)

    return AlignedBuffer()
