"""A job's disk of any format as a raw file, for tools that read and write a guest's file system in user space.

A raw disk is itself. Any other is exported by `qemu-storage-daemon` through FUSE (qemu-storage-daemon(1), `--export type=fuse`):
the daemon has a mount namespace of its own and mounts the export over the disk's own name in there, so the mount ends with the
daemon, however that ends, and no other process ever sees it by a name. We take hold of it through /proc/PID/root, and the tools
get it as an inherited descriptor, /dev/fd/N, whichever directories they may not enter.

What is hostile is the guest's file system, so its tools run as an account without rights; the disk belongs to them while they
work, in the view alone unless the disk is raw. They never get at the header of an image, which a hypervisor will believe. The
headers are ours or have been inspected, so the daemon may be root's; it keeps two capabilities, to mount (libfuse, lib/mount.c,
fuse_mount_sys: without fusermount3 and its set-uid bit) and to open files as root does.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import signal
import stat
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import msgspec

from ..errors import CommandError, DeadlineError, NodeError
from ..format import FormatError, Read, qcow2, vhd
from ..host import process
from ..units import Deadline

if TYPE_CHECKING:
    import subprocess

MEMORY = 1 << 30
"""Bytes of address space that a tool may take."""
_DRIVERS = {"raw": "raw", "qcow2": "qcow2", "qcow": "qcow", "vhd": "vpc", "vhd-fixed": "vpc"}
_HEADER = 112
_XEN_AT = 48
_DATA_FILE = 4
"""Incompatible feature bit 2 of qcow2, at byte 72 (docs/interop/qcow2.txt)."""
_DAEMON = "/usr/bin/qemu-storage-daemon"
_SAID_LIMIT = 500


class View(msgspec.Struct, frozen=True):
    """The disk as a raw file of `size` bytes: `path` for a tool that `run` starts."""

    size: int
    _name: int
    _account: str

    @property
    def path(self) -> str:
        """Names the disk to us and to the tools that `run` starts."""
        return f"/dev/fd/{self._name}"

    def read(self, offset: int, length: int) -> bytes:
        """As os.pread, for the readers in `format`. FormatError.

        Nothing stays open: each process that we start closes its copy, and waits for a daemon that hangs (fs/fuse, fuse_flush).
        """
        if not 0 <= offset < self.size:
            return b""
        try:
            with _opened(self.path, os.O_RDONLY) as fd:
                return os.pread(fd, length, offset)
        except OSError as error:
            raise FormatError(f"cannot be read: {error.strerror}") from None

    def run(self, argv: list[str], deadline: Deadline, *, stdin: int | None = None, pass_fds: Sequence[int] = (),
            memory: int = MEMORY, quiet: bool = False) -> str:
        """Runs a tool on `path`, without rights and within limits; as process.run. CommandError, DeadlineError."""
        limits = (f"--as={memory}", f"--cpu={math.ceil(deadline.left()) + 1}", f"--fsize={self.size}", "--core=0")
        try:
            return process.run([*_unless_orphan(), *argv], deadline, account=self._account, limits=limits, stdin=stdin,
                               pass_fds=(self._name, *pass_fds), quiet=quiet)
        except CommandError as error:
            raise CommandError(argv, error.status, error.output) from None
        except DeadlineError:
            raise DeadlineError(f"{argv[0]} did not end in time", code="VB406") from None


@contextlib.contextmanager
def view(path: str, form: str, account: str, deadline: Deadline, backing: tuple[str, str] | None = None) -> Iterator[View]:
    """The disk at `path`, in the format `form` of format.name, over the image `backing` (path, format) where it is an overlay.

    What was written is in the disk when this returns; when it raises, the disk is not fit for use. NodeError, DeadlineError.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise NodeError(f"the disk {path} cannot be opened: {error.strerror}", code="VB404") from None
    with contextlib.ExitStack() as opened:
        opened.callback(os.close, fd)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise NodeError(f"the disk {path} is not a regular file", code="VB404")
        if status.st_nlink != 1:
            raise NodeError(f"the disk {path} has {status.st_nlink} names, and others may use it",
                            "give each job a disk of its own", code="VB404")
        try:
            _check(_reader(fd), status.st_size, form, backing is not None)
        except FormatError as error:
            raise NodeError(f"the disk {path} {error.what}", error.hint, code="VB404") from None
        if form == "raw":
            name = opened.enter_context(_opened(f"/proc/self/fd/{fd}", os.O_PATH))
            opened.enter_context(_lent(fd, account))
            yield View(status.st_size, name, account)
        else:
            yield opened.enter_context(_exported(fd, path, form, account, deadline, backing))


def _reader(fd: int) -> Read:
    return lambda offset, length: os.pread(fd, length, offset)


def _check(read: Read, file_size: int, form: str, chained: bool) -> None:
    """FormatError where QEMU would open another file than those that we name, or write what others then refuse."""
    if form in ("vhd", "vhd-fixed"):
        if vhd.parse(read, file_size).kind == "differencing":
            raise FormatError("is a differencing VHD, whose parents QEMU does not read",
                              "use copy_method='copy' or another format")
        if chained:
            raise FormatError("is a VHD without a parent, and should be an overlay")
    elif form in ("qcow2", "qcow"):
        head = read(0, _HEADER)
        version = int.from_bytes(head[4:8])
        if head[:4] != qcow2.MAGIC or version not in ((1,) if form == "qcow" else (2, 3)):
            raise FormatError(f"is not {form}")
        if any(head[8:20]) != chained:
            raise FormatError("has no backing file, and should be an overlay" if chained else "has a backing file")
        if version == 3 and int.from_bytes(head[72:80]) & _DATA_FILE:
            raise FormatError("names an external data file")
        if version == 1 and head[_XEN_AT : _XEN_AT + 4] == b"XEN\xfb":
            raise FormatError("is a qcow with Xen's checksum, which is wrong after anybody but Xen wrote to it",
                              "use another format for the overlay")
    elif form != "raw":
        raise FormatError(f"has the format {form!r}, which QEMU does not write")


