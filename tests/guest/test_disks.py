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
from contextlib import contextmanager
from pathlib import Path

import pytest
import zstandard

from lab.mom import Ended, Mom
from tests.signature.authority import SUBJECT, Authority, padded, signed
from vmbatch.disk import layout
from vmbatch.format import vhd

from .conftest import site_scripts
from .disks import image, more_disks, queue, root_disk, second_disk, served

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("nothing_left", "clean_store")]

STORE = Path("/var/lib/vmbatch/store")
WHERE = b"#!/bin/sh\nwhile read device place kind rest; do [ $place != / ] || echo $device $kind; done < /proc/mounts\n"
PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": lambda data: gzip.compress(data, 1), "bz2": lambda data: bz2.compress(data, 1),
    "xz": lambda data: lzma.compress(data, preset=0), "zst": zstandard.compress,
}
FROM_DISK = b"/dev/vda1 ext4\n"
LOOK = """mkdir -p /opt/disk
for device in DEVICES; do
    mount -t ext4 "/dev/${device}1" /opt/disk
    said=$(for file in bin/busybox bin/bash lib/modules/nfsv4.ko; do cmp "/$file" "/opt/disk/$file" 2>&1; done)
    echo "mine on $device" >/opt/disk/mine
    umount /opt/disk
    mount -t ext4 -o ro "/dev/${device}1" /opt/disk
    echo "$device:$said $(cat /opt/disk/mine)" >>/run/disks
    umount /opt/disk
done
chmod 644 /run/disks
"""
"""On each disk is what the guest in memory has itself, and it can be written on."""


@pytest.fixture
def clean_store() -> Iterator[None]:
    """The store is empty before and after."""
    shutil.rmtree(STORE, ignore_errors=True)
    yield
    shutil.rmtree(STORE, ignore_errors=True)


