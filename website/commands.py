"""The reference of the commands: what each of them says with --help."""

import click

from vmbatch.cli import main
from website.crossref import anchor

_WIDTH = 110


def page() -> str:
    """Markdown: `vmbatch`, then every command in the order of their names."""
    lines = ["# Commands", "", "What `vmbatch` and its commands say with `--help`. vmbatch(8) says more of each."]
    for words, command in walk():
        lines += ["", f"## {words}", "", "```text", shown(words, command), "```"]
        if heading := manual(words, command):
            lines += ["", f"[{words} in vmbatch(8)](../man/vmbatch.8.md#{anchor(heading)})"]
    return "\n".join([*lines, ""])


def walk(words: str = "vmbatch", command: click.Command = main) -> list[tuple[str, click.Command]]:
    """Every command with the words that call it, groups before their members; hidden ones are not for people."""
    found = [(words, command)]
    if isinstance(command, click.Group):
        for name, inner in sorted(command.commands.items()):
            found += [] if inner.hidden else walk(f"{words} {name}", inner)
    return found


def shown(words: str, command: click.Command) -> str:
    """The text of --help."""
    context = click.Context(command, info_name=words, terminal_width=_WIDTH, help_option_names=["-h", "--help"])
    return command.get_help(context).rstrip()


def manual(words: str, command: click.Command) -> str:
    """The heading of vmbatch(8) about a command; groups have none."""
    if isinstance(command, click.Group):
        return ""
    return " ".join([words, *((param.name or "").upper() for param in command.params if isinstance(param, click.Argument))])
