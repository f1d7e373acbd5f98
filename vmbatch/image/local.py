"""Images that lie on the node: checked once, and again when the file is another one."""

import contextlib
import hashlib
import os
from collections.abc import Callable

import msgspec

from .. import digest
from ..errors import SiteError
from ..format import FormatError, Read, vhd
from ..host import file, process
from ..resource import Work
from ..template import Checksum
from . import inspect
from .store import Store

_PIECE = 4 << 20
_DEPTH_LIMIT = 32


class Seal(msgspec.Struct, frozen=True):
    """That a file had a digest; any write to the file changes what stands here."""

    path: str
    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    function: str
    value: str


def check(path: str, checksum: Checksum, store: Store, programs: tuple[str, ...], account: str, work: Work) -> None:
    """SiteError unless the image has the digest. The file is read only if it is not known, or not as it was."""
    key = _key(path, checksum)
    seal = store.incoming(key, "seal")
    wanted = _seal(path, checksum)
    if _read(seal) == wanted:
        return
    with store.locked(key, work.deadline, work.alive):
        if _read(seal) == wanted:
            return
        with open(path, "rb") as image:
            found = of_file(image.fileno(), checksum.function, programs, account, work)
        if found != checksum.value:
            raise differs(f"the image {path}", checksum, found)
        if _seal(path, checksum) != wanted:
            raise SiteError(f"the image {path} is being changed", "put a new image beside it and rename it", code="VB312")
        file.replace(seal, msgspec.json.encode(wanted), 0o600)


def is_checked(path: str, checksum: Checksum, store: Store) -> bool:
    """Whether the image was found right, and is as it was then."""
    return _read(store.incoming(_key(path, checksum), "seal")) == _seal(path, checksum)


def _key(path: str, checksum: Checksum) -> str:
    return hashlib.sha256(f"{path}\0{checksum.function}".encode()).hexdigest()[:32]


def differs(what: str, checksum: Checksum, found: str) -> SiteError:
    """The error for an image with another digest than it must have."""
    return SiteError(f"{what} has the {checksum.function} {found}; the template wants {checksum.value}",
                     "the image was changed or damaged; if it is the right one, correct <vbcheckhash>", code="VB301")


def _seal(path: str, checksum: Checksum) -> Seal:
    status = os.stat(path)
    return Seal(path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns,
                checksum.function, checksum.value)


def _read(path: str) -> Seal | None:
    with contextlib.suppress(FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError), open(path, "rb") as opened:
        return msgspec.json.decode(opened.read(), type=Seal)
    return None


def of_file(fd: int, function: str, programs: tuple[str, ...], account: str, work: Work) -> str:
    """The digest of an open file, computed here, or by a program that the configuration lists. SiteError."""
    if function in digest.ALGORITHMS:
        state = hashlib.new(function, usedforsecurity=False)
        offset = 0
        while piece := os.pread(fd, _PIECE, offset):
            work.alive()
            if work.deadline.passed():
                raise SiteError("an image could not be read in the time that a job's start has",
                                "raise $prologalarm, or run vmbatch image fetch --all before", code="VB311")
            state.update(piece)
            offset += len(piece)
        return state.hexdigest()
    check_program(function, programs)
    os.lseek(fd, 0, os.SEEK_SET)
    said = process.run([function], work.deadline, account=account, stdin=fd, quiet=True).split()
    return said[0].lower() if said else ""


def check_program(function: str, programs: tuple[str, ...]) -> None:
    """SiteError unless a digest is known, or its program is listed and root's."""
    if function in digest.ALGORITHMS:
        return
    if function not in programs:
        raise SiteError(f"<vbcheckhash hashfunction='{function}'>: this program is not listed in [images] hash_programs",
                        f"use one of {', '.join(digest.ALGORITHMS)}, or list it", code="VB313")
    file.check_trusted(function)


def reader(fd: int) -> Read:
    """An open file as the formats read it."""
    return lambda offset, length: os.pread(fd, length, offset)


def chain(path: str) -> tuple[str, ...]:
    """A differencing VHD and its parents, base first. SiteError, FormatError."""
    found = [path]
    while True:
        file.check_trusted(found[0])
        with open(found[0], "rb") as image:
            child = vhd.parse(reader(image.fileno()), os.fstat(image.fileno()).st_size)
        if child.parent is None:
            return tuple(found)
        parent = _parent(found[0], child, child.parent.paths)
        if parent in found:
            raise FormatError("is a VHD whose parents are a ring")
        if len(found) > _DEPTH_LIMIT:
            raise FormatError(f"is a VHD with more than {_DEPTH_LIMIT} parents")
        found.insert(0, parent)


def _parent(path: str, child: vhd.Vhd, candidates: tuple[str, ...]) -> str:
    """The parent's path: as one of the child's locators names it, beside the child or absolute."""
    for candidate in candidates:
        place = os.path.normpath(os.path.join(os.path.dirname(path), candidate))
        with contextlib.suppress(OSError):
            fd = os.open(place, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            try:
                vhd.check_child(child, vhd.parse(reader(fd), os.fstat(fd).st_size))
                return place
            finally:
                os.close(fd)
    raise FormatError(f"is a differencing VHD whose parent is none of {', '.join(candidates) or '(it names none)'}")


def known(path: str, form: str, limit: int, fault: Callable[[str, str], Exception]) -> inspect.Known:
    """What must be known of an image before it is used; `fault` makes the error of a bad one."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        return inspect.inspect(fd, form, limit)
    except FormatError as error:
        raise fault(error.what, error.hint) from None
    finally:
        os.close(fd)

