"""Digests of a folder's files: killed at any instant nothing is called damaged that is not, and nothing is missed."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from apq_tune import RunError
from apq_tune.hosts.work import Result
from apq_tune.store import digests
from apq_tune.store.digests import Digests, read_record, write_record
from apq_tune.store.stage import StageDirectory

BASIS = {"settings": {"n": 1}, "needs": {}, "space": {"name": "s"}}


def test_the_list_is_one_that_sha256sum_checks(tmp_path: Path) -> None:
    own = Digests(tmp_path)
    own.write("items/a b.json", "{}")
    own.write("weights.pt", b"\0\1")
    line = f"{hashlib.sha256(b'{}').hexdigest()}  items/a b.json"
    assert (tmp_path / Digests.NAME).read_text().splitlines()[0] == line
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--quiet", Digests.NAME], cwd=tmp_path, check=True)


def test_killed_between_digest_and_file_the_old_file_still_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = StageDirectory(tmp_path / "stage", BASIS)
    stage.write("checkpoint.pt", b"one")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(digests, "write_atomically", killed)
        stage.write("checkpoint.pt", b"two")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(digests, "write_atomically", killed)
        stage.items.keep("000", Result({"loss": 1.0}))
    again = StageDirectory(tmp_path / "stage", BASIS)
    assert again.has("checkpoint.pt")
    assert again.items.finished() == {}
    again.items.keep("000", Result({"loss": 1.0}))
    (tmp_path / "stage" / "checkpoint.pt").write_bytes(b"two!")
    with pytest.raises(RunError, match=r"checkpoint\.pt: is damaged .*; delete it, training begins anew"):
        again.has("checkpoint.pt", "training begins anew")
    (tmp_path / "stage" / "checkpoint.pt").unlink()
    assert not again.has("checkpoint.pt")
    assert again.items.finished() == {"000": {"loss": 1.0}}


def test_a_list_that_was_cut_short_loses_the_last_file_and_no_more(tmp_path: Path) -> None:
    stage = StageDirectory(tmp_path / "stage", BASIS)
    for key in "abc":
        stage.items.keep(key, Result(key))
    names = tmp_path / "stage" / Digests.NAME
    names.write_bytes(names.read_bytes()[:-10])
    again = StageDirectory(tmp_path / "stage", BASIS)
    assert set(again.items.finished()) == {"a", "b"}
    again.items.keep("c", Result("c"))
    assert set(StageDirectory(tmp_path / "stage", BASIS).items.finished()) == set("abc")


def test_a_finished_stage_keeps_digests_in_its_record_and_reopens_when_a_product_is_gone(tmp_path: Path) -> None:
    stage = StageDirectory(tmp_path / "stage", BASIS)
    stage.items.keep("a", Result(1))
    stage.write("losses.csv", "x")
    stage.add_seconds(3.0, done=True)
    assert not (tmp_path / "stage" / Digests.NAME).exists()
    whole = stage.fingerprint
    assert StageDirectory(tmp_path / "stage", BASIS).done
    (tmp_path / "stage/items/a.json").unlink()
    again = StageDirectory(tmp_path / "stage", BASIS)
    assert (again.done, again.stale, again.seconds) == (False, "items/a.json was missing", 3.0)
    assert again.has("losses.csv")
    again.items.keep("a", Result(1))
    again.add_seconds(1.0, done=True)
    assert again.fingerprint == whole  # equal bytes: later stages stay
    again.write("losses.csv", "y")
    again.add_seconds(1.0, done=True)
    assert again.fingerprint != whole


def test_without_its_record_a_stage_begins_anew(tmp_path: Path) -> None:
    """Killed while a stale stage is cleared, or the record deleted: what is left may be of other settings."""
    stage = StageDirectory(tmp_path / "stage", BASIS)
    stage.items.keep("a", Result(1))
    (tmp_path / "stage" / "stage.json").unlink()
    assert StageDirectory(tmp_path / "stage", BASIS | {"settings": {"n": 2}}).items.finished() == {}
    assert not (tmp_path / "stage/items/a.json").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", "[" * 100_000])
def test_a_damaged_record_is_refused_with_the_remedy(tmp_path: Path, content: str) -> None:
    write_record(path := tmp_path / "r.json", {"a": 1.5, "b": ["x"]})
    assert read_record(path, "") == {"a": 1.5, "b": ["x"]}
    changed = json.loads(path.read_text()) | {"a": 2.5}
    for text in (content, json.dumps(changed)):
        path.write_text(text)
        with pytest.raises(RunError, match=r"r\.json: is damaged \([^\n]*\); delete the folder$"):
            read_record(path, "delete the folder")


def test_a_record_under_another_name_is_damaged(tmp_path: Path) -> None:
    write_record(tmp_path / "stage.json", {"a": 1})
    (tmp_path / "stage.json").rename(tmp_path / "run.json")
    with pytest.raises(RunError, match=r"run\.json: is damaged"):
        read_record(tmp_path / "run.json", "", current=2)


def test_a_record_of_another_format_is_told_by_that(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('{"format": 1}')
    with pytest.raises(RunError, match="is of format 1, this version of apq-tune writes 2 and reads no other; make it"):
        read_record(tmp_path / "r.json", "", current=2)