@contextmanager
def own_images() -> Iterator[Path]:
    """A directory of root's for images, readable for all."""
    path = Path("/srv/vmbatch/own")
    path.mkdir(mode=0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


@pytest.fixture
def images() -> Iterator[Path]:
    with own_images() as path:
        yield path


@contextmanager
def run_at_boot(text: str = "") -> Iterator[Path]:
    """A script of the site's that guests run as root before the job."""
    with site_scripts() as scripts:
        script = scripts / "prolog.d/10-disk"
        script.write_text(text)
        yield script


@pytest.fixture
def at_boot() -> Iterator[Path]:
    with run_at_boot() as script:
        yield script


def convert(form: str, source: Path, target: Path, *options: str) -> Path:
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", form, *options, source, target], check=True)
    target.chmod(0o644)
    return target


def booted(ended: Ended) -> None:
    assert ended.output == FROM_DISK, ended.errors.decode()
    assert (ended.verdict, ended.status, ended.epilogue) == ("run", 0, 0)


def domain_of(job_log: Ended) -> str:
    return Path(f"/var/log/vmbatch/{job_log.job.file_id}.log").read_text()


Disks = dict[str, tuple[str, str]]
"""By a test's own name: attributes of <vbdisksource>, and further tags."""


def looked_at(mom: Mom, disks: Disks) -> tuple[dict[str, bool], str]:
    """Whether each disk of one guest was found to be what it should be, and the job's log."""
    text, devices = more_disks(list(disks.values()))
    with run_at_boot(LOOK.replace("DEVICES", " ".join(devices))), queue("many", second=text) as name:
        ended = mom.run(b"#!/bin/sh\ncat /run/disks\n", queue=name)
    assert (ended.verdict, ended.status, ended.epilogue) == ("run", 0, 0), ended.errors.decode()
    said = ended.output.decode().splitlines()
    assert len(said) == len(devices), said
    right = {name: line == f"{device}: mine on {device}" for name, device, line in zip(disks, devices, said, strict=True)}
    return right, domain_of(ended)


OVERLAYS = ("qcow2", "qcow", "qemu-img-qcow2", "qcow-create-qcow")
FORMATS = {"qcow2": "qcow2", "qcow": "qcow", "vpc": "vhd"}


@pytest.fixture(scope="module")
def local(mom: Mom) -> tuple[dict[str, bool], str, bool]:
    """One guest with disks from the node's own images; whether each is right, the job's log, whether the image is as it was."""
    before = hashlib.sha256(image().read_bytes()).digest()
    with own_images() as images:
        disks = {form: (f"source='{image()}' copy_method='cow' format='{form}'", "") for form in OVERLAYS}
        for form, driver in FORMATS.items():
            made = convert(form, image(), images / f"disk.{form}", *(["-o", "force_size=on"] if form == "vpc" else []))
            for method in ("copy", "cow"):
                disks[f"{method} of {form}"] = f"source='{made}' copy_method='{method}' source_format='{driver}'", ""
        disks["raw copy"] = f"source='{image()}' copy_method='copy'", ""
        right, log = looked_at(mom, disks)
    return right, log, hashlib.sha256(image().read_bytes()).digest() == before


@pytest.mark.parametrize("form", OVERLAYS)
def test_overlay_on_a_raw_image(local: tuple[dict[str, bool], str, bool], form: str) -> None:
    right, log, unchanged = local
    assert right[form]
    assert log.count("qcow-create is not on this node; VmBatch writes qcow itself") == 1, "one of them names it"
    assert unchanged


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("method", ["copy", "cow"])
def test_image_of_each_format(local: tuple[dict[str, bool], str, bool], form: str, method: str) -> None:
    assert local[0][f"{method} of {form}"]


def test_raw_copy(local: tuple[dict[str, bool], str, bool]) -> None:
    assert local[0]["raw copy"]


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


METHODS = ("shared", "copy", "cow", "download")
Downloaded = tuple[dict[str, bool], dict[str, bool], int]


@pytest.fixture(scope="module")
def downloaded(mom: Mom) -> Downloaded:
    """Two guests, each with a disk by every method, the second when the server has gone: but for `download`, which is none then.

    Whether each disk was right in the first and in the second, and how many images the store has.
    """
    shutil.rmtree(STORE, ignore_errors=True)
    disks: Disks = {}
    with own_images() as images, served(images) as url:
        for level, method in enumerate(METHODS, 1):
            packed = gzip.compress(image().read_bytes() + bytes(512 * level), 1)
            (images / f"{method}.raw.gz").write_bytes(packed)
            disks[method] = (f"source='{url}/{method}.raw.gz' copy_method='{method}'",
                             f"<vbcheckhash hashfunction='sha256' hashvalue='{hashlib.sha256(packed).hexdigest()}'/>")
        first, _ = looked_at(mom, disks)
    kept = len(list((STORE / "site/content").iterdir()))
    del disks["download"]
    second, _ = looked_at(mom, disks)
    shutil.rmtree(STORE)
    return first, second, kept


@pytest.mark.parametrize("method", METHODS)
def test_downloaded_and_hashed(downloaded: Downloaded, method: str) -> None:
    first, second, kept = downloaded
    assert first[method]
    assert kept == len(METHODS) - 1
    assert second.get(method, method == "download"), "the server has gone, the image has not"


@pytest.fixture(scope="module")
def unpacked(mom: Mom) -> dict[str, bool]:
    """One guest with a disk of each compression."""
    shutil.rmtree(STORE, ignore_errors=True)
    with own_images() as images:
        qcow2 = convert("qcow2", image(), images / "disk.qcow2")
        for compression, pack in PACKERS.items():
            (images / f"packed-{compression}").write_bytes(pack(qcow2.read_bytes()))
        qcow2.unlink()
        with served(images) as url:
            source = "source='{}/packed-{}' copy_method='shared' source_format='qcow2' compression='{}'"
            right, _ = looked_at(mom, {name: (source.format(url, name, name), "") for name in PACKERS})
    shutil.rmtree(STORE)
    return right


@pytest.mark.parametrize("compression", PACKERS)
def test_packed_in_each_way(unpacked: dict[str, bool], compression: str) -> None:
    assert unpacked[compression]


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


EMPTY = [
    ("raw", "ext4", 64), ("qcow2", "ext4", 64), ("vhd-util-vhd", "ext2", 64), ("raw", "swap", 64), ("raw", "xfs", 512),
    ("raw", "vfat", 1024), ("qcow", "", 64), ("vhd-fixed", "", 64), ("qemu-img-vhd", "", 64),
]


@pytest.fixture(scope="module")
def empty(mom: Mom) -> list[str]:
    """One guest with all of these empty disks; what it says of each: its size, its label, and what was written on it."""
    script, disks = "", []
    for letter, (form, filesystem, size) in zip("bcdefghij", EMPTY, strict=True):
        offset, length, label = LABELS[filesystem]
        device, place = f"/dev/vd{letter}", f"/opt/{letter}"
        script += f"""size=$(cat /sys/block/vd{letter}/size)
label=$(dd if={device} bs=1 skip={offset} count={length} 2>/dev/null | tr -d '\\000')
echo "vd{letter} $size $label" >> /run/disks
[ '{filesystem}' != ext4 ] || {{ mkdir -p {place} && mount -t ext4 {device} {place} && chmod 777 {place}; }}
"""
        inside = f"filesystem='{filesystem}' label='{label}'" if filesystem else ""
        disks.append((f"source='scratch-{letter}' create='always' size='{size}' format='{form}' {inside}", ""))
    text, _ = more_disks(disks)
    job = b"""#!/bin/sh
while read -r device rest; do
    place=/opt/${device#vd}
    if [ -w $place ]; then echo mine on $device > $place/mine; rest="$rest $(cat $place/mine)"; fi
    echo $device $rest
done < /run/disks
"""
    with run_at_boot(f"{script}chmod 644 /run/disks\n"), queue("scratch", second=text) as name:
        ended = mom.run(job, queue=name)
    assert (ended.verdict, ended.status, ended.epilogue) == ("run", 0, 0), ended.errors.decode()
    return ended.output.decode().splitlines()


@pytest.mark.parametrize(("form", "filesystem", "size"), EMPTY)
def test_an_empty_disk(empty: list[str], form: str, filesystem: str, size: int) -> None:
    number = EMPTY.index((form, filesystem, size))
    name, label = f"vd{'bcdefghij'[number]}", LABELS[filesystem][2]
    written = ["mine", "on", name] if filesystem == "ext4" else []
    assert empty[number].split() == [name, str(size * 2048), *filter(None, [label]), *written], empty


FILL = """
for disk in DISKS; do
    mkdir -p /opt/$disk && mount -t ext4 /dev/$disk /opt/$disk || exit 1
    echo "$VMBATCH_JOB" >> /opt/$disk/jobs
    echo $disk $(cat /opt/$disk/jobs) >> /run/jobs
    umount /opt/$disk
done
chmod 644 /run/jobs
"""
ONCE = (("raw", "cow"), ("qcow2", "copy"), ("vhd-util-vhd", "cow"))


@pytest.fixture(scope="module")
def once(mom: Mom) -> tuple[list[Ended], set[int]]:
    """Three jobs of alice and one of bob, each with all of these disks; and the modes of what is kept."""
    shutil.rmtree(STORE, ignore_errors=True)
    text, devices = more_disks([
        (f"source='cache-{form}' create='once' copy_method='{method}' size='64' format='{form}' filesystem='ext4'", "")
        for form, method in ONCE])
    with run_at_boot(FILL.replace("DISKS", " ".join(devices))), queue("once", second=text) as name:
        ended = [mom.run(b"#!/bin/sh\ncat /run/jobs\n", queue=name, user=user) for user in ("alice", "alice", "alice", "bob")]
    modes = {path.stat().st_mode & 0o7777 for path in (STORE / "once").iterdir() if path.suffix != ".lock"}
    shutil.rmtree(STORE)
    return ended, modes


@pytest.mark.parametrize(("form", "method"), ONCE)
def test_a_disk_made_once(once: tuple[list[Ended], set[int]], form: str, method: str) -> None:
    ended, modes = once
    assert modes == {0o440}, "for QEMU's group alone"
    number = ONCE.index((form, method))
    said = [one.output.decode().splitlines()[number].split()[1:] if one.output else one.errors.decode() for one in ended]
    first, second, third, other = (one.job.id for one in ended)
    assert said == [[first], [first, second], [first, third], [other]], "another user's disk is another one"


def test_a_second_job_waits_for_the_first_one_to_fill_the_disk(mom: Mom, at_boot: Path) -> None:
    at_boot.write_text(FILL.replace("DISKS", "vdb"))
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
    assert second.output.decode().split() == ["vdb", first.id, second.id]


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

    def test_from_home(self, mom: Mom, home: Path, at_boot: Path) -> None:
        """Of each format, the one in QEMU's old one to boot from, the others beside it under names of their own."""
        forms = ("qcow", "raw", "qcow2", "vhd")
        mine = {form: self.own(convert({"vhd": "vpc"}.get(form, form), image(), home / f"mine.{form}",
                                       *(["-o", "force_size=on"] if form == "vhd" else []))) for form in forms}
        wishes = {form: f"{'vbuserimage' if form == 'qcow' else f'vb{form}'}={mine[form]}" for form in forms}
        text, _ = more_disks([(f"source='{image()}' copy_method='cow'", f"<vbuserimage name='vb{form}'/>") for form in forms[1:]])
        at_boot.write_text(LOOK.replace("DEVICES", "vdc vdd vde"))
        script = WHERE + b"cat /run/disks\n"
        right = FROM_DISK + b"vdc: mine on vdc\nvdd: mine on vdd\nvde: mine on vde\n"
        with queue("own", self.offer, text, settings=self.settings()) as name:
            ended = mom.run(script, queue=name, other=";".join(wishes.values()))
            assert (ended.verdict, ended.output) == ("run", right), ended.errors.decode()
            entries = sorted((STORE / "users/1500/content").iterdir())
            ended = mom.run(script, queue=name, other=";".join(wishes.values()))
            assert (ended.verdict, ended.output) == ("run", right), ended.errors.decode()
            assert sorted((STORE / "users/1500/content").iterdir()) == entries
            assert {path.stat().st_mode & 0o7777 for path in entries} == {0o440}, "for QEMU's group alone"
            for wish in wishes.values():
                ended = mom.run(WHERE, queue=name, other=wish, user="bob")
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
