"""A guest that is to have another job of the same user is clean by then, or says that it is not."""

import os
import subprocess
from pathlib import Path

import pytest

from vmbatch.context.tree import Entry

from .guest import NONCE, Guest
from .test_pool import Port, context, log_in, waiting

__all__ = ["waiting"]
Waiting = tuple[Guest, Port, "subprocess.Popen[bytes]"]
UID = 1500 if os.geteuid() == 0 else os.getuid()
OVER = b"vmbatch 1 over\n"
SHARE = "10.77.0.1:/share /mnt/vmbatch nfs4 rw 0 0\n"
MOUNTS = f"rootfs / rootfs rw 0 0\ntmpfs /dev/shm tmpfs rw 0 0\n{SHARE}"
KILL = """shift
    for each; do
        [ "$each" -lt 100 ] || { command kill -9 "$each"; continue; }
        echo "$each" >>"$VMBATCH_ROOT/killed"
        rm -rf "$VMBATCH_ROOT/proc/$each"
    done"""
UMOUNT = """echo "$*" >>"$VMBATCH_ROOT/unmounted"
    text=$(grep -v '/mnt/user' "$VMBATCH_ROOT/proc/mounts")
    echo "$text" >"$VMBATCH_ROOT/proc/mounts" """


@pytest.fixture(autouse=True)
def reusable(guest: Guest, tmp_path: Path) -> None:
    """A guest whose template wants that, and programs for the shell that takes this one's place."""
    guest.context["VMBATCH_REUSE"] = "yes"
    guest.functions |= {"kill": KILL, "umount": UMOUNT, "ipcrm": 'echo "$*" >>"$VMBATCH_ROOT/ipcrm"',
                        "systemctl": 'echo "$*" >>"$VMBATCH_ROOT/systemctl"'}
    guest.write("proc/mounts", MOUNTS)
    stubs = tmp_path / "stubs"
    stubs.mkdir()
    for name, text in (("ip", "echo '10.77.0.1 dev eth0 src 10.77.0.42 uid 0'"), ("modprobe", ":"), ("mount", "exit 1")):
        (stubs / name).write_text(f"#!/bin/sh\n{text}\n")
        (stubs / name).chmod(0o755)
    guest.path = f"{stubs}:{guest.path}"
    for name in ("tmp", "var/tmp", "dev/shm", "var/spool/cron/atjobs", "opt/closed"):
        (guest.root / name).mkdir(parents=True)
        (guest.root / name).chmod(0o755 if name == "opt/closed" else 0o770 if "spool" in name else 0o1777)


def begin(found: Waiting, *more: Entry) -> tuple[Guest, Port]:
    """Its first job runs."""
    guest, port, _process = found
    assert port.line().startswith("vmbatch 1 waiting ")
    port.send(context(guest, *more))
    assert port.line().startswith("vmbatch 1 announce ")
    log_in(guest)
    assert port.line().startswith("vmbatch 1 ready ")
    assert port.line() == f"vmbatch 1 busy {NONCE} 10.77.0.42"
    return guest, port


def process(guest: Guest, number: int, name: str, uid: int, state: str = "S (sleeping)") -> None:
    guest.write(f"proc/{number}/stat", f"{number} ({name}) {state[0]} 1 {number} {number} 0 -1\n")
    guest.write(f"proc/{number}/status",
                f"Name:\t{name}\nUmask:\t0022\nState:\t{state}\nTgid:\t{number}\nPid:\t{number}\nPPid:\t1\n"
                f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}\nGid:\t{uid}\t{uid}\t{uid}\t{uid}\n")


def theirs(guest: Guest, name: str, uid: int = UID) -> Path:
    path = guest.write(name, "left\n")
    if os.geteuid() == 0:
        os.chown(path, uid, uid)
    return path


def over(port: Port) -> str:
    os.write(port.node, OVER)
    return port.line()


