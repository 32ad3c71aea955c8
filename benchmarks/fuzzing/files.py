"""Every file of a run, a refinement, a sweep and an export, damaged in five ways and read by subsequent commands.

A command must give the results of the undamaged folder, or refuse with a remedy (what to delete) that leads to them.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from fuzzing.harness import Case, Said, call, violation
from fuzzing.material import FAST, REFINE, SPEND, SWEEP, Material

MOST_REMEDIES = 3
"""Maximum number of consecutive refusals whose remedies are followed."""

REMEDY_SECONDS = 120.0


def emptied(path: Path) -> None:
    """Empty a file."""
    path.write_bytes(b"")


def halved(path: Path) -> None:
    """Truncate a file, as after a full disk."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flipped(path: Path) -> None:
    """Overwrite four bytes in the middle of a file."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 4] = bytes(byte ^ 0xFF for byte in content[middle : middle + 4])
    path.write_bytes(bytes(content))


def foreign(path: Path) -> None:
    """Replace a file by valid content of another kind."""
    path.write_bytes(b"[]" if path.suffix == ".json" else b"a,b\n1,2\n" if path.suffix == ".csv" else b"hello\n")


def gone(path: Path) -> None:
    """Delete a file."""
    path.unlink()


DAMAGES: tuple[Callable[[Path], None], ...] = (emptied, halved, flipped, foreign, gone)

LATER = {
    "1_supernet": ("quantized.weight_decay=0.02",),
    "2_quantized_supernet": ("final.epochs=2", "n_proxy=12"),
    "3_fp32_losses": ("folds=3",),
    "4_proxy_losses": ("folds=3", "predictor=ridge"),
    "5_qat_pairs": ("folds=3",),
    "6_fp32_predictor": ("n_evaluations=300", "predictor=ridge"),
    "7_predictors": ("n_evaluations=300",),
    "8_search": ("final.epochs=2",),
}
"""Settings whose change makes later stages read the files of a stage, by stage."""

READERS = {
    "refine": tuple(LATER),
    "predictor report": ("3_fp32_losses", "4_proxy_losses", "5_qat_pairs"),
    "run --method": ("1_supernet", "2_quantized_supernet"),
    "export": ("9_finalists",),
}
"""Stages that other commands read, by command; all commands read the files outside of stages."""

RESULTS = ("results.csv", "front.json", "best.pt", "predictors.csv", "predictor_report.csv", "net.onnx")


def file_cases(own: Material, out: Path) -> Iterator[Case]:
    """Cases of every file, damage and command that reads the file."""
    known: dict[str, dict[str, bytes]] = {}
    for source, name, command in _readings(own):
        folder = source.parent / source.name
        for damage in DAMAGES:
            yield _case(folder, name, command, damage, out, known)


def _readings(own: Material) -> Iterator[tuple[Path, str, tuple[str, ...]]]:
    """Folder, file and subsequent command, in which ``{copy}`` and ``{new}`` stand for the copy and a new folder."""
    again = ("run", "--data", str(own.images), "--out", "{copy}", *FAST)
    others = {
        "refine": ("refine", "{copy}", "--out", "{new}", *REFINE),
        "predictor report": ("predictor", "report", "{copy}", "--splits", "3"),
        "run --method": (*again, "--method=random", "--set=n_proxy=60"),
        "export": ("export", "{copy}", "--out", "{new}/net.onnx"),
    }
    for name in _files(own.run):
        stage = name.split("/")[0] if "/" in name else ""
        yield own.run, name, again
        for change in LATER.get(stage, ()):
            yield own.run, name, (*again, f"--set={change}")
        for reader, stages in READERS.items():
            if stage in stages or name in ("run.json", "space.yaml"):
                yield own.run, name, others[reader]
    for name in _files(own.refine):
        for survivors in (2, 1):
            options = (*REFINE, f"--survivors={survivors}")
            yield own.refine, name, ("refine", str(own.run), "--out", "{copy}", *options)
    for name in _files(own.sweep):
        yield own.sweep, name, ("sweep", "--out", "{copy}", *SWEEP)
    for name in _files(own.exports):
        yield own.exports, name, ("evaluate", f"{{copy}}/{name}", "--run", str(own.run))


def _files(folder: Path) -> list[str]:
    found = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return [str(path) for path in found if path.suffix != ".png"]


def _case(
    source: Path,
    name: str,
    command: tuple[str, ...],
    damage: Callable[[Path], None],
    out: Path,
    known: dict[str, dict[str, bytes]],
) -> Case:
    words = " ".join(part for part in command if part not in FAST and part not in REFINE and part not in SPEND)
    title = f"{source.name}/{name} {damage.__name__}; {_short(words)}"
    place = out / re.sub(r"[^\w.=-]+", "_", f"{source.name}_{name}_{damage.__name__}_{_short(words)}")[-150:]
    copy, new = place / source.name, place / "new"
    arguments = tuple(part.format(copy=copy, new=new) for part in command)

    def prepare() -> None:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(source, copy)
        damage(copy / name)

    def expected() -> dict[str, bytes]:
        key = repr(command)
        if key not in known:
            clean = out / f"clean_{len(known)}"
            shutil.rmtree(clean, ignore_errors=True)
            shutil.copytree(source, clean / source.name)
            options = [part.format(copy=clean / source.name, new=clean / "new") for part in command]
            said = call(options, clean, seconds=REMEDY_SECONDS)
            if said.status:
                raise SystemExit(f"{options}: the undamaged command failed: {said.err}")
            known[key] = _results(clean / source.name, clean / "new")
            shutil.rmtree(clean)
        return known[key]

    def judge(said: Said) -> str:
        wrong = follow(said)
        shutil.rmtree(place, ignore_errors=True)
        return wrong

    def follow(said: Said) -> str:
        """Follow remedies until the command succeeds, then compare its results."""
        for _ in range(MOST_REMEDIES):
            if said.status == 0:
                break
            target = _advised(said.reason)
            if target is None:
                return ""  # a remedy that cannot be followed automatically
            if place not in target.parents or not target.exists():
                return f"advises to delete {target}, which is not there: {said.reason[:200]}"
            shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
            said = call(arguments, place, seconds=REMEDY_SECONDS)
            if wrong := violation(said):
                return f"after its remedy: {wrong}"
        if said.status:
            return f"its remedies lead nowhere: {said.reason[:200]}"
        found, right = _results(copy, new), expected()
        unequal = [name for name in right if found.get(name) != right[name]]
        return f"rc 0 and other results: {', '.join(unequal)}" if unequal else ""

    return Case("files", title, arguments, place, prepare, judge, whole=True)


def _advised(reason: str) -> Path | None:
    """Path that a refusal says to delete: an explicit one, the file that it names, or the folder of that file."""
    if named := re.search(r"delete (?:the folder )?(/\S+)", reason):
        return Path(named[1].rstrip(",;."))
    about, words = re.match(r"error: (?:trial \S+ failed: )?(/\S+): ", reason), re.search(r"delete (it|the )", reason)
    if about is None or words is None:
        return None
    return Path(about[1]) if words[1] == "it" else Path(about[1]).parent


def _short(words: str) -> str:
    return " ".join(Path(word).name if "/" in word else word for word in words.split())


def _results(copy: Path, new: Path) -> dict[str, bytes]:
    """Contents of the result files."""
    return {
        f"{folder.name}/{name}": (folder / name).read_bytes()
        for folder in (copy, new)
        for name in RESULTS
        if (folder / name).exists()
    }
