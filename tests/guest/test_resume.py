"""Guests that go on from a saved one: nobody's twin, with all that a booted one has, and booted where that cannot be."""

import json
import random
import re
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from lab import leftover
from lab.mom import Mom, kill_session
from vmbatch.host import interrupt

from . import start
from .conftest import Configure
from .start import VMBATCH, log, said, vmbatch

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("nothing_left")]

STORE = Path("/var/lib/vmbatch/store/saved")
FIRST = b"""#!/bin/sh
dd if=/dev/urandom of=/run/first bs=16 count=1 2>/dev/null
chmod 644 /run/first
"""
WHO = rb"""#!/bin/sh
exec 2>&1
echo "random $(od -An -tx1 /run/first | tr -d ' ')"
echo "name $(hostname)"
echo "machine $(cat /etc/machine-id 2>/dev/null)"
echo "clock $(date +%s)"
echo "address $(ip -4 addr | sed -n 's/.*inet \(10[0-9.]*\).*/\1/p')"
echo "mac $(cat /sys/class/net/e*/address)"
echo "user $(id -un) $(cat ~/mine 2>/dev/null)"
echo "$PBS_JOBID" >~/mine
sleep "${1:-0}"
exit 7
"""


def of(template: Path) -> list[Path]:
    """The saved guests of a template."""
    return [record.parent for record in STORE.glob("*/record")
            if json.loads(record.read_bytes())["shape"]["template"] == str(template)]


def queue(name: str, like: str, change: tuple[str, str] = ("", "")) -> AbstractContextManager[Path]:
    """A queue whose guests are those of another one, but resumed."""
    return start.queue(name, like, "<vbstart>RESUME</vbstart>", change)


@pytest.fixture(scope="module")
def saved() -> Iterator[Path]:
    """The queue `resumed`, of which a guest is saved; its template."""
    with queue("resumed", "disk") as template:
        made = vmbatch("save", str(template))
        assert made.returncode == 0, made.stderr
        yield template


@pytest.fixture
def first_bytes(scripts: Path) -> None:
    """The site has each guest keep the first random bytes that anybody gets in it, before its sshd and its user."""
    script = scripts / "prolog.d/10-first"
    script.write_bytes(FIRST)
    script.chmod(0o755)


def together(mom: Mom, count: int, name: str, seconds: int = 0) -> list[dict[str, str]]:
    """What each of some jobs at once says of itself; all end as they should."""
    jobs = [mom.accept(WHO.replace(b'"${1:-0}"', str(seconds).encode()), queue=name, user=user)
            for _, user in zip(range(count), ("alice", "bob", "alice", "bob"), strict=False)]
    prologues = [mom.start_prologue(job) for job in jobs]
    try:
        assert [mom.finish_prologue(prologue) for prologue in prologues] == ["run"] * count, [job.errors for job in jobs]
        known = [Path(f"/run/vmbatch/handover/{job.file_id}/known_hosts").read_text().split()[-1] for job in jobs]
        shells = [mom.start_shell(job) for job in jobs]
        assert [shell.wait() for shell in shells] == [7] * count, [job.errors for job in jobs]
        assert all("phase start" in text and "is booted" not in text
                   for text in (Path(f"/var/log/vmbatch/{job.file_id}.log").read_text() for job in jobs))
        return [said(job.output) | {"key": key, "job": job.id} for job, key in zip(jobs, known, strict=True)]
    finally:
        for epilogue in [mom.start_epilogue(job) for job in jobs]:
            assert epilogue.wait() == 0
        for job in jobs:
            mom.forget(job)


def check_strangers(guests: list[dict[str, str]], *, machine: bool) -> None:
    for what in ("random", "name", "address", "mac", "key", *(["machine"] if machine else [])):
        values = [guest[what] for guest in guests]
        assert all(values), what
        assert len(set(values)) == len(guests), f"{what}: {values}"
    assert all(abs(int(guest["clock"]) - time.time()) < 60 for guest in guests)
    assert [guest["user"] for guest in guests] == [user for _, user in zip(guests, ("alice ", "bob ", "alice "), strict=False)]


@pytest.mark.usefixtures("first_bytes")
def test_guests_of_one_saved_guest_are_strangers(mom: Mom, saved: Path) -> None:
    """Nor does one see what another has written to its disk."""
    time.sleep(3)  # so that a clock that stood would be late
    guests = together(mom, 2, "resumed")
    check_strangers(guests, machine=False)
    again, = together(mom, 1, "resumed")
    check_strangers([again], machine=False)
    assert again["random"] not in {guest["random"] for guest in guests}


