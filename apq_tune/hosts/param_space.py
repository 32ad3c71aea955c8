"""Parsing of Tune's ``param_space`` into fixed genes, restricted genes and further parameters."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution
from ray.tune.search.optuna import OptunaSearch
from ray.tune.search.sample import Categorical, Domain, LogUniform, Quantized
from ray.tune.search.variant_generator import parse_spec_vars

from apq_tune.errors import CandidateError, ProblemError
from apq_tune.space.parameters import check_names, value_of

PLACEHOLDER = "__fn_ph"
"""First element of the placeholder by which Tune replaces ``sample_from``."""


class ParamSpace(NamedTuple):
    """Parsed ``param_space``.

    Attributes:
        fixed: Values of fixed genes and of top-level constants, by name.
        choices: Allowed values of restricted genes, by name.
        others: Distributions of all other parameters, by their paths joined with ``/``.
        paths: Paths of these parameters, by the same names; integers are list indices.
        template: Top-level entries that contain such parameters.
    """

    fixed: Mapping[str, Any]
    choices: Mapping[str, tuple[Any, ...]]
    others: Mapping[str, BaseDistribution]
    paths: Mapping[str, tuple[Any, ...]]
    template: Mapping[str, Any]

    def nested(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Nested configuration, as Tune passes it to a trainable, from values by joined path."""
        out = {name: value for name, value in config.items() if name not in self.paths}
        filled = copy.deepcopy(dict(self.template))
        for name, path in self.paths.items():
            if name in config:
                _put(filled, path, config[name])
        return out | filled


def _put(into: Any, path: Sequence[Any], value: Any) -> None:
    *above, last = path
    for step in above:
        into = into[step]
    into[last] = value


def read_param_space(
    config: Mapping[str, Any], genes: Mapping[str, Sequence[Any]], known: Iterable[str] = ()
) -> ParamSpace:
    """Parse a ``param_space``, which may be nested.

    Args:
        config: ``param_space`` as Tune passes it on.
        genes: Values of the genes of the search space, by name.
        known: Further meaningful names, such as training settings.

    Raises:
        CandidateError: If a gene has an invalid value, has another domain than ``tune.choice`` or is not at the top
            level, or if a name is a misspelt gene.
        ProblemError: If a parameter cannot be searched; the message names its path.
    """
    flat = _unlocked(dict(config))
    for path in _paths(flat):
        if path[-1] in genes and len(path) > 1:
            raise CandidateError(
                f"config: {_name(path)}: {path[-1]!r} is a gene, which stands at the top of param_space; move it there"
            )
    check_names([str(name) for name in flat if name not in genes], [*genes, *known])
    _, domains, grids = parse_spec_vars(flat)
    for path, _ in grids:
        raise ProblemError(f"{_name(path)}: a grid cannot be searched; give tune.choice")
    fixed: dict[str, Any] = {}
    choices: dict[str, tuple[Any, ...]] = {}
    others: dict[str, BaseDistribution] = {}
    paths: dict[str, tuple[Any, ...]] = {}
    for path, domain in domains:
        name = path[0]
        if name not in genes:
            others[_name(path)], paths[_name(path)] = _distribution(_name(path), domain), tuple(path)
            continue
        kept = _kept(name, domain, genes[name])
        if len(kept) == 1:
            fixed[name] = kept[0]
        elif len(kept) < len(genes[name]):
            choices[name] = kept
    open_names = {path[0] for path, _ in domains}
    for name, value in flat.items():
        if name in genes and name not in open_names:
            if isinstance(value, tuple) and value[:1] == (PLACEHOLDER,):
                raise CandidateError(f"config: {name} is tune.sample_from; a gene is searched by tune.choice, or fixed")
            fixed[name] = value_of(name, value, genes[name])
        elif name not in open_names:
            fixed[name] = value
    template = {name: value for name, value in flat.items() if name in {path[0] for path in paths.values()}}
    return ParamSpace(fixed, choices, others, paths, template)


def _unlocked(value: Any) -> Any:
    """Copy nested mappings and lists to plain, mutable ones; leaves are shared."""
    if isinstance(value, Mapping):
        return {name: _unlocked(own) for name, own in value.items()}
    if isinstance(value, list) or (type(value) is tuple and any(isinstance(own, Domain) for own in value)):
        return [_unlocked(own) for own in value]
    return value


def _paths(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all entries of nested dictionaries and lists."""
    entries = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for name, own in entries:
        yield (*above, name)
        yield from _paths(own, (*above, name))


def _name(path: Iterable[Any]) -> str:
    return "/".join(map(str, path))


def _kept(name: str, domain: Domain, values: Sequence[Any]) -> tuple[Any, ...]:
    """Values of a gene that ``tune.choice`` allows, in the order of the gene."""
    if not isinstance(domain, Categorical):
        kind = type(domain).__name__.lower()
        raise CandidateError(
            f"config: {name} has a domain of kind {kind}; a gene is searched by tune.choice({list(values)}) "
            "or a part of it, or fixed"
        )
    if not domain.categories:
        raise CandidateError(f"config: {name} has an empty tune.choice; choose among {list(values)}")
    given = [value_of(name, value, values) for value in domain.categories]
    return tuple(value for value in values if value in given)


def _distribution(name: str, domain: Domain) -> BaseDistribution:
    """Convert a domain of Tune to a distribution of Optuna."""
    if isinstance(domain, Categorical):
        if not domain.categories:
            raise ProblemError(f"{name}: an empty tune.choice; give at least one value")
        return CategoricalDistribution([_own(value) for value in domain.categories])
    sampler = domain.get_sampler()  # type: ignore[no-untyped-call]
    if isinstance(sampler, Quantized) and isinstance(sampler.sampler, LogUniform):
        raise ProblemError(f"{name}: steps on a logarithmic scale cannot be searched; leave the steps (q) out")
    try:
        found: BaseDistribution
        (found,) = OptunaSearch.convert_search_space({"it": domain}).values()
    except ValueError as error:
        raise ProblemError(
            f"{name}: cannot be searched ({str(error).rstrip('.')}); give tune.choice, uniform, loguniform or randint"
        ) from None
    return found


def _own(value: Any) -> Any:
    """Convert a NumPy scalar to a Python one."""
    return value.item() if isinstance(value, np.generic) else value
