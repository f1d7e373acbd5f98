"""ext2, ext3, ext4: written by debugfs as nobody, judged by e2fsck."""

import os
import re
import stat
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from vmbatch.errors import DeadlineError, NodeError, SiteError
from vmbatch.format import FormatError
from vmbatch.guestdisk import ext, files
from vmbatch.guestdisk.files import File, Item, Link
from vmbatch.guestdisk.view import view
from vmbatch.units import Deadline

from . import trees
from .trees import MIB, OFFSET, file

SECONDS = 60.0
Change = Callable[[bytearray], None]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return trees.make_tree(tmp_path / "tree", trees.TREE)


@pytest.fixture
def disk(tmp_path: Path, tree: Path) -> Path:
    return trees.ext(tmp_path / "disk.raw", tree)


def write(disk: Path, items: Sequence[Item], seconds: float = SECONDS) -> None:
    with view(str(disk), "raw", "nobody", Deadline(seconds)) as seen:
        ext.Ext(seen, OFFSET, str(disk.parent), Deadline(seconds)).write(items, Deadline(seconds))


def refused(disk: Path, items: Sequence[Item]) -> str:
    with pytest.raises(FormatError) as caught:
        write(disk, items)
    assert trees.unharmed(disk)
    return caught.value.what


def break_super(disk: Path, change: Callable[[bytearray], None]) -> None:
    """Changes the superblock, whose checksum is then wrong unless the file system has none."""
    with disk.open("r+b") as opened:
        opened.seek(OFFSET + 1024)
        data = bytearray(opened.read(1024))
        change(data)
        opened.seek(OFFSET + 1024)
        opened.write(data)


