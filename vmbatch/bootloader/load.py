"""Has a guest's disk read by a process without rights, and writes what it hands over into files of root's."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from ..errors import CommandError, JobError, NodeError, SiteError
from ..host import process
from ..job import Group, User
from ..units import Deadline
from . import DAMAGED, INITRD_LIMIT, KERNEL_LIMIT, LINE_LIMIT, Found, Refusal, Wish

if TYPE_CHECKING:
    import subprocess

SECONDS = 60.0
"""For all of it; the toolstack itself would wait without end."""
_CPU_SECONDS, _MEMORY = 40, 384 << 20
_HEADER_LIMIT = 64 << 10
_SAID_LIMIT = 500


class Boot(msgspec.Struct, frozen=True):
    """Paths of the files that were made, `initrd` '' where the guest has none; `found` says where they come from."""

    kernel: str
    initrd: str
    args: str
    found: Found


class _Answer(msgspec.Struct, frozen=True):
    """One of both."""

    found: Found | None = None
    refusal: Refusal | None = None


def boot_of(disk: int, directory: str, wish: Wish, *, account: str | int, deadline: Deadline) -> Boot:
    """Kernel and initrd of the raw disk that is open as `disk`, as new files of root's (mode 0600) in `directory`.

    `account` reads it: an account without rights, or the number of one that needs no name. If this raises, nothing is left.
    JobError for a disk that has nothing to boot, or harm in it; NodeError, SiteError, DeadlineError.
    """
    names: list[str] = []
    with _directory(directory) as place, _reader(disk, wish, account, deadline) as (found, pieces):
        try:
            for kind, size in (("kernel", found.kernel_size), ("initrd", found.initrd_size)):
                if size:
                    names.append(f"{kind}.{secrets.token_hex(8)}")
                    _write(place, names[-1], pieces, size)
            pieces.end()
        except BaseException:
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=place)
            raise
    kernel, initrd, *_ = *(os.path.join(directory, name) for name in names), ""
    return Boot(kernel, initrd, found.args, found)


def look(disk: int, wish: Wish, *, account: str | int, deadline: Deadline) -> Found:
    """What `boot_of` would take; nothing is copied. As `boot_of`."""
    with _reader(disk, wish, account, deadline) as (found, _):
        return found


@contextlib.contextmanager
def _directory(path: str) -> Iterator[int]:
    """A directory in which nobody but root can change names."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise NodeError(f"kernel and initrd cannot be put into {path}: {error.strerror}", code="VB906") from None
    try:
        status = os.fstat(fd)
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise SiteError(f"others than root can change what is in {path}", f"chown root {path}; chmod go-w {path}",
                            code="VB106")
        yield fd
    finally:
        os.close(fd)


def _size(disk: int) -> int:
    mode = os.fstat(disk).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        raise SiteError("the disk is neither a file nor a block device", code="VB712")
    return os.lseek(disk, 0, os.SEEK_END)


def _user(uid: int) -> User:
    if uid <= 0:
        raise SiteError(f"uid {uid} is not one without rights", code="VB712")
    return User(str(uid), uid, Group(str(uid), uid), (), "/", "/bin/false")


@contextlib.contextmanager
def _reader(disk: int, wish: Wish, account: str | int, deadline: Deadline) -> Iterator[tuple[Found, _Pieces]]:
    """The reader after its first line."""
    asked = msgspec.structs.replace(wish, args="", default_args="")
    argv = [sys.executable, "-I", "-m", "vmbatch.bootloader.reader", str(disk), str(_size(disk)),
            msgspec.json.encode(asked).decode()]
    limits = (f"--as={_MEMORY}", f"--cpu={_CPU_SECONDS}", "--core=0")
    started = process.start(
        argv, account=account if isinstance(account, str) else None, user=_user(account) if isinstance(account, int) else None,
        limits=limits, pass_fds=(disk,), stderr=process.PIPE)
    pieces = _Pieces(started, deadline)
    try:
        yield _judged(pieces.line(), wish), pieces
    finally:
        process.end(started)


