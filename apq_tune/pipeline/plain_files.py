"""Files of the chosen network of a model of the user: a plain module and its weights."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from apq_tune.pipeline.stage import torch_bytes
from apq_tune.store.files import write_atomically
from apq_tune.supernet.found_network import FoundNetwork
from apq_tune.supernet.plain import PlainNetwork

SOURCE, STATE = "best.py", "best_state.pt"


class PlainFiles(NamedTuple):
    """Files of a plain module.

    Attributes:
        source: Source of the module.
        state: Its state dict.
    """

    source: Path
    state: Path


def write_plain(network: FoundNetwork, folder: Path) -> PlainFiles:
    """Write a network as a plain module, in full precision and with batch norm folded.

    Args:
        network: Network of a model of the user.
        folder: Folder of the files.

    Raises:
        RunError: If they cannot be written.
    """
    plain = PlainNetwork.of(network)
    write_atomically(folder / SOURCE, plain.source(f"Network {network.name} of the model {network.space.name}."))
    write_atomically(folder / STATE, torch_bytes(plain.tensors))
    return PlainFiles(folder / SOURCE, folder / STATE)
