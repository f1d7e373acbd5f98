"""cloud-init as Debian packs it, unpacked into a folder: nothing of it is installed or run as a service."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab.package import fetch, resolve, unpack
from vmbatch.context.content import Content
from vmbatch.context.medium import Medium
from vmbatch.context.tree import Entry
from vmbatch.host import ssh

from ..work import work

HERE = Path(__file__).parent
PARAMETERS = {"VMBATCH_TOKEN": "0123456789abcdef0123456789abcdef", "VMBATCH_HOSTNAME": "vm-42"}
INSTANCE = "01234567-89ab-4def-8123-456789abcdef"
_PYTHON = "/usr/bin/python3"


@pytest.fixture(scope="session")
def cloud_init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's files, and those of the Python modules that it needs."""
    tree = tmp_path_factory.mktemp("cloud-init")
    own = ("python3-minimal", "python3-distutils", "python3-lib2to3")
    unpack(fetch(package for package in resolve(["cloud-init"]) if package.name == "cloud-init" or (
        package.name.startswith("python3-") and package.name not in own)), tree)
    return tree


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def python(cloud_init: Path) -> Run:
    """Debian's Python with the unpacked modules; what it prints."""

    def run(*arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [_PYTHON, *map(str, arguments)], input=stdin, capture_output=True, text=True, timeout=60, check=False,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8",
                 "PYTHONPATH": f"{cloud_init}/usr/lib/python3/dist-packages"})

    return run


@pytest.fixture
def source(python: Run, cloud_init: Path, tmp_path: Path) -> Callable[[str, tuple[Entry, ...]], dict[str, Any]]:
    """What one of cloud-init's data sources and its handlers of user-data make of a medium's files; see source.py."""

    def read(name: str, entries: tuple[Entry, ...]) -> dict[str, Any]:
        seed = {"NoCloud": "nocloud", "ConfigDrive": "config_drive", "OpenNebula": "opennebula"}[name]
        for entry in entries:
            place = tmp_path / "cloud/seed" / seed / entry.name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(entry.data)
        ended = python(HERE / "source.py", name, tmp_path, cloud_init / "etc/cloud/cloud.cfg")
        assert ended.returncode == 0, ended.stderr
        found: dict[str, Any] = json.loads(ended.stdout)
        return found

    return read


@pytest.fixture
def medium(tmp_path: Path) -> Callable[[str, tuple[Entry, ...]], Path]:
    """Writes a whole medium, as a job gets it."""

    def write(label: str, more: tuple[Entry, ...]) -> Path:
        keys = tmp_path / "keys"
        keys.mkdir()
        for path in ssh.key_files(str(keys)):
            Path(path).write_bytes(b"private")
            Path(f"{path}.pub").write_bytes(b"ssh-ed25519 AAAA")
        image = tmp_path / "context.iso"
        Medium(str(image), label, Content(PARAMETERS, str(keys), True, None, None, (), (), more=more)).make(work())
        shutil.rmtree(keys)
        return image

    return write
