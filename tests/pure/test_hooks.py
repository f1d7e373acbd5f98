"""The hooks' first steps: whose site hooks they run, and with whose environment."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmbatch import hooks


@pytest.fixture
def place() -> Iterator[Path]:
    """Below the real root, where no directory is sticky."""
    made = Path(f"/var/lib/vmbatch-hooks-{os.getpid()}")
    made.mkdir(0o755)
    (made / "hook").touch(0o755)
    yield made
    for path in made.iterdir():
        path.unlink()
    made.rmdir()


def test_a_hook_of_roots(place: Path) -> None:
    assert hooks._is_roots(f"{place}/hook")


def test_a_hook_below_a_directory_where_all_keep_their_own(place: Path) -> None:
    place.chmod(0o1777)
    assert hooks._is_roots(f"{place}/hook")


@pytest.mark.parametrize("mode", [0o775, 0o757])
def test_a_hook_below_a_directory_of_others(place: Path, mode: int) -> None:
    place.chmod(mode)
    assert not hooks._is_roots(f"{place}/hook")


def test_a_hook_that_others_change(place: Path) -> None:
    (place / "hook").chmod(0o775)
    assert not hooks._is_roots(f"{place}/hook")


def test_a_hook_of_others(place: Path) -> None:
    os.chown(place / "hook", 65534, 0)
    assert not hooks._is_roots(f"{place}/hook")


def test_a_link_to_a_hook_of_others(place: Path) -> None:
    os.chown(place / "hook", 65534, 0)
    (place / "link").symlink_to("hook")
    assert not hooks._is_roots(f"{place}/link")


def test_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """mom's is for the site's own hook; of ours only a path is left."""
    for name in ("closerange", "setgroups", "chdir"):
        monkeypatch.setattr(os, name, lambda *_: None)
    monkeypatch.setattr(os, "environ", {"LD_PRELOAD": "/home/alice/x.so", "https_proxy": "http://alice", "PBS_NODENUM": "0"})
    umask = os.umask(0o022)
    try:
        given = hooks._in_order()
    finally:
        os.umask(umask)
    assert given["env"] == {"LD_PRELOAD": "/home/alice/x.so", "https_proxy": "http://alice", "PBS_NODENUM": "0"}
    assert os.environ == {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
