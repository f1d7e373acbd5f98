"""Torque's client programs as files: each writes down how it was called, and says and ends as it is told."""

from pathlib import Path

_CLIENT = """#!/bin/sh
printf '%s\\n' "${{0##*/}}" "$@" '' >> {calls}
{act}
"""


class Clients:
    """qhold, qalter and pbsnodes in a directory of their own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        for name in ("qhold", "qalter", "pbsnodes"):
            self.set(name)

    def set(self, name: str, act: str = "exit 0") -> None:
        """What a program does from now on, as a line of shell."""
        path = self.directory / name
        path.write_text(_CLIENT.format(calls=self.directory / "calls", act=act))
        path.chmod(0o755)

    def calls(self) -> list[list[str]]:
        """Argument lists, in their order."""
        path = self.directory / "calls"
        text = path.read_text() if path.exists() else ""
        return [call.split("\n") for call in text.split("\n\n") if call]
