"""What users bring is opened with their rights, judged, made anew, kept apart; all that is wrong with it is theirs."""

import gzip
import hashlib
import os
import re
import subprocess
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from lab.imageserver import ImageServer, Page, Plain
from tests.hostile.corpus import CHAINED, CORPUS, Hostile, qcow2_file, vhd_file
from vmbatch.errors import EndedError, Fault, JobError, NodeError, VmBatchError
from vmbatch.image import own
from vmbatch.image.record import Record
from vmbatch.image.store import Held, Store
from vmbatch.image.terms import Terms
from vmbatch.job import User
from vmbatch.template import ImageSource, UserImage

from .conftest import ALICE, BOB, GIB, MIB, incoming, put, work

OFFER = UserImage("vbuserimage", "raw")
SITES = ("https://images.example.org/vm/", "/home/", "http://other.example.org:8080/")
RAW = b"\xeb\x63\x90" + os.urandom(MIB - 3)


def source(wish: str, offer: UserImage = OFFER, sources: tuple[str, ...] = SITES) -> ImageSource:
    return own.source(wish, offer, "cow", sources)


@pytest.mark.parametrize(("wish", "form", "compression"), [
    ("/home/alice/a.qcow2", "qcow2", ""), ("/home/alice/a.QCOW2", "qcow2", ""), ("/home/alice/a.raw", "raw", ""),
    ("/home/alice/a.img", "raw", ""), ("/home/alice/a.qcow", "qcow", ""), ("/home/alice/a.vhd", "vhd", ""),
    ("/home/alice/a", "FORMAT", ""), ("/home/alice/qcow2", "FORMAT", ""), ("/home/alice/..a/...", "FORMAT", ""),
    ("/home/alice/ä b.raw", "raw", ""), ("https://images.example.org/vm/a.qcow2", "qcow2", ""),
    ("https://images.example.org/vm/a.qcow2.gz", "qcow2", "gz"),
    ("https://images.example.org/vm/a.raw.zst?x=y.qcow2", "raw", "zst"),
    ("http://other.example.org:8080/deep/er/a.xz", "FORMAT", "xz"),
])
def test_source(wish: str, form: str, compression: str) -> None:
    for method in ("cow", "copy", "shared"):
        assert own.source(wish, UserImage("a", "FORMAT"), method, SITES) == ImageSource(
            (wish,), method, form, compression, None, "qcow2")


def test_a_question_mark_in_the_name_of_a_file() -> None:
    """It has a meaning only in a URL."""
    assert source("/home/alice/what?.qcow2").format == "qcow2"


NOT_FROM_THERE = f"images may not come from there (this site allows {', '.join(SITES)})"
NEITHER = ("not an absolute path, and not a URL with http:// or https:// "
           "(write for instance -l other=vbuserimage=/home/alice/image.qcow2)")


@pytest.mark.parametrize(("wish", "said"), [
    ("/etc/shadow", NOT_FROM_THERE), ("/home", NOT_FROM_THERE), ("/homes/a", NOT_FROM_THERE),
    ("https://images.example.org/vmx/a", NOT_FROM_THERE), ("https://images.example.org/", NOT_FROM_THERE),
    ("http://images.example.org/vm/a", NOT_FROM_THERE), ("https://images.example.org:444/vm/a", NOT_FROM_THERE),
    ("https://images.example.org.evil/vm/a", NOT_FROM_THERE), ("https://images.example.org@evil/vm/a", NOT_FROM_THERE),
    ("https://images.example.org/vm/../a", NOT_FROM_THERE), ("https://images.example.org/vm/%2e%2e/a", NOT_FROM_THERE),
    ("https://images.example.org/vm/..;/a", NOT_FROM_THERE), ("https://u:p@images.example.org/vm/a", NOT_FROM_THERE),
    ("/home/../etc/shadow", NEITHER), ("/home/alice/..", NEITHER), ("/home/./a", NEITHER), ("/home//a", NEITHER),
    ("//home/a", NEITHER), ("/home/alice/", NEITHER), ("/", NEITHER), ("home/alice/a", NEITHER), ("", NEITHER),
    ("a.raw", NEITHER),
    ("file:///home/a", NEITHER), ("nbd://h/a", NEITHER), ("json:{}", NEITHER), ("HTTPS://images.example.org/vm/a", NEITHER),
    ("/home/alice/a.raw.gz", "local images are not unpacked (unpack it)"),
    ("/home/alice/a.zst", "local images are not unpacked (unpack it)"),
])
def test_no_source(wish: str, said: str) -> None:
    with pytest.raises(JobError) as caught:
        source(wish)
    assert caught.value.lines() == [f"vbuserimage={wish}: {said}"]


