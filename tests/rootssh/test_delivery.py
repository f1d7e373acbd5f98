"""The context sent into real guests, of OpenSSH and dropbear, of GNU tools and BusyBox: what is there afterwards, who gets in."""

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmbatch import sshargs
from vmbatch.context.rootssh import deliver
from vmbatch.context.tree import Entry
from vmbatch.errors import NodeError, SiteError
from vmbatch.host.rootssh import Connection, RootAccess

from .conftest import NONCE, context, work
from .machine import Machine, machine, make_key, public, until

SERVERS = {
    "openssh": {"server": "openssh"},
    "openssh-busybox": {"server": "openssh", "busybox": True},
    "dropbear": {"server": "dropbear"},
    "dropbear-busybox": {"server": "dropbear", "busybox": True},
}


@pytest.fixture(params=sorted(SERVERS))
def guest(request: pytest.FixtureRequest, place: Path) -> Iterator[Machine]:
    with machine(place, **SERVERS[request.param]) as made:  # type: ignore[arg-type]
        yield made


def log_in(guest: Machine, place: Path, host_key: str, command: str) -> "subprocess.CompletedProcess[str]":
    """As the job's user, with OpenSSH's client as the product calls it, and the host key that the delivery has returned."""
    handover = place / "handover"
    handover.mkdir()
    (handover / "id_ed25519").write_bytes((place / "job_key").read_bytes())
    (handover / "id_ed25519").chmod(0o600)
    (handover / "known_hosts").write_text(f"the-guest {host_key}\n")
    line = [*sshargs.client(str(handover), "the-guest"), "-p", str(guest.port), *sshargs.target("carol", "127.0.0.1"), command]
    return subprocess.run(line, capture_output=True, text=True, timeout=30, check=False)


def test_the_whole_way(guest: Machine, place: Path) -> None:
    """User, key, files and job are there; the host key is the guest's own; the epilog announces, sees the login, says ready."""
    said: list[str] = []
    long = "data/" + "/".join(["directory-with-a-long-name"] * 6) + "/ünïcode file 'quoted' $HOME"
    (place / "large").write_bytes(os.urandom(3 << 20) + b"end")
    entries = context(
        place, Entry(long, 0o640, b"long\n"), Entry("data/large", 0o755, source=str(place / "large")), Entry("data/empty", 0o644)
    )
    host_key = deliver(entries, "127.0.0.1", guest.access(), work(said=said))

    assert host_key == guest.host_key
    assert (guest.base / "failed").read_bytes() == b""
    assert re.search(r"^carol:x?\*?:1700:1700::/home/carol:/bin/bash$", (guest.root / "etc/passwd").read_text(), re.MULTILINE)
    assert (guest.base / "job/script").read_bytes() == b"#!/bin/sh\necho hello\n"
    medium = guest.base / "medium"
    assert (medium / long).read_bytes() == b"long\n"
    assert (medium / "data/large").read_bytes() == (place / "large").read_bytes()
    for name, mode, owner in (
        ("", 0o700, 0),
        ("data", 0o700, 0),
        (long, 0o640, 0),
        ("data/large", 0o755, 0),
        ("parameters.sh", 0o600, 0),
        ("kit/job.sh", 0o755, 0),
    ):
        status = (medium / name).stat()
        assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (mode, owner, owner), name
    assert not (medium / "ssh/host_key").exists()
    assert guest.base.stat().st_mode & 0o7777 == 0o755
    assert not (guest.base / "medium.new").exists()
    assert len(said) == 2
    assert re.fullmatch(rf"root's ssh to 127\.0\.0\.1 after \d\.\d{{3}} s, {re.escape(host_key)}", said[0])
    assert re.fullmatch(rf"context of {len(entries) - 2} files, \d+K in all, sent in \d\.\d{{3}} s", said[1])

    share = guest.root / "mnt/vmbatch"
    until(lambda: (share / "announce").exists())
    assert not (share / "ready").exists()
    done = log_in(guest, place, host_key, "exec /bin/sh /var/lib/vmbatch/kit/login.sh; id -un; id -G")
    assert (done.returncode, done.stderr) == (0, "")
    until(lambda: (share / "ready").exists())
    assert re.fullmatch(rf"vmbatch 1 ready {NONCE} \S+\n", (share / "ready").read_text())


