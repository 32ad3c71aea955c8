"""Resumable search: it advances step by step and can be saved and restored between steps."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from apq_tune.errors import ProblemError, RunError
from apq_tune.inputs.ranges import EVALUATIONS, SEED, Whole, shown
from apq_tune.problem.front import Front
from apq_tune.problem.problem import Evaluation, Problem
from apq_tune.searchers.algorithms import NSGA2, Algorithm, Evolution, Preparing, State
from apq_tune.searchers.archive import Archive, Seen
from apq_tune.searchers.registry import ALGORITHMS, MILP
from apq_tune.space.encoding import Encoding, Genomes

FORMAT = 1
"""Format version of saved searches."""

EVALUATIONS_PER_ISLAND = 100_000

TOLERANCE = 20
"""A batch may lack up to ``1 / TOLERANCE`` of its genomes, since asking for the last few takes as long as for many."""

MAX_ROUNDS = 20
"""Maximum number of attempts to fill a batch before the search space counts as exhausted."""


class Searching:
    """Search loop (ask, filter duplicates, evaluate, tell) with its complete state.

    A search that is saved after any step and restored elsewhere continues bit by bit as if it had not been interrupted.

    Attributes:
        problem: Problem to solve.
        algorithm: Algorithm that proposes genomes.
        done: Whether the budget is spent, the front has been stable for long enough, or no new candidate is left.
    """

    def __init__(
        self,
        problem: Problem,
        algorithm: Algorithm | str | None = None,
        *,
        n_evaluations: int = 10_000,
        seed: int = 0,
        initial: Genomes | None = None,
        islands: int | None = None,
        patience: int | None = None,
    ) -> None:
        """Start a search; see ``search`` for the arguments.

        Raises:
            ProblemError: If an argument is invalid.
        """
        if not isinstance(problem, Problem):
            raise ProblemError(f"give a Problem(space, objectives, constraints), got {shown(problem)}")
        n_evaluations = _number("n_evaluations", n_evaluations, EVALUATIONS)
        seed = _number("seed", seed, SEED)
        patience = None if patience is None else _number("patience", patience, EVALUATIONS)
        algorithm = _algorithm(algorithm, len(problem.objectives))
        if isinstance(algorithm, Preparing):
            algorithm = algorithm.prepared(problem, seed)
        if islands is None:
            islands = max(1, n_evaluations // EVALUATIONS_PER_ISLAND)
        islands = _number("islands", islands, Whole(1, max(1, n_evaluations // algorithm.batch)))
        self.problem, self.algorithm, self.done = problem, algorithm, False
        encoding = problem.encoding
        self._settings = {
            "format": FORMAT,
            "space": encoding.name,
            "genes": encoding.n_choices.tolist(),
            "objectives": [f"{o.direction} {o.metric.name}" for o in problem.objectives],
            "constraints": [str(c) for c in problem.constraints],
            "metrics": [metric.name for metric in problem.metrics],
            "algorithm": repr(algorithm),
            "n_evaluations": n_evaluations,
            "seed": seed,
            "initial": None if initial is None else hashlib.sha256(np.int16(initial).tobytes()).hexdigest(),
            "islands": islands,
            "patience": patience,
        }
        self._seed, self._patience = seed, patience
        self._rng = np.random.default_rng(seed)
        self._budget = min(n_evaluations, encoding.size())
        self._states: list[State | None] = [None] * islands
        self._seen, self._archive = Seen(len(encoding.n_choices)), Archive()
        if encoding.size() <= n_evaluations:
            self._proposed = encoding.enumerate(encoding.size())
        else:
            given = encoding.uniform_policies() if initial is None else initial
            self._proposed = encoding.fill_inert(encoding.canonicalise(given), self._rng)
        self._front_at, self._changed_at = b"", 0

    @property
    def n_evaluations(self) -> int:
        """Number of distinct candidates evaluated so far."""
        return len(self._seen)

    def step(self, n: int | None = 1, progress: Callable[[int], None] | None = None) -> None:
        """Run generations of all islands.

        Args:
            n: Maximum number of generations; ``None`` to run until the search is done.
            progress: Callback with the number of evaluations so far, called after each generation.
        """
        with threadpool_limits(limits=1):
            while not self.done and n != 0:
                n = None if n is None else n - 1
                if self._generation() and progress is not None:
                    progress(len(self._seen))

    def _generation(self) -> bool:
        """Evaluate one generation of every island in one batch; return whether a new candidate was found."""
        problem, encoding = self.problem, self.problem.encoding
        batches: list[Genomes] = []
        for state in self._states:
            wanted = min(self.algorithm.batch, self._budget - len(self._seen))
            proposed, self._proposed = self._proposed[:wanted], self._proposed[wanted:]
            batches.append(_fresh_batch(proposed, wanted, self._seen, self.algorithm, state, encoding, self._rng))
        genomes = encoding.canonicalise(np.concatenate(batches))
        if len(genomes) == 0:
            self.done = True
            return False
        evaluation = problem.evaluate(genomes)
        self._archive.add(genomes, evaluation)
        ends = np.cumsum([len(batch) for batch in batches])
        for island, (batch, end) in enumerate(zip(batches, ends, strict=True)):
            if len(batch):
                own = Evaluation(*(part[end - len(batch) : end] for part in evaluation))
                self._states[island] = self.algorithm.tell(self._states[island], batch, own)
        self.done = len(self._seen) >= self._budget or self._is_stable()
        return True

    def _is_stable(self) -> bool:
        """Whether the front has not changed for ``patience`` evaluations."""
        if self._patience is None or (best := self._archive.best()) is None:
            return False
        front_now = _values(best)
        if front_now != self._front_at:
            self._front_at, self._changed_at = front_now, len(self._seen)
        return len(self._seen) - self._changed_at >= self._patience

    def front(self) -> Front:
        """Front of all candidates evaluated so far.

        Raises:
            ProblemError: If no feasible candidate was found; the message has the values of the least infeasible one.
        """
        best = self._archive.best()
        if best is None:
            raise ProblemError(_nothing_feasible(self.problem, self._archive, len(self._seen)))
        provenance = {
            "space": self.problem.encoding.name,
            "constraints": [str(c) for c in self.problem.constraints],
            "algorithm": repr(self.algorithm),
            "n_evaluations": len(self._seen),
            "seed": self._seed,
        }
        return Front.from_evaluation(self.problem, *best, provenance)

    def to_bytes(self) -> bytes:
        """Serialize the state to an ``.npz`` file of plain arrays, for ``load``."""
        counters = {
            "rng": self._rng.bit_generator.state,
            "done": self.done,
            "changed_at": self._changed_at,
            "begun": [state is not None for state in self._states],
        }
        arrays: dict[str, NDArray[Any]] = {
            "settings": np.asarray(json.dumps(self._settings)),
            "counters": np.asarray(json.dumps(counters)),
            "seen": self._seen.fingerprints(),
            "proposed": self._proposed,
        }
        for island, state in enumerate(self._states):
            if state is not None:
                arrays |= _named(f"island {island}", state._asdict())
        if (best := self._archive.best()) is not None:
            arrays |= {"best genomes": best[0]} | _named("best", best[1]._asdict())
        if self._archive.closest is not None:
            arrays |= _named("closest", self._archive.closest._asdict())
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        return buffer.getvalue()

    def load(self, content: bytes, source: str = "saved search") -> None:
        """Restore the state of a search with the same settings.

        Args:
            content: Output of ``to_bytes``.
            source: Name of the saved search for messages.

        Raises:
            RunError: If the content is damaged or of a search with other settings, which the message names; the state
                of this search is then unchanged.
        """
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                arrays = dict(file)
            settings, counters = json.loads(str(arrays["settings"])), json.loads(str(arrays["counters"]))
            states = [
                State(*(arrays[f"island {island} {name}"] for name in State._fields)) if begun else None
                for island, begun in enumerate(counters["begun"])
            ]
            best = (arrays["best genomes"], _evaluation("best", arrays)) if "best genomes" in arrays else None
            closest = _evaluation("closest", arrays) if "closest F" in arrays else None
            seen, proposed = arrays["seen"], arrays["proposed"]
            done, changed_at, rng = bool(counters["done"]), int(counters["changed_at"]), counters["rng"]
        except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise RunError(f"{source}: is damaged ({error}); delete it to restart that search") from None
        for name, value in self._settings.items():
            if settings.get(name) != value:
                raise RunError(
                    f"{source}: its {name} is {settings.get(name)}, not {value}; load it with what it began with"
                )
        self._rng.bit_generator.state = rng
        self._states, self._proposed, self.done, self._changed_at = states, proposed, done, changed_at
        self._seen.restore(seen)
        self._archive.restore(best, closest)
        self._front_at = b"" if best is None else _values(best)


def _number(name: str, value: Any, allowed: Whole) -> int:
    try:
        return int(allowed.check(value))
    except ValueError as error:
        raise ProblemError(f"{name}: {error}") from None


def _algorithm(algorithm: Any, n_objectives: int) -> Algorithm:
    """Resolve an algorithm that is given as an object, by name, or by default."""
    if algorithm is None:
        return Evolution() if n_objectives == 1 else NSGA2()
    if isinstance(algorithm, str) and algorithm in ALGORITHMS:
        return ALGORITHMS[algorithm]()
    if isinstance(algorithm, type | str) or not all(hasattr(algorithm, part) for part in ("batch", "ask", "tell")):
        known = ", ".join(map(repr, (*ALGORITHMS, MILP)))
        raise ProblemError(f"algorithm is {shown(algorithm)}; give one of {known}, or an object such as NSGA2()")
    return algorithm  # type: ignore[no-any-return]


def _values(best: tuple[Genomes, Evaluation]) -> bytes:
    """Sorted objective values of a front, for comparison with another one."""
    return np.sort(best[1].F, axis=0).tobytes()


def _named(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return {f"{prefix} {name}": array for name, array in arrays.items()}


def _evaluation(prefix: str, arrays: Mapping[str, NDArray[Any]]) -> Evaluation:
    return Evaluation(*(arrays[f"{prefix} {name}"] for name in Evaluation._fields))


def _nothing_feasible(problem: Problem, archive: Archive, tries: int) -> str:
    limits = " and ".join(map(str, problem.constraints))
    assert archive.closest is not None
    limited = {c.metric.name for c in problem.constraints}
    values = zip(problem.metrics, archive.closest.metrics[0], strict=True)
    reached = ", ".join(f"{metric.name} {value:.6g}" for metric, value in values if metric.name in limited)
    return f"no candidate with {limits} in {tries} tries; the closest has {reached}; relax a bound"


def _fresh_batch(
    proposed: Genomes,
    wanted: int,
    seen: Seen,
    algorithm: Algorithm,
    state: State | None,
    encoding: Encoding,
    rng: np.random.Generator,
) -> Genomes:
    """Collect ``wanted`` genomes (not canonical) that are not in ``seen``, and add them to it.

    Genomes in ``proposed`` are used first, then those that the algorithm asks for, and random ones if all of these are
    known. Up to ``1 / TOLERANCE`` of the batch may be missing, or more if no further genomes can be found.
    """
    rows = seen.new(encoding.canonicalise(proposed), wanted)
    batch, found = [proposed[rows]], len(rows)
    for attempt in range(MAX_ROUNDS):
        if wanted - found <= wanted // TOLERANCE:
            break
        if attempt < MAX_ROUNDS // 2:
            asked = algorithm.ask(state, wanted - found, encoding, rng)
        else:
            asked = encoding.fill_inert(encoding.sample(max(wanted, algorithm.batch), rng), rng)
        rows = seen.new(encoding.canonicalise(asked), wanted - found)
        batch.append(asked[rows])
        found += len(rows)
    return np.concatenate(batch)
