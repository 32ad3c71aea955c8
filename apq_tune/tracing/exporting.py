"""``torch.export`` of models of users, whatever stops it told in one line with the place in their source."""

from __future__ import annotations

import io
import logging
import re
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.nn.parameter import is_lazy

from apq_tune.errors import ModelError

BATCH = "the size of a batch is written into its forward; use x.shape[0] or -1"

PROGRAM = "apq_tune_program"
"""Key in ``GraphModule.meta`` of the program that a module was loaded from."""

LONGEST = 300
"""Characters of a message of torch that are passed on; some name a hundred thousand symbols."""

FRAME = re.compile(r'File "([^"]+)", line (\d+)')

TORCH = str(Path(torch.__file__).parent)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings, the log and the printed programs of torch's exporter, which concern its own code."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def unwrapped(module: nn.Module) -> nn.Module:
    """Model inside ``torch.compile`` and ``DataParallel``."""
    while True:
        if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            module = module.module
        elif isinstance(getattr(module, "_orig_mod", None), nn.Module):
            module = module._orig_mod  # type: ignore[assignment]
        else:
            return module


@contextmanager
def evaluated(module: nn.Module) -> Iterator[nn.Module]:
    """Model in evaluation mode; afterwards every module of it has the mode that it had."""
    modes = {own: own.training for own in module.modules()}
    if not isinstance(module, fx.GraphModule):  # exported programs have one mode
        module.eval()
    try:
        yield module
    finally:
        for own, training in modes.items():
            own.training = training


def checked_example(module: nn.Module, example: Any) -> Tensor:
    """Example input as a batch of two images, on the device of the model, after a run of the model.

    Raises:
        ModelError: If it is no batch of images of float32, the model does not run on it, its parameters are not
            float32, or its output is not one tensor of shape ``(batch, classes)``.
    """
    name = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        raise ModelError(f"the model is a TorchScript program ({name}); pass the Python module that it was made of")
    if isinstance(example, (list, tuple, Mapping)):
        raise ModelError(
            f"{name}: the example input is a {type(example).__name__}; models with one tensor of images as input can "
            "be searched, pass that tensor"
        )
    if not isinstance(example, Tensor):
        raise ModelError(f"the example input is a {type(example).__name__}; pass a tensor (batch, channels, h, w)")
    if example.ndim != 4 or 0 in example.shape:
        raise ModelError(
            f"the example input has the shape {tuple(example.shape)}; pass images of shape (batch, channels, h, w)"
        )
    if example.dtype != torch.float32:
        raise ModelError(f"the example input is of {_dtype(example)}; pass float32 (images.float())")
    for own, value in (*module.named_parameters(), *module.named_buffers()):
        if value.is_floating_point() and value.dtype != torch.float32:
            raise ModelError(f"{name}: {own} is of {_dtype(value)}; convert the model to float32 (model.float())")
        if value.is_meta:
            raise ModelError(f"{name}: {own} has no values (device 'meta'); load its weights first")
        if value.is_floating_point() and not is_lazy(value) and not bool(value.isfinite().all()):
            raise ModelError(f"{name}: {own} has values that are not finite numbers; give weights that are")
    devices = {value.device for value in module.parameters()}
    if len(devices) > 1:
        raise ModelError(f"{name}: is on several devices ({', '.join(sorted(map(str, devices)))}); move it to one")
    images: Tensor = example.detach().to(next(iter(devices), torch.device("cpu")))
    program = _own_program(module)
    if program is not None and _has_fixed_batch(program):
        raise ModelError(
            "the program was exported for one size of the batch; export it with "
            "dynamic_shapes=({0: torch.export.Dim.DYNAMIC},) and a batch of two"
        )
    shape = "pass an example input of the shape and values that the model takes"
    _check_output(name, _run(module, images, "the example input", shape), len(images))
    two = torch.cat([images, images])[:2]
    _check_output(name, _run(module, two, "a batch of 2", BATCH), 2)
    return two


def export(module: nn.Module, example: Tensor) -> ExportedProgram:
    """Program of a model for any batch.

    Args:
        module: Model in evaluation mode.
        example: Batch of two images.

    Raises:
        ModelError: If it cannot be exported; the message names the place in the user's source.
    """
    if (program := _own_program(module)) is not None:
        return program
    try:
        with quiet():
            program = torch.export.export(module, (example,), dynamic_shapes=({0: Dim.AUTO},), strict=False)
    except Exception as error:
        raise _refused(module, error) from None
    if _has_fixed_batch(program):
        raise ModelError(f"{type(module).__name__}: {BATCH}")
    return program


