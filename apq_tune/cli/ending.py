"""How programs end: each error is one line on stderr, and a status."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Iterator
from importlib import metadata

import click

from apq_tune import __version__
from apq_tune.errors import ApqError

REMEDIES = {
    errno.ENOSPC: "make room there and give the same command again",
    errno.EDQUOT: "make room there and give the same command again",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EACCES: "allow it, or choose another place",
    errno.EPERM: "allow it, or choose another place",
    errno.EROFS: "choose another place",
    errno.ENOENT: "create it, or correct the name",
    errno.ENOTDIR: "a part of that path is a file; choose another one",
    errno.EISDIR: "give a file, not a folder",
    errno.ELOOP: "a link there leads to itself; remove it",
    errno.EMFILE: "allow more open files, with ulimit -n",
}
"""Remedies for errors of the operating system, by error number."""


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """End the program with one line on stderr if what is inside fails.

    Exits with 1 for errors that a user can fix, 2 for a wrong command line, 130 after an interruption, 141 if nobody
    reads the output, and 1 for a bug of this package, whose traceback is written to a file.
    """
    try:
        yield
    except click.ClickException as error:
        with contextlib.suppress(OSError):
            error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        say("interrupted")
        sys.exit(130)
    except ApqError as error:
        say(f"error: {error}")
        sys.exit(1)
    except BrokenPipeError:
        _drop_output()
        sys.exit(141)
    except OSError as error:
        _drop_output()
        say(f"error: {_of_system(error)}")
        sys.exit(1)
    except MemoryError:
        say("error: out of memory; ask for fewer evaluations, images or a smaller batch, or free some memory")
        sys.exit(1)
    except Exception as error:
        say(f"error: {_unforeseen(error)}")
        sys.exit(1)


def say(line: str) -> None:
    """Print one line on stderr, unless stderr is closed."""
    with contextlib.suppress(OSError):
        click.echo(" ".join(line.splitlines()), err=True)


def _drop_output() -> None:
    """Redirect stdout to nowhere, so that the interpreter's last flush does not fail again."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _of_system(error: OSError) -> str:
    """Message for an error of the operating system, with a remedy where one is known."""
    said = error.strerror or str(error) or type(error).__name__
    if not error.filename and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        return f"cannot print: {said}; send the output elsewhere"
    where = f"{str(error.filename)[:200]}: " if error.filename else ""
    remedy = REMEDIES.get(error.errno or 0)
    if remedy is None:
        kept = _kept_traceback(error)
        remedy = f"its traceback is in {kept}" if kept else "fix that and give the same command again"
    return f"{where}{said}; {remedy}"


def _unforeseen(error: Exception) -> str:
    """Message for a bug of this package."""
    first = (str(error).strip() or "no message").splitlines()[0]
    kept = _kept_traceback(error)
    where = f"send {kept}, which has the traceback" if kept else "its traceback could not be written to a file"
    return f"unforeseen {type(error).__name__}: {first[:200]}; this is a bug of apq-tune, please report it: {where}"


def _kept_traceback(error: BaseException) -> str | None:
    """Write the traceback, versions and command line to a new file.

    Returns:
        Path of the file; ``None`` if it cannot be written.
    """
    packages = {name: metadata.version(name) for name in ("torch", "ray", "optuna", "pydantic", "click")}
    versions = " ".join(f"{name} {version}" for name, version in packages.items())
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", errors="backslashreplace", prefix="apq-tune-", suffix=".txt", delete=False
        ) as file:
            file.write(f"apq-tune {__version__} on Python {platform.python_version()}, {platform.platform()}\n")
            file.write(f"{versions}\n{sys.argv}\n\n{''.join(traceback.format_exception(error))}")
            return file.name
    except OSError:
        return None