@pytest.mark.parametrize("wish", [
    "/home/" + "a" * 2000, "/home/a\nb", "/home/a\0", "/home/\x1b[2J", "/home/\u202eb", "/home/\ud800"])
def test_not_printable(wish: str) -> None:
    with pytest.raises(JobError, match=r"^vbuserimage: this is not the path or URL of an image$"):
        source(wish)


def test_long_wishes_are_not_repeated() -> None:
    with pytest.raises(JobError) as caught:
        source("/etc/" + "a" * 1900)
    assert caught.value.what == f"vbuserimage=/etc/{'a' * 195}: images may not come from there"


def test_no_sources() -> None:
    with pytest.raises(JobError) as caught:
        source("/home/alice/a", sources=())
    assert caught.value.lines() == ["vbuserimage: this site takes no images of users (the admins name [userimages] sources)"]
    with pytest.raises(JobError, match=r"images may not come from there$"):
        source("/home/alice/a", sources=("https://images.example.org/",))
    with pytest.raises(JobError, match=r"images may not come from there$"):
        source("https://images.example.org/a", sources=("/",))


@pytest.fixture
def store(images: Path) -> Store:
    """Alice's part."""
    made = Store(str(images), "users/1500")
    made.make()
    return made


def owned(path: Path, data: bytes | None = None, mode: int = 0o600) -> Path:
    if data is not None:
        path.write_bytes(data)
    os.chown(path, ALICE.uid, ALICE.group.gid, follow_symlinks=False)
    if not path.is_symlink():
        path.chmod(mode)
    return path


def asked(path: Path | str, form: str = "raw", compression: str = "") -> ImageSource:
    return ImageSource((str(path),), "cow", form, compression, None, "qcow2")


def obtain(path: Path | str, terms: Terms, form: str = "raw", user: User = ALICE) -> Held:
    return own.obtain(asked(path, form), user, terms, work())