def test_nothing_of_the_job_is_left(waiting: Waiting) -> None:
    passwd = (waiting[0].read("etc/passwd"), waiting[0].read("etc/group"), waiting[0].read("etc/shadow"))
    last = b'#!/bin/sh\n[ -e "$VMBATCH_ROOT/tmp/a" ] || echo "$VMBATCH_USER" >"$VMBATCH_ROOT/ran"\n'
    guest, port = begin(waiting, Entry("site/clean.d/1", 0o755, last), Entry("site/before.d/1", 0o755, b"#!/bin/sh\n"))
    assert "alice:" in guest.read("etc/passwd")
    for name in ("tmp/a", "tmp/-rf", "tmp/two\nlines", "var/tmp/d/e/f", "dev/shm/x", "var/spool/cron/atjobs/a1", "run/user/x"):
        theirs(guest, name)
    for name in ("tmp", "var/tmp"):
        os.mkfifo(guest.root / name / "fifo")
        (guest.root / name / "link").symlink_to("/etc")
        if os.geteuid() == 0:
            for each in ("fifo", "link"):
                os.chown(guest.root / name / each, UID, UID, follow_symlinks=False)
    if os.geteuid() == 0:
        for top in (guest.root / "var/tmp/d", guest.root / "var/tmp/d/e"):
            os.chown(top, UID, UID)
    guest.write("var/spool/cron/crontabs/alice", "* * * * * true\n")
    guest.write("var/lib/systemd/linger/alice", "")
    guest.write("home/alice/left", "left\n")
    guest.write("mnt/vmbatch/heartbeat", "old\n")
    kept = [guest.write("tmp/roots", "", 0o644), guest.write("opt/closed/file", "")]
    answer = over(port)
    assert answer == f"vmbatch 1 waiting {NONCE} 10.77.0.42"
    assert (guest.read("etc/passwd"), guest.read("etc/group"), guest.read("etc/shadow")) == passwd
    assert guest.read("ran") == "alice\n"
    if os.geteuid() == 0:
        assert sorted(path.name for path in (guest.root / "tmp").iterdir()) == ["roots"]
        assert all(path.exists() for path in kept)
    for name in ("var/tmp/d", "dev/shm/x", "var/spool/cron/atjobs/a1", "var/spool/cron/crontabs/alice", "run/user/x",
                 "var/lib/systemd/linger/alice", "home/alice", "mnt/vmbatch/heartbeat"):
        assert not (guest.root / name).exists(), name
    assert not {"job", "taken", "before.d", "after.d", "keys"} & {path.name for path in guest.base.iterdir()}
    assert guest.read("etc/hostname") == "vm-7\n"
    assert "127.0.1.1 vm-7" in guest.read("etc/hosts").splitlines()
    assert (guest.base / "home/.profile").read_text() == "welcome\n"
    assert not (guest.base / "home/left").exists()


def test_processes_and_connections_are_ended(waiting: Waiting) -> None:
    guest, port = begin(waiting)
    process(guest, 77, "sleep", UID)
    process(guest, 78, "State: Z", UID, "T (stopped)")
    process(guest, 79, "gone", UID, "Z (zombie)")
    process(guest, 80, "cron", 0)
    process(guest, 81, "sleep", UID * 10 + 1)
    for number, inode in ((90, 500), (91, 501)):
        process(guest, number, "sshd", 0)
        (guest.root / f"proc/{number}/fd").mkdir()
        (guest.root / f"proc/{number}/fd/3").symlink_to(f"socket:[{inode}]")
    process(guest, 92, "sshd-session", 0)
    process(guest, 93, "dropbear", 0)
    zeroes = "00000000:00000000 00:00000000 00000000     0        0"
    guest.write("proc/net/tcp", "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when uid  timeout inode\n"
                f"   0: 00000000:0016 00000000:0000 0A {zeroes} 500 1 0\n   1: 00000000:0016 0A4D0001:9999 01 {zeroes} 501 1 0\n")
    assert over(port).startswith("vmbatch 1 waiting ")
    killed = guest.read("killed").split()
    assert sorted(killed) == ["77", "78", "91", "92", "93"]
    assert set(killed[:3]) == {"91", "92", "93"}, "nobody may begin something behind our back"


def test_what_was_mounted_meanwhile(waiting: Waiting) -> None:
    guest, port = begin(waiting)
    guest.write("proc/mounts", f"{MOUNTS}x /mnt/user\\040s fuse.x rw 0 0\n")
    assert over(port).startswith("vmbatch 1 waiting ")
    assert guest.read("unmounted") == f"-l {guest.root}/mnt/user s\n"


def test_shared_memory_queues_and_semaphores(waiting: Waiting) -> None:
    guest, port = begin(waiting)
    head = "       key      shmid\n"
    guest.write("proc/sysvipc/shm", f"{head}0 5 600 1024 1 1 0 {UID} 7 {UID} 7 0 0 0\n0 6 600 1024 1 1 0 9 9 9 9 0 0 0\n")
    guest.write("proc/sysvipc/msg", f"{head}0 7 600 0 0 1 1 9 9 {UID} 9 0 0 0\n")
    guest.write("proc/sysvipc/sem", f"{head}0 8 600 1 {UID} 7 9 7 0 0\n0 9 600 1 9 9 9 9 0 0\n")
    assert over(port).startswith("vmbatch 1 waiting ")
    assert guest.read("ipcrm") == "-m 5\n-q 7\n-s 8\n"


def test_a_session_of_systemd_s(waiting: Waiting) -> None:
    guest, port = begin(waiting)
    (guest.root / f"run/user/{UID}").mkdir(parents=True)
    assert over(port).startswith("vmbatch 1 waiting ")
    assert guest.read("systemctl") == f"stop user-{UID}.slice user-runtime-dir@{UID}.service\n"


