"""Results of many independent items in one folder, kept one by one: whatever interrupts, each is computed once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from apq_tune.hosts.executor import Executor
from apq_tune.hosts.work import Result, Work
from apq_tune.store.digests import Digests
from apq_tune.store.files import read_json, to_json

FOLDER = "items"
"""Folder of the results, a JSON file for each item."""


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


def compute_missing(
    kept: Items,
    executor: Callable[[], Executor],
    work: Work,
    shared: Any,
    items: Mapping[str, Any],
    *,
    directory: Path,
    gpus: Callable[[Executor], float] = lambda _: 0.0,
    weights: bool = False,
    tell: Callable[[str | None, int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Compute the items that are not done, each result kept at once.

    Args:
        kept: Results of the folder.
        executor: Starts the executor; called if there is anything to do.
        work: Function of an item and of what all items share.
        shared: Second argument of ``work``.
        items: First argument of ``work`` for each key; keys are good as names of files.
        directory: Folder for what workers read meanwhile and for tracebacks.
        gpus: From the executor to the GPUs of each item.
        weights: Whether an item is done only if its weights are kept.
        tell: Called with the key of the item that was computed, if any, how many items are done, and of how many.

    Returns:
        Result of each item, in the order of the items.

    Raises:
        RunError: If an item failed; the results of the others are kept.
    """
    results = {key: result for key, result in kept.finished(weights=weights).items() if key in items}
    left = {key: item for key, item in items.items() if key not in results}
    tell(None, len(results), len(items))
    if left:
        started = executor()
        for key, result in started.map(work, shared, left, directory=directory, gpus=gpus(started)):
            kept.keep(key, result)
            results[key] = result.metrics
            tell(key, len(results), len(items))
    return {key: results[key] for key in items}
