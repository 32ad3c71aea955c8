"""Choice of the encoding of a search space by its kind."""

from __future__ import annotations

from typing import Any

from apq_tune.space.flat_encoding import FlatEncoding
from apq_tune.space.model_encoding import ModelEncoding
from apq_tune.space.model_space import ModelSpace
from apq_tune.space.network_encoding import NetworkEncoding
from apq_tune.space.parameters import Space
from apq_tune.space.search_space import SearchSpace


def encoding_of(space: Any) -> Any:
    """Encoding of a search space; encodings are returned unchanged.

    Args:
        space: ``SearchSpace``, ``ModelSpace``, any other space that inherits ``Space``, or an ``Encoding``.
    """
    if isinstance(space, SearchSpace):
        return NetworkEncoding(space)
    if isinstance(space, ModelSpace):
        return ModelEncoding(space)
    return FlatEncoding(space) if isinstance(space, Space) else space