def test_the_job_of_another_host_key_is_not_believed(openssh: Machine, place: Path) -> None:
    """What `deliver` returned is what the user's login is checked against."""
    deliver(context(place), "127.0.0.1", openssh.access(), work())
    done = log_in(openssh, place, public(make_key(place / "another")), "true")
    assert done.returncode == 255
    assert "Host key verification failed" in done.stderr


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_types_of_host_keys(place: Path, kind: str) -> None:
    with machine(place, kind=kind) as guest, Connection("127.0.0.1", guest.access(), work()) as connection:
        assert connection.host_key == guest.host_key
        assert connection.run("exec id -u").lines == ("0",)


@pytest.mark.parametrize(
    "kind, more", [("ed25519", ()), ("ecdsa", ("-b", "384")), ("rsa", ()), ("rsa", ("-m", "PEM")), ("ecdsa", ("-m", "PEM"))]
)
def test_types_of_root_keys(openssh: Machine, place: Path, kind: str, more: tuple[str, ...]) -> None:
    openssh.key = make_key(place / "other_key", kind, *more)
    openssh.trust()
    with Connection("127.0.0.1", openssh.access(), work()) as connection:
        assert connection.run("exec id -u").lines == ("0",)


def test_several_pinned_keys(openssh: Machine, place: Path) -> None:
    """An image may be older than its newest key."""
    others = public(make_key(place / "one")), public(make_key(place / "two", "rsa"))
    with Connection("127.0.0.1", openssh.access(*others, openssh.host_key + " root@guest"), work()) as connection:
        assert connection.host_key == openssh.host_key


def test_first_use(openssh: Machine, place: Path) -> None:
    assert deliver(context(place), "127.0.0.1", openssh.access(first_use=True), work()) == openssh.host_key


def test_twice(guest: Machine, place: Path) -> None:
    """A second delivery ends what the first one has left at work, and leaves nothing of its files."""
    entries = context(place)
    deliver([*entries, Entry("data/first", 0o644, b"first")], "127.0.0.1", guest.access(), work())
    until(lambda: (guest.root / "mnt/vmbatch/announce").exists())
    (guest.base / "medium.new").mkdir()
    (guest.base / "medium.new/partial").write_text("of a delivery that was dropped")
    deliver([*entries, Entry("data/second", 0o644, b"second")], "127.0.0.1", guest.access(), work())
    assert [path.name for path in (guest.base / "medium/data").iterdir()] == ["second"]
    assert not (guest.base / "medium/partial").exists()
    assert not (guest.base / "medium.new").exists()
    until(lambda: epilogs(guest) == 1)
    time.sleep(0.3)
    assert epilogs(guest) == 1
    done = log_in(guest, place, guest.host_key, "exec /bin/sh /var/lib/vmbatch/kit/login.sh")
    assert done.returncode == 0
    until(lambda: epilogs(guest) == 0)
    assert (guest.root / "etc/passwd").read_text().count("carol:x:1700") == 1


def epilogs(guest: Machine) -> int:
    """Those at work, each of which is its group's first: a shell has children that for a moment look as it does."""
    processes = [line.split(maxsplit=2) for line in guest.inside("ps", "-eo", "pid=,pgid=,args=").splitlines()]
    return sum(pid == group for pid, group, words in processes if "medium/epilog.sh start" in words)


def test_a_list_of_another_boot_is_not_obeyed(openssh: Machine, place: Path) -> None:
    """The image may have been saved with it: its numbers mean other processes now."""
    bystander = subprocess.Popen(["nsenter", f"--target={openssh.pid}", "--mount", "--pid", "setsid", "sleep", "60"])
    try:
        until(lambda: any(line == "sleep 60" for line in openssh.processes()))
        pid = openssh.inside("pgrep", "-f", "^sleep 60$").strip()
        (openssh.base / "rootssh.groups").write_text(f"00000000-0000-4000-8000-000000000000 {pid}\ngarbage\n1 1\n")
        deliver(context(place), "127.0.0.1", openssh.access(), work())
        assert "sleep 60" in openssh.processes()
    finally:
        bystander.kill()
        bystander.wait()


