"""Files as root must handle them: trusted before read, whole or not there, never through another's symbolic link."""

import contextlib
import errno
import functools
import itertools
import os
import stat
from collections.abc import Iterator

from ..errors import NodeError, SiteError, UnreachableError
from ..units import Deadline

_READ_LIMIT = 4 << 20
_BLOCK = 4096
_ZEROS = bytes(_BLOCK)
_AT_ONCE = 4096
"""Names that are read of a directory before they are removed: of a stranger's there may be millions."""
OWNER, GROUP = os.geteuid(), os.getegid()
"""Whose all is that we make: root's, or a user's who runs guests of their own."""


def _chain(path: str) -> Iterator[str]:
    """An absolute path and everything above it."""
    while True:
        yield path
        if path == "/":
            return
        path = os.path.dirname(path)


def check_trusted(*paths: str) -> None:
    """SiteError unless none but root, and we, can change these files or a directory above them, links included.

    In a directory above them that has the sticky bit, others may have files of their own.
    """
    real = functools.cache(os.path.realpath)
    ends: set[str] = set()
    for path in map(os.path.abspath, paths):
        found = os.path.join(real(os.path.dirname(path)), os.path.basename(path))
        ends |= {path, os.path.realpath(found) if os.path.islink(found) else found}
    for place in {place for end in ends for place in _chain(end)}:
        _check(place, sticky=place not in ends)


def _check(place: str, *, sticky: bool) -> None:
    try:
        status = os.lstat(place)
    except OSError as error:
        raise SiteError(f"{place}: {error.strerror}", code="VB107") from None
    shared = sticky and status.st_mode & stat.S_ISVTX
    if status.st_mode & 0o022 and not stat.S_ISLNK(status.st_mode) and not shared:
        raise SiteError(f"{place} can be changed by others than root (mode {stat.S_IMODE(status.st_mode):04o})",
                        f"chmod go-w {place}", code="VB106")
    if status.st_uid not in (0, OWNER):
        raise SiteError(f"{place} belongs to uid {status.st_uid}, not to root", f"chown root {place}", code="VB106")


def check_secret(path: str) -> None:
    """SiteError unless the file is as `check_trusted` wants it, and nobody but root can read it."""
    check_trusted(path)
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if mode & 0o077:
        raise SiteError(f"{path} can be read by others than root (mode {mode:04o})", f"chmod 600 {path}", code="VB106")


def nearest(path: str) -> str:
    """The path itself, or what is there of the directories above it."""
    return next(place for place in _chain(os.path.abspath(path)) if os.path.exists(place))


def read_trusted(path: str) -> bytes:
    """The content of a regular file that only root can change, at most 4 MiB. SiteError."""
    check_trusted(path)
    try:
        with open(path, "rb", opener=_open_plain) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise SiteError(f"{path} is not a regular file", code="VB107")
            data = file.read(_READ_LIMIT + 1)
    except OSError as error:
        raise SiteError(f"{path}: {error.strerror}", code="VB107") from None
    if len(data) > _READ_LIMIT:
        raise SiteError(f"{path} is larger than {_READ_LIMIT} bytes", code="VB107")
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


def give(fd: int, readers: int | None) -> None:
    """Makes a file root's and read-only: for a group, or for everybody."""
    os.fchown(fd, OWNER, readers or GROUP)
    os.fchmod(fd, 0o444 if readers is None else 0o440)


def write_new(path: str, data: bytes, mode: int, owner: tuple[int, int] = (OWNER, GROUP)) -> None:
    """Writes a file that must not be there yet."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(data)
        os.fchown(fd, *owner)
        os.fchmod(fd, mode)


def replace(path: str, data: bytes, mode: int, group: int = GROUP, *, sync: bool = False) -> None:
    """Puts a whole file of root's in place of an older one or of none; readers see one of both.

    With `sync` so they do after a power loss.
    """
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with open(fd, "wb") as file:
            file.write(data)
            os.fchown(fd, OWNER, group)
            os.fchmod(fd, mode)
            if sync:
                file.flush()
                os.fsync(fd)
        os.rename(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise
    if sync:
        sync_directory(os.path.dirname(path))


def put(path: str, data: bytes, mode: int = 0o644) -> None:
    """As `replace`, of the caller's own and into a directory that others may write: by a name that nobody can guess. OSError."""
    temporary = os.path.join(os.path.dirname(os.path.abspath(path)), f".{os.urandom(16).hex()}")
    try:
        write_new(temporary, data, mode, (-1, -1))
        os.rename(temporary, path)
    except OSError:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


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
    """A directory of our own that outlives jobs. NodeError, SiteError if it or one above it is there and not root's alone."""
    above = nearest(os.path.dirname(path))
    for place in {*_chain(above), *_chain(os.path.realpath(above))}:
        _check(place, sticky=True)
    try:
        os.makedirs(path, 0o755, exist_ok=True)
        fd = _open_directory(path)
    except (FileExistsError, NotADirectoryError):
        raise _not_ours(path) from None
    try:
        status = os.fstat(fd)
        if status.st_uid != OWNER or status.st_mode & 0o022:
            raise _not_ours(path)
        if stat.S_IMODE(status.st_mode) != mode:
            os.fchmod(fd, mode)
    finally:
        os.close(fd)


