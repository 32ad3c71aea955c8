"""Measurements of a method under a budget: each distinct measurement is counted and made once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from apq_tune.errors import RunError
from apq_tune.methods.bit_program import Sensitivities
from apq_tune.predict import Floats, Pairs
from apq_tune.problem.problem import Constraint
from apq_tune.space.encoding import Genomes
from apq_tune.space.gene import BIT_KINDS
from apq_tune.space.gene_encoding import GeneEncoding

if TYPE_CHECKING:
    from apq_tune.searchers.gates.distribution import GeneDistribution
    from apq_tune.searchers.gates.draws import GateKind
    from apq_tune.searchers.gates.training import GateTraining

Kind = Literal["fp32", "proxy", "fine", "short"]
"""Kinds of measurements: loss in the full-precision supernet; in the quantized supernet on a part of the images; in the
quantized supernet on all images; after a short quantization-aware training."""

Measure = Callable[[Genomes], Floats]

LOOKED_AT = 3
"""Number of candidates per short training that are first compared on all images, since the minimum of many losses on
few images is biased, the more so the larger the searched space."""

CHUNK = 8
"""Number of candidates that are measured between two reports."""


class Counts(NamedTuple):
    """Numbers of distinct measurements, allowed or made."""

    proxy: int  # evaluations in either supernet; both cost the same
    short: int  # short quantization-aware trainings
    fine: int  # evaluations in the quantized supernet on all images

    @classmethod
    def of(cls, proxy: int, short: int) -> Counts:
        """Budget with enough evaluations on all images to choose the short trainings."""
        return cls(proxy, short, LOOKED_AT * short)


class Curvature(NamedTuple):
    """Sensitivities of a network by the Hessian of its loss, which take the time of several evaluations.

    Attributes:
        price: Number of evaluations that take as long; each network is charged with them.
        measure: Function from a network of shape ``(n_genes,)`` to the sensitivities of its genes of bits.
    """

    price: int
    measure: Callable[[Genomes], Sensitivities]


class GateSearch(NamedTuple):
    """Differentiable search, whose steps take the time of parts of evaluations.

    Attributes:
        price: Number of evaluations that take as long as a step, which may be a fraction, by the kind of gates.
        train: Function that trains a distribution in place, from limits, settings, a seed and whether networks run at
            their bits.
    """

    price: Mapping[GateKind, float]
    train: Callable[[GeneDistribution, Sequence[Constraint], GateTraining, int, bool], None]


class Measurement(NamedTuple):
    """One measurement."""

    kind: Kind
    genome: bytes
    loss: float


@dataclass
class Bench:
    """Counted measurements of losses on the search split.

    Attributes:
        encoding: Encoding of the search space.
        measures: Functions from genomes of shape ``(n, n_genes)`` to losses in nats of shape ``(n,)``, by kind.
        allowed: Budget of measurements. A repeated measurement is free; one of an interrupted attempt (``replay``)
            counts as when it was made.
        replay: Measurements of an interrupted attempt, which are not made again.
        on_measured: Callback with all measurements so far, called regularly.
        hessian: Sensitivities by Hessians; an interrupted attempt computes them again, with the same result.
        gates: Differentiable search; an interrupted attempt trains again, with the same result.
    """

    encoding: GeneEncoding
    measures: Mapping[Kind, Measure]
    allowed: Counts
    replay: Mapping[tuple[Kind, bytes], float] = field(default_factory=dict)
    on_measured: Callable[[list[Measurement]], None] | None = None
    hessian: Curvature | None = None
    gates: GateSearch | None = None
    _gate_evaluations: int = 0
    _known: dict[tuple[Kind, bytes], float] = field(default_factory=dict)
    _tables: dict[bytes, Sensitivities] = field(default_factory=dict)

    def count(self, *kinds: Kind) -> int:
        """Number of distinct measurements of the given kinds so far."""
        return sum(kind in kinds for kind, _ in self._known)

    @property
    def left(self) -> Counts:
        """Remaining budget."""
        proxy, short, fine = self.allowed
        return Counts(
            proxy - self.count("fp32", "proxy") - self.charged, short - self.count("short"), fine - self.count("fine")
        )

    @property
    def charged(self) -> int:
        """Number of evaluations that sensitivities by Hessians and steps of gates were charged with so far."""
        return self.charged_hessians + self.charged_gates

    @property
    def charged_hessians(self) -> int:
        """Number of evaluations that sensitivities by Hessians were charged with so far."""
        return self.curvature_price * len(self._tables) if self._tables else 0

    @property
    def charged_gates(self) -> int:
        """Number of evaluations that steps of gates were charged with so far."""
        return self._gate_evaluations

    def gate_steps(self, evaluations: int, gate: GateKind = "binary") -> int:
        """Number of steps of a kind of gates that a number of evaluations pays for.

        Raises:
            RunError: If this bench cannot run gates.
        """
        return math.floor(evaluations / self._gate_search.price[gate])

    @property
    def _gate_search(self) -> GateSearch:
        if self.gates is None:
            raise RunError("this bench has no supernet that runs gates; give it one, or choose another method")
        return self.gates

    def train_gates(
        self,
        distribution: GeneDistribution,
        limits: Sequence[Constraint],
        training: GateTraining,
        seed: int,
        *,
        quantize: bool = True,
    ) -> None:
        """Train a distribution in place, and charge its steps.

        Args:
            distribution: Distribution over genomes of ``encoding``.
            limits: Limits on costs.
            training: Settings.
            seed: Seed of gates and batches.
            quantize: Whether networks run at their bits.
        """
        price = math.ceil(training.steps * self._gate_search.price[training.gate])
        if price > self.left.proxy:
            raise RunError(
                f"{training.steps} steps of gates cost {price} evaluations, {self.left.proxy} are left; ask for fewer"
            )
        self._gate_search.train(distribution, limits, training, seed, quantize)
        self._gate_evaluations += price

    @property
    def curvature_price(self) -> int:
        """Number of evaluations that ``curvature`` costs for each network.

        Raises:
            RunError: If this bench cannot compute it.
        """
        if self.hessian is None:
            raise RunError("this bench has no sensitivities by Hessians; give it some, or choose another method")
        return self.hessian.price

    def curvature(self, network: Genomes) -> Sensitivities:
        """Sensitivities by the Hessian of a network of shape ``(n_genes,)``, whose bits do not matter."""
        genome = self.encoding.at_largest(network[None], BIT_KINDS)[0].astype(np.int16)
        if (key := genome.tobytes()) not in self._tables:
            if self.curvature_price > self.left.proxy:
                raise RunError(
                    f"sensitivities by a Hessian cost {self.curvature_price} evaluations, {self.left.proxy} are left; "
                    "ask for fewer"
                )
            assert self.hessian is not None
            self._tables[key] = self.hessian.measure(genome)
        return self._tables[key]

    def fp32(self, genomes: Genomes) -> Floats:
        """Loss in the full-precision supernet; networks that differ only in bits are measured once."""
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
        """All measurements of one kind, in the order in which they were made."""
        own = [(genome, loss) for (k, genome), loss in self._known.items() if k == kind]
        genomes = np.array([np.frombuffer(genome, np.int16) for genome, _ in own], np.int16)
        return Pairs(genomes.reshape(-1, self.encoding.n_genes), np.array([loss for _, loss in own], np.float64))


@dataclass(frozen=True)
class Question:
    """Task of a method.

    Attributes:
        encoding: Encoding of the search space.
        limits: Constraints on candidates.
        bench: Bench that measures candidates under a budget.
        seed: Seed of all random numbers.
    """

    encoding: GeneEncoding
    limits: tuple[Constraint, ...]
    bench: Bench
    seed: int

    def rng(self, *words: int) -> np.random.Generator:
        """Random generator for one part of a method."""
        return np.random.default_rng((self.seed, *words))
