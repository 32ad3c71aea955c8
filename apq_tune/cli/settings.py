"""``apq-tune settings``: everything that can be set, with its range, default and meaning."""

from __future__ import annotations

import click


@click.command()
@click.option("--markdown", "as_markdown", is_flag=True, help="As docs/reference/settings.md.")
def settings(*, as_markdown: bool) -> None:
    """List every setting of run, refine and the comparisons: what is allowed, the default and the meaning."""
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
