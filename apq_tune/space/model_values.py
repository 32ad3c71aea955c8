"""Candidates of the space of a model and the values of its genes, either from the other."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from apq_tune.errors import CandidateError
from apq_tune.inputs.ranges import shown
from apq_tune.space.model_candidate import ModelCandidate
from apq_tune.space.model_choices import Choice
from apq_tune.space.model_plan import Planner
from apq_tune.space.sparsities import as_share


class ModelValues:
    """Candidates of the space of a model and the values of its genes, either from the other."""

    def __init__(self, name: str, planner: Planner) -> None:
        """Keep the name of the space, for messages, and what is open in it."""
        self._name, self._planner = name, planner

    @functools.cached_property
    def _of_gene(self) -> dict[str, tuple[Any, ...]]:
        """Values of each gene."""
        return {gene.name: gene.values for gene in self._planner.choices.genes}

    def candidate_of(self, values: Mapping[str, int]) -> ModelCandidate:
        """The candidate with these values, one for each gene; those of layers that are left out are passed over.

        Pairs of bits that the device of the space does not run are replaced by the nearest ones that it runs.
        """
        choices, values = self._planner.choices, self._run(values)
        gone = {name for name, depth in choices.depths.items() if not depth.among(values)}
        here = {name: choices.block_of.get(name) not in gone for name in choices.w_bits}

        def active(own: Mapping[str, Choice], plain: Callable[[Any], Any] = int) -> tuple[tuple[str, Any], ...]:
            return tuple((name, plain(values[c.gene])) for name, c in own.items() if c.gene and here[name])

        widths = []
        for index, choice in choices.widths.items():
            group = self._planner.coupling.groups[index]
            if choice.gene and any(here[maker] for maker in group.makers):
                widths.append((group.name, int(values[choice.gene])))
        skipped = tuple(name for name, depth in choices.depths.items() if depth.gene and name in gone)
        size = values.get("resolution") if len(self._planner.sizes) > 1 else None
        return ModelCandidate(
            skipped,
            tuple(widths),
            active(choices.w_bits),
            active(choices.a_bits),
            None if size is None else int(size),
            active(choices.sparsity, as_share),
        )

    def _run(self, values: Mapping[str, int]) -> Mapping[str, int]:
        """Values of genes with the nearest pairs of bits that are allowed, by the number of steps."""
        for genes, allowed in self._planner.choices.pairs.items():
            given = [values[gene] for gene in genes]
            if tuple(given) not in allowed:
                nearest = min(sorted(allowed), key=functools.partial(self._steps, genes, given))
                values = {**values, **dict(zip(genes, nearest, strict=True))}
        return values

    def _steps(self, genes: Sequence[str], one: Sequence[int], other: Sequence[int]) -> int:
        """Number of steps between two values of each of some genes."""
        own = [self._of_gene[gene] for gene in genes]
        return sum(abs(of.index(a) - of.index(b)) for of, a, b in zip(own, one, other, strict=True))

    def values_of(self, candidate: ModelCandidate) -> dict[str, int]:
        """Values of a candidate by gene name; inert genes have their first value.

        Raises:
            CandidateError: If it is a candidate of another space.
        """
        if not isinstance(candidate, ModelCandidate):
            raise CandidateError(f"{shown(candidate)} is no candidate of a model; {self._name} is the space of one")
        choices = self._planner.choices
        values: dict[str, int] = {}
        if len(self._planner.sizes) > 1:
            if candidate.resolution is None:
                raise CandidateError(f"resolution: is missing; {self._name} needs one of {list(self._planner.sizes)}")
            values["resolution"] = candidate.resolution
        elif candidate.resolution is not None:
            raise CandidateError(f"resolution: {self._name} offers no choice of it; leave it out")
        skipped = set(candidate.skipped)
        values |= {depth.gene: int(name not in skipped) for name, depth in choices.depths.items() if depth.gene}
        if unknown := skipped - {name for name, depth in choices.depths.items() if depth.gene}:
            raise CandidateError(f"skipped: {min(unknown)!r} is no block that {self._name} can leave out")
        widths = {self._planner.coupling.groups[index].name: choice for index, choice in choices.widths.items()}
        for kind, given, own in (
            ("widths", candidate.widths, widths),
            ("w_bits", candidate.w_bits, choices.w_bits),
            ("a_bits", candidate.a_bits, choices.a_bits),
            ("sparsity", candidate.sparsity, choices.sparsity),
        ):
            for name, value in given:
                gene = own[name].gene if name in own else ""
                if not gene:
                    raise CandidateError(f"{kind}: {name!r} is nothing that {self._name} leaves open; leave it out")
                if values.setdefault(gene, value) != value:
                    raise CandidateError(f"{kind}: {name!r} is {value}, but {gene!r} is one choice for several layers")
        complete = {gene.name: values.get(gene.name, gene.values[0]) for gene in self._planner.choices.genes}
        for own_gene in self._planner.choices.genes:
            if (chosen := complete[own_gene.name]) not in own_gene.values:
                raise CandidateError(f"{own_gene.name} is {chosen}; choose one of {_listed(own_gene.values)}")
        if (expected := self.candidate_of(complete)) != _sorted(candidate, expected):
            raise CandidateError(_difference(candidate, expected))
        return complete


def _sorted(candidate: ModelCandidate, like: ModelCandidate) -> ModelCandidate:
    """The candidate with its names in the order that another one has, if they are the same."""

    def ordered(own: tuple[Any, ...], other: tuple[Any, ...]) -> tuple[Any, ...]:
        return other if len(own) == len(other) and set(own) == set(other) else own

    return ModelCandidate(
        ordered(candidate.skipped, like.skipped),
        ordered(candidate.widths, like.widths),
        ordered(candidate.w_bits, like.w_bits),
        ordered(candidate.a_bits, like.a_bits),
        candidate.resolution,
        ordered(candidate.sparsity, like.sparsity),
    )


def _difference(given: ModelCandidate, expected: ModelCandidate) -> str:
    """What a candidate names that is not there, or leaves out that is."""
    for kind in ("widths", "w_bits", "a_bits", "sparsity"):
        own, wanted = dict(getattr(given, kind)), dict(getattr(expected, kind))
        if missing := [name for name in wanted if name not in own]:
            return f"{kind}: {missing[0]!r} is missing; give it"
        if extra := [name for name in own if name not in wanted]:
            return f"{kind}: {extra[0]!r} is in a block that is skipped; leave it out"
    return f"{given} is not written as the space writes it"


def _listed(values: Sequence[int], n: int = 12) -> str:
    text = ", ".join(map(str, values[:n]))
    return f"[{text}]" if len(values) <= n else f"[{text}, ..., {values[-1]}]"