@pytest.mark.parametrize(("what", "said"), [
    ("mount", "/mnt/other is still mounted"), ("process", "the processes of alice do not end"),
    ("connection", "the connections of ssh do not end"), ("ipc", "status 1 while removing shared memory, queues and semaphores"),
    ("account", "the image has an account alice of its own"),
    ("number", f"the image has an account builder with the number {UID} of alice"),
    ("home", "the image has a directory /home/alice of its own"), ("site", "status 3 while running site/clean.d/1: no such luck"),
    ("file", "while removing the files of alice"), ("stubborn", "it cannot remove "),
    ("late", "processes of alice began again: 99"), ("subuid", "the image gives alice further numbers in /etc/subuid"),
])
def test_what_cannot_be_cleaned_is_told(guest: Guest, request: pytest.FixtureRequest, what: str, said: str) -> None:
    """The guest waits for no job any more."""
    more: tuple[Entry, ...] = ()
    if what == "ipc":
        guest.functions["ipcrm"] = "false"
    elif what in ("process", "connection"):
        guest.functions["kill"] = '[ "$2" -lt 100 ] || command kill -9 "$2"'
    elif what == "account":
        guest.write("etc/passwd", guest.read("etc/passwd") + "alice:x:77:77::/:/bin/false\n")
    elif what == "number":
        guest.write("etc/passwd", guest.read("etc/passwd") + f"builder:x:{UID}:77::/:/bin/false\n")
    elif what == "home":
        (guest.root / "home/alice").mkdir()
        if os.geteuid() == 0:
            os.chown(guest.root / "home/alice", UID, UID)
    elif what == "file":
        guest.functions["rm"] = 'case $* in *home/alice) return 1 ;; *) command rm "$@" ;; esac'
    elif what == "subuid":
        guest.write("etc/subuid", "bob:1:1\nalice:100000:65536\n")
    elif what == "stubborn":
        guest.functions["find"] = 'case $* in *-exec*) ;; *) command find "$@" ;; esac'
    elif what == "late":
        status = f"State: S\\nPid: 99\\nUid: {UID} {UID} {UID} {UID}\\n"
        script = f'mkdir -p "$VMBATCH_ROOT/proc/99" && printf "{status}" >"$VMBATCH_ROOT/proc/99/status"\n'
        more = (Entry("site/clean.d/1", 0o755, f"#!/bin/sh\n{script}".encode()),)
    elif what == "site":
        more = (Entry("site/clean.d/1", 0o755, b"#!/bin/sh\necho no such luck >&2\nexit 3\n"),)
    found: Waiting = request.getfixturevalue("waiting")
    _guest, port = begin(found, *more)
    if what == "mount":
        guest.write("proc/mounts", f"{MOUNTS}x /mnt/other fuse.x rw 0 0\n")
    elif what == "process":
        process(guest, 77, "sleep", UID)
    elif what == "connection":
        process(guest, 77, "sshd", 0)
    elif what == "stubborn":
        theirs(guest, "tmp/a")
    elif what == "ipc":
        guest.write("proc/sysvipc/shm", f"head\n0 5 600 1024 1 1 0 {UID} 7 {UID} 7 0 0 0\n")
    answer = over(port)
    assert answer.startswith(f"vmbatch 1 failed {NONCE} ")
    assert said in answer
    assert found[2].wait(20) == 1


def test_a_line_that_is_not_the_node_s(waiting: Waiting) -> None:
    """Whoever only looks, as the process that watches does, ends nothing."""
    guest, port = begin(waiting)
    os.write(port.node, b"anything\n")
    assert port.line() == f"vmbatch 1 busy {NONCE} 10.77.0.42"
    assert "alice:" in guest.read("etc/passwd")


def test_signs_of_life_by_the_port_that_listens(guest: Guest, request: pytest.FixtureRequest) -> None:
    """Nobody can open a port a second time; and they end with the job."""
    guest.functions.pop("kill")
    guest.context |= {"VMBATCH_HEARTBEAT": "0.1", "VMBATCH_MESSAGES": "channel"}
    found: Waiting = request.getfixturevalue("waiting")
    _guest, port, _process = found
    port.line()
    port.send(context(guest))
    port.line()
    log_in(guest)
    seen = [port.line() for _ in range(4)]
    assert f"vmbatch 1 busy {NONCE} 10.77.0.42" in seen
    assert f"vmbatch 1 heartbeat {NONCE} 1" in seen
    os.write(port.node, OVER)
    while (said := port.line()).startswith(f"vmbatch 1 heartbeat {NONCE} "):
        continue
    assert said == f"vmbatch 1 waiting {NONCE} 10.77.0.42"
    assert port.silent(0.5)


@pytest.mark.parametrize("shares", ["", "yes"])
def test_a_guest_without_the_programs_never_waits(guest: Guest, request: pytest.FixtureRequest, shares: str) -> None:
    """That is told to who makes it; one that is to have one job needs none of them."""
    guest.functions["command"] = '[ "$1" = -v ] && [ "$2" != find ] && type "$2"'
    guest.context["VMBATCH_REUSE"] = shares
    found: Waiting = request.getfixturevalue("waiting")
    said = found[1].line()
    if shares:
        assert said == f"vmbatch 1 failed {NONCE} a guest that is to have several jobs needs the program find"
    else:
        assert said.startswith("vmbatch 1 waiting ")
