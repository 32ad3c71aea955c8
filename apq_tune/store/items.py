"""Results of independent items in a folder, stored one by one, so that interrupted work can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from apq_tune.hosts.executor import Executor
from apq_tune.hosts.work import Result, Work
from apq_tune.store.digests import Digests
from apq_tune.store.files import read_json, to_json

FOLDER = "items"
"""Name of the folder of results, which has a JSON file for each item."""


class Items:
    """Results of a folder's items: ``items/KEY.json`` and, of networks that are kept, their weights in ``KEY.pt``.

    An item is done if all of its files are there as they were written.
    """

    def __init__(self, digests: Digests, redo: str, weights: str = "") -> None:
        """Open the results of a folder.

        Args:
            digests: Digests of the files of the folder.
            redo: Remedy for the message if a result is damaged, after its deletion.
            weights: Prefix of the names of weight files, such as ``"items/"``.
        """
        self._digests, self._redo, self._weights = digests, redo, weights

    def finished(self, *, weights: bool = False) -> dict[str, Any]:
        """Results of the finished items by key.

        Args:
            weights: Whether only items with stored weights count as finished.

        Raises:
            RunError: If a file is damaged; the message names it.
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
    """Compute the items that are not finished, storing each result immediately.

    Args:
        kept: Stored results of the folder.
        executor: Function that starts the executor; called if there is anything to compute.
        work: Function of an item and of what all items share.
        shared: Second argument of ``work``.
        items: First argument of ``work`` for each key; keys are good as names of files.
        directory: Folder for temporary files of workers and for tracebacks.
        gpus: Function from the executor to the number of GPUs per item.
        weights: Whether only items with stored weights count as finished.
        tell: Callback with the key of the computed item, or ``None`` at the beginning, the number of finished items and
            the number of all items.

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
