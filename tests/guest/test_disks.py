"""Every way to a disk, in real guests: what docs/disks.md promises."""

import bz2
import gzip
import hashlib
import lzma
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from lab.mom import Ended, Mom
from tests.signature.authority import SUBJECT, Authority, padded, signed
from vmbatch.disk import layout
from vmbatch.format import vhd

from .disks import image, queue, root_disk, second_disk, served

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("nothing_left", "clean_store")]

STORE = Path("/var/lib/vmbatch/store")
SCRIPTS = Path("/etc/vmbatch/guest.d")
WHERE = b"#!/bin/sh\nwhile read device place kind rest; do [ $place != / ] || echo $device $kind; done < /proc/mounts\n"
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": lambda data: gzip.compress(data, 1), "bz2": lambda data: bz2.compress(data, 1),
    "xz": lambda data: lzma.compress(data, preset=0), "zst": zstandard.compress,
}
FROM_DISK = b"/dev/vda1 ext4\n"


@pytest.fixture
def clean_store() -> Iterator[None]:
    """The store is empty before and after."""
    shutil.rmtree(STORE, ignore_errors=True)
    yield
    shutil.rmtree(STORE, ignore_errors=True)


@pytest.fixture
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory of root's for images, readable for all."""
    path = Path("/srv/vmbatch/own")
    path.mkdir(mode=0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def at_boot() -> Iterator[Path]:
    """A script of the site's that guests run as root before the job."""
    (SCRIPTS / "prolog.d").mkdir(parents=True)
    yield SCRIPTS / "prolog.d/10-disk"
    shutil.rmtree(SCRIPTS)


def convert(form: str, source: Path, target: Path, *options: str) -> Path:
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", form, *options, source, target], check=True)
    target.chmod(0o644)
    return target


def booted(ended: Ended) -> None:
    assert ended.output == FROM_DISK, ended.errors.decode()
    assert (ended.verdict, ended.status, ended.epilogue) == ("run", 0, 0)


def domain_of(job_log: Ended) -> str:
    return Path(f"/var/log/vmbatch/{job_log.job.file_id}.log").read_text()


@pytest.mark.parametrize("form", ["qcow2", "qcow", "qemu-img-qcow2", "qcow-create-qcow"])
def test_overlay_on_a_raw_image(mom: Mom, form: str) -> None:
    before = hashlib.sha256(image().read_bytes()).digest()
    with queue("overlay", root_disk(f"source='{image()}' copy_method='cow' format='{form}'")) as name:
        ended = mom.run(WHERE, queue=name)
    booted(ended)
    assert ("qcow-create is not on this node; VmBatch writes qcow itself" in domain_of(ended)) == (form == "qcow-create-qcow")
    assert hashlib.sha256(image().read_bytes()).digest() == before


@pytest.mark.parametrize(("form", "driver"), [("qcow2", "qcow2"), ("qcow", "qcow"), ("vpc", "vhd")])
@pytest.mark.parametrize("method", ["copy", "cow"])
def test_image_of_each_format(mom: Mom, images: Path, form: str, driver: str, method: str) -> None:
    made = convert(form, image(), images / f"disk.{form}", *(["-o", "force_size=on"] if form == "vpc" else []))
    with queue("formats", root_disk(f"source='{made}' copy_method='{method}' source_format='{driver}'")) as name:
        booted(mom.run(WHERE, queue=name))


def test_raw_copy(mom: Mom) -> None:
    with queue("copied", root_disk(f"source='{image()}' copy_method='copy'")) as name:
        booted(mom.run(WHERE, queue=name))


def test_differencing_vhd_is_made_flat_or_refused(mom: Mom, images: Path) -> None:
    parent = convert("vpc", image(), images / "parent.vhd", "-o", "force_size=on")
    child = images / "child.vhd"
    with open(parent, "rb") as file:
        known = vhd.parse(lambda offset, length: os.pread(file.fileno(), length, offset), parent.stat().st_size)
    layout.write(str(child), vhd.differencing(
        known.size, uuid.uuid4(), 1_700_000_000, known, str(parent), str(child), int(parent.stat().st_mtime)), 0o644)
    with queue("flat", root_disk(f"source='{child}' copy_method='copy'", "vpc")) as name:
        booted(mom.run(WHERE, queue=name))
    with queue("flat", root_disk(f"source='{child}' copy_method='cow'", "vpc")) as name:
        ended = mom.run(WHERE, queue=name)
    assert ended.verdict == "requeue"
    assert "the image is a differencing VHD, and QEMU would not read its parents" in ended.errors.decode()


@pytest.mark.parametrize("method", ["shared", "download", "copy", "cow"])
def test_downloaded_and_hashed(mom: Mom, images: Path, method: str) -> None:
    packed = images / "disk.raw.gz"
    packed.write_bytes(gzip.compress(image().read_bytes(), 1))
    digest = hashlib.sha256(packed.read_bytes()).hexdigest()
    check = f"<vbcheckhash hashfunction='sha256' hashvalue='{digest}'/>"
    with served(images) as url:
        with queue("net", root_disk(f"source='{url}/disk.raw.gz' copy_method='{method}'", more=check)) as name:
            ended = mom.run(WHERE, queue=name)
            booted(ended)
        kept = list((STORE / "site/content").iterdir()) if (STORE / "site/content").exists() else []
        assert len(kept) == (0 if method == "download" else 1)
    if method == "download":
        return
    with queue("net", root_disk(f"source='{url}/disk.raw.gz' copy_method='{method}'", more=check)) as name:
        booted(mom.run(WHERE, queue=name))  # the server has gone, the image has not


@pytest.mark.parametrize("compression", ["gz", "bz2", "xz", "zst"])
def test_packed_in_each_way(mom: Mom, images: Path, compression: str) -> None:
    qcow2 = convert("qcow2", image(), images / "disk.qcow2")
    (images / "packed").write_bytes(PACKERS[compression](qcow2.read_bytes()))
    qcow2.unlink()
    disk = "source='{}/packed' copy_method='shared' source_format='qcow2' compression='{}'"
    with served(images) as url, queue("packed", root_disk(disk.format(url, compression))) as name:
        booted(mom.run(WHERE, queue=name))


def test_the_next_mirror(mom: Mom, images: Path) -> None:
    shutil.copy(image(), images / "disk.raw")
    with served(images) as url:
        places = f"http://127.0.0.1:9/disk.raw {url}/missing.raw {url}/disk.raw"
        with queue("mirrors", root_disk(f"source='{places}' copy_method='shared'")) as name:
            booted(mom.run(WHERE, queue=name))
    with queue("mirrors", root_disk("source='http://127.0.0.1:9/a.raw http://127.0.0.1:9/b.raw' copy_method='shared'")) as name:
        ended = mom.run(WHERE, queue=name)
    assert ended.verdict == "requeue"
    assert "no server has the image: http://127.0.0.1:9/a.raw" in ended.errors.decode()


def test_a_file_url(mom: Mom) -> None:
    with queue("local", root_disk(f"source='file://{image()}' copy_method='cow'")) as name:
        booted(mom.run(WHERE, queue=name))


def test_a_listed_program(mom: Mom) -> None:
    with image().open("rb") as file:
        said = subprocess.run(["/usr/bin/cksum"], stdin=file, stdout=subprocess.PIPE, check=True).stdout.split()[0].decode()
    check = f"<vbcheckhash hashfunction='/usr/bin/cksum' hashvalue='{said}'/>"
    disk = root_disk(f"source='{image()}' copy_method='cow'", more=check)
    with queue("program", disk) as name:
        ended = mom.run(WHERE, queue=name)
    assert ended.verdict == "requeue"
    assert "this program is not listed in [images] hash_programs" in ended.errors.decode()
    with queue("program", disk, settings="[images]\nhash_programs = [\"/usr/bin/cksum\"]\n") as name:
        booted(mom.run(WHERE, queue=name))


def test_wrong_digest(mom: Mom, images: Path) -> None:
    shutil.copy(image(), images / "disk.raw")
    check = f"<vbcheckhash hashfunction='/usr/bin/md5sum' hashvalue='{'0' * 32}'/>"
    with served(images) as url, queue("bad", root_disk(f"source='{url}/disk.raw' copy_method='shared'", more=check)) as name:
        ended = mom.run(WHERE, queue=name)
    assert ended.verdict == "requeue"
    digest = hashlib.md5(image().read_bytes(), usedforsecurity=False).hexdigest()
    assert f"/disk.raw has the md5 {digest}; the template wants {'0' * 32}" in ended.errors.decode()
    assert not [path for path in (STORE / "site").rglob("*") if path.is_file()]


def test_a_local_image_with_a_digest_is_read_once_and_again_when_changed(mom: Mom, images: Path) -> None:
    local = images / "disk.raw"
    shutil.copy(image(), local)
    local.chmod(0o644)
    digest = hashlib.sha512(local.read_bytes()).hexdigest()
    more = f"<vbcheckhash hashfunction='sha512' hashvalue='{digest}'/>"
    with queue("local", root_disk(f"source='{local}' copy_method='cow'", more=more)) as name:
        booted(mom.run(WHERE, queue=name))
        [seal] = (STORE / "site/incoming").glob("*.seal")
        first = seal.stat().st_mtime_ns
        booted(mom.run(WHERE, queue=name))
        assert seal.stat().st_mtime_ns == first
        with open(local, "r+b") as file:
            file.write(b"!")
        ended = mom.run(WHERE, queue=name)
    assert ended.verdict == "requeue"
    assert "the template wants" in ended.errors.decode()


def test_shared_read_only(mom: Mom, images: Path, at_boot: Path) -> None:
    (images / "data.raw").write_bytes(b"precious".ljust(1 << 20, b"\0"))
    at_boot.write_text("head -c 8 /dev/vdb > /run/data; echo x > /dev/vdb || echo refused >> /run/data\n")
    disk = second_disk("source='{}/data.raw' copy_method='shared'", more="<readonly/>")
    with served(images) as url, queue("readonly", second=disk.format(url)) as name:
        ended = mom.run(b"#!/bin/sh\ncat /run/data\n", queue=name)
    assert ended.output.startswith(b"precious"), ended.errors.decode()
    assert b"refused" in ended.output
    [content] = (STORE / "site/content").iterdir()
    assert content.read_bytes()[:8] == b"precious"


LABELS = {"": (0, 7, ""), "ext2": (1144, 7, "scratch"), "ext4": (1144, 7, "scratch"), "swap": (1052, 7, "scratch"),
          "xfs": (108, 7, "scratch"), "vfat": (71, 7, "SCRATCH")}
"""Of each file system: where its label is, and how it is written (ext4/super.h, linux/swap.h, xfs_format.h, msdos_fs.h)."""


@pytest.mark.parametrize(("form", "filesystem", "size"), [
    ("raw", "ext4", 64), ("qcow2", "ext4", 64), ("vhd-util-vhd", "ext2", 64), ("raw", "swap", 64), ("raw", "xfs", 512),
    ("raw", "vfat", 1024), ("qcow", "", 64), ("vhd-fixed", "", 64), ("qemu-img-vhd", "", 64),
])
def test_an_empty_disk(mom: Mom, at_boot: Path, form: str, filesystem: str, size: int) -> None:
    offset, length, label = LABELS[filesystem]
    at_boot.write_text(f"""cat /sys/block/vdb/size > /run/disk
dd if=/dev/vdb bs=1 skip={offset} count={length} 2>/dev/null | tr -d '\\000' >> /run/disk
[ '{filesystem}' != ext4 ] || {{ mkdir -p /opt && mount -t ext4 /dev/vdb /opt && chmod 777 /opt; }}
chmod 644 /run/disk
""")
    inside = f"filesystem='{filesystem}' label='{label}'" if filesystem else ""
    disk = second_disk(f"source='scratch' create='always' size='{size}' format='{form}' {inside}")
    with queue("scratch", second=disk) as name:
        ended = mom.run(b"#!/bin/sh\ncat /run/disk\n[ ! -w /opt ] || { echo mine > /opt/mine && cat /opt/mine; }\n", queue=name)
    assert ended.output.decode() == f"{size * 2048}\n{label}" + ("mine\n" if filesystem == "ext4" else ""), ended.errors.decode()


FILL = """
mkdir -p /opt && mount -t ext4 /dev/vdb /opt || exit 1
echo "$VMBATCH_JOB" >> /opt/jobs
cp /opt/jobs /run/jobs
chmod 644 /run/jobs
umount /opt
"""


@pytest.mark.parametrize(("form", "method"), [("raw", "cow"), ("qcow2", "copy"), ("vhd-util-vhd", "cow")])
def test_a_disk_made_once(mom: Mom, at_boot: Path, form: str, method: str) -> None:
    at_boot.write_text(FILL)
    disk = second_disk(f"source='cache' create='once' copy_method='{method}' size='64' format='{form}' filesystem='ext4'")
    script = b"#!/bin/sh\ncat /run/jobs\n"
    with queue("once", second=disk) as name:
        first = mom.run(script, queue=name)
        second = mom.run(script, queue=name)
        third = mom.run(script, queue=name)
        other = mom.run(script, queue=name, user="bob")
    made = [path for path in (STORE / "once").iterdir() if path.suffix != ".lock"]
    assert {path.stat().st_mode & 0o7777 for path in made} == {0o440}, "for QEMU's group alone"
    assert first.output.decode().split() == [first.job.id], first.errors.decode()
    assert second.output.decode().split() == [first.job.id, second.job.id], second.errors.decode()
    assert third.output.decode().split() == [first.job.id, third.job.id], third.errors.decode()
    assert other.output.decode().split() == [other.job.id], "another user's disk is another one"


def test_a_second_job_waits_for_the_first_one_to_fill_the_disk(mom: Mom, at_boot: Path) -> None:
    at_boot.write_text(FILL)
    disk = second_disk("source='cache' create='once' size='64' filesystem='ext4'")
    script = b"#!/bin/sh\ncat /run/jobs\n"
    with queue("once", second=disk, settings="[images]\nonce_for_all_users = true\n") as name:
        first = mom.accept(script, queue=name)
        assert mom.finish_prologue(mom.start_prologue(first)) == "run", first.errors.decode()
        second = mom.accept(script, queue=name, user="bob")
        waiting = mom.start_prologue(second)
        assert mom.start_shell(first).wait() == 0
        assert waiting.poll() is None
        assert mom.start_epilogue(first).wait() == 0
        mom.forget(first)
        assert mom.finish_prologue(waiting) == "run", second.errors.decode()
        assert mom.start_shell(second).wait() == 0
        assert mom.start_epilogue(second).wait() == 0
        mom.forget(second)
    assert second.output.decode().split() == [first.id, second.id]


class TestUsersImage:
    """vbuserimage"""

    @property
    def offer(self) -> str:
        return root_disk(f"source='{image()}' copy_method='cow'", more="<vbuserimage/>")

    @pytest.fixture
    def home(self) -> Iterator[Path]:
        path = Path("/home/alice/vm")
        path.mkdir()
        shutil.chown(path, "alice", "alice")
        path.chmod(0o700)
        yield path
        shutil.rmtree(path)

    @staticmethod
    def own(path: Path) -> Path:
        shutil.chown(path, "alice", "alice")
        path.chmod(0o600)
        return path

    def settings(self, url: str = "http://127.0.0.1:9") -> str:
        return f"[userimages]\nsources = [\"/home/\", \"{url}/vm/\"]\n"

    @pytest.mark.parametrize("form", ["raw", "qcow2", "qcow", "vhd"])
    def test_from_home(self, mom: Mom, home: Path, form: str) -> None:
        mine = self.own(convert({"vhd": "vpc"}.get(form, form), image(), home / f"mine.{form}",
                                 *(["-o", "force_size=on"] if form == "vhd" else [])))
        with queue("own", self.offer, settings=self.settings()) as name:
            booted(mom.run(WHERE, queue=name, other=f"vbuserimage={mine}"))
            entries = list((STORE / "users/1500/content").iterdir())
            booted(mom.run(WHERE, queue=name, other=f"vbuserimage={mine}"))
            assert list((STORE / "users/1500/content").iterdir()) == entries
            assert {path.stat().st_mode & 0o7777 for path in entries} == {0o440}, "for QEMU's group alone"
            ended = mom.run(WHERE, queue=name, other=f"vbuserimage={mine}", user="bob")
        assert ended.verdict == "abort"
        assert "Permission denied (the image must be readable for you)" in ended.errors.decode()

    def test_from_the_net(self, mom: Mom, images: Path) -> None:
        (images / "vm").mkdir()
        qcow2 = convert("qcow2", image(), images / "plain.qcow2")
        (images / "vm/mine.qcow2.gz").write_bytes(gzip.compress(qcow2.read_bytes(), 1))
        with served(images) as url, queue("own", self.offer, settings=self.settings(url)) as name:
            booted(mom.run(WHERE, queue=name, other=f"vbuserimage={url}/vm/mine.qcow2.gz"))
            ended = mom.run(WHERE, queue=name, other=f"vbuserimage={url}/plain.qcow2")
            assert ended.verdict == "abort"
            assert "images may not come from there" in ended.errors.decode()
            ended = mom.run(WHERE, queue=name, other=f"vbuserimage={url}/vm/missing.raw")
            assert ended.verdict == "abort"
            assert "the server answers 404" in ended.errors.decode()

    @pytest.mark.parametrize(("wish", "said"), [
        ("vbuserimage=/etc/shadow", "images may not come from there"),
        ("vbuserimage=/home/alice/vm/../../../etc/shadow", "not an absolute path"),
        ("vbuserimage=/home/alice/vm/link.raw", "really lies at /etc/hostname, and images may not come from there"),
        ("vbuserimage=/home/alice/vm/zero.raw", "is not a regular file"),
        ("vbuserimage=/home/alice/vm/fifo.raw", "is not a regular file"),
        ("vbuserimage=/home/alice/vm/missing.raw", "No such file or directory"),
        ("vbuserimage=json:{}", "not an absolute path"),
        ("vbuserimage=nbd:localhost:10809", "not an absolute path"),
        ("vbuserimage=http://127.0.0.1:22/vm/x.raw", "images may not come from there"),
        ("vbuserimage=/home/alice/vm/backed.qcow2", "has a backing file"),
        ("vbuserimage=/home/alice/vm/liar.raw", "is qcow2, not raw (its name must end in its format"),
        ("vbmemory=8G", "jobs of this queue cannot ask for that (they can ask for vbuserimage)"),
        ("vbuserimage", "a value is missing"),
    ])
    def test_refused(self, mom: Mom, home: Path, wish: str, said: str) -> None:
        (home / "link.raw").symlink_to("/etc/hostname")
        (home / "zero.raw").symlink_to("/dev/zero")
        os.mkfifo(home / "fifo.raw", 0o666)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "/etc/shadow", "-u",
                        home / "backed.qcow2", "1M"], check=True)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", home / "liar.raw", "1M"], check=True)
        for name in ("backed.qcow2", "liar.raw"):
            self.own(home / name)
        with queue("own", self.offer, settings=self.settings()) as name:
            ended = mom.run(WHERE, queue=name, other=wish)
        assert ended.verdict == "abort"
        assert said in ended.errors.decode()

    def test_two_images_by_other_names(self, mom: Mom, home: Path, at_boot: Path) -> None:
        root = self.own(Path(shutil.copy(image(), home / "mine.raw")))
        data = home / "events"
        data.write_bytes(b"mine".ljust(1 << 20, b"\0"))
        self.own(data)
        at_boot.write_text("head -c 4 /dev/vdc > /run/data; chmod 644 /run/data\n")
        second = second_disk(f"source='{image()}' copy_method='cow'", more="<vbuserimage name='vbdata' format='raw'/>")
        with queue("own", self.offer, second, settings=self.settings()) as name:
            ended = mom.run(b"#!/bin/sh\ncat /run/data\n", queue=name, other=f"vbuserimage={root};vbdata={data}")
        assert ended.output == b"mine", ended.errors.decode()

    def test_only_where_the_template_offers_it(self, mom: Mom) -> None:
        ended = mom.run(WHERE, queue="disk", other="vbuserimage=/home/alice/x.raw")
        assert ended.verdict == "abort"
        assert "they can ask for nothing by -l other=" in ended.errors.decode()
        assert mom.run(b"#!/bin/sh\necho ran\n", other="licence=7").output == b"ran\n"

    def test_only_signed(self, mom: Mom, home: Path, images: Path) -> None:
        authority = Authority(images / "authority")
        key = authority.issue("signer")
        data = image().read_bytes() + padded({"snapshot": "none"})
        mine = home / "mine.raw"
        mine.write_bytes(signed(data, key, authority.certificate("signer")))
        unsigned = self.own(Path(shutil.copy(image(), home / "unsigned.raw")))
        settings = self.settings() + f"signers = \"{SUBJECT}\"\nauthorities = \"{authority.trusted}\"\n"
        with queue("own", self.offer, settings=settings) as name:
            booted(mom.run(WHERE, queue=name, other=f"vbuserimage={self.own(mine)}"))
            ended = mom.run(WHERE, queue=name, other=f"vbuserimage={unsigned}")
        assert ended.verdict == "abort"
        assert "is not signed: its last 32 KiB are no signature block" in ended.errors.decode()

    def test_nothing_is_read_for_a_user_whose_jobs_do_not_run(self, mom: Mom, home: Path) -> None:
        mine = self.own(Path(shutil.copy(image(), home / "mine.raw")))
        with queue("own", self.offer, settings=self.settings() + '[users]\ndeny = ["alice"]\n') as name:
            ended = mom.run(WHERE, queue=name, other=f"vbuserimage={mine}")
        assert ended.verdict == "abort"
        assert "jobs of alice do not run in queue own" in ended.errors.decode()
        assert not STORE.exists()

    def test_only_listed_digests(self, mom: Mom, home: Path) -> None:
        mine = self.own(Path(shutil.copy(image(), home / "mine.raw")))
        with queue("own", self.offer, settings=self.settings() + f'digests = ["{"0" * 64}"]\n') as name:
            ended = mom.run(WHERE, queue=name, other=f"vbuserimage={mine}")
        assert ended.verdict == "abort"
        assert "which is not one that this site allows" in ended.errors.decode()
        digest = hashlib.sha256(image().read_bytes()).hexdigest()
        with queue("own", self.offer, settings=self.settings() + f'digests = ["{digest}"]\n') as name:
            booted(mom.run(WHERE, queue=name, other=f"vbuserimage={mine}"))
