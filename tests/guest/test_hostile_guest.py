"""A hostile guest, whose user has root in it, beside the guest of somebody else: each attempt, and what comes of it."""

import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab import leftover, place
from lab.mom import Job, Mom
from vmbatch import handover
from vmbatch.host import dhcp, virtnet
from vmbatch.units import Deadline

from . import attack
from .conftest import Configure, changed_configuration
from .machine import BRIDGE, SERVER, SYSTEM, Machine

pytestmark = [pytest.mark.guest, pytest.mark.hostile_guest]

HERE = Path(__file__).parent
SITE = Path("/etc/vmbatch/hostile.d")
BECOME_ROOT = "#!/bin/sh\ncp /bin/bash /usr/bin/rootsh\nchmod 4755 /usr/bin/rootsh\n"
"""Where a user brings an image, root's password is the user's to choose; here the site's script gives root away."""
SETTINGS = f'[network]\nclosed = ["{attack.CLOSED}"]\n[guest]\nscripts = "{SITE}"\n'
CONSOLE_LIMIT = 3 * (64 << 10)
"""virtlogd in the lab: two files of 64 KiB, and what it writes at once."""


class Scene:
    """Both guests after the attack; `results` has what each attempt came to, `seen` what the bystander saw."""

    def __init__(self, mom: Mom, configure: Configure, settings: str = SETTINGS) -> None:
        self.results: dict[str, str] = {}
        with configure(settings), Bystander() as bystander, socket.create_server((attack.NODE, 15002)) as batch:
            self.victim = started(mom, "busybox", "bob", b"#!/bin/sh\necho the work of $(id -un)\n")
            self.victim_address, self.victim_mac = neighbour(self.victim)
            self.hostile = started(mom, "debian", "alice", script(self.victim_address, self.victim_mac, self.victim))
            self.hostile_address, _ = neighbour(self.hostile)
            self.status = mom.start_shell(self.hostile).wait()
            for line in self.hostile.output.decode(errors="replace").splitlines():
                name, _, result = line.partition(" ")
                self.results[name] = result
            self.neighbours = subprocess.run(["ip", "neigh"], capture_output=True, text=True, check=True).stdout
            batch.setblocking(False)
            self.batch_reached = reached(batch)
            self.opened = opened(self.hostile)
            self.leases = {lease.address: lease.mac for lease in virtnet.leases(SYSTEM, "lab")}
            self.last = started(mom, "busybox", "bob", b"#!/bin/sh\nhostname\n")
            self.last_address, self.last_mac = neighbour(self.last)
            self.last_status = mom.start_shell(self.last).wait()
            self.seen = bystander.end()
            self.console = sum(path.stat().st_size for path in spool(self.hostile).glob("console.log*"))
            self.victims_files = sorted(path.name for path in (share(self.victim) / "guest").iterdir())
            self.victim_status = mom.start_shell(self.victim).wait()
            self.epilogues = [mom.start_epilogue(job).wait() for job in (self.hostile, self.victim, self.last)]
            for job in (self.hostile, self.victim, self.last):
                mom.forget(job)


def started(mom: Mom, queue: str, user: str, text: bytes) -> Job:
    job = mom.accept(text, queue=queue, user=user)
    assert mom.finish_prologue(mom.start_prologue(job)) == "run", job.errors.decode()
    return job


def script(address: str, mac: str, victim: Job) -> bytes:
    """The job's script; of the victim's place it knows all but the token."""
    known = share(victim).name.rpartition(".")[0]
    words = f"/usr/bin/rootsh -p -c 'exec python3 - {address} {mac} {known}'"
    return f"#!/bin/sh\nexec {words} <<'ATTACK'\n{(HERE / 'attack.py').read_text()}\nATTACK\n".encode()


def of_job(parent: Path, job: Job) -> Path:
    [found] = [path for path in parent.iterdir() if path.name.startswith(f"{job.id}.") or path.name.startswith(f"{job.id}@")]
    return found


def share(job: Job) -> Path:
    return of_job(place.SHARE, job)


def spool(job: Job) -> Path:
    return of_job(Path("/var/lib/vmbatch/spool"), job)


def neighbour(job: Job) -> tuple[str, str]:
    """Address and MAC of a job's guest."""
    record = handover.decode(Path(f"/run/vmbatch/handover/{job.file_id}/record").read_bytes())
    mac = re.search(r"<mac address=\"([0-9a-f:]+)\"", (spool(job) / "domain.xml").read_text())
    assert mac is not None
    return record.address, mac[1]