def test_its_clock_is_right(mom: Mom, saved: Path) -> None:
    record = json.loads((of(saved)[0] / "record").read_bytes())
    assert record["made"] + 2 < time.time(), "else a clock that stood since would seem right"
    ended = mom.run(b"#!/bin/sh\ndate +%s; sleep 1; date +%s\n", queue="resumed")
    begin, end = map(int, ended.output.split())
    assert abs(begin - time.time()) < 10
    assert end - begin in (1, 2)


@pytest.mark.usefixtures("first_bytes")
def test_a_systemd_guest(mom: Mom) -> None:
    """It has a machine id, and asks DHCP by it."""
    with queue("resumedsystemd", "debian") as template:
        made = vmbatch("save", str(template))
        assert made.returncode == 0, made.stderr
        check_strangers(together(mom, 2, "resumedsystemd"), machine=True)


def test_a_guest_without_a_disk(mom: Mom) -> None:
    with queue("resumedinitramfs", "busybox") as template:
        assert vmbatch("save", str(template)).returncode == 0
        ended = mom.run(b"#!/bin/sh\necho here\n", queue="resumedinitramfs")
        assert (ended.verdict, ended.status, ended.output) == ("run", 0, b"here\n"), ended.errors.decode()
        assert "is booted" not in log(ended)


def test_a_static_address(mom: Mom) -> None:
    pool = "<vbnetwork method='static' first='10.77.0.20' count='20' prefix='24' gateway='10.77.0.1'/>"
    with queue("resumedstatic", "disk", ("<interface type='network'>", f"<interface type='network'>{pool}")) as template:
        assert vmbatch("save", str(template)).returncode == 0
        ended = mom.run(WHO, queue="resumedstatic")
        assert said(ended.output)["address"] in {f"10.77.0.{number}" for number in range(20, 40)}, ended.errors.decode()
        assert "is booted" not in log(ended)


def test_many_at_once(mom: Mom, saved: Path) -> None:
    assert len({guest["address"] for guest in together(mom, 4, "resumed", 1)}) == 4


def test_without_a_saved_guest_it_is_booted(mom: Mom) -> None:
    with queue("resumednot", "disk"):
        ended = mom.run(WHO, queue="resumednot")
        assert ended.status == 7
        assert "the guest is booted: there is no saved one that is just so; vmbatch save" in log(ended)


@pytest.mark.error("VB714")
@pytest.mark.parametrize(("what", "offset", "value"), [("version", 16, 3), ("magic", 0, 0), ("state", -1, 0)])
def test_a_saved_guest_that_is_no_good(mom: Mom, what: str, offset: int, value: int) -> None:
    """The job does not notice, the log says so, and the next job does not try again."""
    with queue("resumedbad", "disk") as template:
        assert vmbatch("save", str(template)).returncode == 0
        place, = of(template)
        record = json.loads((place / "record").read_bytes())
        with open(place / "memory", "r+b") as memory:
            if offset < 0:
                length = struct.unpack_from("=I", memory.read(92), 20)[0]
                memory.seek(92 + length)
                memory.write(bytes(1 << 16))
            else:
                memory.seek(offset)
                memory.write(struct.pack("=I", value))
        status = (place / "memory").stat()
        record["state"] = dict(zip(("device", "inode", "size", "mtime_ns"), (
            status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns), strict=True))
        (place / "record").write_text(json.dumps(record))
        ended = mom.run(WHO, queue="resumedbad")
        assert ended.status == 7, ended.errors.decode()
        assert "the guest is booted, as it cannot go on from the saved one" in log(ended)
        assert "[VB714]" in log(ended)
        assert not (place / "record").exists()


def test_one_that_was_made_with_something_else_is_not_used(mom: Mom) -> None:
    with queue("resumedold", "disk") as template:
        assert vmbatch("save", str(template)).returncode == 0
        template.write_text(template.read_text().replace("<memory unit='MiB'>192", "<memory unit='MiB'>200"))
        ended = mom.run(WHO, queue="resumedold")
        assert "there is no saved one that is just so" in log(ended)


@pytest.mark.error("VB715")
@pytest.mark.parametrize(("like", "change", "why"), [
    ("disk", ("<clock offset='utc'/>", "<clock offset='localtime'/>"), "its <clock> has another offset than 'utc'"),
    ("disk", ("<vbstart>RESUME</vbstart>", ""), "it does not say <vbstart>RESUME</vbstart>"),
])
def test_what_cannot_be_saved(like: str, change: tuple[str, str], why: str) -> None:
    with queue("resumednever", like, change) as template:
        made = vmbatch("save", str(template))
        assert made.returncode == 1
        assert why in made.stderr
        assert "[VB715]" in made.stderr
        assert not of(template)


