"""File systems of images that an admin has marked as trusted, mounted by the node's kernel, without a name and without a trace.

The mount is detached (fsopen(2), fsmount(2)): it has no mount point, no other process sees it, and it ends when its descriptor is
closed, however this process ends. So does the loop device below (loop(4), LO_FLAGS_AUTOCLEAR). Every path is resolved with the
guest's root as root (openat2(2), RESOLVE_IN_ROOT), and nothing in the guest is ever opened as a device.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import posixpath
import stat
import struct
import time
from collections.abc import Iterator, Sequence

from ..errors import DeadlineError, NodeError
from ..format import FormatError
from ..host import process
from ..units import Deadline
from .files import READ_LIMIT, File, Item, Link, check
from .view import View

# Numbers of system calls are the same on all architectures from 424 on (the kernel's scripts/syscall.tbl).
_FSOPEN, _FSCONFIG, _FSMOUNT, _OPENAT2 = 430, 431, 432, 437
_CLOEXEC = 1
_SET_FLAG, _SET_STRING, _CREATE = 0, 1, 6
_NOSUID, _NODEV, _NOEXEC = 0x2, 0x4, 0x8
_NO_MAGICLINKS, _NO_XDEV, _IN_ROOT = 0x02, 0x01, 0x10
_LOOP_MAJOR = 7
_GET_FREE, _CONFIGURE, _CLEAR = 0x4C82, 0x4C0A, 0x4C01
_AUTOCLEAR = 4
_CONFIG = struct.Struct("=II QQQQQIIII64s64s32sQQ 64x")
"""linux/loop.h, struct loop_config: fd, block size, struct loop_info64, reserved."""
_OPTIONS = {"xfs": ("nouuid",)}
"""Another job may have an image with the same identity mounted."""
_FILESYSTEMS = ("ext2", "ext3", "ext4", "xfs", "btrfs")
_PIECE = 4 << 20
_AGAIN = 0.05


class Mounted:
    """The mounted file system whose root is `fd`, a files.Guest."""

    def __init__(self, fd: int) -> None:
        self._root = fd

    def look(self, paths: Sequence[str]) -> None:
        """As files.Guest; there is nothing to gain."""

    def real(self, path: str) -> str:
        """As files.Guest."""
        fd = self._open(path, os.O_PATH)
        if fd is None:
            return ""
        try:
            above = os.readlink(f"/proc/self/fd/{self._root}")
            return os.readlink(f"/proc/self/fd/{fd}").removeprefix(above if above != "/" else "") or "/"
        finally:
            os.close(fd)

    def read(self, path: str) -> str:
        """As files.Guest."""
        with contextlib.ExitStack() as opened:
            plain = self._open(path, os.O_PATH)
            if plain is None:
                return ""
            opened.callback(os.close, plain)
            status = os.fstat(plain)
            if not stat.S_ISREG(status.st_mode) or status.st_size > READ_LIMIT:
                return ""
            with open(f"/proc/self/fd/{plain}", "rb") as file:
                return file.read(READ_LIMIT).decode("utf-8", "replace")

    def write(self, items: Sequence[Item], deadline: Deadline) -> None:
        """As files.Guest."""
        check(items)
        for item in items:
            try:
                self._put(item, deadline)
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise FormatError("has a file system without enough room left for the context",
                                      "make it larger, or free some") from None
                raise FormatError(f"has a file system that cannot take {item.path}: {error.strerror}") from None

    def _put(self, item: Item, deadline: Deadline) -> None:
        above, name = posixpath.split(item.path)
        parent = self._directory(above)
        try:
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
                    raise FormatError(f"has a directory at {item.path}, where a file is to be put")
                os.unlink(name, dir_fd=parent)
            if isinstance(item, Link):
                os.symlink(item.target, name, dir_fd=parent)
                self._label(parent, name, item.label)
                return
            fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=parent)
            try:
                _fill(fd, item, deadline)
                os.fchown(fd, 0, 0)
                os.fchmod(fd, item.mode & 0o7777)
                if item.label:
                    os.setxattr(fd, "security.selinux", item.label.encode() + b"\0")
            finally:
                os.close(fd)
        finally:
            os.close(parent)

    def _label(self, parent: int, name: str, label: str) -> None:
        if label:
            os.setxattr(f"/proc/self/fd/{parent}/{name}", "security.selinux", label.encode() + b"\0", follow_symlinks=False)

    def _directory(self, path: str) -> int:
        """An open directory, made with those above it where they are missing."""
        fd = self._open(path, os.O_PATH | os.O_DIRECTORY)
        if fd is not None:
            return fd
        above, name = posixpath.split(path)
        parent = self._directory(above)
        try:
            os.mkdir(name, 0o755, dir_fd=parent)
            made = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        except FileExistsError:
            raise FormatError(f"has a file or a link to nothing at {path}, where a directory is needed") from None
        finally:
            os.close(parent)
        os.fchown(made, 0, 0)
        os.fchmod(made, 0o755)
        return made

    def _open(self, path: str, flags: int) -> int | None:
        """openat2 inside the guest; None if there is nothing. FormatError for links in circles and files above."""
        how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, _IN_ROOT | _NO_MAGICLINKS | _NO_XDEV)
        name = ctypes.create_string_buffer(os.fsencode(path))
        try:
            return _call(_OPENAT2, self._root, name, ctypes.create_string_buffer(how, len(how)), len(how))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return None
            if error.errno == errno.ELOOP:
                raise FormatError(f"has symbolic links in circles above {path}") from None
            raise FormatError(f"has a file system in which {path} cannot be opened: {error.strerror}") from None


@contextlib.contextmanager
def mounted(view: View, filesystem: str, offset: int, length: int, deadline: Deadline) -> Iterator[Mounted]:
    """The file system in that part of the disk. What was written is in the disk behind it. FormatError, NodeError."""
    if filesystem not in _FILESYSTEMS:
        raise ValueError(f"{filesystem!r} is not mounted here")
    with contextlib.ExitStack() as opened:
        disk = os.open(view.path, os.O_RDWR | os.O_CLOEXEC)
        opened.callback(os.close, disk)
        device = _loop(disk, offset, length, deadline, opened)
        root = _mount(device, filesystem, deadline)
        try:
            yield Mounted(root)
            _sync(root)
        finally:
            os.close(root)


def _loop(disk: int, offset: int, length: int, deadline: Deadline, opened: contextlib.ExitStack) -> str:
    """A loop device that is free again when it is closed and not mounted: /dev/loopN."""
    config = _CONFIG.pack(disk, 512, 0, 0, 0, offset, length, 0, 0, 0, _AUTOCLEAR, b"vmbatch", b"", b"", 0, 0)
    while True:
        try:
            with open("/dev/loop-control", "rb", buffering=0) as control:
                number = fcntl.ioctl(control, _GET_FREE)
            path = f"/dev/loop{number}"
            device = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise NodeError(f"no loop device for a job's disk: {error.filename or '/dev/loop-control'}: {error.strerror}",
                            "modprobe loop; or leave trusted='yes' out of the <vbdisk>", code="VB404") from None
        try:
            if os.major(os.fstat(device).st_rdev) != _LOOP_MAJOR:
                raise NodeError(f"{path} is no loop device", code="VB404")
            fcntl.ioctl(device, _CONFIGURE, config)
        except BaseException as error:
            os.close(device)
            if not isinstance(error, OSError):
                raise
            if error.errno != errno.EBUSY:
                raise NodeError(f"{path} does not take a job's disk: {error.strerror}", "it needs Linux 5.8",
                                code="VB404") from None
            if deadline.passed():
                raise DeadlineError("no loop device became free in time", code="VB406") from None
        else:
            opened.callback(os.close, device)
            return path


def _mount(device: str, filesystem: str, deadline: Deadline) -> int:
    """The root of a detached mount."""
    while True:
        context = _open_filesystem(filesystem)
        try:
            for option in _OPTIONS.get(filesystem, ()):
                _configure(context, _SET_FLAG, option)
            _configure(context, _SET_STRING, "source", device)
            _configure(context, _CREATE)
            return _call(_FSMOUNT, context, _CLOEXEC, _NODEV | _NOSUID | _NOEXEC)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.EBUSY):  # btrfs: an image with the same identity is mounted
                said = _said(context)
                raise FormatError(f"has a file system ({filesystem}) that the node's kernel does not mount: "
                                  f"{said or error.strerror}") from None
            if deadline.passed():
                raise DeadlineError(f"another {filesystem} with the same identity was mounted for too long",
                                    code="VB406") from None
        finally:
            os.close(context)
        process.alive()
        time.sleep(_AGAIN)


def _open_filesystem(filesystem: str) -> int:
    try:
        return _call(_FSOPEN, ctypes.create_string_buffer(filesystem.encode()), _CLOEXEC)
    except OSError as error:
        raise NodeError(f"the node's kernel cannot mount {filesystem}: {error.strerror}",
                        f"modprobe {filesystem}; or leave trusted='yes' out of the <vbdisk>", code="VB404") from None


def _configure(context: int, command: int, key: str = "", value: str = "") -> None:
    _call(_FSCONFIG, context, command, ctypes.create_string_buffer(key.encode()) if key else None,
          ctypes.create_string_buffer(value.encode()) if value else None, 0)


def _said(context: int) -> str:
    """What the kernel has to say about a mount that failed (fsopen(2)): `e xfs: Superblock has bad magic number`."""
    with contextlib.suppress(OSError):
        text = os.read(context, 4096).decode("utf-8", "replace")
        return "".join(letter for letter in text.strip() if letter.isprintable())[:200]
    return ""


def _call(number: int, *arguments: object) -> int:
    """A system call that the C library may not know. OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    wide = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    result: int = libc.syscall(ctypes.c_long(number), *wide)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _sync(root: int) -> None:
    """All of the file system (syncfs(2)): what it cannot write is an error here, and nowhere later."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(f"/proc/self/fd/{root}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if libc.syncfs(fd):
            raise NodeError(f"a job's disk cannot be written to: {os.strerror(ctypes.get_errno())}",
                            "is the spool's file system full?", code="VB405")
    finally:
        os.close(fd)


def _fill(fd: int, item: File, deadline: Deadline) -> None:
    if not item.source:
        view = memoryview(item.data)
        while view:
            view = view[os.write(fd, view) :]
        return
    try:
        source = os.open(item.source, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise NodeError(f"{item.source} cannot be read: {error.strerror}", code="VB503") from None
    try:
        if not stat.S_ISREG(os.fstat(source).st_mode):
            raise NodeError(f"{item.source} is not a regular file", code="VB503")
        while os.sendfile(fd, source, None, _PIECE):
            process.alive()
            if deadline.passed():
                raise DeadlineError(f"{item.path} was not written in time", code="VB406")
    finally:
        os.close(source)
