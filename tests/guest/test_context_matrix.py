"""Every way to give a guest its context, in every kind of guest, with DHCP and with a static address."""

import io
import os
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab.mom import Ended, Mom
from lab.place import MOM

from . import matrix
from .conftest import CONFIG
from .disks import DOMAINS

pytestmark = [pytest.mark.guest, pytest.mark.context_matrix, pytest.mark.usefixtures("nothing_left")]

JOB = b"""#!/bin/sh
echo user $(id -un) $(id -u) $(id -g)
echo groups $(id -G | tr ' ' '\\n' | sort -n)
echo home $HOME $(ls -ld $HOME | cut -c 1-10) $PWD
echo host $(cat /proc/sys/kernel/hostname)
for word in $(/sbin/ip -4 addr 2>/dev/null || /bin/ip -4 addr); do
    case $word in 10.77.*/24) echo address $word ;; esac
done
echo file $(cat /opt/matrix/deep/file)
exit 5
"""


@pytest.fixture(scope="module")
def root_key() -> Iterator[str]:
    """The node's key for root in guests; the base64 of its public half."""
    key = Path(matrix.KEY)
    key.parent.mkdir(mode=0o700)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    yield key.with_suffix(".pub").read_text().split()[1]
    shutil.rmtree(key.parent)


@pytest.fixture(scope="module")
def archive() -> Iterator[None]:
    """The template's archive."""
    path = DOMAINS / "matrix.tar"
    with tarfile.open(path, "w:gz") as tar:
        member = tarfile.TarInfo("deep/file")
        member.size = 8
        member.mode = 0o644
        tar.addfile(member, io.BytesIO(b"content\n"))
    yield
    path.unlink()


@pytest.fixture(scope="module", autouse=True)
def patience() -> Iterator[None]:
    """These guests boot beside other nodes' guests, which takes an emulator several times as long as alone."""
    alarm = MOM / "mom_priv/config"
    before = {path: path.read_text() for path in (CONFIG, alarm)}
    CONFIG.write_text(f"[timeouts]\nscale = 3\n{before[CONFIG]}")
    alarm.write_text("$prologalarm 900\n")
    yield
    for path, text in before.items():
        path.write_text(text)


@contextmanager
def configured(template: str) -> Iterator[None]:
    """With this template for the queue `matrix`."""
    before = CONFIG.read_text()
    matrix.write("matrix", template)
    CONFIG.write_text(before.replace("[queues]\n", '[queues]\nmatrix = "matrix.xml"\n'))
    try:
        yield
    finally:
        CONFIG.write_text(before)
        (DOMAINS / "matrix.xml").unlink()


def run(mom: Mom, template: str, script: bytes = JOB) -> Ended:
    """The job in a guest of this template."""
    with configured(template):
        return mom.run(script, queue="matrix")


def check(ended: Ended, network: str) -> None:
    """What every cell must print."""
    assert (ended.verdict, ended.status) == ("run", 5), ended.errors.decode() + ended.output.decode()
    lines = ended.output.decode().splitlines()
    assert lines[:2] == ["user alice 1500 1500", f"groups {' '.join(map(str, sorted(os.getgrouplist('alice', 1500))))}"]
    assert lines[2] == "home /home/alice drwx------ /home/alice"
    assert re.fullmatch(r"host vm-[0-9]+", lines[3])
    [address] = [int(match[1]) for line in lines if (match := re.fullmatch(r"address 10\.77\.0\.([0-9]+)/24", line))]
    assert (20 <= address < 40) == (network == "static")
    assert lines[-1] == "file content"
    assert ended.errors == b""


@pytest.mark.parametrize("network", ["dhcp", "static"])
@pytest.mark.parametrize("guest", ["busybox", "sysv", "systemd"])
@pytest.mark.parametrize("method", ["CDROM", "DISK", "ROOTSSH"])
@pytest.mark.usefixtures("archive")
def test_cell(mom: Mom, root_key: str, method: str, guest: str, network: str) -> None:
    given = root_key if method == "ROOTSSH" and guest != "systemd" else ""
    check(run(mom, matrix.template(guest, method, network, root_key=given)), network)


@pytest.mark.parametrize(("form", "network"), [("nocloud", "dhcp"), ("configdrive", "static"), ("opennebula", "static")])
@pytest.mark.usefixtures("archive")
def test_stock_image(mom: Mom, form: str, network: str) -> None:
    """Nothing of VmBatch's is in the image; cloud-init does what the medium says."""
    check(run(mom, matrix.template("stock", "CDROM", network, medium=f"format='{form}'")), network)