@pytest.mark.error("VB704")
def test_a_guest_that_never_waits(configure: Configure) -> None:
    with queue("resumedsilent", "silent") as template, configure('[timeouts]\nboot = "3s"'):
        made = vmbatch("save", str(template))
        assert made.returncode == 1
        assert "has not said on its console that it waits" in made.stderr
        assert "[VB704]" in made.stderr
        assert not of(template)
        assert not list(STORE.glob("*.making"))


@pytest.mark.error("VB716")
def test_two_who_save_the_same() -> None:
    with queue("resumedtwice", "disk") as template:
        both = [subprocess.Popen([VMBATCH, "save", str(template)], stderr=subprocess.PIPE) for _ in range(2)]
        said = [process.communicate()[1].decode() for process in both]
        assert sorted(process.returncode for process in both) == [0, 1]
        assert "another vmbatch save has a guest of it saved just now (wait for its end) [VB716]" in "".join(said)
        assert len(of(template)) == 1


@pytest.mark.parametrize("number", interrupt.SIGNALS)
def test_a_save_that_is_interrupted(number: int) -> None:
    with queue("resumedstopped", "disk") as template:
        start.interrupted(number, "save", str(template))
        assert not of(template)
        assert not list(STORE.glob("*.making"))


def test_whoever_saves_can_be_killed_at_any_moment() -> None:
    chance = random.Random(7)  # noqa: S311
    with queue("resumedkilled", "disk") as template:
        for _ in range(6):
            process = subprocess.Popen([VMBATCH, "save", str(template)], stdout=subprocess.DEVNULL)
            time.sleep(chance.uniform(0.3, 6.0))
            process.kill()
            process.wait()
            assert vmbatch("sweep").returncode == 0
            assert leftover.found() == []
            assert not list(STORE.glob("*.making"))
            for place in of(template):
                shutil.rmtree(place)


def test_nothing_left_of_prologues_killed_at_random_moments(mom: Mom, saved: Path) -> None:
    """While libvirt reads the saved guest from a pipe of theirs, too; and the next one starts as if nothing had been."""
    chance = random.Random(5)  # noqa: S311
    for _ in range(8):
        job = mom.accept(WHO, queue="resumed")
        prologue = mom.start_prologue(job)
        time.sleep(chance.uniform(0.1, 2.5))
        kill_session(prologue.pid)
        prologue.wait()
        assert mom.start_epilogue(job).wait() == 0
        mom.forget(job)
        assert leftover.found() == []
    ended = mom.run(WHO, queue="resumed")
    assert ended.status == 7, ended.errors.decode()
    assert "is booted" not in log(ended)


def test_a_saved_guest_that_is_removed_under_its_jobs(mom: Mom, saved: Path) -> None:
    """Who has begun goes on; the next one boots."""
    job = mom.accept(WHO, queue="resumed")
    assert mom.finish_prologue(mom.start_prologue(job)) == "run", job.errors
    try:
        place, = of(saved)
        assert str(place) not in vmbatch("image", "prune", "--all").stdout, "it is in use"
        for path in place.iterdir():
            path.unlink()
        place.rmdir()
        assert mom.start_shell(job).wait() == 7
        assert b"user alice" in job.output
    finally:
        assert mom.start_epilogue(job).wait() == 0
        mom.forget(job)
    assert "there is no saved one" in log(mom.run(WHO, queue="resumed"))
    assert vmbatch("save", str(saved)).returncode == 0


def test_what_check_and_plan_say(saved: Path) -> None:
    place, = of(saved)
    assert f"note: the guest goes on from the saved one in {place}" in vmbatch("check", str(saved)).stdout
    shown = vmbatch("plan", str(saved), "--user", "alice", "--no-xml").stdout
    assert f"from the saved guest {place}/memory" in shown
    with queue("resumedwhy", "disk", ("<clock offset='utc'/>", "<clock offset='localtime'/>")) as other:
        assert "note: the guest is booted: its <clock> has another offset than 'utc'" in vmbatch("check", str(other)).stdout


def test_a_saved_guest_has_no_job_in_it_and_is_roots(saved: Path) -> None:
    place, = of(saved)
    modes = {path.name: path.stat().st_mode & 0o7777 for path in place.iterdir()}
    assert modes.pop("vda.qcow2") & 0o227 == 0
    assert modes == {"memory": 0o600, "record": 0o600}
    assert place.stat().st_mode & 0o7777 == 0o700
    assert b"alice" not in (place / "memory").read_bytes()


def test_what_is_made_of_it_shows(saved: Path) -> None:
    assert re.search(rf"saved +192 MiB .* {saved}", vmbatch("image", "list").stdout)
