"""Our searchers as Optuna samplers, for studies of a few hundred to a few thousand trials.

``search`` holds parents in a state that it passes through; here the study does: a sampler reads the population off the
finished trials, in the order in which they ended, ``population`` of them a generation. Every trial has a generator of
its own, made of the seed and the trial's number. So a sampler keeps nothing: made anew, in another process or on a
resumed study, it goes on as if it had never stopped. (``optuna.samplers``' ``BaseGASampler`` would write generations
into the storage, of which there is no public way.)

    study = optuna.create_study(sampler=EvolutionSampler(space=space, seed=0))

Constraints are those of ``trial.set_constraint``; a trial that sets none is feasible, as it is to Optuna. Choices of a
categorical parameter count as ordered: put neighbours side by side. Runs repeat exactly with ``n_jobs=1``; with more,
the order in which trials end is left to chance.
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
from apq_tune.searchers.algorithms import NSGA2, Evolution, State
from apq_tune.space.choices import ChoiceEncoding, ChoiceSpace
from apq_tune.space.encoding import Genomes
from apq_tune.space.network_encoding import NetworkEncoding, encoding_of
from apq_tune.space.search_space import SearchSpace

HUGE = 1e300
"""What an infinite objective value counts as: differences of two such are still finite."""

MAX_ROUNDS = 20
"""How often children are asked for until one is new; then the space counts as exhausted and one may come again."""

CHILDREN = 10
"""Children in each of these rounds."""

SMALL = 20
"""Population and parents of ``EvolutionSampler``. ``Evolution``'s own 50 are for many thousands of evaluations; in 200
and 600, on synthetic losses over ``digits`` and ``apq_mobilenet``, 50 parents were worse than 20."""

Encodings: TypeAlias = NetworkEncoding | ChoiceEncoding | NarrowedEncoding
Space: TypeAlias = SearchSpace | ChoiceSpace | Encodings
Key: TypeAlias = tuple[bytes, tuple[tuple[str, str], ...]]


class Past(NamedTuple):
    """What was read of finished trials, in the order in which they ended."""

    finished: list[FrozenTrial]
    usable: list[FrozenTrial]  # those that may become parents
    state: State | None  # after the last whole generation; its genomes are ``(p, 1)`` places among the usable
    seen: frozenset[Key | None]  # what they tried; empty if the sampler knows no space


class _Parents(NamedTuple):
    """The population of a past, as genomes of a relative search space."""

    state: State | None
    genes: ParameterGenes
    genomes: Genomes  # (p, n_genes)
    lacking: NDArray[np.bool_] | None  # (p, n_genes) parameters that a parent does not have; None if there are none


_end = operator.attrgetter("datetime_complete", "number")
"""When a finished trial ended: unlike numbers alone, this puts what is new after all that was there before."""


def _is_usable(trial: FrozenTrial) -> bool:
    """Whether a trial may become a parent: ``tell`` lets no NaN pass, other ways into a storage may."""
    return trial.state == TrialState.COMPLETE and not any(map(math.isnan, trial.values))


def _evaluation(trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]) -> Evaluation:
    """Objectives, minimised, and the sum of violations, which is all that ``select`` looks at."""
    signs = [-1.0 if direction == StudyDirection.MAXIMIZE else 1.0 for direction in directions]
    F = np.clip(np.array([trial.values for trial in trials], np.float64) * signs, -HUGE, HUGE)
    G = np.array([[sum(v for v in trial.constraints.values() if v > 0)] for trial in trials], np.float64)
    F[G[:, 0] > 0] = np.inf
    return Evaluation(F, G, F)


class PopulationSampler(BaseSampler):
    """Ask an algorithm for children of the population that a study's finished trials make."""

    def __init__(self, algorithm: Evolution, space: Space | None, seed: int | None) -> None:
        if seed is not None and (not isinstance(seed, int | np.integer) or seed < 0):
            raise ProblemError(f"seed is {seed!r}; give a whole number from 0, or None")
        if not isinstance(space, Space | None):
            raise ProblemError(f"space is {space!r}; give a SearchSpace, a ChoiceSpace or an encoding of one")
        self._algorithm = algorithm
        self._seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else int(seed)
        self._take(space)

    def _take(self, space: Space | None) -> None:
        self._encoding: Encodings | None = None if space is None else encoding_of(space)
        choices = {} if self._encoding is None else dict(zip(self._encoding.names, self._encoding.choices, strict=True))
        self._own: dict[str, BaseDistribution] = {n: CategoricalDistribution(v) for n, v in choices.items()}
        self._places = {name: {value: i for i, value in enumerate(values)} for name, values in choices.items()}
        self._forget()

    def within(self, space: NarrowedEncoding) -> Self:
        """The same sampler on a part of its space; one that knows no space stays what it is."""
        if self._encoding is None:
            return self
        own = copy.copy(self)
        own._take(space)
        return own

    def _forget(self) -> None:
        """Empty the caches. They are values that are replaced and never changed, since threads share a sampler."""
        self._past = Past([], [], None, frozenset())
        self._union: tuple[State | None, dict[str, BaseDistribution]] = None, {}
        self._parents: _Parents | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_past", "_union", "_parents")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def reseed_rng(self) -> None:
        """Do nothing: trials that run side by side have different numbers, thus different generators."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002
        """All parameters that our space or any parent has; of several ranges of one parameter, the latest."""
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
        """A child of the population; in the first generation a random one."""
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
                children = self._ask(parents, CHILDREN, rng)
            else:
                children = parents.genes.sample(CHILDREN, rng)
            for genome in children:
                params = parents.genes.decode(genome)
                key = self._key(params)
                if key is None or (key not in past.seen and key not in running):
                    return params
        return params

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """A uniform value of a parameter that no parent has."""
        self._check(study)
        return uniform_value(param_distribution, self._rng(trial, param_name))

    def _check(self, study: Study) -> None:
        """Refuse studies that the algorithm cannot serve."""

    def _rng(self, trial: FrozenTrial, name: str = "") -> np.random.Generator:
        return np.random.default_rng((self._seed, trial.number, zlib.crc32(name.encode())))

    def _read(self, trials: Iterable[FrozenTrial], directions: Sequence[StudyDirection]) -> Past:
        """The past that a study's trials make; only what is new since the last call is looked at.

        Comparing the old ones is quick, because storages hand out the very same objects.
        """
        finished = sorted((trial for trial in trials if trial.state.is_finished()), key=_end)
        past = self._past
        if finished[: len(past.finished)] != past.finished:  # another study, or clocks that disagree
            past = Past([], [], None, frozenset())
        new = finished[len(past.finished) :]
        if not past.finished:  # later ones must agree with these, Optuna sees to it
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
        """Refuse trials that have a gene of ours with other choices: Optuna would, in words of its own.

        Raises:
            StudyError: naming the gene and both choices.
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

    def _encode(self, past: Past, search_space: Mapping[str, BaseDistribution]) -> _Parents:
        """The population as genomes, which are the same for a whole generation."""
        parents = self._parents
        if parents is None or parents.genes.distributions != search_space:
            parents = _Parents(None, ParameterGenes(search_space, self._encoding), np.zeros((0, 0), np.int16), None)
        if parents.state is not past.state:
            chosen = [] if past.state is None else [past.usable[i] for i in past.state.genomes[:, 0].tolist()]
            genomes, lacking = parents.genes.encode(chosen)
            parents = _Parents(past.state, parents.genes, genomes, lacking if lacking.any() else None)
        self._parents = parents
        return parents

    def _ask(self, parents: _Parents, n: int, rng: np.random.Generator) -> Genomes:
        """``(n, n_genes)`` children; what a parent lacks is drawn at random."""
        state, genes = parents.state, parents.genes
        if state is not None:
            genomes = parents.genomes
            if parents.lacking is not None:
                genomes = np.where(parents.lacking, genes.sample(len(genomes), rng), genomes)
            return self._algorithm.ask(state._replace(genomes=genomes), n, genes, rng)
        if self._encoding is None:  # choices need not go from small to large
            return genes.sample(n, rng)
        return self._algorithm.ask(None, n, genes, rng)

    def _key(self, params: Mapping[str, Any]) -> Key | None:
        """What a trial tries: the canonical genome in our space, and whatever else was suggested.

        ``None`` if a gene that matters is missing or has a value that the space does not offer.
        """
        encoding = self._encoding
        if encoding is None:
            return None
        genome = np.stack(
            [np.zeros_like(encoding.n_choices), encoding.n_choices - 1]
        ).tolist()  # two, to find inert ones
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


