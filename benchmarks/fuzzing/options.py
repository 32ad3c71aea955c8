"""Every option of every command, found by introspection, with ten unusual values each."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import click

from fuzzing.harness import Case, Judge, Said
from fuzzing.material import FAST, REFINE, SPEND, Material

NUMBERS = ("", " ", "nan", "inf", "-1", "0", "1e3", "0x10", "1.5", "9" * 30)
TEXTS = ("", " ", "nan", "-1", "a,a", ",", "[" * 2000, "x" * 300, "a\nb\x1b[31m", "é\udcff")
PATHS = ("", " ", "nothing/at/all", "x" * 300, "/dev/null", "/dev/full", ".", "a\nb", "é\udcff", "/proc/self/mem")
SETTINGS = ("", "nan", "inf", "-1", "0", "1e300", "on", "[1", "010", "9" * 30)

NONSENSE = {"", " ", "nan", "inf", "0x10", "abc"}
"""Values that are not numbers."""


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """All commands with the words that call them."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


Given = dict[str, tuple[str, ...]]
"""Arguments of a command, by parameter."""


def usual(own: Material) -> dict[tuple[str, ...], Given]:
    """Valid arguments of each command."""

    def given(**parameters: str) -> Given:
        return {name: (text,) for name, text in parameters.items()}

    def always(options: tuple[str, ...]) -> Given:
        return {f"always {option}": (option,) for option in options}

    out, space = given(out="--out=out"), given(space="digits")
    run, pairs = given(run=str(own.run)), given(pairs=f"--pairs={own.pairs}")
    versus = given(constraints="--constraint=bit_ops<=50%") | out | always(SPEND)
    return {
        ("run",): given(space="digits") | out | always(FAST),
        ("refine",): run | out | always(REFINE),
        ("export",): run | given(out="--out=out.onnx"),
        ("evaluate",): given(file=str(own.exports / "net.onnx")),
        ("joint-vs-staged",): given(target=str(own.run)) | versus,
        ("search",): space | given(objective="--objective=macs", evaluations="--evaluations=100") | out,
        ("sweep",): space | given(constraints="--constraint=bit_ops<=8e6", objective="--objective=macs") | out,
        ("compare",): space | given(front="--front=macs,weight_bytes") | out,
        ("score",): space | given(candidates=f"--candidates={own.candidates}", out="--out=out.csv"),
        ("space",): space,
        ("cost", "audit"): space | given(tables=f"--table={own.table}"),
        ("transfer",): given(predictor=f"--predictor={own.predictor}", out="--out=out.npz") | pairs,
        ("predictor", "report"): run,
        ("predictor", "fit"): space | pairs | given(form="--form=ridge", out="--out=out.npz"),
    }


def option_cases(own: Material, out: Path) -> Iterator[Case]:
    """Cases with one unusual option each; the work after the checks is skipped."""
    from apq_tune.cli import cli
    from apq_tune.pipeline.settings import RunSettings

    right = usual(own)
    for words, command in commands(cli):
        given = right.get(words, {})
        for parameter in command.params:
            if isinstance(parameter, click.Option) and (parameter.is_flag or parameter.name == "help"):
                continue
            name = str(parameter.name)
            others = tuple(text for known, texts in given.items() if known != name for text in texts)
            flags = parameter.opts if isinstance(parameter, click.Option) else [""]
            for value in _odd(parameter):
                odd = (f"{flags[-1]}={value}",) if flags[-1] else ("--", value)
                plain = [other for other in others if not other.startswith(f"{flags[-1]}=") or not flags[-1]]
                title = f"{' '.join(words)} {flags[-1] or name.upper()} {_shown(value)}"
                yield _case(title, (*words, *plain, *odd), out, parameter, value)
    known = tuple(text for texts in right[("run",)].values() for text in texts)
    for setting in _names(RunSettings().model_dump(mode="json")):
        for value in SETTINGS:
            title = f"run --set {setting}={_shown(value)}"
            yield _case(title, ("run", *known, f"--set={setting}={value}"), out, None, value)


def _odd(parameter: click.Parameter) -> tuple[str, ...]:
    kind = parameter.type
    if isinstance(kind, click.types.IntParamType | click.types.FloatParamType):
        return NUMBERS
    return PATHS if isinstance(kind, click.Path) else TEXTS


def _case(title: str, arguments: tuple[str, ...], out: Path, parameter: click.Parameter | None, value: str) -> Case:
    folder = out / "options"

    def prepare() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    return Case("options", title, arguments, folder, prepare, _judge(parameter, value))


def _judge(parameter: click.Parameter | None, value: str) -> Judge:
    """Check that values that are not numbers, and empty values, are refused."""
    numeric = parameter is not None and _odd(parameter) is NUMBERS

    def judge(said: Said) -> str:
        if said.status:
            return ""
        if (numeric and value in NONSENSE) or (parameter is None and value in {"nan", "-1", "[1", "1e300"}):
            return f"{_shown(value)} is accepted"
        if value == "" and parameter is not None:
            return "nothing is accepted as a value"
        return ""

    return judge


def _names(data: dict[str, object], prefix: str = "") -> list[str]:
    names: list[str] = []
    for key, value in data.items():
        names += _names(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]
    return names


def _shown(value: str) -> str:
    return repr(value if len(value) < 40 else f"{value[:12]}... ({len(value)} characters)")
