"""Guests with several interfaces and both families of addresses; and those to which libvirt's DHCP gives one."""

import contextlib
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import libvirtd
from lab.mom import Job, Mom
from vmbatch import handover
from vmbatch.units import Deadline

from . import matrix
from .machine import of, until
from .test_context_matrix import archive, configured, run
from .test_hostile_guest import mac_of, opened

__all__ = ["archive"]
pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("nothing_left", "archive")]

SCRIPT = b"""#!/bin/sh
ip addr show | sed -n 's/^ *inet6* \\([^ ]*\\) .*/\\1/p'
cat /etc/resolv.conf
grep vm- /etc/hosts
"""
SECOND = """<interface type='network'>
      <vbnetwork method='static' addresses='10.77.0.45 10.77.0.46' netmask='255.255.255.0'/>
      <source network='lab'/><model type='virtio'/><rom enabled='no'/>
    </interface>"""
SIX = "<vbnetwork method='static' first='fd00:77::20' count='16' prefix='64' dns='fd00:77::1' search='example.org'/>"


@pytest.mark.parametrize("guest", ["busybox", "systemd"])
def test_several_interfaces(mom: Mom, guest: str) -> None:
    text = matrix.template(guest, "CDROM", "static")
    text = text.replace("<source network='lab'/>", f"{SIX}<source network='lab'/>", 1).replace("<serial", f"{SECOND}<serial", 1)
    ended = run(mom, text, SCRIPT)
    assert ended.verdict == "run", ended.errors.decode()
    output = ended.output.decode()
    assert re.search(r"^10\.77\.0\.(2\d|3\d)/24$", output, re.MULTILINE)
    assert re.search(r"^10\.77\.0\.4[56]/24$", output, re.MULTILINE)
    assert re.search(r"^fd00:77::2[0-9a-f]/64$", output, re.MULTILINE)
    assert "nameserver fd00:77::1\n" in output
    assert re.search(r"^search example\.org$", output, re.MULTILINE)
    assert re.search(r"^10\.77\.0\.\d+ vm-\d+$", output, re.MULTILINE), "the guest's own name is at its own address"


def shown(job: Job, pattern: str) -> "re.Match[str]":
    """What the job's log says, once it does."""
    over, log = Deadline(60), Path(f"/var/log/vmbatch/{job.file_id}.log")
    while not over.passed():
        found = re.search(pattern, log.read_text()) if log.exists() else None
        if found is not None:
            return found
        time.sleep(0.005)
    raise TimeoutError


def own_lease(job: Job) -> str:
    """The address that DHCP has given the job's guest, once it has, as its helper writes it down: libvirtd may be away."""
    over, status = Deadline(60), Path("/var/lib/libvirt/dnsmasq/labbr0.status")
    [spool] = Path("/var/lib/vmbatch/spool").glob(f"{job.file_id}.*")
    mac = re.search(r"<mac address=\"([0-9a-f:]+)\"", (spool / "domain.xml").read_text())
    assert mac is not None
    while not over.passed():
        for lease in json.loads(status.read_text() or "[]") if status.exists() else ():
            if lease["mac-address"] == mac[1]:
                return str(lease["ip-address"])
        time.sleep(0.005)
    raise TimeoutError


@pytest.mark.parametrize("early", [True, False], ids=["gone when the guest asks", "killed as it is answered"])
def test_libvirtd_is_killed_as_the_guest_gets_its_address(mom: Mom, early: bool) -> None:
    job = mom.accept(b"#!/bin/sh\nip -4 addr show\n", queue="busybox")
    prologue = mom.start_prologue(job)
    shown(job, r"phase start \d")
    if early:
        time.sleep(1)  # so that the prologue waits for the guest, which is slower
        libvirtd.kill()
    address = own_lease(job)
    libvirtd.kill()
    time.sleep(3)
    libvirtd.start()
    assert mom.finish_prologue(prologue) == "run", job.errors.decode()
    assert opened(job) == {address}
    assert mom.start_shell(job).wait() == 0
    assert f"inet {address}/24 " in job.output.decode()
    assert mom.start_epilogue(job).wait() == 0
    mom.forget(job)


def test_leases_are_gone_behind_a_job(mom: Mom) -> None:
    job = mom.accept(b"#!/bin/sh\n", queue="busybox")
    assert mom.finish_prologue(mom.start_prologue(job)) == "run", job.errors.decode()
    mac = mac_of(job)
    assert of(mac) == opened(job)
    assert len(of(mac)) == 1
    assert mom.start_epilogue(job).wait() == 0
    mom.forget(job)
    assert until(mac, set())