def test_a_prolog_that_fails(guest: Machine, place: Path) -> None:
    """Its own words come back, and there is no epilog."""
    script = Entry("site/prolog.d/10-site", 0o755, b"#!/bin/sh\necho noise\necho 'no such licence server' >&2\nexit 3\n")
    with pytest.raises(SiteError) as caught:
        deliver(context(place, script), "127.0.0.1", guest.access(), work())
    assert caught.value.what == (
        "the guest could not prepare itself for the job: status 3 while running site/prolog.d/10-site: no such licence server"
    )
    assert caught.value.detail == ()
    assert epilogs(guest) == 0
    assert not (guest.root / "mnt/vmbatch").exists()


def test_a_prolog_that_is_killed(openssh: Machine, place: Path) -> None:
    script = Entry("site/prolog.d/10-site", 0o755, b"#!/bin/sh\nkill -9 $PPID\n")
    with pytest.raises(SiteError) as caught:
        deliver(context(place, script), "127.0.0.1", openssh.access(), work())
    assert caught.value.what == "the guest could not prepare itself for the job: prolog.sh did not finish"


def test_a_full_disk(guest: Machine, place: Path) -> None:
    """The unpacking ends before all has been sent; its reason comes back at once."""
    guest.inside("mount", "-t", "tmpfs", "-o", "size=4m", "x", "/var/lib/vmbatch")
    (place / "large").write_bytes(bytes(40 << 20))
    begin = time.monotonic()
    with pytest.raises(SiteError) as caught:
        deliver(context(place, Entry("data/large", 0o644, source=str(place / "large"))), "127.0.0.1", guest.access(), work())
    assert time.monotonic() - begin < 20
    assert caught.value.what.startswith("the context cannot be unpacked in the guest: tar: ")
    assert re.search("No space left on device|Wrote only [0-9]+ of [0-9]+ bytes", caught.value.what)


def test_no_tar(openssh: Machine, place: Path) -> None:
    openssh.inside("mount", "--bind", "/dev/null", "/usr/bin/tar")
    with pytest.raises(SiteError) as caught:
        deliver(context(place), "127.0.0.1", openssh.access(), work())
    assert caught.value.what.startswith("the context cannot be unpacked in the guest: ")
    assert caught.value.what.endswith("Permission denied")


def test_an_image_that_wants_no_root(openssh: Machine, place: Path) -> None:
    """What cloud-init writes in front of root's key."""
    openssh.trust(
        'no-port-forwarding,command="echo \'Please login as the user \\"debian\\" rather than the user \\"root\\".\';'
        'echo;sleep 0.1;exit 142"'
    )
    with pytest.raises(SiteError) as caught:
        deliver(context(place), "127.0.0.1", openssh.access(), work())
    assert caught.value.what == (
        'the context cannot be unpacked in the guest: Please login as the user "debian" rather than the user "root".'
    )
    assert caught.value.hint == "its image lets nobody work as root: see disable_root in its /etc/cloud/cloud.cfg"


def test_a_key_that_is_installed_late(openssh: Machine, place: Path) -> None:
    keys = openssh.root / "root/.ssh/authorized_keys"
    keys.unlink()
    said: list[str] = []

    def alive() -> None:
        if said and not keys.exists():
            openssh.trust()

    assert deliver(context(place), "127.0.0.1", openssh.access(), work(30, alive, said)) == openssh.host_key
    assert said[0].startswith("ssh to 127.0.0.1: its sshd refuses root's key ssh-ed25519 SHA256:")


def test_only_old_algorithms(place: Path) -> None:
    """An sshd of the time of EL5 and EL6: SHA-1 signatures alone."""
    with machine(place, kind="rsa", more="HostKeyAlgorithms ssh-rsa") as guest:
        with pytest.raises(SiteError) as caught, Connection("127.0.0.1", guest.access(first_use=True), work(20)):
            pass
        assert caught.value.what == (
            "the guest's sshd at 127.0.0.1 and VmBatch have no algorithm in common: "
            "Incompatible ssh peer (no acceptable host key)"
        )
        assert caught.value.hint == "it may be too old, with SHA-1 alone: use CDROM or DISK for such a guest"


def test_an_sshd_that_is_started_late(place: Path) -> None:
    said: list[str] = []
    with machine(place, start=False) as guest:

        def alive() -> None:
            if said:
                guest.go()

        assert deliver(context(place), "127.0.0.1", guest.access(), work(30, alive, said)) == guest.host_key
    assert said[0] == "ssh to 127.0.0.1: connection refused; trying again"