def mac_of(job: Job) -> str:
    """Of the guest of a job that is just being started."""
    over = Deadline(60)
    while not over.passed():
        for path in Path("/var/lib/vmbatch/spool").glob(f"{job.file_id}.*/domain.xml"):
            mac = re.search(r"<mac address=\"([0-9a-f:]+)\"", path.read_text())
            if mac is not None:
                return mac[1]
        time.sleep(0.01)
    raise TimeoutError


def opened(job: Job) -> set[str]:
    """The addresses that the filter of a job's guest lets pass, as the kernel has it; none without a filter."""
    shown = subprocess.run(["nft", "list", "ruleset", "bridge"], capture_output=True, text=True, check=True).stdout
    token = spool(job).name.rpartition(".")[2]
    chains = re.findall(rf"^\tchain from-{token}-\d+ {{\n(.*?)^\t}}$", shown, re.MULTILINE | re.DOTALL)
    return {address for text in chains for own in re.findall(r"arp saddr ip (.+) accept$", text, re.MULTILINE)
            for address in own.strip("{ }").split(", ")}


def reached(listener: socket.socket) -> bool:
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True


class Bystander:
    """Another machine on the guests' network."""

    def __enter__(self) -> "Bystander":
        self._process = subprocess.Popen(["unshare", "--net", sys.executable, HERE / "bystander.py"], text=True,
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        while Path(f"/proc/{self._process.pid}/ns/net").readlink() == Path("/proc/self/ns/net").readlink():
            time.sleep(0.01)
        for command in (f"ip link add bystander0 type veth peer name bystander netns {self._process.pid}",
                        "ip link set bystander0 master labbr0 up"):
            subprocess.run(command.split(), check=True)
        self._process.stdin.write("\n")
        self._process.stdin.close()
        assert self._process.stdout.readline() == "ready\n"
        return self

    def end(self) -> list[str]:
        """What it has seen."""
        self._process.kill()
        assert self._process.stdout is not None
        return self._process.stdout.read().splitlines()

    def __exit__(self, *_about: object) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def site_script(text: str) -> Iterator[None]:
    """What every guest runs as root, late in its boot."""
    (SITE / "epilog.d").mkdir(parents=True)
    (SITE / "epilog.d/root").write_text(text)
    (SITE / "epilog.d/root").chmod(0o755)
    try:
        yield
    finally:
        shutil.rmtree(SITE)


@pytest.fixture(scope="module")
def scene(mom: Mom) -> Scene:
    assert leftover.found() == []
    with site_script(BECOME_ROOT):
        return Scene(mom, changed_configuration)


def test_the_attack_has_run(scene: Scene) -> None:
    assert {"console", "forge", "status", "victim-ssh", "to-victim"} <= set(scene.results), scene.hostile.errors.decode()


@pytest.mark.parametrize("attempt", ["victim-ssh", "victim-nfs", "node-batch", "node-batch-from-22", "node-ssh", "server-closed",
                                     "server-as-root", "metadata"])
def test_what_a_guest_cannot_reach(scene: Scene, attempt: str) -> None:
    assert scene.results[attempt].startswith("refused: "), scene.results


def test_nobody_was_reached(scene: Scene) -> None:
    assert not scene.batch_reached
    assert {line.split()[2] for line in scene.seen if line.startswith("tcp ")} == {attack.OPEN}


def test_what_a_guest_can_reach(scene: Scene) -> None:
    """Else all the rest would prove nothing."""
    assert scene.results["server-open"] == f"connected to {attack.OPEN} port {attack.PORT}"
    assert scene.results["node-nfs"] == f"connected to {attack.NODE} port 2049"
    assert "frame <plain>" in scene.seen


FRAMES = ("mac", "arp-mac", "arp-victim", "arp-node", "address", "victims-address", "broadcast", "dhcp-answer", "router", "vlan",
          "two-vlans", "unknown", "to-victim")


@pytest.mark.parametrize("attempt", FRAMES)
def test_frames_that_nobody_gets(scene: Scene, attempt: str) -> None:
    assert scene.results[attempt] == "sent"
    assert f"frame <{attempt}>" not in scene.seen


def test_the_victims_address_stays_the_victims(scene: Scene) -> None:
    assert re.search(rf"^{re.escape(scene.victim_address)} dev labbr0 lladdr {scene.victim_mac} ", scene.neighbours, re.MULTILINE)


def test_a_lease_opens_nothing_to_a_guest_that_runs(scene: Scene) -> None:
    """Asked for by the hostile guest, in its own name and in another's, when it had given the victim's lease away."""
    assert {"inform", "release", "exhaust"} <= set(scene.results)
    assert scene.opened == {scene.hostile_address}


def test_a_guest_starts_though_all_addresses_are_given_away(scene: Scene) -> None:
    forged = [address for address, mac in scene.leases.items() if mac.startswith("52:54:00:ee:00:")]
    assert len(forged) > 100, "the attempt is worth something"
    assert scene.last_status == 0, scene.last.errors.decode()
    assert scene.last_address not in (scene.victim_address, scene.hostile_address, attack.NODE)


def test_anothers_address_before_a_guest_is_opened(mom: Mom) -> None:
    """What a guest's root can do as long as nothing but DHCP passes; done in its stead, as soon as its MAC is known."""
    victim = started(mom, "busybox", "bob", b"#!/bin/sh\necho ran\n")
    address, mac = neighbour(victim)
    hostile = mom.accept(b"#!/bin/sh\necho ran, too\n", queue="busybox")
    prologue = mom.start_prologue(hostile)
    machine = Machine()
    try:
        own = mac_of(hostile)
        dhcp.release(BRIDGE, SERVER, address, mac)
        machine.ask(own, address)
        assert mom.finish_prologue(prologue) == "requeue"
    finally:
        machine.close()
    assert f"the address {address} was taken by job {victim.id}" in hostile.errors.decode()
    assert (mom.start_shell(victim).wait(), victim.output) == (0, b"ran\n"), victim.errors.decode()
    assert [mom.start_epilogue(job).wait() for job in (hostile, victim)] == [0, 0]
    for job in (hostile, victim):
        mom.forget(job)
    assert leftover.found() == []


@pytest.mark.parametrize("who", [0, 65534, 1501])
def test_the_share_shows_no_names(scene: Scene, who: int) -> None:
    """As root, as whom root is made on the share, and as the victim's user."""
    for attempt in ("share", "home"):
        result = scene.results.get(f"{attempt}-{who}") or scene.results[attempt]
        assert result.count("refused: ") == (1 if attempt in scene.results else 2), (attempt, result)


def test_another_jobs_place_needs_its_whole_name(scene: Scene) -> None:
    assert scene.results["victims-place"].startswith("refused: ")
    assert scene.victims_files == ["announce", "ready", "times"]


def test_a_flood_of_the_console_is_bounded(scene: Scene) -> None:
    assert scene.results["console"] == "written"
    assert 0 < scene.console <= CONSOLE_LIMIT


def test_forged_messages_come_too_late(scene: Scene) -> None:
    assert scene.results["forge"] == "written"
    assert scene.epilogues == [0, 0, 0]
    assert leftover.found() == []


def test_an_exit_status_without_end(scene: Scene) -> None:
    """A status of 0 would be the guest's to give, for its own job; a flood in its place is none."""
    assert scene.results["status"] == "forged"
    assert scene.status == 255
    assert b"the connection to the job's guest was lost" in scene.hostile.errors


def test_the_victim_has_noticed_nothing(scene: Scene) -> None:
    assert (scene.victim_status, scene.victim.output) == (0, b"the work of bob\n"), scene.victim.errors.decode()


def test_without_filters_it_would_get_through(mom: Mom) -> None:
    """So the attempts are worth something. The victim's job may fail then."""
    assert leftover.found() == []
    with site_script(BECOME_ROOT):
        scene = Scene(mom, changed_configuration, SETTINGS.replace("[network]", "[network]\nfilter = false"))
    assert scene.batch_reached
    assert scene.results["server-closed"].startswith("connected to ")
    got = {attempt for attempt in FRAMES if f"frame <{attempt}>" in scene.seen}
    assert got == set(FRAMES) - {"to-victim"}, "that one is for the victim alone"
    assert scene.epilogues == [0, 0, 0]


FORGERIES = {
    "another's address": ("echo \"vmbatch 1 ready $VMBATCH_TOKEN 10.77.0.1\"", "but is ready at 10.77.0.1"),
    "another's token": (f"echo 'vmbatch 1 ready {32 * 'f'} 10.77.0.1'", "the guest wrote a message with another start's token"),
    "escape sequences": ("printf 'vmbatch 1 failed %s \\033[2J\\033]0;x\\007owned\\n' \"$VMBATCH_TOKEN\"",
                         "the guest wrote a failed message as its ready message"),
}


@pytest.mark.parametrize("what", FORGERIES)
def test_a_forged_ready_file(mom: Mom, configure: Configure, what: str) -> None:
    command, said = FORGERIES[what]
    forge = f"#!/bin/sh\n{command} >/mnt/vmbatch/.new\nmv /mnt/vmbatch/.new /mnt/vmbatch/ready\nsleep 20\n"
    with site_script(forge), configure(SETTINGS):
        ended = mom.run(b"#!/bin/sh\necho it runs\n")
    assert (ended.verdict, ended.output) == ("requeue", b"")
    assert said in ended.errors.decode()
    assert b"\x1b" not in ended.errors
    assert leftover.found() == []
