"""Local images are read once for their digest, and again when they are others; a VHD's parents are found or refused."""

import hashlib
import os
import signal
import time
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from vmbatch.disk import layout
from vmbatch.errors import CommandError, DeadlineError, EndedError, SiteError
from vmbatch.format import FormatError, vhd
from vmbatch.image import local
from vmbatch.image.inspect import Known
from vmbatch.image.store import Store
from vmbatch.template import Checksum

from .conftest import MIB, incoming, work

DATA = os.urandom(MIB)
RIGHT = Checksum("sha256", hashlib.sha256(DATA).hexdigest())
NOW = 1_700_000_000.0


@pytest.fixture
def image(place: Path) -> Path:
    path = place / "image.raw"
    path.write_bytes(DATA)
    path.chmod(0o600)
    return path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The digests for which an image was read."""
    done: list[str] = []
    real = local.of_file

    def of_file(fd: int, function: str, *rest: object) -> str:
        done.append(function)
        return real(fd, function, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(local, "of_file", of_file)
    return done


def check(image: Path, checksum: Checksum, store: Store, programs: tuple[str, ...] = ()) -> None:
    local.check(str(image), checksum, store, programs, "nobody", work())


@pytest.mark.parametrize("name", ["sha256", "sha512", "sha384", "sha224", "blake2b", "sha1", "md5"])
def test_read_once(image: Path, store: Store, reads: list[str], name: str) -> None:
    right = Checksum(name, hashlib.new(name, DATA).hexdigest())
    for _ in range(3):
        check(image, right, store)
    assert reads == [name]
    assert [entry.endswith(".seal") for entry in incoming(store)] == [True]


def rewritten(path: Path) -> None:
    path.write_bytes(DATA)


def behind_its_back(path: Path) -> None:
    """The time that people see is the old one."""
    status = path.stat()
    path.write_bytes(DATA)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def renamed_over(path: Path) -> None:
    status = path.stat()
    path.with_name("new").write_bytes(DATA)
    os.utime(path.with_name("new"), ns=(status.st_atime_ns, status.st_mtime_ns))
    path.with_name("new").rename(path)


@pytest.mark.parametrize("change", [rewritten, behind_its_back, renamed_over])
def test_read_again_after_a_change(image: Path, store: Store, reads: list[str], change: Callable[[Path], None]) -> None:
    check(image, RIGHT, store)
    time.sleep(0.02)
    change(image)
    check(image, RIGHT, store)
    check(image, RIGHT, store)
    assert reads == ["sha256"] * 2


def test_changed_content_is_seen(image: Path, store: Store, reads: list[str]) -> None:
    check(image, RIGHT, store)
    time.sleep(0.02)
    status = image.stat()
    image.write_bytes(bytes(MIB))
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(SiteError):
        check(image, RIGHT, store)


def test_each_path_and_digest_has_its_own(image: Path, store: Store, reads: list[str]) -> None:
    other = image.with_name("other")
    other.write_bytes(DATA)
    weak = Checksum("md5", hashlib.md5(DATA, usedforsecurity=False).hexdigest())
    for _ in range(2):
        check(image, RIGHT, store)
        check(image, weak, store)
        check(other, RIGHT, store)
    assert reads == ["sha256", "md5", "sha256"]


@pytest.mark.parametrize("data", [b"", b"{", b"\0" * 99, b"\xff", b"{}", b"null"], ids=repr)
def test_damaged_seal(image: Path, store: Store, reads: list[str], data: bytes) -> None:
    check(image, RIGHT, store)
    [seal] = incoming(store)
    Path(store.root, "incoming", seal).write_bytes(data)
    check(image, RIGHT, store)
    assert reads == ["sha256"] * 2


@pytest.mark.error("VB301")
def test_wrong_digest(image: Path, store: Store, reads: list[str]) -> None:
    wrong = Checksum("sha256", "0" * 64)
    for _ in range(2):
        with pytest.raises(SiteError) as caught:
            check(image, wrong, store)
        assert caught.value.lines() == [
            f"the image {image} has the sha256 {RIGHT.value}; the template wants {'0' * 64} (the image was changed or damaged; "
            "if it is the right one, correct <vbcheckhash>)"]
    assert incoming(store) == [], "what is wrong is not kept"
    assert len(reads) == 2
    check(image, RIGHT, store)
    with pytest.raises(SiteError, match="the template wants 0000"):
        check(image, wrong, store)


@pytest.mark.error("VB312")
def test_changed_while_it_is_read(image: Path, store: Store) -> None:
    def touch() -> None:
        os.utime(image)

    with pytest.raises(SiteError, match=rf"^the image {image} is being changed$"):
        local.check(str(image), RIGHT, store, (), "nobody", work(alive=touch))
    assert incoming(store) == []


def test_the_end_and_the_deadline_are_heeded(image: Path, store: Store) -> None:
    def over() -> None:
        raise EndedError("the job has ended")

    with pytest.raises(EndedError, match=r"^the job has ended$"):
        local.check(str(image), RIGHT, store, (), "nobody", work(alive=over))
    with pytest.raises(SiteError, match=r"^an image could not be read in the time that a job's start has$"):
        local.check(str(image), RIGHT, store, (), "nobody", work(0))
    assert incoming(store) == []


def cksum(data: bytes) -> str:
    """cksum(1) of POSIX, by a program that is not cksum: CRC-32 with another bit order, and the length behind the data."""
    length = len(data)
    tail = b""
    while length:
        tail += bytes([length & 0xFF])
        length >>= 8
    mirror = bytes(int(f"{number:08b}"[::-1], 2) for number in range(256))
    state = zlib.crc32((data + tail).translate(mirror), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return str(int(f"{state:032b}"[::-1], 2) ^ 0xFFFFFFFF)


def test_listed_program(image: Path, store: Store, reads: list[str]) -> None:
    """It reads an image that is root's alone, from its input, without rights."""
    right = Checksum("/usr/bin/cksum", cksum(DATA))
    for _ in range(2):
        check(image, right, store, ("/usr/bin/cksum",))
    assert reads == ["/usr/bin/cksum"]
    with pytest.raises(SiteError, match=rf"^the image {image} has the /usr/bin/cksum {cksum(DATA)}; the template wants 17$"):
        check(image, Checksum("/usr/bin/cksum", "17"), store, ("/usr/bin/cksum",))


