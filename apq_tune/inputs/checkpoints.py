"""Reading of PyTorch checkpoints made elsewhere: parameter names and dense, finite tensors."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apq_tune.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor

NESTED = ("state_dict", "model_state_dict", "model", "net")
"""Keys under which training scripts keep a network's state beside an optimizer's."""

PREFIXES = ("module.", "_orig_mod.")
"""Prefixes that DataParallel and torch.compile add to every name."""

LFS, HTML = b"version https://git-lfs", (b"<!doctype", b"<html", b"<?xml")

DOS_FOLDER = 0x10
"""Folder attribute of a ZIP entry; torch never sets it, and reads an entry that has it as empty."""

AGAIN = "get the file again"
ONLY_TENSORS = "give its tensors alone: torch.save(model.state_dict(), PATH)"


def read_state(path: Path) -> dict[str, Any]:
    """Read the state of a network, as written by ``torch.save(network.state_dict(), path)``.

    The state is also found inside a training checkpoint, and a wrapper's prefix common to all names is dropped. Only
    tensors and plain values are unpickled, so that no code in the file can run.

    Args:
        path: Path of the checkpoint.

    Returns:
        Values by name; ``tensor`` checks and converts one of them.

    Raises:
        RunError: If the file is not such a checkpoint, is damaged, or contains Python objects.
    """
    _check_file(path)
    state = _load(path)
    for name in NESTED:
        if isinstance(state, Mapping) and isinstance(state.get(name), Mapping):
            state = state[name]
    if not isinstance(state, Mapping) or not state or not all(isinstance(name, str) for name in state):
        raise RunError(f"{path}: holds a {type(state).__name__}, not names and tensors; {ONLY_TENSORS}")
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): value for name, value in state.items()}
    return dict(state)


def tensor(path: Path, state: Mapping[str, Any], name: str) -> Tensor:
    """Tensor of a checkpoint as a dense, finite float32 tensor without gradients.

    Args:
        path: Path of the checkpoint, for messages.
        state: State returned by ``read_state``.
        name: Name of the tensor.

    Raises:
        RunError: If the value is not a tensor, or is sparse, quantized, not of floats or not finite.
    """
    import torch

    value = state[name]
    if not isinstance(value, torch.Tensor):
        raise RunError(f"{path}: {name} is a {type(value).__name__}, not a tensor; {ONLY_TENSORS}")
    wrong = None
    if value.is_meta:
        wrong = "has a shape but no numbers (device 'meta'); save the network after its weights are loaded"
    elif value.is_quantized:
        wrong = f"is quantized ({str(value.dtype).removeprefix('torch.')}); give its float weights"
    elif value.layout != torch.strided:
        wrong = f"is sparse ({str(value.layout).removeprefix('torch.')}); save it after .to_dense()"
    elif not value.is_floating_point():
        wrong = f"is of {str(value.dtype).removeprefix('torch.')}; give floats"
    if wrong is None:
        value = value.detach().float()
        if bad := int((~torch.isfinite(value)).sum()):
            wrong = f"has {bad} of {value.numel()} values that are not finite; {AGAIN}, or train the network again"
    if wrong is not None:
        raise RunError(f"{path}: {name} {wrong}")
    return value


def _check_file(path: Path) -> None:
    """Refuse files that are recognised as unusable by their first bytes or their checksums, which torch ignores."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
        if not head:
            raise RunError(f"{path}: is empty; {AGAIN}")
        if head.startswith(LFS):
            raise RunError(f"{path}: is a Git LFS pointer, not the file itself; get that with: git lfs pull")
        if head.lstrip().lower().startswith(HTML):
            raise RunError(f"{path}: is a web page, not a checkpoint; download the file itself")
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if any(Path(name).name == "constants.pkl" for name in archive.namelist()):
                    raise RunError(f"{path}: is a TorchScript program; {ONLY_TENSORS}")
                folders = [entry.filename for entry in archive.infolist() if entry.external_attr & DOS_FOLDER]
                if bad := archive.testzip() or next(iter(folders), None):
                    raise RunError(f"{path}: is damaged ({bad} is not as it was saved); {AGAIN}")
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror or error}); give a checkpoint of torch.save") from None
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError, struct.error):
        raise RunError(f"{path}: is damaged; {AGAIN}") from None


def _load(path: Path) -> Any:
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error) or "Unsupported" in str(error):
            raise RunError(
                f"{path}: holds Python objects, which are not loaded, since that would run code from the file; "
                f"{ONLY_TENSORS}"
            ) from None
        raise RunError(f"{path}: is not a checkpoint of torch.save, or is damaged; {AGAIN}") from None
    except (
        OSError,
        RuntimeError,
        EOFError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        AssertionError,
        ArithmeticError,
        MemoryError,
        ImportError,
        struct.error,
        zipfile.BadZipFile,
    ):  # everything that unpickling random bytes can raise
        raise RunError(f"{path}: is not a checkpoint of torch.save, or is damaged; {AGAIN}") from None
