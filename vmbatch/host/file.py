"""Files as root must handle them: trusted before read, whole or not there, never through another's symbolic link."""

import os
import shutil
import stat
from collections.abc import Iterator

from ..errors import NodeError, SiteError

_READ_LIMIT = 4 << 20
_BLOCK = 4096
_ZEROS = bytes(_BLOCK)


def _chain(path: str) -> Iterator[str]:
    """An absolute path and everything above it."""
    while True:
        yield path
        if path == "/":
            return
        path = os.path.dirname(path)


def check_trusted(path: str) -> None:
    """SiteError unless none but root can change the file or a directory above it, links included."""
    real = os.path.realpath(path)
    for place in {*_chain(os.path.abspath(path)), *_chain(real)}:
        try:
            status = os.lstat(place)
        except OSError as error:
            raise SiteError(f"{place}: {error.strerror}") from None
        if status.st_mode & 0o022 and not stat.S_ISLNK(status.st_mode):
            raise SiteError(f"{place} can be changed by others than root (mode {stat.S_IMODE(status.st_mode):04o})",
                            f"chmod go-w {place}")
        if status.st_uid != 0:
            raise SiteError(f"{place} belongs to uid {status.st_uid}, not to root", f"chown root {place}")


def nearest(path: str) -> str:
    """The path itself, or what is there of the directories above it."""
    return next(place for place in _chain(os.path.abspath(path)) if os.path.exists(place))


def read_trusted(path: str) -> bytes:
    """The content of a regular file that only root can change, at most 4 MiB. SiteError."""
    check_trusted(path)
    try:
        with open(path, "rb", opener=_open_plain) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise SiteError(f"{path} is not a regular file")
            data = file.read(_READ_LIMIT + 1)
    except OSError as error:
        raise SiteError(f"{path}: {error.strerror}") from None
    if len(data) > _READ_LIMIT:
        raise SiteError(f"{path} is larger than {_READ_LIMIT} bytes")
    return data


def _open_plain(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)


def sync_directory(path: str) -> None:
    """Makes the names in a directory survive a power loss."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_new(path: str, data: bytes, mode: int, owner: tuple[int, int] = (0, 0)) -> None:
    """Writes a file that must not be there yet."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(data)
        os.fchown(fd, *owner)
        os.fchmod(fd, mode)


def replace(path: str, data: bytes, mode: int, group: int = 0) -> None:
    """Puts a whole file of root's in place of an older one or of none; readers see one of both."""
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.new")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode), "wb") as file:
        file.write(data)
        os.fchown(file.fileno(), 0, group)
        os.fchmod(file.fileno(), mode)
    os.rename(temporary, path)


def write_sparse(fd: int, data: bytes, offset: int) -> None:
    """Writes `data` at `offset` of a new file, but for blocks of zeros, which stay holes; the file may end up too short."""
    begin = None
    for at in range(0, len(data), _BLOCK):
        block = data[at : at + _BLOCK]
        if block == (_ZEROS if len(block) == _BLOCK else bytes(len(block))):
            if begin is not None:
                _write_all(fd, data[begin:at], offset + begin)
            begin = None
        elif begin is None:
            begin = at
    if begin is not None:
        _write_all(fd, data[begin:], offset + begin)


def _write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        view, offset = view[done:], offset + done


def make_state_directory(path: str, mode: int) -> None:
    """A directory of our own that outlives jobs. NodeError if it is there and not root's alone."""
    os.makedirs(path, 0o755, exist_ok=True)
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != 0 or status.st_mode & 0o022:
        raise NodeError(f"{path} is not a directory that only root can write", f"chown root {path}; chmod go-w {path}")
    if stat.S_IMODE(status.st_mode) != mode:
        os.chmod(path, mode)


def remove_tree(path: str, *, last: str = "") -> None:
    """Removes a directory and all in it without following links, the file `last` after all others; absent is success."""
    if not shutil.rmtree.avoids_symlink_attacks:
        raise NodeError("this Python cannot remove directories safely")
    try:
        if last:
            _empty(path, last)
        shutil.rmtree(path)
    except FileNotFoundError:
        if os.path.lexists(path):
            raise NodeError(f"{path} changes while it is removed") from None
    except OSError as error:
        raise NodeError(f"{path} cannot be removed: {error.strerror}") from None


def _empty(path: str, kept: str) -> None:
    parent = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for name in os.listdir(parent):
            if name == kept:
                continue
            if stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
                shutil.rmtree(name, dir_fd=parent)
            else:
                os.unlink(name, dir_fd=parent)
    finally:
        os.close(parent)


def read_same(path: str, identity: tuple[int, int, int], limit: int) -> bytes:
    """The content of a file that has been looked at before: (device, inode, mtime in ns). NodeError if it is another by now."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        if (status.st_dev, status.st_ino, status.st_mtime_ns) != identity:
            raise NodeError(f"{path} has been replaced while the job was being started")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise NodeError(f"{path} is larger than {limit} bytes")
    return data


def read_hostile(directory: int, name: str, limit: int) -> bytes | None:
    """At most `limit` + 1 bytes of a regular file in an open directory that others write; None if there is no such file.

    What is not a regular file is not opened at all: opening is what some devices act upon.
    """
    try:
        found = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            return None
        fd = os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            return os.read(fd, limit + 1)
        finally:
            os.close(fd)
    except OSError:
        return None
    finally:
        os.close(found)