def _judged(line: bytes, wish: Wish) -> Found:
    """The reader may have been taken over by what it reads: no word of it is believed."""
    try:
        answer = msgspec.json.decode(line, type=_Answer)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise JobError("the guest's disk has led its reader astray", "it may be hostile", code="VB711") from None
    if answer.refusal:
        refused = answer.refusal
        raise JobError(f"the disk {_plain(refused.what)}", _plain(refused.hint), detail=tuple(map(_plain, refused.detail[:20])),
                       code="VB711")
    found = answer.found
    if found is None or not 0 < found.kernel_size <= KERNEL_LIMIT or not 0 <= found.initrd_size <= INITRD_LIMIT + 1024:
        raise JobError("the guest's disk has led its reader astray", "it may be hostile", code="VB711")
    args = " ".join(part for part in (found.args or wish.default_args, wish.args) if part)
    if not args.isprintable():
        raise JobError("the guest's kernel line has characters that cannot be printed", "mend the guest's boot configuration",
                       code="VB711")
    length = len(args.encode())
    if length > LINE_LIMIT:
        raise JobError(f"the kernel line would have {length} bytes, and Xen cuts it off behind {LINE_LIMIT}",
                       "shorten it in the guest's boot configuration or in the domain's XML", code="VB711")
    return msgspec.structs.replace(
        found, args=args, where=_plain(found.where), title=_plain(found.title), kernel=_plain(found.kernel),
        initrds=tuple(map(_plain, found.initrds[:100])))


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:_SAID_LIMIT]


class _Pieces:
    """What the reader writes: a line, and then bytes. JobError if it ends too early, or does not end."""

    def __init__(self, started: subprocess.Popen[bytes], deadline: Deadline) -> None:
        self._process = started
        self._stream = process.stream(started, deadline, lambda: None)
        self._left = b""

    def _more(self) -> bytes:
        """b'' at the end."""
        try:
            return next(self._stream, b"")
        except CommandError as error:
            raise self._failed(error) from None

    def _failed(self, error: CommandError) -> JobError | NodeError:
        said = self._process.stderr.read(_HEADER_LIMIT).decode("utf-8", "replace") if self._process.stderr else ""
        if error.status == DAMAGED:
            return JobError(f"the disk {_plain(said)}", "check the image", code="VB711")
        if error.status < 0 or re.search(r"^(MemoryError|RecursionError)", said, re.MULTILINE):
            return JobError("the guest's disk cannot be read within the limits on time and memory", "it may be hostile",
                            code="VB711")
        return NodeError(f"the reader of the guest's disk failed: {_plain((said.strip().splitlines() or [error.what])[-1])}",
                         "its account must be able to read VmBatch's installation", code="VB910")

    def line(self) -> bytes:
        """Without its end."""
        while b"\n" not in self._left:
            piece = self._more()
            if not piece or len(self._left) > _HEADER_LIMIT:
                raise JobError("the guest's disk has led its reader astray", "it may be hostile", code="VB711")
            self._left += piece
        line, _, self._left = self._left.partition(b"\n")
        return line

    def take(self, size: int) -> Iterator[bytes]:
        """So many bytes."""
        while size:
            piece = self._left or self._more()
            if not piece:
                raise JobError("the guest's disk has led its reader astray", "it may be hostile", code="VB711")
            self._left = piece[size:]
            size -= len(piece) - len(self._left)
            yield piece[:len(piece) - len(self._left)]

    def end(self) -> None:
        """Nothing follows."""
        if self._left or self._more():
            raise JobError("the guest's disk has led its reader astray", "it may be hostile", code="VB711")


def _write(place: int, name: str, pieces: _Pieces, size: int) -> None:
    try:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=place)
        with open(fd, "wb") as file:
            for piece in pieces.take(size):
                file.write(piece)
    except OSError as error:
        raise NodeError(f"{name} cannot be written: {error.strerror}", "is the file system full?", code="VB906") from None