def obtained(path: Path | str, terms: Terms, form: str = "raw") -> Record:
    """The record of an image that is in the store as it should be, and that nobody holds any longer."""
    held = obtain(path, terms, form)
    status = os.stat(held.path)
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (0, 0, 0o444)
    with open(held.path, "rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == held.record.content == os.path.basename(held.path)
    held.close()
    assert incoming(Store(terms.directory, "users/1500")) == []
    return held.record


def refused(path: Path | str, terms: Terms, form: str = "raw") -> list[str]:
    """What the user reads; nothing is left."""
    with pytest.raises(JobError) as caught:
        obtain(path, terms, form)
    part = Store(terms.directory, "users/1500")
    assert (incoming(part), part.entries(), part.size()) == ([], [], 0)
    return caught.value.lines()


def changed(terms: Terms, **values: object) -> Terms:
    return msgspec.structs.replace(terms, **values)


def test_raw_stays_raw(home: Path, terms: Terms, store: Store) -> None:
    path = owned(home / "a.raw", RAW)
    found = obtained(path, terms)
    digest = hashlib.sha256(RAW).hexdigest()
    assert (found.origin, found.format, found.size, found.content, found.published, found.validators, found.signer) == (
        str(path), "raw", MIB, digest, {"sha256": digest}, None, "")
    assert path.read_bytes() == RAW


def test_holes_stay_holes(home: Path, terms: Terms, store: Store) -> None:
    path = owned(home / "a.raw", b"x" * 4096)
    os.truncate(path, 512 * MIB)
    found = obtained(path, terms)
    assert found.size == 512 * MIB
    assert store.size() <= 64 << 10


def test_by_a_link_that_stays_in_its_place(home: Path, terms: Terms, store: Store) -> None:
    owned(home / "a.raw", RAW)
    (home / "link").symlink_to("a.raw")
    assert obtained(home / "link", terms).size == MIB


@pytest.mark.parametrize("form", ["qcow2", "qcow", "vhd"])
def test_converted(home: Path, place: Path, terms: Terms, store: Store, form: str) -> None:
    (home / "disk").write_bytes(RAW + bytes(3 * MIB) + RAW)
    driver = "vpc" if form == "vhd" else form
    options = ["-o", "force_size=on"] if form == "vhd" else []
    path = home / f"a.{form}"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", driver, *options, home / "disk", path], check=True)
    owned(path)
    published = hashlib.sha256(path.read_bytes()).hexdigest()
    found = obtained(path, terms, form)
    assert (found.format, found.size, found.published) == ("qcow2", 5 * MIB, {"sha256": published})
    image = os.path.join(store.root, "content", found.content)
    said = subprocess.run(["qemu-img", "info", "-f", "qcow2", image], check=True, capture_output=True, text=True).stdout
    assert "virtual size: 5 MiB" in said
    assert "backing" not in said
    subprocess.run(["qemu-img", "compare", "-q", "-f", "raw", "-F", "qcow2", home / "disk", image], check=True)
    assert path.stat().st_uid == ALICE.uid


def test_second_time_from_the_store(home: Path, terms: Terms, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for form in ("raw", "qcow2"):
        path = home / f"a.{form}"
        if form == "raw":
            owned(path, RAW)
        else:
            qcow2_file(path)
            owned(path)
        first = obtained(path, terms, form)
        with monkeypatch.context() as without:
            without.setattr(own, "_copy", lambda *_: pytest.fail("it is read again"))
            assert obtained(path, terms, form) == first


@pytest.mark.parametrize("change", [
    lambda path: path.write_bytes(RAW[::-1]), os.utime, lambda path: path.chmod(0o644),
    lambda path: (path.with_name("new").write_bytes(RAW), path.with_name("new").rename(path), owned(path)),
], ids=["content", "mtime", "ctime", "renamed over"])
def test_a_changed_file_is_read_anew(home: Path, terms: Terms, store: Store, monkeypatch: pytest.MonkeyPatch,
                                     change: Callable[[Path], object]) -> None:
    reads: list[str] = []
    copy = own._copy

    def noted(fd: int, made: str, path: str, *rest: Any) -> str:
        reads.append(path)
        return copy(fd, made, path, *rest)

    monkeypatch.setattr(own, "_copy", noted)
    path = owned(home / "a.raw", RAW)
    obtained(path, terms)
    time.sleep(0.02)
    change(path)
    assert obtained(path, terms).content == hashlib.sha256(path.read_bytes()).hexdigest()
    assert reads == [str(path)] * 2


def test_other_terms_judge_anew(home: Path, terms: Terms, store: Store) -> None:
    path = owned(home / "a.raw", RAW)
    obtained(path, terms)
    with pytest.raises(JobError, match=r" is not signed: its last 32 KiB are no signature block$"):
        obtain(path, changed(terms, signers=".*", authorities="/etc/ssl/certs"))
    with pytest.raises(JobError, match=r"^the image .* has 1048576 bytes; it may have 1 to 512K$"):
        obtain(path, changed(terms, user_largest=512 << 10))
    with pytest.raises(JobError, match=r", which is not one that this site allows$"):
        obtain(path, changed(terms, user_digests=("0" * 64,)))


def test_size_limits(home: Path, terms: Terms, store: Store) -> None:
    path = owned(home / "a.raw", RAW)
    assert refused(path, changed(terms, user_largest=MIB - 512)) == [
        f"the image {path} is a disk of 1M, but the limit is {MIB - 512}"]
    owned(home / "empty.raw", b"")
    assert refused(home / "empty.raw", terms) == [f"the image {home}/empty.raw has 0 bytes; it may have 1 to 1G"]
    os.truncate(path, 2 * GIB)
    assert refused(path, terms) == [f"the image {path} has {2 * GIB} bytes; it may have 1 to 1G"]
    qcow2_file(home / "a.qcow2", size=2 * GIB, entries=4)
    owned(home / "a.qcow2")
    assert refused(home / "a.qcow2", terms, "qcow2")[0] == f"the image {home}/a.qcow2 is a disk of 2G, but the limit is 1G"


@pytest.mark.parametrize("act", ["longer", "shorter", "rewritten"])
def test_changed_while_it_is_read(home: Path, terms: Terms, store: Store, act: str) -> None:
    path = owned(home / "a.raw", RAW * 8)
    begun = False

    def alive() -> None:
        nonlocal begun
        if begun or not os.path.exists(store.incoming("x", "x")[:-3]) or not any(n.endswith(".new") for n in incoming(store)):
            return
        begun = True
        if act == "longer":
            with path.open("ab") as file:
                file.write(bytes(MIB))
        elif act == "shorter":
            os.truncate(path, 3 * MIB)
        else:
            time.sleep(0.02)
            with path.open("r+b") as file:
                file.write(bytes(8 * MIB))

    with pytest.raises(JobError) as caught:
        own.obtain(asked(path), ALICE, terms, work(alive=alive))
    assert caught.value.lines() == [f"the image {path} was changed while it was read (put a new image beside it and rename it)"]
    assert (incoming(store), store.entries()) == ([], [])


def test_digests(home: Path, terms: Terms, store: Store) -> None:
    path = owned(home / "a.raw", RAW)
    digest = hashlib.sha256(RAW).hexdigest()
    assert refused(path, changed(terms, user_digests=("0" * 64, "1" * 64))) == [
        f"the image {path} has the SHA-256 {digest}, which is not one that this site allows (ask its admins)"]
    assert obtained(path, changed(terms, user_digests=("0" * 64, digest))).content == digest


def test_digest_is_of_the_users_file(home: Path, terms: Terms, store: Store) -> None:
    qcow2_file(home / "a.qcow2")
    digest = hashlib.sha256(owned(home / "a.qcow2").read_bytes()).hexdigest()
    assert obtained(home / "a.qcow2", changed(terms, user_digests=(digest,)), "qcow2").published == {"sha256": digest}


def test_other_users_files(home: Path, terms: Terms, store: Store) -> None:
    path = home / "a.raw"
    path.write_bytes(RAW)
    path.chmod(0o600)
    text = "the image must be readable for you"
    assert refused(path, terms) == [f"{path}: Permission denied ({text})"]
    os.chown(path, BOB.uid, BOB.group.gid)
    assert refused(path, terms) == [f"{path}: Permission denied ({text})"]
    owned(path)
    with pytest.raises(JobError, match="Permission denied"):
        obtain(path, terms, user=BOB)
    assert refused(home / "none", terms) == [f"{home}/none: No such file or directory ({text})"]


def test_what_is_in_the_store_is_not_for_who_cannot_read_it(home: Path, terms: Terms, store: Store) -> None:
    path = owned(home / "a.raw", RAW)
    obtained(path, terms)
    path.chmod(0o000)
    with pytest.raises(JobError, match="Permission denied"):
        obtain(path, terms)


def test_link_out_of_what_is_allowed(home: Path, place: Path, terms: Terms, store: Store) -> None:
    (place / "a.raw").write_bytes(RAW)
    (home / "a.raw").symlink_to(place / "a.raw")
    assert refused(home / "a.raw", terms) == [
        f"the image {home}/a.raw really lies at {place}/a.raw, and images may not come from there "
        "(a link does not change where an image lies)"]
    (home / "d").symlink_to(place)
    assert "really lies at" in refused(home / "d/a.raw", terms)[0]
    assert obtained(home / "d/a.raw", changed(terms, sources=("/home/alice/", f"{place}/"))).size == MIB


def test_a_directory_whose_name_begins_alike(home: Path, place: Path, terms: Terms, store: Store) -> None:
    (place / "own").mkdir()
    (place / "own2").mkdir()
    (place / "own2/a.raw").write_bytes(RAW)
    (place / "own/a.raw").symlink_to("../own2/a.raw")
    assert "really lies at" in refused(place / "own/a.raw", changed(terms, sources=(f"{place}/own/",)))[0]


def test_an_allowed_place_that_is_a_link(home: Path, place: Path, terms: Terms, store: Store) -> None:
    owned(home / "a.raw", RAW)
    (place / "scratch").symlink_to(home)
    assert obtained(place / "scratch/a.raw", changed(terms, sources=(f"{place}/scratch/",))).size == MIB


def test_everything_allowed(home: Path, terms: Terms, store: Store) -> None:
    """`/` is a directory with `/` at its end."""
    path = owned(home / "a.raw", RAW)
    assert source(str(path), sources=("/",)).places == (str(path),)
    assert obtained(path, changed(terms, sources=("/",))).size == MIB


def test_a_file_system_that_fails(terms: Terms, store: Store) -> None:
    """What the user's file does when it is read is the user's fault, not the node's."""
    path = "/sys/class/net/lo/duplex"
    assert os.path.realpath(path).startswith("/sys/devices/")
    with pytest.raises(VmBatchError) as caught:
        obtain(path, changed(terms, sources=("/sys/",)))
    assert (incoming(store), store.entries()) == ([], [])
    assert (type(caught.value), caught.value.fault) == (JobError, Fault.JOB), caught.value


REFUSED_BY_SIZE = r"has [0-9]+ bytes; it may have 1 to .*"


@pytest.mark.parametrize("hostile", CORPUS, ids=lambda hostile: str(hostile.name))
def test_hostile(home: Path, images: Path, terms: Terms, store: Store, hostile: Hostile) -> None:
    path = home / "image"
    hostile.build(path)
    owned(path, mode=0o700)
    large = path.is_file() and path.stat().st_size > 16 * GIB
    most = 8 * GIB if large else 256 * GIB
    said = refused(path, changed(terms, sources=("/home/alice/", "/dev/"), user_largest=most, user_limit=1 << 50, limit=1 << 50),
                   hostile.form)
    reason = "is a differencing VHD, which is not complete" if hostile.reason == CHAINED else hostile.reason
    text = said[0].removeprefix(f"the image {path} ")
    wanted = REFUSED_BY_SIZE if large or hostile.name == "raw: empty" else rf"(?:{reason})(?: \(.*\))?"
    assert re.fullmatch(wanted, text), said
    assert os.listdir(images / "users/1500/content") == []


def slow_qcow2(home: Path) -> Path:
    """Clusters of 512 bytes, none behind the one before it, take seconds of processor time."""
    path, tables, data, size = home / "slow.qcow2", MIB, 32 * MIB, 256 * MIB
    count = size // 512
    qcow2_file(path, bits=9, size=size, entries=count // 64, l1_table=range(tables, tables + 8 * count, 512),
               file_size=data + size)
    clusters = array("Q", range(1 << 63 | data + size - 512, (1 << 63 | data) - 512, -512))
    clusters.byteswap()
    with open(path, "r+b") as file:
        file.seek(tables)
        file.write(clusters)
    return owned(path)


def test_conversion_takes_its_time(home: Path, terms: Terms, store: Store) -> None:
    path = slow_qcow2(home)
    begin = time.monotonic()
    [said] = refused(path, changed(terms, user_cpu=1), "qcow2")
    assert said.startswith(f"the image {path} cannot be converted: ")
    assert time.monotonic() - begin < 20


def test_conversion_takes_memory(home: Path, terms: Terms, store: Store) -> None:
    qcow2_file(home / "a.qcow2")
    [said] = refused(owned(home / "a.qcow2"), changed(terms, user_memory=24 * MIB), "qcow2")
    assert said.startswith(f"the image {home}/a.qcow2 cannot be converted: ")


def test_the_end_of_the_job(home: Path, terms: Terms, store: Store) -> None:
    def over() -> None:
        raise EndedError("the job has ended")

    path = owned(home / "a.raw", RAW)
    with pytest.raises(EndedError):
        own.obtain(asked(path), ALICE, terms, work(alive=over))
    assert (incoming(store), store.entries()) == ([], [])


def test_a_second_job_waits_for_the_first(home: Path, terms: Terms, store: Store) -> None:
    code = """
import msgspec
from vmbatch.image import own
from vmbatch.image.terms import Terms
from vmbatch.job import User
from vmbatch.resource import Work
from vmbatch.template import ImageSource
from vmbatch.units import Deadline
from vmbatch.image import own as module
real = module._copy
def copy(*rest): say("copy"); return real(*rest)
module._copy = copy
source, user, terms = (msgspec.convert(v, t) for v, t in zip(a, (ImageSource, User, Terms)))
held = own.obtain(source, user, terms, Work(Deadline(60), lambda: None, lambda line: None))
say(held.path)
"""
    from .conftest import Other

    path = owned(home / "a.raw", RAW * 40)
    arguments = tuple(msgspec.to_builtins(value) for value in (asked(path), ALICE, terms))
    with Other(code, *arguments) as one, Other(code, *arguments) as two, Other(code, *arguments) as three:
        said = [other.process.communicate(timeout=60)[0].split() for other in (one, two, three)]
    assert sum(words.count("copy") for words in said) == 1
    assert len({words[-1] for words in said}) == 1


def test_user_limit(home: Path, terms: Terms, store: Store) -> None:
    small = changed(terms, user_limit=2 * MIB + 4096)
    for name in ("a", "b", "c"):
        obtained(owned(home / name, RAW + name.encode() * 512), changed(small, user_limit=3 * MIB))
        time.sleep(0.02)
    assert {entry.record.origin for entry in store.entries()} == {f"{home}/b", f"{home}/c"}
    with pytest.raises(NodeError, match=r"^the images of this user would take more than \[userimages\] limit = 512K$"):
        obtain(owned(home / "d", RAW * 2), changed(small, user_limit=512 << 10))
    assert incoming(store) == []


def swelling(home: Path) -> Path:
    """A qcow2 of a few hundred KiB that takes 64 MiB when it is written anew."""
    (home / "disk").write_bytes(b"swell" * 13421772 + bytes(4))
    path = home / "a.qcow2"
    subprocess.run(["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", home / "disk", path], check=True)
    assert path.stat().st_blocks * 512 < 4 * MIB
    return owned(path)


def test_user_limit_is_for_what_is_kept(home: Path, terms: Terms, store: Store) -> None:
    path = swelling(home)
    with pytest.raises((JobError, NodeError)):
        obtain(path, changed(terms, user_limit=16 * MIB), "qcow2")
    assert (incoming(store), store.entries()) == ([], [])


def test_limit_of_the_store_is_for_what_is_kept(home: Path, terms: Terms, store: Store) -> None:
    path = swelling(home)
    with pytest.raises((JobError, NodeError)):
        obtain(path, changed(terms, limit=16 * MIB), "qcow2")
    assert (incoming(store), store.entries()) == ([], [])


def test_holes_filled_while_it_is_read(home: Path, terms: Terms, store: Store) -> None:
    """Room was made for a file of holes."""
    path = owned(home / "a.raw", b"")
    os.truncate(path, 64 * MIB)
    begun = False

    def alive() -> None:
        nonlocal begun
        if not begun and incoming(store):
            begun = True
            with path.open("r+b") as file:
                for _ in range(64):
                    file.write(b"x" * MIB)

    with pytest.raises((JobError, NodeError)):
        own.obtain(asked(path), ALICE, changed(terms, user_limit=16 * MIB), work(alive=alive))
    assert (incoming(store), store.entries()) == ([], [])


def test_for_qemus_group_alone(home: Path, terms: Terms, store: Store) -> None:
    """A job's guest has the image under a second name, which every account of the node can see in QEMU's command line."""
    held = obtain(owned(home / "a.raw", RAW), changed(terms, readers=1600))
    status = os.stat(held.path)
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (0, 1600, 0o440)
    held.close()


def test_nothing_of_the_store_is_visible(home: Path, images: Path, terms: Terms, store: Store) -> None:
    """Neither for users nor for the account that converts."""
    site = Store(str(images))
    site.make()
    content = put(site, "0" * 32, RAW)
    found = obtained(owned(home / "a.raw", RAW), terms)
    code = """
import os, sys
for path in sys.argv[1:]:
    for act in (os.listdir, lambda p: os.open(p, os.O_RDONLY), lambda p: os.open(p, os.O_WRONLY), os.stat):
        try: act(path); print(path, act)
        except (PermissionError, NotADirectoryError): pass
        except OSError as error: print(path, error)
"""
    paths = [content, os.path.join(store.root, "content", found.content), os.path.join(site.root, "source", "0" * 32)]
    for uid in (1500, 1501, 65534):
        done = subprocess.run(["/usr/bin/python3", "-c", code, *paths], user=uid, group=uid, extra_groups=[], capture_output=True,
                              text=True, check=True)
        assert done.stdout == ""
    for directory in ("content", "source", "incoming"):
        for root in (site.root, store.root):
            with pytest.raises(subprocess.CalledProcessError):
                subprocess.run(["/bin/ls", os.path.join(root, directory)], user=1500, group=1500, extra_groups=[], check=True,
                               stderr=subprocess.DEVNULL)


def test_users_are_apart(home: Path, images: Path, place: Path, terms: Terms) -> None:
    (place / "a.raw").write_bytes(RAW)
    both = changed(terms, sources=(f"{place}/",))
    for user in (ALICE, BOB):
        held = obtain(place / "a.raw", both, user=user)
        assert held.path.startswith(f"{images}/users/{user.uid}/content/")
        held.close()


@pytest.fixture
def served(server: ImageServer, terms: Terms) -> Terms:
    """What the server has is allowed."""
    return changed(terms, sources=(server.url("/vm/"),))


def from_server(server: ImageServer, terms: Terms, path: str = "/vm/image", form: str = "raw", compression: str = "") -> Record:
    held = own.obtain(asked(server.url(path), form, compression), ALICE, terms, work())
    held.close()
    return held.record


def test_from_a_server(server: ImageServer, served: Terms, store: Store) -> None:
    server.pages["/vm/image"] = Page(Plain(RAW))
    found = from_server(server, served)
    assert (found.content, found.format, found.origin) == (hashlib.sha256(RAW).hexdigest(), "raw", server.url("/vm/image"))
    assert from_server(server, served) == found
    assert server.count("/vm/image").requests == 1
    from_server(server, changed(served, recheck=0.0))
    assert server.count("/vm/image").bytes == MIB
    assert incoming(store) == []


def test_packed_from_a_server(server: ImageServer, served: Terms, store: Store, place: Path) -> None:
    qcow2_file(place / "a")
    packed = gzip.compress((place / "a").read_bytes())
    server.pages["/vm/image"] = Page(Plain(packed))
    digest = hashlib.sha256(packed).hexdigest()
    found = from_server(server, changed(served, user_digests=(digest,)), form="qcow2", compression="gz")
    assert (found.format, found.size, found.published) == ("qcow2", GIB, {"sha256": digest})


@pytest.mark.parametrize("page", [
    Page(status=404), Page(status=500), Page(Plain(RAW), cut_after=0), Page(redirect="/elsewhere"), Page(Plain(b"")),
    Page(Plain(RAW[:513])), Page(redirect="http://127.0.0.2:1/vm/image"), Page(Plain(b"QFI\xfb" + RAW[4:])),
], ids=["404", "500", "cut", "not allowed", "empty", "odd", "other host", "qcow2"])
def test_a_users_server_is_the_users(server: ImageServer, served: Terms, store: Store, page: Page) -> None:
    server.pages["/vm/image"], server.pages["/elsewhere"] = page, Page(Plain(RAW))
    with pytest.raises(JobError):
        from_server(server, served)
    assert (incoming(store), store.entries()) == ([], [])
    assert server.count("/elsewhere").requests == 0


def test_no_room_is_not_the_users_fault(server: ImageServer, served: Terms, store: Store) -> None:
    """The same for what comes from a server as for a local image."""
    server.pages["/vm/image"] = Page(Plain(RAW))
    with pytest.raises(NodeError, match="has no room for 1 MiB"):
        from_server(server, changed(served, limit=512 << 10))
    assert incoming(store) == []


def test_no_descriptor_is_left(server: ImageServer, served: Terms, store: Store) -> None:
    server.pages["/vm/image"] = Page(Plain(RAW))
    asking = changed(served, recheck=0.0)
    content = os.path.join(store.root, "content")
    for data in (RAW, RAW, RAW[::-1]):
        server.pages["/vm/image"] = Page(Plain(data))
        from_server(server, asking)
        links = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")]
        assert [link for link in links if link.startswith(content)] == []


def test_differencing(home: Path, terms: Terms, store: Store) -> None:
    vhd_file(home / "a.vhd", kind=4)
    assert refused(owned(home / "a.vhd"), terms, "vhd") == [
        f"the image {home}/a.vhd is a differencing VHD, which is not complete (bring an image that needs no other)"]
