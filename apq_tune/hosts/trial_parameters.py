"""Parameters of Optuna trials that stand for genes, and their conversion to configurations and genomes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial

from apq_tune.hosts.narrowed import NarrowedEncoding
from apq_tune.space.encoding import Encoding


class TrialParameters:
    """Parameters of the trials of a study: genes, of which some may be fixed or restricted, and others.

    A configuration has the values of all parameters by name, fixed ones included. In a trial a gene may be represented
    by the index of its value.

    Attributes:
        fixed: Values of parameters that are not sampled.
        genes: Values of the sampled genes, in the order of the search space.
        others: Distributions of further parameters.
        distributions: Distributions of all sampled parameters.
    """

    def __init__(
        self,
        whole: Encoding,
        encoding: Encoding | NarrowedEncoding,
        fixed: Mapping[str, Any],
        others: Mapping[str, BaseDistribution],
        *,
        ordinal: bool,
    ) -> None:
        """Set up distributions.

        Args:
            whole: Encoding of the search space.
            encoding: Encoding of its part that may be tried.
            fixed: Values of genes or other parameters that are not sampled.
            others: Distributions of further parameters.
            ordinal: Whether genes with numbers are represented by an index, as samplers of Optuna make use of the order
                of numbers, which a categorical distribution would hide.
        """
        self._space, self._encoding, self._ordinal = whole.space, encoding, ordinal
        self.fixed = dict(fixed)
        self.genes = {name: values for name, values in encoding.space.parameters.items() if name not in self.fixed}
        self.others = {name: value for name, value in others.items() if name not in self.fixed}
        self.distributions = {name: self._shown(values) for name, values in self.genes.items()} | self.others

    def _shown(self, values: tuple[Any, ...]) -> BaseDistribution:
        if self._ordinal and all(isinstance(value, int | float) for value in values):
            return IntDistribution(0, len(values) - 1)
        return CategoricalDistribution(values)

    def config(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Convert parameters of a trial to a configuration of names and values."""
        config = dict(self.fixed)
        for name, value in params.items():
            is_index = isinstance(self.distributions.get(name), IntDistribution) and name in self.genes
            config[name] = self.genes[name][value] if is_index else value
        return config

    def params(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Inverse of ``config``."""
        params = {}
        for name, distribution in self.distributions.items():
            if name in config:
                is_index = isinstance(distribution, IntDistribution) and name in self.genes
                params[name] = self.genes[name].index(config[name]) if is_index else config[name]
        return params

    def chosen(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Normalise a configuration from outside to the values of the search space.

        Raises:
            CandidateError: If it is not a candidate of the space, or has a value that may not be tried.
        """
        candidate = self.candidate(config)
        self._encoding.encode([candidate])
        return {**config, **self._encoding.space.to_config(candidate)}

    def candidate(self, config: Mapping[str, Any]) -> Any:
        """Candidate of the search space with the genes of a configuration.

        Raises:
            CandidateError: If it is not a candidate of the space.
        """
        return self._space.from_config({name: config[name] for name in self._space.parameters if name in config})

    def genome(self, config: Mapping[str, Any]) -> bytes:
        """Canonical genome of a configuration, which identifies the candidate.

        Raises:
            CandidateError: If it is not a candidate of the space, or has a value that may not be tried.
        """
        return bytes(self._encoding.encode([self.candidate(config)])[0].tobytes())

    def reveal(self, trial: FrozenTrial) -> None:
        """Replace indices in a trial by the values of genes, and its distributions accordingly."""
        config = {name: value for name, value in self.config(trial.params).items() if name in trial.params}
        real = {name: CategoricalDistribution(values) for name, values in self.genes.items()} | self.others
        trial.params = config
        trial.distributions = {name: real[name] for name in config}
