"""The Debian package is of this version, and brings what pyproject.toml asks for."""

import re
import tomllib

from .imports import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINNED = dict(re.findall(r"^([\w.-]+)==(\S+) \\$", (ROOT / "debian/requirements.txt").read_text(), re.MULTILINE))


def _plain(name: str) -> str:
    """A distribution's name as registries compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def test_versions() -> None:
    version = PROJECT["version"]
    assert (ROOT / "debian/changelog").read_text().startswith(f"vmbatch ({version}) ")
    assert f"./dist/deb/vmbatch_{version}_amd64.deb" in (ROOT / "README.md").read_text()


def test_everything_that_is_imported_is_brought() -> None:
    pinned = {_plain(name): version for name, version in PINNED.items()}
    for requirement in PROJECT["dependencies"]:
        name, _, least = requirement.partition(">=")
        assert _number(pinned[_plain(name)]) >= _number(least), requirement


def test_each_by_its_digest() -> None:
    text = (ROOT / "debian/requirements.txt").read_text()
    blocks = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert len(blocks) == len(PINNED) > 15
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", block) for block in blocks)


def test_pythons_version_is_that_of_its_packages() -> None:
    control = (ROOT / "debian/control").read_text()
    assert "python3 (>= 3.11)" in control
    assert "python3 (<< 3.12)" in control
    assert PROJECT["requires-python"] == ">=3.11"
