"""An option means the same in every command, and every command explains all of its options."""

from __future__ import annotations

import re
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from apq_tune.cli import RESUMABLE, cli

FILE_OR_FOLDER = "--out"
"""The one option that has two meanings, a folder or a file, told apart by its metavar."""


def commands(group: click.Group, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*words, name))
        else:
            yield (*words, name), command


ALL = {" ".join(words): command for words, command in commands(cli)}
"""Words that call a command -> the command."""

DEFAULT_NOTE = r"  \[default: .*\]$"


def of_type(kind: click.ParamType) -> object:
    """What may be given; of choices only that they are names, since a command may know fewer samplers than another."""
    if isinstance(kind, click.Choice):
        return "choice"
    return type(kind).__name__, getattr(kind, "allowed", None)


def said(option: click.Option) -> str:
    """Help without what differs for good reason: what a command takes by default, and the suffix of its file."""
    text = re.sub(DEFAULT_NOTE, "", option.help or "").removesuffix(" Repeatable.")
    return text.split(";")[0].removesuffix(".") if option.opts == [FILE_OR_FOLDER] else text


def test_every_option_has_one_spelling_type_default_and_help() -> None:
    seen: dict[tuple[str, object], tuple[str, tuple[object, ...]]] = {}
    defaults: dict[str, tuple[str, object]] = {}
    for name, command in ALL.items():
        for option in command.params:
            if not isinstance(option, click.Option):
                continue
            assert len(option.opts) == 1, (name, option.opts)  # no second spelling
            flag = option.opts[0]
            meaning = of_type(option.type), option.is_flag
            if not (option.required or option.multiple):  # several are compared, by default all that are useful
                default = option.get_default(click.Context(command))
                before, known = defaults.setdefault(flag, (name, default))
                assert known == default, (flag, before, name)
            key = flag, option.metavar if flag == FILE_OR_FOLDER else ""
            before, known = seen.setdefault(key, (name, (*meaning, said(option))))
            assert known == (*meaning, said(option)), (flag, before, name)


@pytest.mark.parametrize("gone", ["--limit", "--limits", "--resume", "--samplers", "--methods"])
def test_old_spellings_are_gone(gone: str) -> None:
    assert not [name for name, command in ALL.items() for option in command.params if gone in option.opts]


@pytest.mark.parametrize("name", list(ALL))
def test_help_says_what_every_option_and_argument_is(name: str) -> None:
    command = ALL[name]
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            text = re.sub(DEFAULT_NOTE, "", parameter.help or "")
            assert text.endswith("."), (parameter.opts, text)
        else:
            for word in re.findall(r"[A-Z]+", parameter.make_metavar(click.Context(command))):
                assert re.search(rf"\b{word}\b", command.help or ""), word


def test_a_search_space_is_the_only_argument_of_every_command_that_has_one() -> None:
    named = {name for name, command in ALL.items() if [p.name for p in command.params if p.name == "space"]}
    takers = named - {"profile"}  # which needs none with --collect, so that it is an option
    assert takers == {"run", "search", "sweep", "compare", "score", "space", "cost audit", "transfer", "predictor fit"}
    for name in takers:
        assert [p.name for p in ALL[name].params if isinstance(p, click.Argument)] == ["space"]


def test_commands_that_can_be_interrupted_have_all_options_of_hosts() -> None:
    hosted = {name for name, command in ALL.items() for p in command.params if "--num-cpus" in p.opts}
    assert hosted == set(RESUMABLE) - {"profile"}  # which measures one file at a time
    for name in hosted:
        flags = {flag for p in ALL[name].params for flag in p.opts}
        assert {"--out", "--address"} <= flags
        assert ("--device" in flags) == ("--gpus-per-trial" in flags) == (name not in ("sweep", "compare"))


def test_the_list_of_commands_has_whole_sentences() -> None:
    for group in (cli, *(command for command in cli.commands.values() if isinstance(command, click.Group))):
        listed = CliRunner().invoke(group, ["--help"], terminal_width=80).output
        assert "..." not in listed.replace("[ARGS]...", ""), listed
