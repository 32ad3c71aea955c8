"""Base class of evolutionary samplers of Optuna.

The samplers are stateless: they derive the population from the finished trials of the study, in the order in which
these ended, ``population`` trials per generation. The random generator of a trial is seeded with the sampler's seed and
the trial's number. A new sampler, in another process or on a resumed study, thus continues as if there had been no
interruption. (Optuna's ``BaseGASampler`` writes generations to the storage, for which there is no public interface.)
"""

from __future__ import annotations

import copy
import math
import operator
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from apq_tune.errors import ProblemError, StudyError
from apq_tune.hosts.narrowed import NarrowedEncoding
from apq_tune.hosts.optuna_genes import ParameterGenes, uniform_value
from apq_tune.problem.problem import Evaluation
from apq_tune.searchers.algorithms import Algorithm, State
from apq_tune.space.encoding import Encoding, Genomes
from apq_tune.space.encodings import encoding_of
from apq_tune.space.gene_encoding import GeneEncoding
from apq_tune.space.parameters import Space

HUGE = 1e300
"""Replacement of infinite objective values, whose differences are finite."""

MAX_ROUNDS = 20
"""Maximum number of attempts to find a new candidate; after that a known one may be repeated."""

CHILDREN = 10
"""Number of children per attempt."""

Encodings: TypeAlias = GeneEncoding | NarrowedEncoding
SpaceOrEncoding: TypeAlias = Space | Encodings
Key: TypeAlias = tuple[bytes, tuple[tuple[str, str], ...]]


class Past(NamedTuple):
    """Digest of the finished trials of a study, in the order in which they ended."""

    finished: list[FrozenTrial]
    usable: list[FrozenTrial]  # trials that may become parents
    state: State | None  # after the last full generation; its genomes are indices ``(p, 1)`` of usable trials
    seen: frozenset[Key | None]  # keys of the candidates tried; empty if the sampler has no search space


class Parents(NamedTuple):
    """Population as genomes of a relative search space."""

    state: State | None
    genes: ParameterGenes
    genomes: Genomes  # (p, n_genes)
    lacking: NDArray[np.bool_] | None  # (p, n_genes) parameters that a parent does not have; None if there are none


_end = operator.attrgetter("datetime_complete", "number")
"""Sort key of finished trials: unlike their numbers, the time of completion appends new trials at the end."""


def _is_usable(trial: FrozenTrial) -> bool:
    """Whether a trial may become a parent; trials that were added to a storage directly may have NaN values."""
    return trial.state == TrialState.COMPLETE and not any(map(math.isnan, trial.values))


def _evaluation(trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]) -> Evaluation:
    """Minimised objectives and total violations of trials, as selection needs them."""
    signs = [-1.0 if direction == StudyDirection.MAXIMIZE else 1.0 for direction in directions]
    F = np.clip(np.array([trial.values for trial in trials], np.float64) * signs, -HUGE, HUGE)
    G = np.array([[sum(v for v in trial.constraints.values() if v > 0)] for trial in trials], np.float64)
    F[G[:, 0] > 0] = np.inf
    return Evaluation(F, G, F)


