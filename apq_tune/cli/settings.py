"""``apq-tune settings``: all settings with their ranges, defaults and meanings."""

from __future__ import annotations

import click


@click.command()
@click.option("--markdown", "as_markdown", is_flag=True, help="Print the page docs/reference/settings.md.")
def settings(*, as_markdown: bool) -> None:
    """List all settings: ranges, defaults and meanings."""
    from apq_tune.cli.setting_list import all_settings, markdown

    if as_markdown:
        click.echo(markdown(), nl=False)
        return
    for group in all_settings():
        click.echo(group.title.replace("`", "") + "\n")
        for setting in group.settings:
            click.echo(f"  {setting.name}  [default: {setting.default}]")
            click.echo(f"      {setting.meaning.replace('`', '')}")
            click.echo(f"      Allowed: {setting.allowed}.")
        click.echo()
