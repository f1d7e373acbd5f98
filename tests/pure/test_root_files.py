"""Files as root handles them: whom it trusts, and how it removes what strangers have made."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmbatch.errors import NodeError, SiteError, UnreachableError
from vmbatch.host import file
from vmbatch.host.log import Log
from vmbatch.units import Deadline

STRANGER = 65534


def gone(path: Path, *, last: str = "") -> None:
    file.remove_tree(str(path), Deadline(20), last=last)
    assert not os.path.lexists(path)


def deep(top: Path, depth: int) -> None:
    """A directory in a directory in a directory..., deeper than any path can name."""
    here = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)


@pytest.fixture
def top() -> Iterator[Path]:
    """Not below pytest's own directories: it cannot remove what a test that was killed has left there."""
    made = Path(tempfile.mkdtemp(prefix="vmbatch-deep-"))
    yield made
    file.remove_tree(str(made), Deadline(600))


def test_a_tree_deeper_than_python_and_the_process_can_follow(top: Path) -> None:
    (top / "tree").mkdir()
    deep(top / "tree", 3000)
    gone(top / "tree")


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("kept")
    tree = tmp_path / "tree"
    (tree / "inner").mkdir(parents=True)
    for place in (tree, tree / "inner"):
        (place / "directory").symlink_to(kept)
        (place / "file").symlink_to(kept / "file")
        (place / "nowhere").symlink_to("nowhere")
        (place / "round").symlink_to(".")
        os.mkfifo(place / "fifo")
    gone(tree)
    assert [path.name for path in kept.iterdir()] == ["file"]
    assert (kept / "file").read_text() == "kept"


def test_a_link_in_the_place_of_a_tree(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "tree").symlink_to("kept")
    with pytest.raises(NodeError, match=rf"^{tmp_path}/tree cannot be removed: Not a directory$"):
        file.remove_tree(str(tmp_path / "tree"), Deadline(1))
    assert (tmp_path / "kept").is_dir()


def test_many_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "_AT_ONCE", 10)
    tree = tmp_path / "tree"
    for place in (tree, tree / "inner"):
        place.mkdir()
        for number in range(25):
            os.close(os.open(place / str(number), os.O_CREAT | os.O_WRONLY))
    gone(tree, last="7")


def test_directories_that_nobody_may_enter(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "a/b").mkdir(parents=True)
    (tree / "a/b").chmod(0)
    (tree / "a").chmod(0)
    gone(tree)


def test_absent_is_success(tmp_path: Path) -> None:
    gone(tmp_path / "tree", last="mark")


def test_the_last_file_outlives_all_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = tmp_path / "tree"
    (tree / "inner").mkdir(parents=True)
    for name in ("mark", "zebra", "inner/alpha"):
        (tree / name).touch()
    removed: list[str] = []
    unlink = os.unlink

    def noted(name: str, *, dir_fd: int) -> None:
        unlink(name, dir_fd=dir_fd)
        removed.append(name)

    monkeypatch.setattr(os, "unlink", noted)
    gone(tree, last="mark")
    assert sorted(removed) == ["alpha", "mark", "zebra"]
    assert removed[-1] == "mark"


@pytest.mark.error("VB911")
def test_what_cannot_be_removed_in_time(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "a").mkdir(parents=True)
    with pytest.raises(UnreachableError) as caught:
        file.remove_tree(str(tree), Deadline(0))
    assert caught.value.lines() == [f"{tree} has more in it than can be removed in time (the sweep goes on with it)"]
    gone(tree)


def test_a_stranger_adds_nothing_to_a_directory_that_is_begun(tmp_path: Path) -> None:
    """As one who keeps it open: what he may do in it is asked anew each time."""
    mine = tmp_path / "mine"
    mine.mkdir()
    os.chown(mine, STRANGER, STRANGER)
    fd = os.open(mine, os.O_RDONLY)
    try:
        file._close_to_others(fd)
        os.seteuid(STRANGER)
        with pytest.raises(PermissionError):
            os.mkdir("more", dir_fd=fd)
        with pytest.raises(PermissionError):
            os.fchmod(fd, 0o777)
    finally:
        os.seteuid(0)
        os.close(fd)
    assert (mine.stat().st_uid, mine.stat().st_mode & 0o777) == (0, 0o700)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o720, 0o702, 0o777])
def test_a_file_below_a_directory_of_others(tmp_path: Path, mode: int) -> None:
    below = tmp_path / "open"
    below.mkdir()
    (below / "file").touch(0o600)
    below.chmod(mode)
    with pytest.raises(SiteError) as caught:
        file.check_trusted(str(below / "file"))
    assert caught.value.lines() == [f"{below} can be changed by others than root (mode {mode:04o}) (chmod go-w {below})"]


