"""VmBatch put onto the lab's node and taken off again, by the command that a site uses."""

import os
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import init, node, place

PROGRAM = place.ENVIRONMENT / "bin/vmbatch"
COMMAND = (f"{place.ENVIRONMENT}/bin/python3", "-I", str(PROGRAM))
"""As the program would run if the environment had been made in that place."""
HOOKS = place.ENVIRONMENT / "hooks"
RECORD = Path("/var/lib/vmbatch/install/record.json")
Snapshot = dict[str, tuple[int, int, int, object]]
Vmbatch = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(autouse=True, scope="session")
def in_node() -> None:
    if not node.inside():
        pytest.exit("these tests run inside the lab's node: use `make test`, or `python -m lab exec -- pytest`", 4)


@pytest.fixture
def home() -> Iterator[Path]:
    """A pbs_mom's home of a site that has hooks of its own: they write down that they ran."""
    home = Path("/var/spool/torque-site")
    for name, mode in init.MOM_DIRECTORIES.items():
        (home / name).mkdir(parents=True)
        (home / name).chmod(mode)
    (home / "mom_priv/config").write_text("$usecp *:/home /home\n$prologalarm 100 # quick\n$loglevel 3")
    (home / "mom_priv/config").chmod(0o640)
    for name in ("prologue", "epilogue.parallel"):
        hook = home / "mom_priv" / name
        hook.write_text(f"#!/bin/sh\necho {name} >>{home}/ran\n")
        hook.chmod(0o550)
    yield home
    take_off()
    shutil.rmtree(home)


def state(*more: Path, root: Path = Path("/")) -> Snapshot:
    """All that an installation may touch below a root: mode, owner, group, and content or target."""
    found: Snapshot = {}
    for top in (root / "etc", root / "usr/local", root / "var/lib/vmbatch", root / HOOKS.relative_to("/"), *more):
        for path in [top, *top.rglob("*")] if top.exists() else ():
            status = path.lstat()
            inner: object = None
            if stat.S_ISLNK(status.st_mode):
                inner = os.readlink(path)
            elif stat.S_ISREG(status.st_mode):
                inner = path.read_bytes()
            found[str(path)] = (status.st_mode, status.st_uid, status.st_gid, inner)
    return found


def run(*words: str | Path, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """`vmbatch` with these words, in the node."""
    return subprocess.run([*before, *COMMAND, *map(str, words)], capture_output=True, text=True, check=False, cwd="/",
                          stdin=subprocess.DEVNULL, timeout=120)


@pytest.fixture
def vmbatch() -> Vmbatch:
    return run


def take_off() -> None:
    """Whatever a test has left installed."""
    if RECORD.exists():
        done = run("uninstall", "--yes")
        assert done.returncode == 0, done.stderr
