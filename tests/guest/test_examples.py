"""Every template of examples/domains that can boot without KVM and the net runs a job, with the lab's image and network."""

import gzip
import hashlib
import io
import lzma
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.mom import Ended, Mom

from . import examples
from .conftest import CONFIG
from .disks import DOMAINS, served
from .examples import EMULATED, IMAGES, NETWORK, booting, convert, place
from .matrix import directory

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("nothing_left", "images")]

CHECK = "/srv/vmbatch/venv/bin/vmbatch"
WHO = "id -un; cat /proc/sys/kernel/hostname"
KVM = {**EMULATED, **NETWORK}


@pytest.fixture
def images() -> Iterator[None]:
    """The directory of the site's images, and the store, are as before afterwards."""
    yield
    for made in (IMAGES, Path("/var/lib/vmbatch/store")):
        shutil.rmtree(made, ignore_errors=True)


def run(mom: Mom, name: str, changes: examples.Changes, script: str = "", settings: str = "", other: str = "",
        commands: tuple[str, ...] = ()) -> Ended:
    """`vmbatch check` of the example, then a job with it: the output's first two lines are the user's and the guest's names.

    `commands` of vmbatch's are run with the template before the job.
    """
    template, before = DOMAINS / f"example-{name}.xml", CONFIG.read_text()
    template.write_text(examples.text(name, changes))
    CONFIG.write_text(before.replace("[queues]\n", f'[queues]\nexample = "example-{name}.xml"\n')
                      + f"\n{settings}")
    try:
        checked = subprocess.run([CHECK, "check", template], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
        assert ": right, for " in checked.stdout
        for command in commands:
            subprocess.run([CHECK, *command.split(), template], check=True)
        ended = mom.run(f"#!/bin/sh\n{WHO}\n{script}\nexit 7\n".encode(), queue="example", other=other)
    finally:
        CONFIG.write_text(before)
        template.unlink()
    assert (ended.verdict, ended.status, ended.errors) == ("run", 7, b""), ended.errors.decode() + ended.output.decode()
    assert re.match(r"alice\nvm-[0-9]+\n", ended.output.decode())
    return ended


def rest(ended: Ended) -> list[str]:
    """What the script itself wrote."""
    return ended.output.decode().splitlines()[2:]


def test_debian_kvm(mom: Mom) -> None:
    place("debian-12.qcow2", "debian")
    ended = run(mom, "debian-kvm", {**KVM, **booting("debian")}, ". /etc/os-release; echo $ID $VERSION_ID; nproc")
    assert rest(ended) == ["debian 12", "2"]


def test_resume(mom: Mom) -> None:
    place("debian-12.qcow2", "debian")
    ended = run(mom, "resume", {**KVM, **booting("debian")}, "cat /etc/machine-id", commands=("save",))
    assert re.fullmatch("[0-9a-f]{32}", rest(ended)[0])
    assert "is booted" not in Path(f"/var/log/vmbatch/{ended.job.file_id}.log").read_text()


def test_pool(mom: Mom) -> None:
    place("debian-12.qcow2", "debian")
    ended = run(mom, "pool", {**KVM, **booting("debian"), " size='2'": ""}, "cat /etc/machine-id", commands=("pool refill",))
    assert re.fullmatch("[0-9a-f]{32}", rest(ended)[0])
    assert "phase take" in Path(f"/var/log/vmbatch/{ended.job.file_id}.log").read_text()


def test_debian_direct_kernel(mom: Mom) -> None:
    """As it is, but for network and memory: it is for emulation, and names the kernel."""
    place("debian-12.raw", "debian")
    for name, image in (("debian-12.vmlinuz", "vmlinux"), ("debian-12.initrd", "initrd.cpio")):
        shutil.copyfile(directory("debian") / image, IMAGES / name)
        (IMAGES / name).chmod(0o644)
    small = {"<memory unit='GiB'>2</memory>": "<memory unit='MiB'>768</memory>"}
    assert rest(run(mom, "debian-direct-kernel", {**NETWORK, **small}, ". /etc/os-release; echo $ID")) == ["debian"]


def test_cloud_image(mom: Mom, tmp_path: Path) -> None:
    """A server has the image; nothing of VmBatch's is in it."""
    tmp_path.chmod(0o755)
    convert(directory("stock") / "disk.raw", tmp_path / "debian-12-genericcloud-amd64.qcow2")
    with served(tmp_path) as url:
        ended = run(mom, "cloud-image", {**KVM, **booting("stock", "root=/dev/vda1 ro"),
                                         "https://cloud.debian.org/images/cloud/bookworm/latest": url},
                    "[ -e /usr/local/sbin/vmbatch-guest ] || echo stock")
    assert rest(ended) == ["stock"]


def test_copy(mom: Mom) -> None:
    place("debian-12.raw", "busybox")
    run(mom, "copy", {**KVM, **booting("busybox")})


def test_disk_context(mom: Mom) -> None:
    place("debian-12.qcow2", "bare")
    ended = run(mom, "disk-context", {**KVM, **booting("bare")}, "ls /sys/class/block | grep -c '^vdb' || :")
    assert rest(ended) == ["0"], "no medium"


def test_download(mom: Mom, tmp_path: Path) -> None:
    """One mirror is down; the second disk comes from a server of its own."""
    tmp_path.chmod(0o755)
    convert(directory("busybox") / "disk.raw", tmp_path / "disk.qcow2")
    packed = tmp_path / "debian-12.qcow2.xz"
    packed.write_bytes(lzma.compress((tmp_path / "disk.qcow2").read_bytes(), preset=0))
    (tmp_path / "current").write_bytes(gzip.compress(b"calibrated".ljust(1 << 20, b"\0")))
    digest = hashlib.sha256(packed.read_bytes()).hexdigest()
    with served(tmp_path) as url:
        ended = run(mom, "download", {
            **KVM, **booting("busybox"), "https://images.example.org/vm": "http://127.0.0.1:9",
            "https://mirror.example.net/vm": url, "https://calibration.example.org": url,
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855": digest}, "cat /sys/block/vdc/size")
    assert rest(ended) == ["2048"]


def test_homes(mom: Mom) -> None:
    """The lab's kernel for OpenSSH's guest has no 9p: the software comes by virtiofs (9p itself: test_shares.py)."""
    place("debian-12.qcow2", "debian")
    software = Path("/srv/software")
    software.mkdir()
    (software / "tool").write_text("of the node\n")
    try:
        ended = run(mom, "homes", {
            **KVM, **booting("debian"), "nfs.example.org:/home": "10.77.0.1:/home",
            "<vbshare type='9p' source='/srv/software' target='/opt/software' readonly='yes'/>":
                "<vbshare type='virtiofs' source='/srv/software' target='/opt/software'/>"},
            "cat /opt/software/tool; grep -c ' /home nfs4 ' /proc/mounts")
    finally:
        shutil.rmtree(software)
    assert rest(ended) == ["of the node", "1"]


def test_no_network(mom: Mom) -> None:
    place("debian-12.qcow2", "busybox")
    assert rest(run(mom, "no-network", {**EMULATED, **booting("busybox")}, "ls /sys/class/net")) == ["lo"]


@pytest.fixture
def mounted_cache(scripts: Path) -> None:
    """A script of the site's mounts the disk in every guest."""
    (scripts / "prolog.d/10-cache").write_text("#!/bin/sh\nmkdir /cache && mount -t ext4 /dev/vdc /cache && chmod 777 /cache\n")
    (scripts / "prolog.d/10-cache").chmod(0o755)


@pytest.mark.usefixtures("mounted_cache")
def test_once(mom: Mom) -> None:
    """What the first job leaves in the cache is there for the second one."""
    place("debian-12.qcow2", "busybox")
    changes = {**KVM, **booting("busybox"), "size='20480'": "size='64'"}
    script = "[ ! -e /cache/left ] || cat /cache/left; echo found > /cache/left; sync"
    assert rest(run(mom, "once", changes, script)) == []
    assert rest(run(mom, "once", changes, script)) == ["found"]


def test_requests(mom: Mom) -> None:
    """A file into the guest, a result back."""
    place("debian-12.qcow2", "busybox")
    mine = Path("/home/alice/example-data")
    mine.write_text("sent\n")
    shutil.chown(mine, "alice", "alice")
    result = Path("/home/alice/example-result")
    try:
        ended = run(mom, "requests", {**KVM, **booting("busybox")}, "cat example-data; echo back > example-result",
                    other="vbstagein=example-data;vbstageout=example-result")
        assert (rest(ended), result.read_text()) == (["sent"], "back\n")
    finally:
        mine.unlink()
        result.unlink(missing_ok=True)


def test_rootssh(mom: Mom) -> None:
    """The lab's guest makes its host key at its boot, so nobody knows it before, and gets root's key by the kernel's line."""
    place("debian-12.qcow2", "bare")
    key = Path("/etc/vmbatch/root_key")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    try:
        public = key.with_suffix(".pub").read_text().split()[1]
        [known] = re.findall(r"hostkey='[^']*'", (examples.FOLDER / "rootssh.xml").read_text())
        run(mom, "rootssh", {**KVM, **booting("bare", f"root=/dev/vda1 rw lab.rootkey={public}"), known: "firstuse='yes'"})
    finally:
        key.unlink()
        key.with_suffix(".pub").unlink()


def test_scratch(mom: Mom) -> None:
    place("debian-12.qcow2", "busybox")
    ended = run(mom, "scratch", {**KVM, **booting("busybox"), "size='20480'": "size='64'", "size='4096'": "size='32'"},
                "cat /sys/block/vdc/size /sys/block/vdd/size")
    assert rest(ended) == [str(64 << 11), str(32 << 11)]


def test_shared_readonly(mom: Mom) -> None:
    place("debian-12.qcow2", "busybox")
    (IMAGES / "reference-data.raw").write_bytes(b"of the site\n".ljust(1 << 20, b"\0"))
    (IMAGES / "reference-data.raw").chmod(0o644)
    ended = run(mom, "shared-readonly", {**KVM, **booting("busybox")}, "cat /sys/block/vdb/ro /sys/block/vdb/size")
    assert rest(ended) == ["1", str((1 << 20) // 512)]


def test_static_network(mom: Mom) -> None:
    place("debian-12.qcow2", "busybox")
    ended = run(mom, "static-network", {
        **EMULATED, **booting("busybox"), "<source bridge='br0'/>": "<source bridge='labbr0'/>",
        "first='10.1.0.100' count='50'": "first='10.77.0.20' count='20'", "='10.1.0.1'": "='10.77.0.1'"},
        "ip -4 addr | sed -n 's/^ *inet \\(10[^ ]*\\) .*/\\1/p'; cat /etc/resolv.conf")
    address, *resolver = rest(ended)
    assert re.fullmatch(r"10\.77\.0\.[23]\d/24", address)
    assert {"nameserver 10.77.0.1", "search example.org"} <= set(resolver)


def test_user_image(mom: Mom) -> None:
    """The site's image is none that boots, so that it is alice's that did; and her data are the second disk."""
    for name, size in (("debian-12.qcow2", 4), ("no-data.vhd", 4)):
        blank = IMAGES.parent / "blank.raw"
        blank.write_bytes(b"\0" * (size << 20))
        convert(blank, IMAGES / name)
        blank.unlink()
    mine, data = Path("/home/alice/my.qcow2"), Path("/home/alice/events.raw")
    convert(directory("busybox") / "disk.raw", mine)
    data.write_bytes(b"\0" * (2 << 20))
    for path in (mine, data):
        shutil.chown(path, "alice", "alice")
    try:
        ended = run(mom, "user-image", {**KVM, **booting("busybox")}, "cat /sys/block/vdc/size",
                    settings='\n[userimages]\nsources = ["/home/"]\n', other=f"vbuserimage={mine};vbdata={data}")
    finally:
        mine.unlink()
        data.unlink()
    assert rest(ended) == [str(2 << 11)]


def test_with_archives(mom: Mom) -> None:
    """One archive is in the guest, the other one on the medium, which is a CD-ROM here: that works, too."""
    cdrom = {"<disk type='file' device='disk'>\n      <driver name='qemu' type='raw'/>":
                 "<controller type='scsi' model='virtio-scsi'/><disk type='file' device='cdrom'><driver name='qemu' type='raw'/>",
             "<target dev='vdb' bus='virtio'/>": "<target dev='sda' bus='scsi'/>"}
    place("debian-12.qcow2", "busybox")
    calibration = Path("/srv/vmbatch/archives/calibration.tar.gz")
    calibration.parent.mkdir()
    for path, name in ((DOMAINS / "site-1.4.tar", "site-1.4/bin/tool"), (calibration, "run/7")):
        with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(name), 0o644
            tar.addfile(member, io.BytesIO(name.encode()))
    try:
        ended = run(mom, "with-archives", {**KVM, **booting("busybox"), **cdrom},
                    "cat /opt/site/bin/tool; echo; ls /sys/block | grep sr")
    finally:
        (DOMAINS / "site-1.4.tar").unlink()
        shutil.rmtree(calibration.parent)
    assert rest(ended) == ["site-1.4/bin/tool", "sr0"]
