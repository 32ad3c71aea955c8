"""Exceptions of the package. Each message is one line that names the offending item, its value and the remedy."""


class ApqError(Exception):
    """Base class of all errors that a user can cause and fix; the CLI prints the message and exits with status 1."""


class DocumentError(ApqError):
    """A YAML or JSON document that cannot be parsed or is ambiguous."""


class SpaceError(ApqError):
    """A search space whose definition is invalid."""


class DeviceError(ApqError):
    """A device preset that is unknown or invalid, or a network or a search space that the device cannot run."""


class ModelError(ApqError):
    """A model of the user that cannot be loaded or traced, or weights that do not fit it."""


class CandidateError(ApqError):
    """A candidate that does not belong to its search space."""


class ProblemError(ApqError):
    """An objective or a constraint that is invalid or cannot be satisfied."""


class ReachError(ProblemError):
    """A constraint that no candidate of this search space satisfies; another search space may."""


class TableError(ApqError):
    """A table that cannot be read or does not cover its search space."""


class RunError(ApqError):
    """An input of a run that cannot be used: its directory, images, a checkpoint or a setting."""


class DeployError(ApqError):
    """A network that cannot be exported as asked, or an exported file that cannot be read or run."""


class StudyError(ApqError, ValueError):
    """An Optuna study that a sampler does not support; a ``ValueError`` too, as Optuna expects."""
