"""Models and weights of users: factories by import path or file, programs of ``torch.export``, state dicts.

A factory is code of the user and is run. Nothing is unpickled but tensors and plain values.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import sys
import traceback
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import nn

from apq_tune.errors import ModelError
from apq_tune.inputs.checkpoints import read_state, tensor
from apq_tune.network.graph import Graph
from apq_tune.tracing.exporting import PROGRAM, first_line, quiet, unwrapped
from apq_tune.tracing.trace import trace

FORMS = "give PACKAGE.MODULE:FACTORY, FILE.py:FACTORY or FILE.pt2"

ONLY_TENSORS_VARIABLE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
"""Variable with which ``torch.load`` unpickles only tensors and plain values, whoever calls it."""

CODE = ("custom_obj", "aotinductor", "extra/executorch")
"""Parts of the names of archive entries that hold code."""

COUNTERS = "num_batches_tracked"
"""Buffers of batch norm that nothing depends on, and that old state dicts lack."""


class Factory(NamedTuple):
    """Where a model comes from.

    Attributes:
        module: Import path, or path of a file that ends with ``.py``.
        name: Name of the factory in it.
        arguments: Keyword arguments for it.
    """

    module: str
    name: str
    arguments: Mapping[str, Any]


def load_model(source: str) -> nn.Module:
    """Load a model.

    Args:
        source: ``"package.module:build"``, ``"path/to/file.py:build"`` or ``"path/to/program.pt2"``. ``build`` is a
            function or class that is called without arguments, or a module; ``build(width=8)`` calls it with these
            arguments, which are numbers, texts, or lists and dictionaries of them.

    Returns:
        The model.

    Raises:
        ModelError: If it cannot be loaded; the message names the place in the user's source.
    """
    if source.endswith(".pt2"):
        return _program(Path(source))
    factory = parsed(source)
    module = _imported(factory)
    found = getattr(module, factory.name, None)
    if found is None:
        names = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
        own = ", ".join(name for name in names if not name.startswith("_")) or "nothing"
        raise ModelError(f"{source}: {factory.module} has no {factory.name!r}; it defines {own}")
    if isinstance(found, nn.Module):
        return found
    if not callable(found):
        raise ModelError(f"{source}: is of type {type(found).__name__}; name a function that returns the model")
    try:
        model = found(**factory.arguments)
    except (Exception, SystemExit) as error:
        remedy = ""
        if isinstance(error, TypeError) and "argument" in str(error):
            remedy = f"; write its arguments as {factory.name}(NAME=VALUE)"
        raise ModelError(f"{source}: fails{_at(error)} ({_reason(error)}){remedy}") from None
    if not isinstance(model, nn.Module):
        raise ModelError(f"{source}: returns a {type(model).__name__}, not a torch.nn.Module; return the model alone")
    return model


def trace_source(source: str, shape: Sequence[int], weights: Path | None = None) -> Graph:
    """Load a model and trace it with random images.

    Args:
        source: Where the model comes from; see ``load_model``.
        shape: Shape of a batch of its images, ``(n, channels, h, w)``.
        weights: State dict that has to fit it.

    Raises:
        ModelError: If the model cannot be loaded or traced, or the weights do not fit.
        RunError: If the weights cannot be read.
    """
    torch.manual_seed(0)
    model = load_model(source)
    if weights is not None:
        load_weights(model, weights)
    return trace(model, torch.randn(tuple(shape), generator=torch.Generator().manual_seed(0)))


def parsed(source: str) -> Factory:
    """Parts of the name of a factory.

    Raises:
        ModelError: If it is not of the form ``MODULE:NAME`` or ``MODULE:NAME(KEY=VALUE)``.
    """
    module, colon, call = source.partition(".py:") if ".py:" in source else source.partition(":")
    module += ".py" if colon == ".py:" else ""
    try:
        tree = ast.parse(call, mode="eval").body if colon and module else None
        if isinstance(tree, ast.Name):
            return Factory(module, tree.id, {})
        if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and not tree.args:
            arguments = {str(own.arg): ast.literal_eval(own.value) for own in tree.keywords}
            return Factory(module, tree.func.id, arguments)
    except (SyntaxError, ValueError):
        pass
    raise ModelError(f"{source!r}: is no model; {FORMS} (arguments: FACTORY(NAME=VALUE), plain values)")


def load_weights(model: nn.Module, path: Path) -> None:
    """Load the weights of a model in place.

    Args:
        model: Model.
        path: State dict of it, as of ``torch.save(model.state_dict(), path)``, or a training checkpoint that has one.

    Raises:
        ModelError: If they do not fit; the message names the first tensor.
        RunError: If the file cannot be read.
    """
    model = unwrapped(model)
    state = {name: value for name, value in read_state(path).items() if not name.endswith(COUNTERS)}
    own = {name: value for name, value in model.state_dict().items() if not name.endswith(COUNTERS)}
    state = _without_prefix(state, own)
    kind = type(model).__name__
    if missing := [name for name in own if name not in state]:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(f"{path}: lacks {missing[0]!r}{more} of the model {kind}; give the weights of this model")
    if unexpected := [name for name in state if name not in own]:
        more = f" and {len(unexpected) - 1} more" if len(unexpected) > 1 else ""
        raise ModelError(f"{path}: has {unexpected[0]!r}{more}, which {kind} lacks; give the model of these weights")
    for name, value in own.items():
        shape = tuple(getattr(state[name], "shape", ()))
        if shape != tuple(value.shape):
            raise ModelError(
                f"{path}: {name} has the shape {shape}, in {kind} {tuple(value.shape)}; build the model with the "
                "classes and widths of these weights"
            )
    checked = {
        name: tensor(path, state, name) if value.is_floating_point() else state[name] for name, value in own.items()
    }
    model.load_state_dict(checked, strict=False)


def _without_prefix(state: dict[str, Any], own: Collection[str]) -> dict[str, Any]:
    """Tensors by the names that a model has, if all have one prefix before these, that of a module around the model."""
    first = next(iter(own), "")
    for name in state:
        prefix = name.removesuffix(first)
        if first and prefix.endswith(".") and set(state) == {prefix + other for other in own}:
            return {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def _imported(factory: Factory) -> ModuleType:
    """Module of a factory."""
    path = Path(factory.module)
    is_file = path.suffix == ".py"
    if is_file and not path.is_file():
        raise ModelError(f"{factory.module}: there is no such file; {FORMS}")
    folder = str(path.parent.resolve() if is_file else Path.cwd())
    if folder not in sys.path:  # it stays, as modules may import others later
        sys.path.insert(0, folder)
    try:
        if not is_file:
            return importlib.import_module(factory.module)
        name = path.stem if path.stem.isidentifier() and path.stem not in sys.modules else f"_model_{path.stem}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # as dataclasses expect
        spec.loader.exec_module(module)
        return module
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and not is_file and factory.module.startswith(str(error.name)):
            raise ModelError(f"{factory.module}: there is no such module; {FORMS}") from None
        raise ModelError(f"{factory.module}: cannot be imported{_at(error)} ({_reason(error)})") from None


def _program(path: Path) -> nn.Module:
    """Module of a ``torch.export`` program, with which ``trace`` finds the program itself."""
    again = "write it with torch.export.save"
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            bad = archive.testzip()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror or error}); {again}") from None
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError):
        raise ModelError(f"{path}: is not a program of torch.export, or is damaged; {again}") from None
    if bad:
        raise ModelError(f"{path}: is damaged ({bad} is not as it was saved); {again}")
    if code := [name for name in names if any(part in name for part in CODE)]:
        raise ModelError(f"{path}: holds code ({code[0]}), which is not loaded; export the plain model")
    try:
        with _only_tensors(), quiet():
            program = torch.export.load(path)
        module = program.module()
    except Exception as error:  # what damaged content may raise is open
        if "weights only" in str(error).lower():
            raise ModelError(f"{path}: holds Python objects, which are not loaded; export the plain model") from None
        reason = "" if "warnings above" in str(error) else f" ({first_line(error)})"
        raise ModelError(f"{path}: is not a program of torch.export{reason}; {again}") from None
    module.meta[PROGRAM] = program
    return module


@contextmanager
def _only_tensors() -> Iterator[None]:
    """Let torch unpickle only tensors and plain values."""
    before = os.environ.get(ONLY_TENSORS_VARIABLE)
    os.environ[ONLY_TENSORS_VARIABLE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[ONLY_TENSORS_VARIABLE]
        else:
            os.environ[ONLY_TENSORS_VARIABLE] = before


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}"


def _at(error: BaseException) -> str:
    """Place of the user's source where an error was raised, in words."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" at {Path(error.filename).name}:{error.lineno}"
    here = Path(__file__)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) != here]
    own = [frame for frame in frames if not frame.filename.startswith("<") and "site-packages" not in frame.filename]
    own = [frame for frame in own if Path(frame.filename).parent.name != "importlib"]
    return f" at {Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
