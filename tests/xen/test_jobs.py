"""A whole job in a real PV guest."""

import re

import pytest

from .conftest import Dom0

pytestmark = [pytest.mark.xen, pytest.mark.usefixtures("nothing_left")]

WHO = """#!/bin/sh
id -un
cat /sys/hypervisor/type /sys/hypervisor/uuid
cat /sys/block/xvdb/ro; grep -c ' iso9660 ro' /proc/mounts
exit 7
"""


REACHES = """#!/bin/sh
nc -w 3 10.78.0.1 22 </dev/null | head -c 3
nc -w 3 10.78.0.1 111 </dev/null && echo rpcbind
"""


def test_the_guest_is_behind_a_filter(dom0: Dom0) -> None:
    """Of its own, for the address that another DHCP server than libvirt's has given it. Dom0's sshd is not for guests."""
    job = dom0.accept(REACHES, queue="busybox")
    dom0.call("start_prologue", job=job)
    assert dom0.call("finish_prologue", job=job) == "run", dom0.call("log", job=job)
    found = re.search(r"guest vmbatch-\S+-([0-9a-f]{8}) of alice is ready at (10\.78\.0\.\d+) after", dom0.call("log", job=job))
    assert found is not None
    token, address = found.groups()
    shown = dom0.run("nft", "list", "table", "bridge", "vmbatch")
    assert re.findall(r"arp saddr ip (.*) accept", shown) == [address]
    port = f"/sys/class/net/vb-{token}-0/brport"
    assert [dom0.run("cat", f"{port}/{name}") for name in ("isolated", "root_block")] == ["1\n", "1\n"]
    assert dom0.run("python3", "-c", "import socket; print(socket.create_connection(('10.78.0.1', 22)).recv(3))") == "b'SSH'\n"
    assert dom0.call("shell", job=job) == 0
    assert dom0.call("streams", job=job)[0] == "rpcbind\n"
    assert dom0.call("epilogue", job=job) == 0
    dom0.call("forget", job=job)


def test_the_guest_is_xens_and_the_jobs_own(dom0: Dom0) -> None:
    ended = dom0.play(WHO, queue="busybox")
    assert (ended.verdict, ended.status, ended.epilogue, ended.errors) == ("run", 7, 0, ""), ended.told()
    user, kind, uuid, *medium = ended.output.split()
    assert (user, kind) == ("alice", "xen")
    found = re.search(r"guest vmbatch-\S+-([0-9a-f]{8}) of alice is ready at 10\.78\.0\.\d+ after", ended.log)
    assert found is not None, ended.log
    assert uuid.startswith(found[1]), "the domain's uuid begins with the start's token, as its name ends"
    assert medium == ["1", "1"], "the medium is read-only"