class PopulationSampler(BaseSampler):
    """Base class of samplers that derive a population from the finished trials of a study."""

    children = CHILDREN
    """Number of children that are asked for at once."""

    def __init__(self, algorithm: Algorithm, space: SpaceOrEncoding | None, seed: int | None) -> None:
        if seed is not None and (not isinstance(seed, int | np.integer) or seed < 0):
            raise ProblemError(f"seed is {seed!r}; give a whole number from 0, or None")
        if not isinstance(space, SpaceOrEncoding | None):
            raise ProblemError(f"space is {space!r}; give a search space, such as a SearchSpace, or an encoding of one")
        self._algorithm = algorithm
        self._seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else int(seed)
        self._take(space)

    def _take(self, space: SpaceOrEncoding | None) -> None:
        self._encoding: Encodings | None = None if space is None else encoding_of(space)
        choices = {} if self._encoding is None else dict(zip(self._encoding.names, self._encoding.choices, strict=True))
        self._own: dict[str, BaseDistribution] = {n: CategoricalDistribution(v) for n, v in choices.items()}
        self._places = {name: {value: i for i, value in enumerate(values)} for name, values in choices.items()}
        self._forget()

    def within(self, space: NarrowedEncoding) -> Self:
        """Copy of the sampler on a restricted search space; a sampler without a search space is returned as it is."""
        if self._encoding is None:
            return self
        own = copy.copy(self)
        own._take(space)
        return own

    def _forget(self) -> None:
        """Reset the caches, which are replaced and never modified, as threads may share a sampler."""
        self._past = Past([], [], None, frozenset())
        self._union: tuple[State | None, dict[str, BaseDistribution]] = None, {}
        self._parents: Parents | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_past", "_union", "_parents")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def reseed_rng(self) -> None:
        """Do nothing, as each trial number has a generator of its own."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002
        """Parameters of the search space and of all parents, with the latest distribution of each."""
        self._check(study)
        past = self._read(study.get_trials(deepcopy=False), study.directions)
        if past.state is None:
            return dict(self._own)
        if self._union[0] is not past.state:
            union: dict[str, BaseDistribution] = {}
            for place in sorted(past.state.genomes[:, 0].tolist()):
                union |= past.usable[place].distributions
            union = {name: distribution for name, distribution in union.items() if not distribution.single()}
            self._union = past.state, union | self._own
        return dict(self._union[1])

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Sample a child of the population, or a random candidate in the first generation."""
        self._check(study)
        if not search_space:
            return {}
        trials, rng = study.get_trials(deepcopy=False), self._rng(trial)
        past = self._read(trials, study.directions)
        parents = self._encode(past, search_space)
        if self._encoding is None:
            return parents.genes.decode(self._ask(parents, 1, rng)[0])
        running = {self._key(t.params) for t in trials if not t.state.is_finished() and t.number != trial.number}
        for attempt in range(MAX_ROUNDS):
            if attempt < MAX_ROUNDS // 2:
                children = self._ask(parents, self.children, rng)
            else:
                children = self._drawn(parents, self.children, rng)
            for genome in children:
                params = parents.genes.decode(genome)
                key = self._key(params)
                if key is None or (key not in past.seen and key not in running):
                    return params
        return params

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Sample a parameter that no parent has uniformly."""
        self._check(study)
        return uniform_value(param_distribution, self._rng(trial, param_name))

    def _check(self, study: Study) -> None:
        """Refuse studies that the algorithm does not support."""

    def _rng(self, trial: FrozenTrial, name: str = "") -> np.random.Generator:
        return np.random.default_rng((self._seed, trial.number, zlib.crc32(name.encode())))

    def _read(self, trials: Iterable[FrozenTrial], directions: Sequence[StudyDirection]) -> Past:
        """Digest the trials of a study; only trials that ended since the last call are processed.

        Comparing the known ones is fast, because storages return identical objects.
        """
        finished = sorted((trial for trial in trials if trial.state.is_finished()), key=_end)
        past = self._past
        if finished[: len(past.finished)] != past.finished:  # another study, or clocks that disagree
            past = Past([], [], None, frozenset())
        new = finished[len(past.finished) :]
        if not past.finished:  # Optuna ensures that later trials agree with these
            self._check_space(new)
        if new:
            size = self._algorithm.batch
            told, state = len(past.usable) // size * size, past.state
            usable = past.usable + [trial for trial in new if _is_usable(trial)]
            for first in range(told, len(usable) - size + 1, size):
                places = cast(Genomes, np.arange(first, first + size)[:, None])  # ``tell`` only carries them along
                state = self._algorithm.tell(state, places, _evaluation(usable[first : first + size], directions))
            seen = past.seen if self._encoding is None else past.seen.union(self._key(trial.params) for trial in new)
            past = Past(finished, usable, state, seen)
        self._past = past
        return past

    def _check_space(self, trials: Iterable[FrozenTrial]) -> None:
        """Refuse trials with other choices of a gene than the search space has, with a clearer message than Optuna's.

        Raises:
            StudyError: If the choices differ; the message names the gene and both lists.
        """
        checked: set[str] = set()
        for trial in trials:
            for name in trial.distributions.keys() & self._own.keys() - checked:
                checked.add(name)
                own, found = self._own[name], trial.distributions[name]
                if found != own:
                    there = list(found.choices) if isinstance(found, CategoricalDistribution) else found
                    here = list(cast(CategoricalDistribution, own).choices)
                    raise StudyError(
                        f"trial {trial.number} of the study was made with another space: {name} is one of {there} "
                        f"there, {here} here; make a new study, or give the sampler the space of this one"
                    )

    def _encode(self, past: Past, search_space: Mapping[str, BaseDistribution]) -> Parents:
        """Population as genomes, cached for a whole generation."""
        parents = self._parents
        if parents is None or parents.genes.distributions != search_space:
            parents = Parents(None, self._genes(search_space), np.zeros((0, 0), np.int16), None)
        if parents.state is not past.state:
            chosen = [] if past.state is None else [past.usable[i] for i in past.state.genomes[:, 0].tolist()]
            genomes, lacking = parents.genes.encode(chosen)
            parents = Parents(past.state, parents.genes, genomes, lacking if lacking.any() else None)
        self._parents = parents
        return parents

    def _genes(self, search_space: Mapping[str, BaseDistribution]) -> ParameterGenes:
        """Encoding of the parameters of a trial."""
        return ParameterGenes(search_space, self._encoding)

    def _drawn(self, parents: Parents, n: int, rng: np.random.Generator) -> Genomes:
        """Draw candidates of shape ``(n, n_genes)`` if all children are known."""
        return parents.genes.sample(n, rng)

    def _ask(self, parents: Parents, n: int, rng: np.random.Generator) -> Genomes:
        """Ask for children of shape ``(n, n_genes)``; parameters that a parent lacks are drawn at random."""
        state = parents.state
        genes = cast(Encoding, parents.genes)  # ``Evolution`` needs nothing but ``Genes``
        if state is not None:
            genomes = parents.genomes
            if parents.lacking is not None:
                genomes = np.where(parents.lacking, genes.sample(len(genomes), rng), genomes)
            return self._algorithm.ask(state._replace(genomes=genomes), n, genes, rng)
        if self._encoding is None:  # choices are not known to be ordered by size
            return parents.genes.sample(n, rng)
        return self._algorithm.ask(None, n, genes, rng)

    def _key(self, params: Mapping[str, Any]) -> Key | None:
        """Identity of a trial's candidate: its canonical genome and the values of all other parameters.

        ``None`` if an active gene is missing or has a value that the search space does not have.
        """
        encoding = self._encoding
        if encoding is None:
            return None
        genome = np.stack(
            [np.zeros_like(encoding.n_choices), encoding.n_choices - 1]
        ).tolist()  # two genomes that differ in missing genes, which must be inactive
        for gene, (name, places) in enumerate(self._places.items()):
            if name in params:
                if params[name] not in places:
                    return None
                genome[0][gene] = genome[1][gene] = places[params[name]]
        smallest, largest = encoding.canonicalise(np.array(genome, np.int16))
        if (smallest != largest).any():
            return None
        others = sorted((name, repr(value)) for name, value in params.items() if name not in self._places)
        return smallest.tobytes(), tuple(others)