def test_dropped_while_sending(openssh: Machine, place: Path) -> None:
    """The guest's end of the connection is killed in the middle; the delivery begins anew and is whole."""
    (place / "large").write_bytes(bytes(60 << 20))
    said: list[str] = []
    killed: list[float] = []

    def alive() -> None:
        if not killed and (openssh.base / "medium.new/data/large").exists():
            openssh.drop()
            killed.append(time.monotonic())

    entries = context(place, Entry("data/large", 0o644, source=str(place / "large")))
    assert deliver(entries, "127.0.0.1", openssh.access(first_use=True), work(60, alive, said)) == openssh.host_key
    assert len(killed) == 1
    assert said[1] == "the ssh connection to the guest at 127.0.0.1 was dropped; the context is sent anew"
    assert (openssh.base / "medium/data/large").stat().st_size == 60 << 20


def test_dropped_while_the_prolog_runs(openssh: Machine, place: Path) -> None:
    """The prolog of the first delivery is ended by the second one, and so does nothing to its files."""
    slow = b"#!/bin/sh\n[ -e /mnt/once ] && exit 0\n: >/mnt/once\nsleep 3\necho late >/mnt/late\n"
    script = Entry("site/prolog.d/10-slow", 0o755, slow)
    killed: list[float] = []

    def alive() -> None:
        if not killed and (openssh.root / "mnt/once").exists():
            openssh.drop()
            killed.append(time.monotonic())

    assert deliver(context(place, script), "127.0.0.1", openssh.access(), work(60, alive)) == openssh.host_key
    assert len(killed) == 1
    until(lambda: epilogs(openssh) == 1)
    time.sleep(max(0.0, killed[0] + 3.5 - time.monotonic()))
    assert not (openssh.root / "mnt/late").exists()


def test_another_host_key_after_a_drop(openssh: Machine, place: Path) -> None:
    """First use is for the first connection; whoever answers the next one must be the same."""
    (place / "large").write_bytes(bytes(60 << 20))
    other = make_key(place / "host_other")
    changed: list[float] = []

    def alive() -> None:
        if not changed and (openssh.base / "medium.new/data/large").exists():
            changed.append(time.monotonic())
            os.replace(other, place / "host_ed25519")
            openssh.inside("pkill", "-HUP", "-o", "-x", "sshd")
            time.sleep(0.3)
            openssh.drop()

    with pytest.raises(SiteError) as caught:
        deliver(
            context(place, Entry("data/large", 0o644, source=str(place / "large"))),
            "127.0.0.1",
            openssh.access(first_use=True),
            work(60, alive),
        )
    assert caught.value.what.startswith("the guest at 127.0.0.1 shows another host key than the pinned one: ssh-ed25519 SHA256:")


def test_a_source_that_cannot_be_read(openssh: Machine, place: Path) -> None:
    for source, what in (
        (place / "none", f"{place}/none cannot be read: No such file or directory"),
        (place, f"{place} cannot be read: Is a directory"),
        (Path("/dev/zero"), "/dev/zero is not a regular file"),
    ):
        with pytest.raises(NodeError) as caught:
            deliver(context(place_of(place), Entry("x", 0o644, source=str(source))), "127.0.0.1", openssh.access(), work())
        assert caught.value.what == what


def place_of(place: Path) -> Path:
    """A fresh directory for the keys of another context."""
    made = place / f"context-{time.monotonic_ns()}"
    made.mkdir()
    return made


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../b", "", ".", "a//b", "a/", "./a", "a\nb", "a/./b", ".."])
def test_names_that_lead_elsewhere(place: Path, name: str) -> None:
    with pytest.raises(SiteError) as caught:
        deliver([Entry(name, 0o644)], "127.0.0.1", RootAccess(key=str(place / "none"), first_use=True), work(1))
    assert caught.value.what == f"the context cannot have a file {name!r}"


@pytest.mark.parametrize("names", [("a", "a"), ("a", "a/b"), ("a/b", "a")])
def test_names_that_are_there_twice(place: Path, names: tuple[str, str]) -> None:
    with pytest.raises(SiteError) as caught:
        deliver([Entry(name, 0o644) for name in names], "127.0.0.1", RootAccess(key=str(place / "none"), first_use=True), work(1))
    assert caught.value.what == f"the context would have {names[1]!r} twice"
