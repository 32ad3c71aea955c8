import json

import numpy as np
import pytest
from PIL import Image

from apq_tune import SearchSpace
from apq_tune.data import space_for
from apq_tune.errors import RunError
from apq_tune.hosts.work import Result
from apq_tune.pipeline.run import PipelineRun
from apq_tune.store.directory import FORMAT, RunDirectory
from apq_tune.store.files import write_atomically
from apq_tune.store.stage import StageDirectory


def basis(**settings):
    return {"settings": settings, "needs": {"earlier": "abc"}, "space": {"name": "s"}}


def test_a_stage_resumes_what_it_was_and_starts_afresh_when_a_setting_changed(tmp_path):
    stage = StageDirectory(tmp_path / "stage", basis(n=3, training={"epochs": 2}))
    stage.items.keep("000", Result({"loss": 0.5}))
    stage.add_seconds(2.0, done=False)
    again = StageDirectory(tmp_path / "stage", basis(n=3, training={"epochs": 2}))
    assert again.stale is None
    assert again.items.finished() == {"000": {"loss": 0.5}}
    assert (again.seconds, again.done) == (2.0, False)
    before = again.fingerprint
    changed = StageDirectory(tmp_path / "stage", basis(n=3, training={"epochs": 4}))
    assert changed.stale == "training.epochs 2 -> 4"
    assert changed.items.finished() == {}
    assert changed.fingerprint != before


def test_a_changed_earlier_stage_is_named(tmp_path):
    StageDirectory(tmp_path / "stage", basis(n=3))
    changed = StageDirectory(tmp_path / "stage", basis(n=3) | {"needs": {"earlier": "xyz"}})
    assert changed.stale == "stage earlier changed"


def test_writing_replaces_whole_files_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "sub" / "file.txt"
    write_atomically(path, "one")
    write_atomically(path, b"two")
    assert path.read_text() == "two"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_an_unwritable_place_is_one_clear_error(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(RunError, match=r"cannot write .*choose another --out"):
        write_atomically(blocker / "below" / "file.txt", "x")


def test_runs_of_another_space_or_format_or_no_runs_at_all_are_refused(tmp_path, space):
    RunDirectory(tmp_path / "run", space, {}, "cmd")
    RunDirectory(tmp_path / "run", space, {}, "cmd")
    with pytest.raises(RunError, match="is a run of space 'digits', not 'other'"):
        RunDirectory(tmp_path / "run", space.model_copy(update={"name": "other"}), {}, "cmd")
    record = tmp_path / "run" / "run.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"format": 0}))
    with pytest.raises(RunError, match=f"is of format 0, this version of apq-tune writes {FORMAT} and reads no other"):
        RunDirectory(tmp_path / "run", space, {}, "cmd")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(RunError, match="is not a run directory"):
        RunDirectory(tmp_path / "mine", space, {}, "cmd")
    record.write_text("{")
    with pytest.raises(RunError, match=r"run\.json: is damaged .*; delete it, the same command makes it anew"):
        RunDirectory(tmp_path / "run", space, {}, "cmd")


def test_a_folder_of_images_is_the_same_by_whatever_name(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(36):
        folder = tmp_path / "images" / f"c{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(folder / f"{number}.png")
    (tmp_path / "link").symlink_to(tmp_path / "images")
    for name in ("images", "images/../images", "link", "images/c0/.."):
        PipelineRun(space_for(str(tmp_path / name), SearchSpace.load("digits")), None, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["data"] == str((tmp_path / "images").resolve())


def test_a_refinement_or_a_sweep_is_no_run_directory(tmp_path, space):
    StageDirectory(tmp_path / "refined" / "round_1", basis(n=3))
    with pytest.raises(RunError, match="exists and is not a run directory"):
        RunDirectory(tmp_path / "refined", space, {}, "cmd")


def test_a_run_without_its_record_is_known_by_its_first_stage(tmp_path, space):
    run = RunDirectory(tmp_path / "run", space, {}, "cmd")
    StageDirectory(tmp_path / "run" / "1_supernet", basis() | {"space": space.model_dump(mode="json")})
    (tmp_path / "run" / "run.json").unlink()
    del run
    with pytest.raises(RunError, match="is a run of space 'digits', not 'other'"):
        RunDirectory(tmp_path / "run", space.model_copy(update={"name": "other"}), {}, "cmd")
    RunDirectory(tmp_path / "run", space, {}, "cmd")
    assert (tmp_path / "run" / "run.json").exists()
