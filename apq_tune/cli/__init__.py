"""The command line. Commands import heavy libraries only when they run, so that ``--help`` is quick."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Sequence
from importlib import metadata

import click

from apq_tune import __version__
from apq_tune.cli.compare import compare
from apq_tune.cli.devices import devices
from apq_tune.cli.estimate import estimate
from apq_tune.cli.export import evaluate, export
from apq_tune.cli.model import model
from apq_tune.cli.predictor import predictor
from apq_tune.cli.profile import profile
from apq_tune.cli.refine import refine
from apq_tune.cli.report import report
from apq_tune.cli.run import run
from apq_tune.cli.search import score, search
from apq_tune.cli.settings import settings
from apq_tune.cli.solve import solve
from apq_tune.cli.spaces import cost, describe, spaces
from apq_tune.cli.sweep import sweep
from apq_tune.cli.transfer import transfer
from apq_tune.cli.versus import joint_vs_staged
from apq_tune.errors import ApqError

RESUMABLE = ("run", "refine", "solve", "joint-vs-staged", "sweep", "compare", "profile")
"""Commands that keep finished parts; the others write nothing until they end."""

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

GOES_ON = "the same command goes on where it stopped"
STARTS_ANEW = "nothing was kept; the same command starts from the beginning"


class _Commands(click.Group):
    """Group of all commands; after an interruption it prints how the command can go on."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command that was given."""
        try:
            return super().invoke(ctx)
        except (click.Abort, KeyboardInterrupt):
            _say(f"interrupted; {GOES_ON if ctx.invoked_subcommand in RESUMABLE else STARTS_ANEW}")
            sys.exit(130)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="apq-tune")
def cli() -> None:
    """Search network architecture, channel pruning and bit-widths together."""


for command in (
    run,
    refine,
    solve,
    export,
    evaluate,
    estimate,
    report,
    joint_vs_staged,
    search,
    sweep,
    compare,
    score,
    describe,
    spaces,
    devices,
    model,
    cost,
    profile,
    transfer,
    predictor,
    settings,
):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: run a command; errors are one line on stderr.

    Exits with 1 for errors that a user can fix, 2 for a wrong command line, 130 after an interruption, 141 if nobody
    reads the output, and 1 for a bug of this package, whose traceback is written to a file.

    Args:
        arguments: Command line; ``None`` for that of the process.
    """
    os.environ.pop("MPLBACKEND", None)  # a notebook's, which may be absent here; pictures are only written to files
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^")  # Ray prints paragraphs on dead workers
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may not be encodable
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        cli(arguments, standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.ClickException as error:
        with contextlib.suppress(OSError):
            error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _say("interrupted")
        sys.exit(130)
    except ApqError as error:
        _say(f"error: {error}")
        sys.exit(1)
    except BrokenPipeError:
        _drop_output()
        sys.exit(141)
    except OSError as error:
        _drop_output()
        _say(f"error: {_of_system(error)}")
        sys.exit(1)
    except MemoryError:
        _say("error: out of memory; ask for fewer evaluations, images or a smaller batch, or free some memory")
        sys.exit(1)
    except Exception as error:
        _say(f"error: {_unforeseen(error)}")
        sys.exit(1)


def _say(line: str) -> None:
    """Print one line on stderr, unless it is closed."""
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
