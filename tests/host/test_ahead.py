"""A login that begins before its user is there: it stops at the guest's host key, and goes on when it is told to."""

import os
import stat
import subprocess
import time
from pathlib import Path

import pytest

from tests.pure.sample import ALICE
from vmbatch import sshargs
from vmbatch.errors import EndedError
from vmbatch.host import ssh
from vmbatch.job import Group, User

USER = ALICE if os.geteuid() == 0 else User("me", os.getuid(), Group("me", os.getgid()), (), "/", "/bin/sh")
KNOWN = "the-guest ssh-ed25519 AAAA\n"


@pytest.fixture
def handover(tmp_path: Path) -> Path:
    (tmp_path / "known_hosts").write_text(KNOWN)
    return tmp_path


def play(monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """In place of ssh: a shell that has the pipe as its first argument."""
    def start(*_words: object, known_hosts: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(["/bin/sh", "-c", script, "sh", known_hosts], stdout=subprocess.PIPE, process_group=0)

    monkeypatch.setattr(ssh, "prove_login", start)


def test_it_gets_the_key_when_it_is_to_go_on(handover: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, 'sleep 0.2; exec cat "$1"')
    ahead = ssh.Ahead(str(handover), USER, "10.77.0.42", "the-guest")
    status = (handover / "known_hosts.ahead").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o400, USER.uid), "another user could keep it from ssh"
    time.sleep(0.5)
    assert ahead.process.poll() is None
    asked = []
    ahead.go(lambda: asked.append(1))
    assert ahead.process.communicate(timeout=9)[0] == KNOWN.encode()
    ahead.close()
    assert os.listdir(handover) == ["known_hosts"]


def test_it_may_be_told_before_it_has_come_so_far(handover: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, 'sleep 0.3; exec cat "$1"')
    ahead = ssh.Ahead(str(handover), USER, "10.77.0.42", "the-guest")
    asked: list[int] = []
    ahead.go(lambda: asked.append(1))
    assert asked
    assert ahead.process.communicate(timeout=9)[0] == KNOWN.encode()
    ahead.close()


def test_one_that_has_ended_is_not_waited_for(handover: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, "exit 3")
    ahead = ssh.Ahead(str(handover), USER, "10.77.0.42", "the-guest")
    ahead.go(lambda: None)
    assert ahead.process.wait() == 3
    ahead.close()


def test_a_job_that_is_over_meanwhile(handover: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def over() -> None:
        raise EndedError("it is over")

    play(monkeypatch, "exec sleep 60")
    ahead = ssh.Ahead(str(handover), USER, "10.77.0.42", "the-guest")
    with pytest.raises(EndedError):
        ahead.go(over)
    ahead.close()
    assert ahead.process.returncode is not None
    assert os.listdir(handover) == ["known_hosts"]


def test_ssh_reads_the_pipe_but_once() -> None:
    """Where it knows beforehand which kind of key there is, it does not look before it has been shown one."""
    words = sshargs.client("/handover", "the-guest", known_hosts="/handover/pipe")
    assert "-oUserKnownHostsFile=/handover/pipe" in words
    assert "-oHostKeyAlgorithms=ssh-ed25519" in words
    assert not [word for word in sshargs.client("/handover", "the-guest") if "HostKeyAlgorithms" in word]
