"""What can go wrong, by whose fault. Every message names the thing, its value and the remedy in one line."""


class ApqError(Exception):
    """Anything a user can cause and mend; the command line prints it as one line and exits with 1."""


class DocumentError(ApqError):
    """YAML or JSON that cannot be read, or that can be read in two ways."""


class SpaceError(ApqError):
    """A search space that cannot be read or cannot be built."""


class CandidateError(ApqError):
    """A candidate that is not in its search space."""


class ProblemError(ApqError):
    """An objective or a constraint that makes no sense, or that nothing can meet."""


class ReachError(ProblemError):
    """A limit that no candidate of the space keeps; one of another space may."""


class TableError(ApqError):
    """A cost table that cannot be read, or that does not cover a search space."""


class RunError(ApqError):
    """A run directory, a checkpoint or a setting that cannot be used."""


class StudyError(ApqError, ValueError):
    """An Optuna study that a sampler cannot serve; Optuna expects a ``ValueError`` then."""
