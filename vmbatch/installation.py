"""The hooks as files for a batch system: with the interpreter of this installation, isolated from everybody's environment."""

import os
import sys
import sysconfig

from .errors import SiteError
from .host import file

HOOKS = ("prologue", "epilogue", "remoteshell")
_SHEBANG_LIMIT = 127
"""What Linux reads of a `#!` line for sure (fs/binfmt_script.c)."""


def hook(name: str, interpreter: str) -> bytes:
    """The text of a hook. pip keeps scripts as they are only outside `bin`: there it would drop `-I`. SiteError."""
    line = f"#!{interpreter} -I\n".encode()
    if len(line) > _SHEBANG_LIMIT or b" " in line[: -len(" -I\n")]:
        raise SiteError(f"{interpreter} cannot stand in the first line of a script",
                        "install VmBatch below a shorter path without blanks")
    with open(os.path.join(sysconfig.get_path("data"), "share/vmbatch", name), "rb") as source:
        return line + source.read().split(b"\n", 1)[1]


def write_hooks(directory: str) -> list[str]:
    """Writes all hooks, executable for everybody and root's; their paths. SiteError."""
    interpreter = os.path.join(os.path.dirname(sys.executable), "python3")
    paths = [os.path.join(directory, name) for name in HOOKS]
    for name, path in zip(HOOKS, paths, strict=True):
        file.replace(path, hook(name, interpreter), 0o755)
    return paths