def without_writes(module: nn.Module, program: ExportedProgram) -> ExportedProgram:
    """The same program without operations that write into a tensor.

    Raises:
        ModelError: If torch has no such program of it; the message names the model and what stopped torch.
    """
    try:
        with quiet():
            without: ExportedProgram = program.run_decompositions({})
    except Exception as error:
        raise _refused(module, error) from None
    return without


def _own_program(module: nn.Module) -> ExportedProgram | None:
    """Program that a module was loaded from; ``None`` if it is a module of Python."""
    program = module.meta.get(PROGRAM) if isinstance(module, fx.GraphModule) else None
    return program if isinstance(program, ExportedProgram) else None


def _has_fixed_batch(program: ExportedProgram) -> bool:
    images = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    return isinstance(images[0].meta["val"].shape[0], int)


def own_places(trace: str) -> list[str]:
    """Places outside of torch in a traceback, the innermost first, such as ``"net.py:12"``."""
    frames = [(Path(file), line) for file, line in FRAME.findall(trace) if _is_own(file)]
    return [f"{file.name}:{line}" for file, line in reversed(frames)]


def _is_own(file: str) -> bool:
    return not file.startswith((TORCH + "/", "<")) and "apq_tune/tracing" not in Path(file).as_posix()


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _run(module: nn.Module, images: Tensor, what: str, remedy: str) -> Any:
    """Output of a model, or the reason why it has none."""
    try:
        with torch.no_grad():
            return module(images.clone())  # which it may write to
    except Exception as error:
        if isinstance(error, TypeError) and "required positional argument" in str(error):
            remedy = "wrap it in a module whose forward takes images alone"
        raise ModelError(
            f"{type(module).__name__}: fails with {what} of shape {tuple(images.shape)}{_place(error)} "
            f"({first_line(error)}); {remedy}"
        ) from None


def _check_output(name: str, output: Any, batch: int) -> None:
    one = "one tensor of shape (batch, classes)"
    if isinstance(output, Mapping) or hasattr(output, "keys"):
        keys = ", ".join(repr(key) for key in output)
        raise ModelError(
            f"{name}: returns a {type(output).__name__} with {keys}, not {one}; "
            "wrap it in a module whose forward returns the one to keep, such as "
            f"self.model(x)[{next(iter(output), 'logits')!r}]"
        )
    if isinstance(output, (list, tuple)):
        raise ModelError(
            f"{name}: returns a {type(output).__name__} of {len(output)}, not {one}; wrap it in a module whose "
            "forward returns the one to keep, such as self.model(x)[0]"
        )
    if not isinstance(output, Tensor):
        raise ModelError(f"{name}: returns a {type(output).__name__}, not {one}")
    if output.ndim != 2 or output.shape[0] != batch:
        remedy = ""
        if output.shape[:1] == (batch,) and output.ndim > 2 and output.shape[2:].numel() == 1:
            remedy = "; end its forward with .flatten(1)"
        raise ModelError(f"{name}: returns a tensor of shape {tuple(output.shape)}, not (batch, classes){remedy}")


def first_line(error: BaseException) -> str:
    """First line of a message that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0].rstrip(".:;") if lines else type(error).__name__
    return said if len(said) <= LONGEST else said[:LONGEST] + " ..."


def _place(error: BaseException) -> str:
    """Innermost place of the user's source in a traceback, in words; empty if there is none."""
    places = own_places("".join(traceback.format_tb(error.__traceback__)))
    return f" at {places[0]}" if places else ""


def _refused(module: nn.Module, error: Exception) -> ModelError:
    """What stopped an export, in one line."""
    name, place = type(module).__name__, _place(error)
    kind = type(error).__name__
    if "DataDependent" in kind or "data-dependent" in str(error).lower() or "ConstraintViolation" in kind:
        return ModelError(
            f"{name}: its forward decides by the values of a tensor{place}; a graph has one path: "
            "compute both and choose with torch.where, or decide by something that is known before"
        )
    return ModelError(f"{name}: cannot be traced by torch.export{place} ({first_line(error)})")