@pytest.mark.parametrize("programs", [(), ("/usr/bin/sum", "cksum", "/bin/cksum")])
@pytest.mark.error("VB313")
def test_unlisted_program(image: Path, store: Store, programs: tuple[str, ...]) -> None:
    with pytest.raises(SiteError) as caught:
        check(image, Checksum("/usr/bin/cksum", cksum(DATA)), store, programs)
    assert caught.value.lines() == [
        "<vbcheckhash hashfunction='/usr/bin/cksum'>: this program is not listed in [images] hash_programs "
        "(use one of sha256, sha512, sha384, sha224, blake2b, sha1, md5, or list it)"]
    assert incoming(store) == []


def program(place: Path, text: str) -> str:
    path = place / "program"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_program_that_fails(image: Path, store: Store, place: Path) -> None:
    path = program(place, "echo it does not work >&2; exit 3")
    with pytest.raises(CommandError, match=rf"^{path} failed with exit status 3: it does not work$"):
        check(image, Checksum(path, "17"), store, (path,))
    assert incoming(store) == []


def test_program_that_is_not_there(image: Path, store: Store, place: Path) -> None:
    with pytest.raises(SiteError, match=rf"^{place}/none: No such file or directory$"):
        check(image, Checksum(f"{place}/none", "17"), store, (f"{place}/none",))


def test_program_that_says_nothing(image: Path, store: Store, place: Path) -> None:
    path = program(place, "exit 0")
    with pytest.raises(SiteError, match=rf"^the image {image} has the {path} ; the template wants 17$"):
        check(image, Checksum(path, "17"), store, (path,))


def test_program_that_hangs(image: Path, store: Store, place: Path) -> None:
    path = program(place, "exec sleep 60")
    with pytest.raises(DeadlineError, match=rf"^{path} did not end in time$"):
        local.check(str(image), Checksum(path, "17"), store, (path,), "nobody", work(0.3))
    assert incoming(store) == []


def test_program_that_warns(image: Path, store: Store, place: Path) -> None:
    """What it says beside its result is not its result."""
    path = program(place, "echo careful >&2; echo 17")
    check(image, Checksum(path, "17"), store, (path,))


def test_program_without_rights(image: Path, store: Store, place: Path) -> None:
    path = program(place, "id -u")
    check(image, Checksum(path, "65534"), store, (path,))


def test_known(image: Path) -> None:
    def fault(what: str, hint: str) -> Exception:
        return SiteError(f"the image {what}", hint)

    assert local.known(str(image), "raw", MIB, fault) == Known("raw", MIB, MIB, False)
    with pytest.raises(SiteError, match=r"^the image is a disk of 1M, but the limit is 1048575$"):
        local.known(str(image), "raw", MIB - 1, fault)
    os.mkfifo(image.with_name("fifo"))
    with pytest.raises(SiteError, match=r"^the image is not a regular file$"):
        local.known(str(image.with_name("fifo")), "raw", MIB, fault)


