"""Results of many independent items in one folder, kept one by one: whatever interrupts, each is computed once."""

from __future__ import annotations

from typing import Any

from apq_tune.hosts.executor import Result
from apq_tune.store.digests import Digests
from apq_tune.store.files import read_json, to_json

FOLDER = "items"
"""Folder of the results, a JSON file for each item."""

WEIGHTS = "weights.pt"
"""Name of the one file that may belong to a result: the weights of the network that was trained."""


class Items:
    """Results of a folder's items: ``items/KEY.json`` and, of networks that are kept, their weights in ``KEY.pt``.

    An item is done if all of its files are there as they were written.
    """

    def __init__(self, digests: Digests, redo: str, weights: str = "") -> None:
        """Look at a folder.

        Args:
            digests: Digests of its files.
            redo: What computes a result anew once it is deleted, in words.
            weights: Folder of the weights, with a slash.
        """
        self._digests, self._redo, self._weights = digests, redo, weights

    def finished(self, *, weights: bool = False) -> dict[str, Any]:
        """Results by key, of the items that are done.

        Args:
            weights: Whether an item whose weights were never kept is not done.

        Raises:
            RunError: If a file is damaged, naming it.
        """
        start, end = f"{FOLDER}/", ".json"
        recorded = [name for name in self._digests if name.startswith(start) and name.endswith(end)]
        names = {name.removeprefix(start).removesuffix(end): name for name in recorded}
        return {
            key: read_json(self._digests.folder / names[key])
            for key in sorted(names)
            if self._has_weights(key, weights) and self._whole(names[key])
        }

    def keep(self, key: str, result: Result) -> None:
        """Write the result of an item, its weights first.

        Raises:
            RunError: If it cannot be written.
        """
        for content in result.files.values():
            self._digests.write(self.weights(key), content)
        self._digests.write(f"{FOLDER}/{key}.json", to_json(result.metrics))

    def weights(self, key: str) -> str:
        """Name of the file of an item's weights."""
        return f"{self._weights}{key}.pt"

    def _has_weights(self, key: str, needed: bool) -> bool:
        name = self.weights(key)
        return self._whole(name) if name in set(self._digests) else not needed

    def _whole(self, name: str) -> bool:
        return self._digests.whole(name, self._redo)
