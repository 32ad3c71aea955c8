"""The command line. Heavy imports happen inside commands, so that ``--help`` is quick."""

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
from apq_tune.cli.predictor import predictor
from apq_tune.cli.refine import refine
from apq_tune.cli.run import run
from apq_tune.cli.search import score, search
from apq_tune.cli.settings import settings
from apq_tune.cli.spaces import cost, describe, spaces
from apq_tune.cli.sweep import sweep
from apq_tune.cli.transfer import transfer
from apq_tune.cli.versus import joint_vs_staged
from apq_tune.errors import ApqError

RESUMABLE = ("run", "refine", "joint-vs-staged", "sweep", "compare")
"""Commands that keep what is done; the others keep nothing until they end."""

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
"""What to do when the operating system refuses something that no command has foreseen."""

GOES_ON = "the same command goes on where it stopped"
STARTS_ANEW = "nothing was kept, the same command starts anew"


class _Commands(click.Group):
    """The group, which knows how each of its commands can go on."""

    def invoke(self, ctx: click.Context) -> object:
        """Run the command that is asked for."""
        try:
            return super().invoke(ctx)
        except (click.Abort, KeyboardInterrupt):
            _say(f"interrupted; {GOES_ON if ctx.invoked_subcommand in RESUMABLE else STARTS_ANEW}")
            sys.exit(130)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="apq-tune")
def cli() -> None:
    """Find a network's architecture, channel pruning and per-layer bit-widths together."""


for command in (
    run,
    refine,
    joint_vs_staged,
    search,
    sweep,
    compare,
    score,
    describe,
    spaces,
    cost,
    transfer,
    predictor,
    settings,
):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: one line on stderr for what goes wrong.

    Exits with 1 for what a user can mend, 2 for a wrong command line, 130 when interrupted, 141 when nobody reads what
    is printed, and 1, too, for a fault of ours, whose traceback is kept in a file.

    Args:
        arguments: instead of those of the process.
    """
    os.environ.pop("MPLBACKEND", None)  # a notebook's, which may be absent here; our pictures only go to files
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^")  # Ray's paragraphs on dead workers: ours is one line
    if isinstance(sys.stdout, io.TextIOWrapper):  # a file's name need not be text in the terminal's encoding
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
    """One line on stderr, if anything still listens there."""
    with contextlib.suppress(OSError):
        click.echo(" ".join(line.splitlines()), err=True)


def _drop_output() -> None:
    """Let the interpreter's last flush of what could not be printed fail nowhere."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _of_system(error: OSError) -> str:
    """What the operating system refuses, and a remedy where it is known."""
    said = error.strerror or str(error) or type(error).__name__
    if not error.filename and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        return f"cannot print: {said}; send the output elsewhere"
    where = f"{str(error.filename)[:200]}: " if error.filename else ""
    remedy = REMEDIES.get(error.errno or 0)
    if remedy is None:
        kept = _kept_traceback(error)
        remedy = f"where it happened is in {kept}" if kept else "mend that and give the same command again"
    return f"{where}{said}; {remedy}"


def _unforeseen(error: Exception) -> str:
    first = (str(error).strip() or "without words").splitlines()[0]
    kept = _kept_traceback(error)
    where = f"send {kept}, which has the traceback" if kept else "its traceback could not be kept in a file"
    return f"unforeseen {type(error).__name__}: {first[:200]}; this is a fault of apq-tune, please report it: {where}"


def _kept_traceback(error: BaseException) -> str | None:
    """Write what a developer needs to know to a new file.

    Returns:
        Its path; ``None`` if no file can be written.
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
