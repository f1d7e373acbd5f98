"""Debian packages as files: apt resolves and verifies, dpkg-deb unpacks; no maintainer script runs."""

import re
import shutil
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from .cache import locked
from .place import CACHE
from .process import ProcessError, run, run_bytes

_APT = ("apt-get", "-q", "-o", "APT::Sandbox::User=root", "-o", "APT::Install-Recommends=false")
_NOTHING_INSTALLED = ("-o", "Dir::State::status=/dev/null", "-o", "Dir::State::extended_states=/dev/null")
_JUNK = tuple(f"./usr/share/{name}/*" for name in ("doc", "man", "locale", "info", "lintian"))


class Package(NamedTuple):
    """One package in one version, as `apt-get -s` names it."""

    name: str
    version: str
    architecture: str

    @property
    def file(self) -> Path:
        """Where its .deb is kept; apt writes the colon of an epoch as %3a."""
        return CACHE / "debs" / f"{self.name}_{self.version.replace(':', '%3a')}_{self.architecture}.deb"


def parse_simulation(text: str) -> list[Package]:
    """The packages in the output of `apt-get -s install`: lines `Inst NAME (VERSION ARCHIVE [ARCHITECTURE])`."""
    found = re.findall(r"^Inst (\S+) (?:\[\S+\] )?\((\S+) .*?\[(\w+)\]\)", text, re.MULTILINE)
    return [Package(name.partition(":")[0], version, architecture) for name, version, architecture in found]


def resolve(names: Sequence[str]) -> list[Package]:
    """The named packages and all they depend on, as on a machine with nothing installed."""
    ask = [*_APT, *_NOTHING_INSTALLED, "-s", "install", *names]
    try:
        return parse_simulation(run(ask))
    except ProcessError:
        _update()
        return parse_simulation(run(ask))


def fetch(packages: Iterable[Package]) -> list[Path]:
    """The .debs, from the cache or downloaded."""
    wanted = list(packages)
    with locked("debs"):
        missing = [package for package in wanted if not package.file.exists()]
        if missing:
            try:
                _download(missing)
            except ProcessError:  # the index names a version that the mirror has replaced
                _update()
                _download(missing)
    return [package.file for package in wanted]


def _update() -> None:
    """One at a time, as apt does not wait for another that is at it."""
    with locked("lists"):
        run([*_APT, "update"])


def _download(packages: Sequence[Package]) -> None:
    """Through a directory of its own, as apt may be killed in the middle of a file; the caller holds the lock."""
    store, scratch = CACHE / "debs", CACHE / ".fetch"
    store.mkdir(exist_ok=True)
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    run([*_APT, "download", *(f"{package.name}={package.version}" for package in packages)], cwd=scratch)
    for file in scratch.glob("*.deb"):
        file.rename(store / file.name)
    scratch.rmdir()


def unpack(debs: Iterable[Path], tree: Path) -> None:
    """Unpack into `tree`, owners kept, documentation left out; two at a time, as xz is what takes the time."""
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda deb: _unpack_one(deb, tree), debs))


def _unpack_one(deb: Path, tree: Path) -> None:
    archive = run_bytes(["dpkg-deb", "--fsys-tarfile", deb])
    skip = (f"--exclude={junk}" for junk in _JUNK)
    run(["tar", "-x", "-C", tree, "--keep-directory-symlink", *skip], stdin=archive)
