"""Predictor files: ``.npz`` files that hold arrays only, and checkpoints of published predictors."""

from __future__ import annotations

import io
import itertools
import json
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from apq_tune.errors import RunError
from apq_tune.network.network import first_difference, has_network
from apq_tune.predict.arrays import OtherStatistics, arrays_of, predictor_of
from apq_tune.predict.mixer import LayerStatistics
from apq_tune.predict.pairs import Predictor
from apq_tune.predict.published import published_predictor
from apq_tune.space.candidate import plain_value
from apq_tune.space.choices import ChoiceSpace
from apq_tune.space.encoding import Featured
from apq_tune.space.encodings import encoding_of
from apq_tune.space.files import space_from
from apq_tune.space.gene import Gene
from apq_tune.space.measured import Mask
from apq_tune.space.network_space import NetworkSpace
from apq_tune.space.parameters import Space

MEASURED = "measured"
"""Name of the array with the mask of measured values."""


def predictor_bytes(predictor: Predictor, measured: Mask | None = None) -> bytes:
    """Serialize a predictor to the content of an ``.npz`` file.

    Args:
        predictor: Predictor to save.
        measured: Mask of the values that its pairs cover (see ``measured_values``), to which searches can be limited.

    Raises:
        TypeError: If the predictor is of a class that this version does not save.
    """
    buffer = io.BytesIO()
    arrays = arrays_of(predictor)
    space = predictor.encoding.space  # type: ignore[attr-defined]
    arrays |= {} if measured is None else {MEASURED: measured}
    np.savez(buffer, space=np.asarray(_text_of(space)), **arrays)
    return buffer.getvalue()


def load_predictor(
    path: str | Path, space: Space | Featured | None = None, *, statistics: LayerStatistics | None = None
) -> Predictor:
    """Read a predictor and check that it fits the search space.

    Args:
        path: Predictor file (``predictor_bytes``), or the checkpoint of APQ's quantization-aware predictor
            (``layers.0.0.weight``, ``quantize_fc.weight``, ...; Wang 2020) or of once-for-all's accuracy predictor
            (``0.weight`` to ``6.weight``; Cai 2020).
        space: Search space to predict in; by default the one stored in the file or published with the checkpoint.
        statistics: Statistics of layers for a predictor that reads them (``fit_mixer``): of the network and the images
            that it was fitted with.

    Raises:
        RunError: If the file is damaged, of an unknown format, made for a space with other features, or with other
            statistics.
    """
    path = Path(path)
    encoding = None if space is None else encoding_of(space)
    if path.suffix != ".npz" and not _is_npz(path):
        return published_predictor(path, encoding)
    named = f"for {encoding.space.name} " if encoding is not None else ""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
        learned_on = _space_in(str(arrays.pop("space")), str(path))
        if encoding is None and isinstance(learned_on, _OwnSpace):
            raise RunError(f"{path}: was fitted on {learned_on.name}, which no file describes; give the space")
        encoding = encoding or encoding_of(learned_on)
        _check_device(path, learned_on, encoding.space)
        _check_choices(path, learned_on, encoding.space)
        _check_finite(arrays)
        arrays.pop(MEASURED, None)
        predictor = predictor_of(arrays, "", encoding, statistics)
        _check_network(path, learned_on, encoding.space)
        return predictor
    except OtherStatistics as error:
        raise RunError(f"{path}: {error}") from None
    except (
        OSError,
        ValueError,
        TypeError,
        AttributeError,
        KeyError,
        EOFError,
        zipfile.BadZipFile,
        yaml.YAMLError,
    ) as error:
        raise RunError(f"{path}: is not a readable predictor {named}({error}); make it again") from None


def is_of_whole(path: str | Path, space: Any) -> bool:
    """Whether a predictor was fitted on all of a space that was narrowed for a device, and not on what is left of it.

    Args:
        path: Predictor file; published checkpoints are of whole spaces.
        space: Search space, narrowed or not.

    Raises:
        RunError: If the file is damaged.
    """
    if getattr(space, "device", None) is None:
        return False
    if not _is_npz(Path(path)):
        return True
    try:
        with np.load(path, allow_pickle=False) as file:
            return getattr(_space_in(str(file["space"]), str(path)), "device", None) is None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, yaml.YAMLError) as error:
        raise RunError(f"{path}: is not a readable predictor ({error}); make it again") from None