def _not_ours(path: str) -> NodeError:
    return NodeError(f"{path} is not a directory that only root can write", f"chown root {path}; chmod go-w {path}", code="VB106")


def _open_directory(path: str, parent: int | None = None) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)


def remove_tree(path: str, deadline: Deadline, *, last: str = "") -> None:
    """Removes a directory and all in it, the file `last` after all others; absent is success. NodeError.

    Whoever could write there cannot hold it up: no link is followed, nobody but root adds anything once a directory is begun, and
    no depth is too much, as what is deep is moved up first. What cannot be removed before the deadline is gone in part:
    UnreachableError.
    """
    try:
        top = _open_directory(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise NodeError(f"{path} cannot be removed: {error.strerror}", code="VB911") from None
    try:
        _close_to_others(top)
        while names := _some(top, last):
            for name in names:
                if deadline.passed():
                    raise UnreachableError(f"{path} has more in it than can be removed in time", "the sweep goes on with it",
                                           code="VB911")
                if not _unlink(name, top):
                    _remove_inner(name, top, deadline)
        with contextlib.suppress(FileNotFoundError):
            if last:
                os.unlink(last, dir_fd=top)
        os.rmdir(path)
    except OSError as error:
        raise NodeError(f"{path} cannot be removed: {error.strerror}", code="VB911") from None
    finally:
        os.close(top)


def _remove_inner(name: str, top: int, deadline: Deadline) -> None:
    """Removes a directory in `top`, and moves the directories in it there."""
    inner = _open_directory(name, top)
    try:
        _close_to_others(inner)
        while names := _some(inner):
            for each in names:
                if not _unlink(each, inner):
                    os.rename(each, os.urandom(16).hex(), src_dir_fd=inner, dst_dir_fd=top)
            if deadline.passed():
                return
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=top)


def _close_to_others(directory: int) -> None:
    """A stranger's directory becomes root's: even who has it open makes nothing in it from now on (open(2), EACCES)."""
    status = os.fstat(directory)
    if status.st_uid != OWNER or status.st_mode & 0o022:
        os.fchown(directory, OWNER, GROUP)
        os.fchmod(directory, 0o700)


def _some(directory: int, kept: str = "") -> list[str]:
    """Names in a directory, but for `kept`; none if there are no others."""
    with os.scandir(directory) as entries:
        return list(itertools.islice((entry.name for entry in entries if entry.name != kept), _AT_ONCE))


def _unlink(name: str, directory: int) -> bool:
    """Whether it is gone: a directory is not."""
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        return True
    except IsADirectoryError:
        return False
    return True


def seal(path: str) -> None:
    """Makes the regular files in a directory of root's root's alone."""
    parent = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for name in os.listdir(parent):
            if stat.S_ISREG(os.lstat(name, dir_fd=parent).st_mode):
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=parent)
                try:
                    os.fchown(fd, OWNER, GROUP)
                    os.fchmod(fd, 0o600)
                finally:
                    os.close(fd)
    finally:
        os.close(parent)


def read_same(path: str, identity: tuple[int, int, int], limit: int) -> bytes:
    """The content of a file that has been looked at before: (device, inode, mtime in ns). NodeError if it is another by now."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        status = os.fstat(file.fileno())
        if (status.st_dev, status.st_ino, status.st_mtime_ns) != identity:
            raise NodeError(f"{path} has been replaced while the job was being started", code="VB917")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise NodeError(f"{path} is larger than {limit} bytes", code="VB107")
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


def read_shared(path: str, limit: int) -> bytes | None:
    """At most `limit` bytes of a regular file that other nodes replace and remove; None if there is none.

    OSError where that cannot be known.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
            return None
        raise
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        with open(fd, "rb", closefd=False) as opened:
            return opened.read(limit)
    except OSError as error:
        if error.errno == errno.ESTALE:  # replaced at the server while it was read
            return None
        raise
    finally:
        os.close(fd)