@contextlib.contextmanager
def _opened(path: str, flags: int) -> Iterator[int]:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def _lent(fd: int, account: str) -> Iterator[None]:
    """The file belongs to the account meanwhile."""
    before, borrower = os.fstat(fd), process.account_of(account)
    os.fchown(fd, borrower.pw_uid, borrower.pw_gid)
    try:
        yield
    finally:
        os.fchown(fd, before.st_uid, before.st_gid)


@contextlib.contextmanager
def _exported(fd: int, path: str, form: str, account: str, deadline: Deadline,
              backing: tuple[str, str] | None) -> Iterator[View]:
    """The view of a disk that is not raw."""
    place = os.path.realpath(path)
    with contextlib.ExitStack() as opened:
        daemon = process.start(_argv(fd, place, form, backing), pass_fds=(fd,))
        try:
            said = process.stream(daemon, deadline, lambda: None)
            _wait_ready(said, path)
            name = opened.enter_context(_mounted(daemon.pid, place, fd))
            seen = View(os.fstat(name).st_size, name, account)
            process.run(["/usr/bin/chown", "--", _owner(account), seen.path], deadline, pass_fds=(name,))
            yield seen
            process.run(["/usr/bin/sync", "--", seen.path], deadline, pass_fds=(name,))
            _stop(daemon, said, path)
        finally:
            process.end(daemon)


def _argv(fd: int, place: str, form: str, backing: tuple[str, str] | None) -> list[str]:
    """The daemon in its namespace; it greets on stdout (QMP) when all that stands before `--monitor` is done.

    It waits for no disk: a node that loses power loses the job, too.
    """
    unsynced = {"no-flush": True}
    base = None if backing is None else {
        "driver": _DRIVERS[backing[1]], "read-only": True,
        "file": {"driver": "file", "filename": backing[0], "read-only": True},
        **({} if backing[1] in ("raw", "vhd", "vhd-fixed") else {"backing": None}),
    }
    disk = {
        "driver": _DRIVERS[form], "node-name": "disk", "cache": unsynced, "discard": "unmap",
        "file": {"driver": "file", "filename": f"/dev/fd/{fd}", "cache": unsynced, "discard": "unmap"},
        **({} if form.startswith("vhd") else {"backing": base}),
    }
    export = {"type": "fuse", "id": "view", "node-name": "disk", "mountpoint": place, "writable": True, "allow-other": "on"}
    return [
        "/usr/bin/unshare", "--mount", "--propagation", "private", "--",
        "/usr/bin/setpriv", "--pdeathsig=KILL", "--bounding-set=-all,+sys_admin,+dac_override", "--inh-caps=-all",
        "--no-new-privs", "--", *_unless_orphan(), _DAEMON, "--blockdev", json.dumps(disk), "--export", json.dumps(export),
        "--chardev", "stdio,id=here", "--monitor", "chardev=here",
    ]


def _unless_orphan() -> list[str]:
    """Goes before a program that is our child: we may have been killed before setpriv(1) asked that it die with us."""
    return ["/bin/sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"', str(os.getpid())]


def _wait_ready(said: Iterator[bytes], path: str) -> None:
    """Until the daemon has greeted. NodeError with what it says instead."""
    text = b""
    try:
        for piece in said:
            text += piece
            if re.search(rb'{"QMP".*\n', text):
                return
    except CommandError:
        pass
    raise NodeError(f"qemu-storage-daemon cannot show the disk {path}: {_words(text) or 'it ended'}",
                    "it needs /dev/fuse: modprobe fuse" if not os.path.exists("/dev/fuse") else "", code="VB404")


@contextlib.contextmanager
def _mounted(pid: int, place: str, fd: int) -> Iterator[int]:
    """A name for the export (open(2), O_PATH), which lies over the disk in the daemon's namespace."""
    with _opened(f"/proc/{pid}/root{place}", os.O_PATH | os.O_NOFOLLOW) as name:
        if os.fstat(name).st_dev == os.fstat(fd).st_dev:
            raise NodeError(f"qemu-storage-daemon has not mounted its view of {place}", code="VB404")
        yield name


def _owner(account: str) -> str:
    found = process.account_of(account)
    return f"{found.pw_uid}:{found.pw_gid}"


def _stop(daemon: subprocess.Popen[bytes], said: Iterator[bytes], path: str) -> None:
    """Has the daemon write what it holds, and end. NodeError, DeadlineError."""
    daemon.send_signal(signal.SIGTERM)
    try:
        text = b"".join(said)
    except DeadlineError:
        raise DeadlineError(f"qemu-storage-daemon did not close the disk {path} in time", code="VB406") from None
    if text.strip():
        raise NodeError(f"qemu-storage-daemon could not close the disk {path}: {_words(text)}", code="VB404")


def _words(text: bytes) -> str:
    """What the daemon says, without its name and the option that it says it of."""
    lines = text.decode("utf-8", "replace").strip().splitlines()
    return "; ".join(re.sub(r"^qemu-storage-daemon: (--[a-z]+ {.*}: )?", "", line) for line in lines)[-_SAID_LIMIT:]