def measured_in(path: str | Path, encoding: Featured) -> Mask | None:
    """Mask of the values that the pairs of a predictor cover; ``None`` if the file does not record it.

    Raises:
        RunError: If the file is of another search space.
    """
    path = Path(path)
    if not _is_npz(path):
        return None
    with np.load(path, allow_pickle=False) as file:
        mask: Mask | None = file.get(MEASURED)
    if mask is not None:
        shape = len(encoding.n_choices), int(encoding.n_choices.max())
        if mask.shape != shape or mask.dtype != bool or not mask.any(axis=1).all():
            raise RunError(f"{path}: tells of measured values of shape {mask.shape}, {encoding.name} has {shape}")
    return mask


class _OwnSpace(Space):
    """What a file keeps of a user's own kind of search space: enough to recognise it."""

    def __init__(self, name: str, genes: Iterable[Iterable[Any]]) -> None:
        self._name = name
        self._genes = tuple(Gene(*map(plain_value, gene)) for gene in genes)  # type: ignore[arg-type]  # as JSON has it

    @property
    def name(self) -> str:
        return self._name

    @property
    def genes(self) -> tuple[Gene, ...]:
        return self._genes


def _text_of(space: Any) -> str:
    """Search space as text, from which ``_space_in`` makes it again."""
    if isinstance(space, NetworkSpace):
        return space.to_yaml()
    if type(space) is ChoiceSpace:
        return json.dumps(space.to_dict())
    return json.dumps({"name": space.name, "genes": space.genes})


def _space_in(text: str, source: str) -> Space:
    """Search space that a predictor was fitted on."""
    data = yaml.safe_load(text)
    if isinstance(data, dict) and set(data) == {"name", "genes"}:
        return _OwnSpace(data["name"], data["genes"])
    return space_from(data, source)


def _check_device(path: Path, learned_on: Any, space: Any) -> None:
    """Refuse a predictor of what one device runs of a space for all of it, or for what another device runs of it.

    Raises:
        RunError: If it is such a predictor.
    """
    learned, own = (getattr(one, "device", None) for one in (learned_on, space))
    if learned is not None and learned != own:
        raise RunError(
            f"{path}: was fitted on {learned_on.name} as narrowed for {learned.name}; give --device-preset "
            f"{learned.name}, or another predictor"
        )


def _check_choices(path: Path, learned_on: Any, space: Any) -> None:
    """Refuse a space of other named choices than the predictor was fitted on, as its features mean something else.

    Raises:
        RunError: If they differ; the message names the first difference.
    """
    if isinstance(learned_on, NetworkSpace) and isinstance(space, NetworkSpace):
        return
    theirs, ours = list(learned_on.parameters.items()), list(space.parameters.items())
    if theirs != ours:
        name, values = next((t for t, o in itertools.zip_longest(theirs, ours) if t != o and t is not None), ours[-1])
        raise RunError(
            f"{path}: was fitted on the choices of {learned_on.name}, which are not those of {space.name} (first "
            f"difference: {name} of {list(values)[:8]}); give the space that it was fitted on"
        )


def _check_network(path: Path, learned_on: Any, space: Any) -> None:
    """Refuse a space whose networks differ from those that the predictor was fitted on, for instance in width.

    Data, classes and input channels may differ: a predictor ranks the same networks on another data set.

    Raises:
        RunError: If they differ; the message names the first part that does.
    """
    if not has_network(learned_on) or not has_network(space):
        return
    if (difference := first_difference(learned_on.network, space.network)) is not None:
        part, field, theirs, ours = difference
        raise RunError(
            f"{path}: was fitted on {learned_on.name}, whose block {part} has {field} {theirs}, that of {space.name} "
            f"{ours}; give the space that it was fitted on"
        )
    if dict(learned_on.parameters) != dict(space.parameters):
        name = next(name for name, values in learned_on.parameters.items() if space.parameters.get(name) != values)
        raise RunError(
            f"{path}: was fitted on {learned_on.name}, where {name} is one of {list(learned_on.parameters[name])}, in "
            f"{space.name} of {list(space.parameters.get(name, ()))}; give the space that it was fitted on"
        )


def _check_finite(arrays: dict[str, Any]) -> None:
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{name} holds a number that is not finite")


def _is_npz(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as file:
        return all(name.endswith(".npy") for name in file.namelist())