SIZE = 4 * MIB


def identity(number: int) -> uuid.UUID:
    return uuid.UUID(int=number + 1)


def base(place: Path) -> Path:
    path = place / "0.vhd"
    layout.write(str(path), vhd.dynamic(SIZE, identity(0), NOW))
    return path


def child(place: Path, number: int, parent: int) -> Path:
    """A child of `parent`, which need not be there yet."""
    path = place / f"{number}.vhd"
    layout.write(str(path), vhd.differencing(
        SIZE, identity(number), NOW, vhd.Vhd("dynamic", SIZE, str(identity(parent)), 0), str(place / f"{parent}.vhd"), str(path),
        NOW))
    return path


def names(place: Path, count: int) -> tuple[str, ...]:
    return tuple(str(place / f"{number}.vhd") for number in range(count))


def test_chain(place: Path) -> None:
    assert local.chain(str(base(place))) == names(place, 1)
    child(place, 1, 0)
    assert local.chain(str(child(place, 2, 1))) == names(place, 3)


def test_parent_in_another_directory(place: Path) -> None:
    (place / "site").mkdir(mode=0o755)
    parent, path = base(place), place / "site/1.vhd"
    layout.write(str(path), vhd.differencing(
        SIZE, identity(1), NOW, vhd.Vhd("dynamic", SIZE, str(identity(0)), 0), str(parent), str(path), NOW))
    assert local.chain(str(path)) == (str(parent), str(path))


@pytest.mark.parametrize("length", [1, 2, 5])
def test_ring(place: Path, length: int) -> None:
    for number in range(length):
        child(place, number, (number + 1) % length)
    with pytest.raises(FormatError, match=r"^is a VHD whose parents are a ring$"):
        local.chain(str(place / "0.vhd"))


def deep(place: Path, parents: int) -> str:
    base(place)
    for number in range(parents):
        child(place, number + 1, number)
    return str(place / f"{parents}.vhd")


@pytest.mark.parametrize("parents", [31, 32])
def test_as_deep_as_may_be(place: Path, parents: int) -> None:
    assert local.chain(deep(place, parents)) == names(place, parents + 1)


def test_too_deep(place: Path) -> None:
    with pytest.raises(FormatError, match=r"^is a VHD with more than 32 parents$"):
        local.chain(deep(place, 33))


def test_missing_parent(place: Path) -> None:
    path = child(place, 1, 0)
    with pytest.raises(FormatError) as caught:
        local.chain(str(path))
    assert caught.value.what.startswith("is a differencing VHD whose parent is none of ")
    assert "0.vhd" in caught.value.what


def test_replaced_parent(place: Path) -> None:
    path = child(place, 1, 0)
    layout.write(str(place / "0.vhd"), vhd.dynamic(SIZE, identity(7), NOW))
    with pytest.raises(FormatError, match=rf"^has the parent {identity(0)}, and what was found is {identity(7)}$"):
        local.chain(str(path))


def test_raw_parent_is_not_a_chain_of_vhds(place: Path) -> None:
    (place / "0.raw").write_bytes(bytes(SIZE))
    path = place / "1.vhd"
    layout.write(str(path), vhd.differencing(SIZE, identity(1), NOW, None, str(place / "0.raw"), str(path), NOW))
    with pytest.raises(FormatError, match=r"^has no VHD footer at its end$"):
        local.chain(str(path))


def test_parent_that_others_can_change(place: Path) -> None:
    parent = base(place)
    path = child(place, 1, 0)
    parent.chmod(0o666)
    with pytest.raises(SiteError, match=rf"^{parent} can be changed by others than root \(mode 0666\)$"):
        local.chain(str(path))


def test_parent_of_a_user(place: Path) -> None:
    parent = base(place)
    path = child(place, 1, 0)
    os.chown(parent, 1500, 1500)
    with pytest.raises(SiteError, match=rf"^{parent} belongs to uid 1500, not to root$"):
        local.chain(str(path))


class Hangs(BaseException):
    """It does not come back by itself."""


def test_parent_that_is_a_fifo(place: Path) -> None:
    """A locator is a hint by an untrusted hand; whoever follows it must not hang."""
    def alarm(*_: object) -> None:
        raise Hangs

    path = child(place, 1, 0)
    os.mkfifo(place / "0.vhd")
    before = signal.signal(signal.SIGALRM, alarm)
    signal.alarm(3)
    try:
        with pytest.raises((FormatError, SiteError)):
            local.chain(str(path))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
