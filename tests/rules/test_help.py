"""`vmbatch --help` is quick, as it loads little; every command's --help has an example that is a call of that command."""

import re
import shlex
import subprocess
import sys

import click
import pytest

from website import ROOT, commands

HEAVY = {"libvirt", "lxml", "msgspec", "paramiko", "cryptography", "requests", "urllib3", "yaml", "pycdlib", "zstandard", "rich",
         "asyncio", "ssl", "http", "xml", "concurrent", "multiprocessing", "tomllib", "logging.config"}
"""What a help text needs nothing of."""


@pytest.mark.parametrize("words", [["--version"], *([*name.split()[1:], "--help"] for name, _ in commands.walk())], ids=" ".join)
def test_help_loads_nothing_but_the_command_line(words: list[str]) -> None:
    code = ("import sys; before = set(sys.modules); from vmbatch.cli import main\n"
            "try: main(sys.argv[1:])\n"
            "except SystemExit as end: assert not end.code\n"
            "print('LOADED', *sorted(set(sys.modules) - before))")
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = done.stdout.rpartition("LOADED ")[2].split()
    assert "vmbatch.cli" in loaded
    ours = {name for name in loaded if name.startswith("vmbatch")}
    assert {name for name in ours if not re.fullmatch(r"vmbatch|vmbatch\.errors|vmbatch\.cli(\..*)?", name)} == set()
    assert {name for name in loaded if name.partition(".")[0] in HEAVY or name in HEAVY} == set()


def _calls(command: click.Command) -> list[list[str]]:
    """The words of the examples in a command's help."""
    text = (command.help or "").partition("Example")[2]
    return [shlex.split(line.strip()) for line in re.findall(r"vmbatch [^\n]+", text)]


@pytest.mark.parametrize(("words", "command"), commands.walk(), ids=lambda part: part if isinstance(part, str) else "")
def test_help_has_an_example_that_is_one(words: str, command: click.Command) -> None:
    calls = _calls(command)
    assert calls, "no example"
    for call in calls:
        assert call[: len(words.split())] == words.split()
        if isinstance(command, click.Group):
            assert call[len(words.split())] in command.commands
            continue
        rest = call[len(words.split()):]
        known = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
        assert {word.partition("=")[0] for word in rest if word.startswith("--")} - {"--"} <= known, call
        needed = [param for param in command.params if param.required]
        for param in needed:
            given = isinstance(param, click.Argument) or any(option in rest for option in param.opts)
            assert given, f"{call} lacks {param.name}"


def test_the_list_of_commands_is_whole() -> None:
    """Every command stands in it once, and no sentence is cut on a terminal of 80 columns."""
    for words, command in commands.walk():
        if isinstance(command, click.Group):
            context = click.Context(command, info_name=words, terminal_width=80, help_option_names=["-h", "--help"])
            rows = re.findall(r"^  ([a-z]+) {2,}(.+)$", command.get_help(context), re.MULTILINE)
            listed = [name for name, text in rows if name in command.commands]
            assert sorted(listed) == sorted(command.commands), words
            assert not [text for _, text in rows if text.endswith("...")], words
