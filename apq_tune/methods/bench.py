"""What a method may measure, and how often: every measurement is counted, none is done twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from apq_tune.errors import RunError
from apq_tune.predict import Floats, Pairs
from apq_tune.problem.problem import Constraint
from apq_tune.space.encoding import Genomes
from apq_tune.space.gene import BIT_KINDS
from apq_tune.space.network_encoding import NetworkEncoding

Kind = Literal["fp32", "proxy", "fine", "short"]
"""Loss in the full-precision supernet; in the quantized one, on a part of the images; the same on all of them; after a
short quantization-aware training."""

Measure = Callable[[Genomes], Floats]

LOOKED_AT = 3
"""Candidates for each short training that are compared on all images before: the least of many losses on few images is
mostly luck, the more so the larger the part of the space that was searched."""

CHUNK = 8
"""Candidates measured between two looks at the clock."""


class Counts(NamedTuple):
    """How much may be measured, or was: distinct candidates."""

    proxy: int  # evaluations in either supernet; both cost the same
    short: int  # short quantization-aware trainings
    fine: int  # evaluations in the quantized supernet on all images

    @classmethod
    def of(cls, proxy: int, short: int) -> Counts:
        """With as many candidates looked at closely as are enough to choose the short trainings among."""
        return cls(proxy, short, LOOKED_AT * short)


class Measurement(NamedTuple):
    """One measurement."""

    kind: Kind
    genome: bytes
    loss: float


@dataclass
class Bench:
    """Losses on the search split, counted.

    Attributes:
        encoding: of the space.
        measures: what really measures ``(n, n_genes) -> (n,)`` losses in nats, for each kind.
        allowed: how many measurements a method gets. Asking for what was measured before costs nothing; for what an
            interrupted method had measured (``replay``), it costs what it cost then.
        replay: measurements of an earlier attempt, which need not be done again.
        on_measured: called with all measurements so far after each few.
    """

    encoding: NetworkEncoding
    measures: Mapping[Kind, Measure]
    allowed: Counts
    replay: Mapping[tuple[Kind, bytes], float] = field(default_factory=dict)
    on_measured: Callable[[list[Measurement]], None] | None = None
    _known: dict[tuple[Kind, bytes], float] = field(default_factory=dict)

    def count(self, *kinds: Kind) -> int:
        """Distinct measurements of some kinds so far."""
        return sum(kind in kinds for kind, _ in self._known)

    @property
    def left(self) -> Counts:
        """What may still be measured."""
        proxy, short, fine = self.allowed
        return Counts(proxy - self.count("fp32", "proxy"), short - self.count("short"), fine - self.count("fine"))

    def fp32(self, genomes: Genomes) -> Floats:
        """Full-precision loss; bits make no difference, and networks that differ in nothing else are measured once."""
        return self._ask("fp32", self.encoding.at_largest(genomes, BIT_KINDS))

    def proxy(self, genomes: Genomes) -> Floats:
        """Loss in the quantized supernet."""
        return self._ask("proxy", genomes)

    def fine(self, genomes: Genomes) -> Floats:
        """Loss in the quantized supernet on all images."""
        return self._ask("fine", genomes)

    def short(self, genomes: Genomes) -> Floats:
        """Loss after a short quantization-aware training."""
        return self._ask("short", genomes)

    def _ask(self, kind: Kind, genomes: Genomes) -> Floats:
        genomes = genomes.astype(np.int16)
        keys = [(kind, genome.tobytes()) for genome in genomes]
        new = [row for key, row in dict(zip(keys, range(len(keys)), strict=True)).items() if key not in self._known]
        new.sort()
        left = self.left.proxy if kind == "fp32" else getattr(self.left, kind)
        if len(new) > left:
            raise RunError(f"{len(new)} measurements of kind {kind} are asked for, {left} are left; ask for fewer")
        for start in range(0, len(new), CHUNK):
            rows = new[start : start + CHUNK]
            fresh = [row for row in rows if keys[row] not in self.replay]
            losses = dict(zip(fresh, self.measures[kind](genomes[fresh]).tolist(), strict=True)) if fresh else {}
            for row in rows:
                self._known[keys[row]] = losses[row] if row in losses else self.replay[keys[row]]
            if fresh and self.on_measured is not None:
                self.on_measured([Measurement(*key, loss) for key, loss in self._known.items()])
        return np.array([self._known[key] for key in keys], np.float64)

    def measured(self, kind: Kind) -> Pairs:
        """All measurements of one kind, in their order."""
        own = [(genome, loss) for (k, genome), loss in self._known.items() if k == kind]
        genomes = np.array([np.frombuffer(genome, np.int16) for genome, _ in own], np.int16)
        return Pairs(genomes.reshape(-1, self.encoding.n_genes), np.array([loss for _, loss in own], np.float64))


@dataclass(frozen=True)
class Question:
    """What a method is asked.

    Attributes:
        encoding: of the space.
        limits: to keep.
        bench: what it may measure.
        seed: of all its randomness.
    """

    encoding: NetworkEncoding
    limits: tuple[Constraint, ...]
    bench: Bench
    seed: int

    def rng(self, *words: int) -> np.random.Generator:
        """A generator of its own for each part of a method."""
        return np.random.default_rng((self.seed, *words))