ODDEST = "/a b/quo\"te/back\\slash/'x' ; $(touch y) #!|ü€"
KINDS = {
    "ext4": (), "ext3": ("-O", "^extent,^64bit,^metadata_csum"), "ext2": ("-t", "ext2"), "plain": ("-O", "none"),
    "1k": ("-b", "1024"), "csum": ("-O", "metadata_csum,64bit"), "seed": ("-O", "metadata_csum_seed"),
    "bigalloc": ("-O", "bigalloc"), "ea_inode": ("-O", "ea_inode"), "128": ("-I", "128"),
    "meta_bg": ("-O", "meta_bg,^resize_inode"), "orphan_file": ("-O", "orphan_file"), "large": ("-I", "1024", "-O", "large_dir"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_all_is_there(tmp_path: Path, tree: Path, kind: str) -> None:
    big = tmp_path / "big"
    big.write_bytes(os.urandom(3 * MIB) + bytes(2 * MIB) + b"end")
    big.chmod(0o600)
    public = tmp_path / "public"
    public.write_bytes(b"everybody's")
    disk = trees.ext(tmp_path / "disk.raw", tree, *KINDS[kind])
    items: tuple[Item, ...] = (
        file("/etc/hostname"), file("/var/lib/vmbatch/medium/kit/a.sh", "#!/bin/sh\n", 0o755), file("/empty", "", 0o600),
        File("/var/lib/vmbatch/medium/tar/0.tar", 0o600, source=str(big)), File("/public", 0o640, source=str(public)),
        file(ODDEST, "odd", 0o711), Link("/etc/systemd/system/multi-user.target.wants/x.service", "../x.service"),
        Link("/long", "/x" * 200), Link("/odd", 'a "b" c\\d'),
    )
    for _ in range(2):
        write(disk, items)
        assert trees.e2fsck(disk) == ""
    assert trees.unharmed(disk)
    root = trees.dumped(disk, tmp_path / "out")
    assert trees.put(root, items) == []
    assert stat.S_IMODE((root / "var/lib/vmbatch").stat().st_mode) == 0o755
    assert (root / "usr/lib/systemd/systemd").read_text() == "ELF"
    status = os.stat(disk)
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, 0, 0o600)


def test_many_files(tmp_path: Path, disk: Path) -> None:
    """More than one run of debugfs takes, some with long names."""
    items = tuple(file(f"/opt/{'d' * 200}/{number:04d}{'n' * (number % 200)}", f"{number}") for number in range(450))
    write(disk, items)
    assert trees.e2fsck(disk) == ""
    assert trees.put(trees.dumped(disk, tmp_path / "out"), items) == []


def test_time_is_now(disk: Path) -> None:
    write(disk, [file("/etc/hostname")])
    text = trees.debugfs(disk, "stat /etc/hostname")
    found = re.search(r"mtime: 0x([0-9a-f]+)", text)
    assert found and abs(int(found[1], 16) - os.stat(disk).st_mtime) < 30


def test_links_above_stay_inside(tmp_path: Path) -> None:
    """Of each kind: as the guest would follow them, and never to the node."""
    outside = tmp_path / "outside"
    outside.mkdir()
    tree = trees.make_tree(tmp_path / "tree", {
        "usr/lib/": "", "lib": "-> usr/lib", "abs": "-> /usr/lib", "up": "-> ../../../../usr/lib", "node": f"-> {outside}",
        str(outside).lstrip("/") + "/": "", "usr/chain": "-> ../abs", "usr/dot": "-> ./lib/.", "usr/back": "-> ../usr/../lib/"})
    disk = trees.ext(tmp_path / "disk.raw", tree)
    names = ("lib", "abs", "up", "usr/chain", "usr/dot", "usr/back")
    write(disk, [file(f"/{name}/{number}/x", name) for number, name in enumerate(names)] + [file("/node/x")])
    assert trees.e2fsck(disk) == ""
    root = trees.dumped(disk, tmp_path / "out")
    assert [(root / f"usr/lib/{number}/x").read_text() for number in range(len(names))] == list(names)
    assert (root / str(outside).lstrip("/") / "x").read_text() == "new\n"
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize(("links", "what"), [
    ({"etc": "-> etc"}, "has symbolic links in circles above /etc/x/y"),
    ({"etc": "-> a", "a": "-> b/../b", "b": "-> /etc"}, "has symbolic links in circles above /etc/x/y"),
    ({"etc": "-> missing/../usr"}, "has a link above /etc/x/y that leads to nothing"),
    ({"etc": "file"}, "has a file at /etc, where a directory is needed"),
    ({"etc/x": "-> /usr/file", "usr/file": ""}, "has a file at /usr/file, where a directory is needed"),
    ({"etc/x/y/z": ""}, "has a directory at /etc/x/y, where a file is to be put"),
    ({"etc": "-> bad\nname"}, "has a symbolic link /etc to something that is no plain path"),
    ({"etc": "-> bad\udcffname"}, "has a symbolic link /etc to something that is no plain path"),
    ({"etc": "-> " + "/./" * 300 + "nowhere"}, ""),
    ({"etc": "-> " + "d/" * 260}, "has links above /etc/x/y that lead too deep"),
])
def test_no_way(tmp_path: Path, links: dict[str, str], what: str) -> None:
    tree = trees.make_tree(tmp_path / "tree", {})
    for name, target in links.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if target.startswith("-> "):
            os.symlink(target[3:].encode("utf-8", "surrogateescape"), path)
        else:
            path.write_text(target)
    disk = trees.ext(tmp_path / "disk.raw", tree)
    if what:
        assert refused(disk, [file("/etc/x/y")]) == what
    else:
        write(disk, [file("/etc/x/y")])
        assert "new" in trees.debugfs(disk, "cat /nowhere/x/y")
    assert trees.e2fsck(disk) == ""


def test_link_farm(tmp_path: Path) -> None:
    """Links that double at each step: bounded work."""
    tree = {f"l{number}": f"-> l{number + 1}/../l{number + 1}" for number in range(60)} | {"l60/": ""}
    disk = trees.ext(tmp_path / "disk.raw", trees.make_tree(tmp_path / "tree", tree))
    assert refused(disk, [file("/l0/x")]) == "has symbolic links in circles above /l0/x"


def test_what_is_in_the_way_is_replaced(tmp_path: Path, disk: Path) -> None:
    """Never written through: links, devices, and files with other names."""
    special = ["cd /etc", "mknod device b 8 0", "mknod char c 1 3", "mknod pipe p", "symlink /etc/link /usr/lib/systemd/systemd",
               "symlink /etc/slow " + "/usr/lib/systemd/" + "./" * 40 + "systemd", "ln /usr/lib/systemd/systemd /etc/hard",
               "sif /usr/lib/systemd/systemd links_count 2", "ea_set /etc/hostname user.long " + "v" * 900]
    trees.debugfs(disk, *special, write=True)
    assert trees.e2fsck(disk) == ""
    items = tuple(file(f"/etc/{name}", name) for name in ("device", "char", "pipe", "link", "slow", "hard", "hostname"))
    write(disk, items)
    assert trees.e2fsck(disk) == ""
    root = trees.dumped(disk, tmp_path / "out")
    assert trees.put(root, items) == []
    assert (root / "usr/lib/systemd/systemd").read_text() == "ELF"


@pytest.mark.parametrize("options", [(), ("-O", "^metadata_csum"), ("-b", "1024")], ids=["csum", "plain", "1k"])
def test_huge_directory(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Ten thousand names in a hash tree of the kernel's own making, and in one long list."""
    names = ["etc/" + f"{number:05d}" + "n" * 100 for number in range(10_000)]
    disk = trees.ext_by_kernel(tmp_path / "disk.raw", dict.fromkeys(names, ""), "-N", "20000", *options)
    subprocess.run(["e2fsck", "-fyD", f"{disk}?offset={OFFSET}"], check=False, capture_output=True)
    assert trees.e2fsck(disk) == ""
    write(disk, [file("/etc/hostname"), Link("/etc/link", "x"), file("/etc/new/x"), file("/etc/00777" + "n" * 100, "replaced")])
    assert trees.e2fsck(disk) == ""
    text = trees.debugfs(disk, "cat /etc/hostname", "cat /etc/00777" + "n" * 100, "stat /etc/link", "cat /etc/new/x",
                         "stat /etc/09999" + "n" * 100)
    assert "new" in text and "replaced" in text and 'Fast link dest: "x"' in text and "not found" not in text


@pytest.mark.parametrize("kind", ["blocks", "inodes"])
def test_full(tmp_path: Path, kind: str) -> None:
    tree = trees.make_tree(tmp_path / "tree", {"etc/hostname": "old"})
    disk = trees.ext(tmp_path / "disk.raw", tree, *(["-N", "16"] if kind == "inodes" else []), size=8)
    items = [file(f"/many/{number}") for number in range(40)] if kind == "inodes" else [File("/big", 0o600, bytes([1]) * 9 * MIB)]
    what = {"blocks": "has a file system without enough room left for the context",
            "inodes": "has a file system without enough inodes left for the context"}[kind]
    assert refused(disk, items) == what


def test_reads(tmp_path: Path) -> None:
    odd = "debugfs: cat \"/odd\"\n# comment\n"
    more = {"etc/inittab": "::sysinit:x\n", "empty": "", "large": "x" * (48 << 10), "larger": "x" * ((48 << 10) + 1),
            "fstab": "-> ../etc/inittab", "odd": odd}
    tree = trees.make_tree(tmp_path / "tree", trees.TREE | more)
    (tree / "latin").write_bytes(b"caf\xe9\n")
    disk = trees.ext(tmp_path / "disk.raw", tree)
    with view(str(disk), "raw", "nobody", Deadline(SECONDS)) as seen:
        guest = ext.Ext(seen, OFFSET, str(tmp_path), Deadline(SECONDS))
        found = [guest.read(path) for path in ("/etc/inittab", "/fstab", "/empty", "/none", "/etc", "/latin", "/larger", "/odd")]
        assert found == ["::sysinit:x\n", "::sysinit:x\n", "", "", "", "caf\ufffd\n", "", odd]
        assert guest.read("/large") == "x" * (48 << 10)
        assert [guest.real(path) for path in ("/sbin/init", "/lib/systemd", "/none", "/etc/none/x", "/", "/etc/hostname/x")] == [
            "/usr/lib/systemd/systemd", "/usr/lib/systemd", "", "", "/", ""]


def test_labels(disk: Path) -> None:
    label = "system_u:object_r:bin_t:s0"
    write(disk, [File("/x", 0o755, b"x", label=label), Link("/l", "x", label=label)])
    assert trees.e2fsck(disk) == ""
    text = trees.debugfs(disk, "ea_list /x", "ea_list /l")
    assert text.count(f'security.selinux (27) = "{label}\\000"') == 2


def test_not_unmounted(tmp_path: Path, disk: Path) -> None:
    """A journal with something to do: replayed first, or it would undo what we write."""
    trees.debugfs(disk, "journal_open", "journal_write -b 60000 /dev/zero", "journal_close", write=True)
    with disk.open("rb") as opened:
        opened.seek(OFFSET + 1024 + 96)
        assert int.from_bytes(opened.read(4), "little") & 4
    write(disk, [file("/etc/hostname")])
    assert trees.e2fsck(disk) == ""
    assert (trees.dumped(disk, tmp_path / "out") / "etc/hostname").read_text() == "new\n"


def test_damage_that_is_repaired(tmp_path: Path, tree: Path) -> None:
    disk = trees.ext(tmp_path / "disk.raw", tree, "-O", "^metadata_csum")
    break_super(disk, lambda data: data.__setitem__(slice(58, 60), b"\0\0"))
    write(disk, [file("/etc/hostname")])
    assert trees.e2fsck(disk) == ""


def test_damage_that_is_not(tmp_path: Path, tree: Path) -> None:
    """An unclean file system whose root directory is lost."""
    disk = trees.ext(tmp_path / "disk.raw", tree, "-O", "^metadata_csum")
    trees.debugfs(disk, "sif <2> mode 0100644", write=True)
    break_super(disk, lambda data: data.__setitem__(slice(58, 60), b"\0\0"))
    assert refused(disk, [file("/x")]) .startswith("has an ext file system that e2fsck -p cannot repair: ")


@pytest.mark.parametrize(("change", "what"), [
    (lambda data: data.__setitem__(slice(56, 58), b"\0\0"), "has no ext2, ext3 or ext4 there"),
    (lambda data: data.__setitem__(slice(0, 4), b"\xff\xff\xff\xff"), "has an ext file system that debugfs cannot work on: .*"),
    (lambda data: data.__setitem__(slice(32, 36), b"\1\0\0\0"), "has an ext file system that debugfs cannot work on: .*"),
    (lambda data: data.__setitem__(slice(40, 44), b"\0\0\0\0"), "has an ext file system that debugfs cannot work on: .*"),
    (lambda data: data.__setitem__(slice(4, 8), b"\0\xff\xff\xff"), "has an ext file system that debugfs cannot work on.*"),
    (lambda data: data.__setitem__(slice(88, 90), b"\0\x40"), "has an ext file system with inodes of 16384 bytes, which .*"),
    (lambda data: data.__setitem__(97, 0x80), "has an ext file system with incompatible features 0x8000, .*"),
    (lambda data: data.__setitem__(97, 1 << 0), "has an ext file system with incompatible features 0x100, which .*"),
    (lambda data: data.__setitem__(101, 1 << 0), "has an ext file system with read-only compatible features 0x100, .*"),
    (lambda data: data.__setitem__(92, data[92] | 0x40), "has an ext file system with compatible features 0x40, .*"),
], ids=["magic", "inodes", "groups", "per-group", "blocks", "inode-size", "inline", "mmp", "quota", "lazy"])
def test_broken_superblock(tmp_path: Path, tree: Path, change: Change, what: str) -> None:
    disk = trees.ext(tmp_path / "disk.raw", tree, "-O", "^metadata_csum,^64bit")
    break_super(disk, change)
    assert re.fullmatch(what, refused(disk, [file("/etc/hostname")]))


def test_wrong_checksum(disk: Path) -> None:
    break_super(disk, lambda data: data.__setitem__(120, 65))
    assert refused(disk, [file("/etc/hostname")]).startswith(
        "has an ext file system that debugfs cannot work on: Checksum errors in superblock!")


@pytest.mark.hostile_image
@pytest.mark.parametrize("seed", range(12))
def test_noise(tmp_path: Path, tree: Path, seed: int) -> None:
    """Metadata full of random bytes: an error or a success, in time, and nothing is written beside the partition."""
    import random

    disk = trees.ext(tmp_path / "disk.raw", tree, "-O", "^metadata_csum,^64bit", size=16)
    noise = random.Random(seed)  # noqa: S311
    with disk.open("r+b") as opened:
        for _ in range(200):
            opened.seek(OFFSET + 2048 + noise.randrange(2 * MIB))
            opened.write(noise.randbytes(4))
    try:
        write(disk, [file("/etc/hostname"), file("/var/lib/vmbatch/medium/x")], 20)
    except FormatError as error:
        assert error.what.startswith("has ")
    assert trees.unharmed(disk)


@pytest.mark.parametrize("items", [
    [file("/x/../y")], [file("x")], [file("/")], [file("/x/")], [file("//x")], [file("/x\n")], [file("/" + "x" * 256)],
    [file("/x"), file("/x")], [file("/x"), file("/x/y")], [file("/x/y"), file("/x")], [Link("/x", "")], [Link("/x", "a\nb")],
    [Link("/x", "a"), file("/x/y")], [file("/\udcff")], [file("/y" * 600)],
])
def test_what_no_disk_can_get(items: list[Item]) -> None:
    with pytest.raises(SiteError, match=r"the guest's disk (cannot|would) get "):
        files.check(items)


def test_twice_by_a_link(disk: Path) -> None:
    what = refused(disk, [file("/lib/x"), file("/usr/lib/x")])
    assert what == "has links by which /usr/lib/x is the same as another file of ours"


def test_sources(tmp_path: Path, disk: Path) -> None:
    for source, what in ((tmp_path / "none", "cannot be read: No such file or directory"), (tmp_path, "is not a regular file"),
                         (Path("/dev/zero"), "is not a regular file")):
        with pytest.raises(NodeError, match=f"{source} {what}"):
            write(disk, [File("/x", 0o600, source=str(source))])


def test_disk_that_its_borrower_cannot_write(disk: Path) -> None:
    disk.chmod(0o400)
    with pytest.raises(NodeError) as caught:
        write(disk, [file("/x")])
    assert caught.value.what == "debugfs may not work on a job's disk: Permission denied while trying to open"


def test_deadline(disk: Path) -> None:
    with pytest.raises(DeadlineError, match="did not end in time"):
        write(disk, [file("/x")], 0)
    assert os.stat(disk).st_uid == 0
