"""A job's log and console: its user can read them, nobody else can, and only root can change them."""

import errno
import os
import stat
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vmbatch.host import acl, console
from vmbatch.host.log import Log
from vmbatch.host.tail import Tail

ALICE, BOB = 1500, 1501


@pytest.fixture
def logs(tmp_path: Path) -> str:
    """A directory of logs that others can reach."""
    for above in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        above.chmod(above.stat().st_mode | 0o011)
    return str(tmp_path / "log")


def can(uid: int, act: Callable[[], object]) -> bool:
    """Whether an account without rights can do it."""
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            act()
            os._exit(0)
        except PermissionError:
            os._exit(1)
        finally:
            os._exit(2)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 1)
    return status == 0


def test_a_log_is_its_users_to_read_and_roots_to_change(logs: str) -> None:
    log = Log(logs, "42.vm", "prologue")
    log.show_to(ALICE)
    log.detail("a line")
    path = f"{logs}/42.vm.log"
    assert can(ALICE, lambda: Path(path).read_text())
    assert not can(BOB, lambda: Path(path).read_text())
    for act in (lambda: os.open(path, os.O_WRONLY), lambda: os.unlink(path), lambda: os.rename(path, f"{path}.mine"),
                lambda: os.chmod(path, 0o600), lambda: os.listdir(logs), lambda: os.symlink("/etc/shadow", f"{logs}/43.vm.log")):
        assert not can(ALICE, act)
    assert (os.stat(path).st_uid, stat.S_IMODE(os.stat(logs).st_mode)) == (0, 0o711)


def test_a_later_start_of_the_job_goes_on_with_its_log(logs: str) -> None:
    for _ in range(2):
        log = Log(logs, "42.vm", "prologue")
        log.show_to(ALICE)
        log.detail("a line")
    assert Path(logs, "42.vm.log").read_text().count("a line") == 2
    assert acl.reader(f"{logs}/42.vm.log") == ALICE


def test_an_id_that_another_users_job_had(logs: str) -> None:
    """Neither reads what is of the other one."""
    before = Log(logs, "42.vm", "prologue")
    before.show_to(ALICE)
    before.detail("alice's")
    path = Path(logs, "42.vm.log")
    for _ in range(2):
        Log(logs, "42.vm", "prologue").show_to(BOB)
        assert not can(BOB, path.read_text)
        assert not can(ALICE, path.read_text)
    assert "the job's user cannot read this log: it has lines of an earlier job with this id" in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_log_with_lines_of_nobody_knows_whom(logs: str) -> None:
    Log(logs, "42.vm", "prologue").detail("refused")
    Log(logs, "42.vm", "prologue").show_to(ALICE)
    assert not can(ALICE, Path(logs, "42.vm.log").read_text)


def test_a_log_is_followed_by_its_user(logs: str) -> None:
    """Who cannot list the directory still hears of the next line at once."""
    log = Log(logs, "42.vm", "prologue")
    log.show_to(ALICE)
    log.detail("one")
    heard, told = os.pipe()

    def follow() -> None:
        tail = Tail(f"{logs}/42.vm.log")
        said = b""
        tail.wait(0)
        while b"two" not in said:
            said += b"".join(tail.more())
            os.write(told, b".")
            tail.wait(30)

    with ThreadPoolExecutor(1) as pool:
        follower = pool.submit(can, ALICE, follow)
        assert os.read(heard, 1) == b"."
        begin = time.monotonic()
        log.detail("two")
        assert os.read(heard, 1) == b"."
        assert time.monotonic() - begin < 10
        log.detail("the last")  # ends its wait
        assert follower.result()
    os.close(heard)
    os.close(told)


def test_where_there_are_no_lists(logs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bytes:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    assert acl.possible(str(Path(logs).parent))
    monkeypatch.setattr(os, "getxattr", refuse)
    Log(logs, "42.vm", "prologue").show_to(ALICE)
    assert "the job's user cannot read this log: Operation not supported" in Path(logs, "42.vm.log").read_text()
    assert not acl.possible(logs)


def test_a_users_own_needs_no_list(logs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with `vmbatch run` without root, maybe in a home without lists."""
    monkeypatch.setattr(os, "setxattr", lambda *_: pytest.fail("no list is needed"))
    Log(logs, "42.vm", "run").show_to(os.geteuid())
    Path(logs, "console.log").touch()
    console.show_to(f"{logs}/console.log", os.geteuid())
    assert Path(logs, "42.vm.log").read_text() == ""


def test_a_console_is_its_users_to_read(logs: str) -> None:
    Path(logs).mkdir(0o711)
    path = Path(logs, "console.log")
    console.show_to(str(path), ALICE)
    assert not path.exists(), "there is none to be read"
    path.write_text("said")
    path.chmod(0o600)
    console.show_to(str(path), ALICE)
    assert can(ALICE, path.read_text)
    assert not can(BOB, path.read_text)
    assert not can(ALICE, lambda: path.open("a"))
    path.chmod(0o600)  # as what is kept is sealed
    assert not can(ALICE, path.read_text)


def test_a_link_is_no_console(logs: str, tmp_path: Path) -> None:
    Path(logs).mkdir()
    (tmp_path / "secret").touch(0o600)
    Path(logs, "console.log").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError, match="symbolic links"):
        console.show_to(f"{logs}/console.log", ALICE)
    assert acl.reader(str(tmp_path / "secret")) is None
