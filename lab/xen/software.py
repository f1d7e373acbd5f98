"""This project as a site installs it, for dom0: its wheel and what that needs in an environment, its hooks, its configuration.

A directory with `disk.raw`, dom0's disk /srv/vmbatch/software: `venv/`, `lab/` with what plays the batch system there, and
`root/`, which `install` copies over dom0's own files.
"""

import shutil
import tomllib
from pathlib import Path

from vmbatch.installation import hookfile

from .. import place
from ..cache import built
from ..image import MIB
from ..init import MOM_DIRECTORIES
from ..place import CLONE
from ..process import run
from .dom0 import disk

HERE = CLONE / "lab"
CONFIGURATION = HERE / "xen/etc"
PROJECT = [CLONE / name for name in ("pyproject.toml", "vmbatch", "scripts", "etc", "examples", "slurm")]
_LAB = ("__init__.py", "init.py", "leftover.py", "loaded.py", "mom.py", "place.py", "process.py", "sweeper.py", "xen")
LAB = [HERE / name for name in _LAB]
INPUTS = [*PROJECT, *LAB, HERE / "tree/software"]
PIP = (CLONE / ".venv/bin/pip", "--disable-pip-version-check", "-q")
DISK_SIZE = 192 * MIB


def build(directory: Path) -> None:
    """Fill `directory`."""
    tree = directory / "tree"
    shutil.copytree(HERE / "tree/software", tree)
    environment(tree / "venv", directory / "wheel")
    for path in LAB:
        (shutil.copytree if path.is_dir() else shutil.copy2)(path, _made(tree / "lab/lab" / path.name))
    root = tree / "root"
    shutil.copytree(CONFIGURATION, _made(root / "etc/vmbatch"))
    mom = root / place.MOM.relative_to("/")
    for name, mode in MOM_DIRECTORIES.items():
        (mom / name).mkdir(parents=True)
        (mom / name).chmod(mode)
    (mom / "mom_priv/config").write_text("$prologalarm 300\n")
    interpreter = f"{place.ENVIRONMENT}/bin/python3"
    for name in hookfile.HOOKS:
        text = hookfile.compile_starter(interpreter) if name == "remoteshell" else hookfile.hook(name, interpreter)
        (mom / "mom_priv" / name).write_bytes(text)
        (mom / "mom_priv" / name).chmod(0o755)
    run(["chown", "-R", "root:root", tree])
    disk(tree, directory / "disk.raw", DISK_SIZE)
    shutil.rmtree(tree)
    shutil.rmtree(directory / "wheel")


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def environment(target: Path, scratch: Path) -> None:
    """The project's wheel and its dependencies' in an environment of their own, to be used at place.ENVIRONMENT."""
    wheels = built("xenwheels", [CLONE / "pyproject.toml"], dependencies)
    source = scratch / "source"
    source.mkdir(parents=True)
    for path in PROJECT:
        (shutil.copytree if path.is_dir() else shutil.copy2)(path, source / path.name)
    run([*PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", scratch, source])
    (wheel,) = scratch.glob("vmbatch-*.whl")
    run(["/usr/bin/python3", "-m", "venv", "--without-pip", target])
    run([*PIP, "--python", target / "bin/python3", "install", "--no-index", "--find-links", wheels, wheel])
    for script in (target / "bin").iterdir():
        text = script.read_bytes()
        if not script.is_symlink() and text.startswith(b"#!"):
            script.write_bytes(text.replace(bytes(target), bytes(place.ENVIRONMENT), 1))


def dependencies(directory: Path) -> None:
    """Wheels of what the project asks for; libvirt's is made here, as there is none."""
    wanted = tomllib.loads((CLONE / "pyproject.toml").read_text())["project"]["dependencies"]
    run([*PIP, "wheel", "-w", directory, *wanted])