@pytest.mark.error("VB106")
def test_a_file_below_a_sticky_directory(tmp_path: Path) -> None:
    """Others cannot take away there what is root's; but it is not root's alone itself."""
    below = tmp_path / "sticky"
    below.mkdir()
    below.chmod(0o1777)
    (below / "file").touch(0o600)
    file.check_trusted(str(below / "file"))
    with pytest.raises(SiteError, match=rf"^{below} can be changed by others than root \(mode 1777\)$"):
        file.check_trusted(str(below))
    os.chown(below / "file", STRANGER, 0)
    with pytest.raises(SiteError, match=rf"^{below}/file belongs to uid {STRANGER}, not to root$"):
        file.check_trusted(str(below / "file"))


def test_a_link_of_a_strangers_to_a_file_of_roots(tmp_path: Path) -> None:
    (tmp_path / "file").touch(0o600)
    (tmp_path / "link").symlink_to("file")
    file.check_trusted(str(tmp_path / "link"))
    os.lchown(tmp_path / "link", STRANGER, 0)
    with pytest.raises(SiteError, match=rf"^{tmp_path}/link belongs to uid {STRANGER}, not to root$"):
        file.check_trusted(str(tmp_path / "link"))


def test_a_link_of_roots_to_a_place_of_others(tmp_path: Path) -> None:
    below = tmp_path / "open"
    below.mkdir()
    (below / "file").touch(0o600)
    below.chmod(0o777)
    (tmp_path / "link").symlink_to("open/file")
    with pytest.raises(SiteError, match=rf"^{below} can be changed by others"):
        file.check_trusted(str(tmp_path / "link"))


def test_one_of_many_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).touch(0o600)
    (tmp_path / "b").chmod(0o602)
    with pytest.raises(SiteError, match=rf"^{tmp_path}/b can be changed"):
        file.check_trusted(str(tmp_path / "a"), str(tmp_path / "b"))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o601])
def test_a_secret_that_others_can_read(tmp_path: Path, mode: int) -> None:
    secret = tmp_path / "secret"
    secret.touch(0o600)
    file.check_secret(str(secret))
    secret.chmod(mode)
    with pytest.raises(SiteError) as caught:
        file.check_secret(str(secret))
    assert caught.value.lines() == [f"{secret} can be read by others than root (mode {mode:04o}) (chmod 600 {secret})"]


def test_a_state_directory_is_made_and_mended(tmp_path: Path) -> None:
    path = tmp_path / "a/b"
    file.make_state_directory(str(path), 0o711)
    assert path.stat().st_mode & 0o7777 == 0o711
    path.chmod(0o700)
    file.make_state_directory(str(path), 0o711)
    assert path.stat().st_mode & 0o7777 == 0o711


@pytest.mark.parametrize("what", ["file", "link", "dangling link", "a stranger's", "writable"])
def test_something_else_in_the_place_of_a_state_directory(tmp_path: Path, what: str) -> None:
    path = tmp_path / "state"
    (tmp_path / "other").mkdir(0o700)
    if what == "file":
        path.touch()
    elif "link" in what:
        path.symlink_to("nowhere" if what == "dangling link" else "other")
    else:
        path.mkdir()
        if what == "writable":
            path.chmod(0o770)
        else:
            os.chown(path, STRANGER, 0)
    before = os.lstat(path).st_mode
    with pytest.raises(NodeError) as caught:
        file.make_state_directory(str(path), 0o711)
    assert caught.value.lines() == [f"{path} is not a directory that only root can write (chown root {path}; chmod go-w {path})"]
    assert (os.lstat(path).st_mode, (tmp_path / "other").stat().st_mode & 0o777) == (before, 0o700)


def test_a_state_directory_below_one_of_others(tmp_path: Path) -> None:
    """Whoever can rename it could have root write anywhere."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    for place in ("open/state", "open/not/yet"):
        with pytest.raises(SiteError, match=rf"^{tmp_path}/open can be changed by others than root \(mode 0777\)$"):
            file.make_state_directory(str(tmp_path / place), 0o700)
    assert list((tmp_path / "open").iterdir()) == []
    (tmp_path / "open").chmod(0o1777)
    file.make_state_directory(str(tmp_path / "open/state"), 0o700)


def test_no_line_of_a_log_is_a_users(tmp_path: Path) -> None:
    log = Log(str(tmp_path / "log"), "1.lab", "prologue")
    log.line("vb\n2024-01-01T00:00:00.000Z prologue: all is well\x1b[2J\r\x00\u202e\udc80 é")
    [line] = (tmp_path / "log/1.lab.log").read_text().splitlines()
    assert line.endswith(r" prologue: vb\n2024-01-01T00:00:00.000Z prologue: all is well\x1b[2J\r\x00\u202e\udc80 é")
