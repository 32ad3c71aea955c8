"""One process owns a folder: another is refused at once, in one line, until the first has ended, however it ends."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from apq_tune import ApqError, RunError
from apq_tune.cli import cli
from apq_tune.store import lock
from apq_tune.store.lock import NAME, own
from apq_tune.studies.fleet import Fleet

OWNER = """
import sys, time
from pathlib import Path
from apq_tune.store.lock import own
held = own(Path(sys.argv[1]))
print("owned", flush=True)
time.sleep(60)
"""


def owner_of(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", OWNER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "owned\n"
    return process


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = owner_of(folder)
    try:
        with pytest.raises(RunError) as refused:
            own(folder)
        said = f"is in use by process {process.pid} on {socket.gethostname()}; wait until that has ended, or choose"
        assert f"{folder}: {said} another --out" == str(refused.value)
        link = tmp_path / "link"
        link.symlink_to(folder)
        with pytest.raises(RunError, match="is in use"):
            own(link)
        for arguments in (
            ("run", "digits"),
            ("search", "digits", "--objective", "macs"),
            ("sweep", "digits", "--objective", "macs"),
            ("compare", "digits", "--front", "macs,bit_ops", "--seeds", "2"),
        ):
            (folder / "fleet.json" if arguments[0] in ("sweep", "compare") else folder / "run.json").touch()
            result = CliRunner().invoke(cli, [*arguments, f"--out={folder}"])
            assert isinstance(result.exception, ApqError), (arguments, result.output)
            assert said in str(result.exception)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (folder / NAME).exists()
        held = own(folder)
        assert (folder / NAME).read_text() == f"process {os.getpid()} on {socket.gethostname()}"
        held.release()
        assert not (folder / NAME).exists()
    finally:
        process.kill()
        process.communicate()


def test_a_folder_belongs_to_its_process_and_is_given_back_with_the_object(tmp_path: Path) -> None:
    held = own(tmp_path)
    assert own(tmp_path) is held
    del held
    assert not (tmp_path / NAME).exists()
    held = own(tmp_path)
    held.release()
    assert own(tmp_path).held


def test_work_that_goes_on_waits_for_the_last_moments_of_a_killed_worker(tmp_path: Path) -> None:
    process = owner_of(tmp_path)
    subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -9 {process.pid}"])
    assert own(tmp_path, wait=30).held
    process.communicate()


def test_where_the_file_system_knows_no_locks_work_goes_on_with_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    with caplog.at_level(logging.WARNING):
        assert own(tmp_path).held
    assert "its file system knows no locks; see to it that no other command uses this folder now" in caplog.text


@pytest.mark.parametrize("name", ["n" * 300, "file", "file/below", "a\0b"])
def test_a_folder_that_cannot_be_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    for make in (lambda path: own(path), lambda path: Fleet(path, "sweep", {})):
        with pytest.raises(RunError) as refused:
            make(tmp_path / name)
        assert "\n" not in str(refused.value)
        assert "choose another --out" in str(refused.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_without_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RunError, match=r"cannot write .*: Permission denied; fix it or choose another --out"):
        own(tmp_path / "run")
