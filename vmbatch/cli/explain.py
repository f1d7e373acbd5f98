"""`vmbatch explain`: the catalogue of errors, read."""

import click

from . import complete


@click.command()
@click.argument("code", required=False, metavar="[CODE]", shell_complete=complete.codes)
def explain(code: str | None) -> None:
    """Say more about the error CODE: what causes it, whose fault it is, and what to do. Without a code: list all.

    \b
    Example: vmbatch explain VB704
    """
    from ..catalogue import CATALOGUE, THEMES, described

    if code is None:
        theme = ""
        for entry in CATALOGUE.values():
            if entry.theme != theme:
                theme = entry.theme
                click.secho(("" if theme == THEMES["1"] else "\n") + theme, bold=True)
            click.echo(f"  {entry.code}  {entry.title}")
        return
    found = CATALOGUE.get(code.strip("[]").upper())
    if found is None:
        raise click.BadParameter(f"there is no error {code}; vmbatch explain lists all", param_hint="CODE")
    click.secho(f"{found.code}  {found.title}", bold=True)
    for heading, text in described(found):
        click.echo(f"\n{heading}")
        click.echo(click.wrap_text(text, width=88, initial_indent="  ", subsequent_indent="  "))