class EvolutionSampler(PopulationSampler):
    """Constrained evolution of a study with one objective: ``apq_tune.Evolution``, its parents in the study."""

    def __init__(
        self,
        *,
        space: Space | None = None,
        population: int = SMALL,
        parents: int = SMALL,
        crossover: float = Evolution.crossover,
        mutation: tuple[float, float] = Evolution.mutation,
        max_age: int | None = Evolution.max_age,
        seed: int | None = None,
    ) -> None:
        """Check the settings.

        Args:
            space: whose parameters the study has, each a categorical one over the values of a gene: then no candidate
                comes twice (equal networks count as one), children keep the space's rules, and the first generation
                goes from small to large networks. Other parameters may stand beside them. ``None``: any parameters.
            population: finished trials that make a generation.
            parents: how many survive, out of parents and children together.
            crossover: share of children that mix two parents.
            mutation: fewest and most parameters to change in a child, in the mean; each child draws its own.
            max_age: generations after which even the best is a parent no more; ``None``: it stays.
            seed: same seed, same trials; ``None`` draws one.

        Raises:
            ProblemError: naming the setting that makes no sense.
        """
        super().__init__(Evolution(population, parents, crossover, mutation, max_age), space, seed)

    def _check(self, study: Study) -> None:
        n = len(study.directions)
        if n != 1:
            raise StudyError(f"EvolutionSampler has one objective, {study.study_name!r} has {n}; take NSGA2Sampler")


class NSGA2Sampler(PopulationSampler):
    """NSGA-II of a study with any number of objectives: ``apq_tune.NSGA2``, its parents in the study."""

    def __init__(
        self,
        *,
        space: Space | None = None,
        population: int = NSGA2.population,
        parents: int = NSGA2.parents,
        crossover: float = NSGA2.crossover,
        mutation: tuple[float, float] = NSGA2.mutation,
        max_age: int | None = NSGA2.max_age,
        seed: int | None = None,
    ) -> None:
        """Check the settings, which are those of ``EvolutionSampler``.

        Raises:
            ProblemError: naming the setting that makes no sense.
        """
        super().__init__(NSGA2(population, parents, crossover, mutation, max_age), space, seed)
