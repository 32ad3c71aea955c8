"""What MkDocs fills in while it builds the site: commands with their options, and the public names of the package."""

from __future__ import annotations

import html
import inspect
from collections.abc import Iterator
from typing import Any

import click

import apq_tune
from apq_tune.cli import cli

COMMANDS, NAMES = "<!-- commands -->", "<!-- public names -->"
SECTIONS = {
    "Search spaces and candidates": ("apq_tune.space",),
    "Problems and fronts": ("apq_tune.problem",),
    "Costs": ("apq_tune.cost",),
    "Images": ("apq_tune.data",),
    "Predictors": ("apq_tune.predict",),
    "Search": ("apq_tune.searchers", "apq_tune.methods"),
    "Optuna and Ray Tune": ("apq_tune.hosts",),
    "Networks and training": ("apq_tune.network", "apq_tune.supernet", "apq_tune.sparsity"),
    "Runs": ("apq_tune.pipeline", "apq_tune.refine", "apq_tune.studies", "apq_tune.store", "apq_tune.report"),
    "Deployment": ("apq_tune.deploy",),
    "Errors": ("apq_tune.errors",),
}
"""Headings of the Python reference, and the packages whose public names stand under each."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the commands and the public names where their markers stand."""
    if COMMANDS in markdown:
        markdown = markdown.replace(COMMANDS, "\n".join(described(cli, click.Context(cli, info_name="apq-tune"))))
    if NAMES in markdown:
        markdown = markdown.replace(NAMES, public_names())
    return markdown.replace(" ± ", "\u00a0±\u00a0")  # a mean and its deviation stay on one line


def described(command: click.Command, context: click.Context) -> Iterator[str]:
    """Markdown of a command: its help, how it is used, a table of its options; then the same of its subcommands."""
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            part = command.get_command(context, name)
            assert part is not None
            yield from described(part, click.Context(part, info_name=name, parent=context))
        return
    help_text = inspect.cleandoc(command.help or "").replace("\b\n", "")
    yield from [f"## {context.command_path.removeprefix('apq-tune ')}", "", cell(help_text, keep_lines=True), ""]
    yield from ["```", command.get_usage(context).removeprefix("Usage: "), "```", ""]
    options = [option for option in command.get_params(context) if isinstance(option, click.Option)]
    records = [record for option in options if (record := option.get_help_record(context))]
    yield from ["| option | meaning |", "|---|---|"]
    yield from (f"| <code class='option'>{cell(option)}</code> | {cell(meaning)} |" for option, meaning in records)
    yield ""


def cell(text: str, keep_lines: bool = False) -> str:
    """Plain text as Markdown that shows it as it is, on one line for a cell of a table."""
    escaped = html.escape(text, quote=False).replace("|", "&#124;").replace("*", "&#42;").replace("_", "&#95;")
    return escaped if keep_lines else " ".join(escaped.split())


def public_names() -> str:
    """Markdown that has a heading for each section and an entry of mkdocstrings for each public name.

    Raises:
        ValueError: If a public name belongs to no section.
    """
    homes = {name: getattr(apq_tune, name).__module__ for name in apq_tune.__all__}
    lines: list[str] = []
    for title, packages in SECTIONS.items():
        names = [name for name, home in homes.items() if home.startswith(packages)]
        lines += [f"## {title}", ""] if names else []
        for name in sorted(names, key=lambda name: (homes[name], name)):
            lines += [f"::: {homes[name]}.{name}", "    options:", f"      heading: {name}", ""]
    missing = [name for name, home in homes.items() if not home.startswith(sum(SECTIONS.values(), ()))]
    if missing:
        raise ValueError(f"{', '.join(missing)}: no section of the Python reference; see {__file__}")
    return "\n".join(lines)