def test_an_interface_that_does_not_ask_stays_closed(mom: Mom) -> None:
    text = matrix.template("busybox", "CDROM", "dhcp")
    silent = "<interface type='network'><source network='lab'/><model type='virtio'/><rom enabled='no'/></interface>"
    ended = run(mom, text.replace("<serial", f"{silent}<serial", 1), SCRIPT)
    assert ended.verdict == "run", ended.errors.decode()
    assert re.search(r"the interface \S+ has got no address from libvirt's network lab, and stays closed",
                     Path(f"/var/log/vmbatch/{ended.job.file_id}.log").read_text())


OTHERS = "<interface type='bridge'><source bridge='labbr0'/>"


def test_another_dhcp_server(mom: Mom) -> None:
    """The site's own, on a bridge of the site's: libvirt's plays it, and nobody asks libvirt. The rules see what it gives."""
    text = matrix.template("busybox", "CDROM", "dhcp").replace("<interface type='network'>", OTHERS)
    assert OTHERS in text
    with configured(text.replace("<source network='lab'/>", "")):
        job = mom.accept(SCRIPT, queue="matrix")
        assert mom.finish_prologue(mom.start_prologue(job)) == "run", job.errors.decode()
        own = opened(job)
        assert mom.start_shell(job).wait() == 0, job.errors.decode()
    assert own == set(re.findall(r"^(10\.77\.0\.\d+)/24$", job.output.decode(), re.MULTILINE)), "and no more is learned"
    assert len(own) == 1
    assert mom.start_epilogue(job).wait() == 0
    mom.forget(job)


def test_one_call_of_nft_for_each_change(mom: Mom, tmp_path: Path) -> None:
    """At start, lease and end; and none of what libvirt's own filters are made by. A node's first guest has one more."""
    assert mom.run(b"#!/bin/sh\n").verdict == "run"
    called = tmp_path / "called"
    with contextlib.ExitStack() as noted:
        for name in ("nft", "ebtables", "iptables", "ip6tables", "arptables"):
            noted.enter_context(_noted(Path(f"/usr/sbin/{name}"), tmp_path, called))
        ended = mom.run(b"#!/bin/sh\necho it runs\n")
    assert (ended.verdict, ended.output) == ("run", b"it runs\n"), ended.errors.decode()
    assert called.read_text().splitlines() == ["nft -f -"] * 3


@contextlib.contextmanager
def _noted(program: Path, place: Path, called: Path) -> Iterator[None]:
    """Each call of a program is a line in a file. Several programs may be one, which looks at its name."""
    real = place / "real" / program.name
    real.parent.mkdir(exist_ok=True)
    shutil.copy(program, real)
    noting = place / "noting"
    noting.write_text(f"#!/bin/sh\necho \"${{0##*/}} $*\" >>{called}\nexec {real.parent}/${{0##*/}} \"$@\"\n")
    noting.chmod(0o755)
    subprocess.run(["mount", "--bind", noting, program], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", program], check=True)


def sweep(*words: str) -> str:
    done = subprocess.run(["/srv/vmbatch/venv/bin/vmbatch", "sweep", *words], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_filters_that_were_flushed_are_made_again(mom: Mom) -> None:
    """As by whoever restarts the node's own firewall, while a guest is at work."""
    job = mom.accept(b"#!/bin/sh\necho it works\n", queue="busybox")
    assert mom.finish_prologue(mom.start_prologue(job)) == "run", job.errors.decode()
    address = opened(job)
    assert len(address) == 1
    with libvirtd.rules_lost():
        assert opened(job) == set()
        name = f"network filter vb-[0-9a-f]{{8}}-0 of job {re.escape(job.id)} again: its rules"
        assert re.fullmatch(f"would make the {name} have been taken away\n", sweep("--dry-run"))
        assert opened(job) == set()
        assert re.fullmatch(f"made the {name} had been taken away\n", sweep())
        assert opened(job) == address
    assert sweep() == ""
    assert (mom.start_shell(job).wait(), job.output) == (0, b"it works\n"), job.errors.decode()
    assert mom.start_epilogue(job).wait() == 0
    mom.forget(job)


def test_many_at_once_get_different_addresses(mom: Mom) -> None:
    jobs = [mom.accept(b"#!/bin/sh\necho ran\n", queue="busybox") for _ in range(3)]
    prologues = [mom.start_prologue(job) for job in jobs]
    assert [mom.finish_prologue(prologue) for prologue in prologues] == ["run"] * 3
    addresses = {handover.decode(Path(f"/run/vmbatch/handover/{job.file_id}/record").read_bytes()).address for job in jobs}
    assert len(addresses) == 3
    assert sorted(path.name for path in Path("/run/vmbatch/addresses").iterdir()) == sorted(addresses)
    for job in jobs:
        assert mom.start_epilogue(job).wait() == 0
        mom.forget(job)
