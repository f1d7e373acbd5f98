"""A user's files into the guest before the job and back after it, for guests that do not share the user's directories.

This runs as the user, on the node, beside the job's shell. What comes out of the guest is hostile: names only where they were
asked for, no link is followed, none leads out, nothing but files, directories and links is made, and no more than the template
allows.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, Protocol

import msgspec

from .errors import JobError
from .format import FormatError
from .format.tar import Member, Reader
from .shell import say
from .sshargs import WITH_PARENT, client, target
from .units import format_size

RECORD = "stage"
_FAILED = 74
"""Of a job that ended well, but whose results did not all come back (EX_IOERR, sysexits.h)."""
_REFUSED = 255
_CODE = "VB804"
"""Of the catalogue of errors, whatever goes wrong."""
_TOLD = 10
_MANY = 1000
_EACH = 4096
"""What a file counts beside its content."""
_COMMAND = "exec /bin/sh /var/lib/vmbatch/kit/stage.sh"


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """Paths below the job's working directory, to `send` and to `fetch`, each at most so many bytes in all.

    `shared` are directories that the guest shares with the node: what is below them is there already.
    """

    send: tuple[str, ...]
    fetch: tuple[str, ...]
    send_limit: int
    fetch_limit: int
    shared: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"files {':'.join(self.send) or '(none)'} into the guest, {':'.join(self.fetch) or '(none)'} back"


class Guest(Protocol):
    """Where the files go: of the hand-over record."""

    @property
    def user(self) -> str:
        """The user's name in the guest."""

    @property
    def address(self) -> str:
        """The guest's address, as the node reaches it."""

    @property
    def port(self) -> int:
        """Where its sshd is there."""

    @property
    def alias(self) -> str:
        """The name of its host key."""


def around(place: str, guest: Guest, environ: Mapping[str, str], run: Callable[[], int]) -> int:
    """Runs the job with its files sent before, and fetched after; the exit status. `place` is the hand-over directory.

    A job's tasks on a node (`pbsdsh`, `srun`) find the files there.
    """
    if environ.get("PBS_TASKNUM", "1") != "1" or re.fullmatch("[0-9]{1,9}", environ.get("SLURM_STEP_ID", "")):
        return run()
    with open(os.path.join(place, RECORD), "rb") as file:
        stage = msgspec.json.decode(file.read(), type=Stage)
    directory = working_directory(environ)
    if any(f"{directory}/".startswith(f"{shared}/") for shared in stage.shared):
        say(f"{directory} is shared with the guest: no files are copied")
        return run()
    session = [*WITH_PARENT, *client(place, guest.alias), *target(guest.user, guest.address, guest.port)]
    try:
        if stage.send:
            send(session, directory, [(os.path.join(directory, name), name) for name in stage.send], stage.send_limit)
    except (JobError, OSError) as error:
        say(f"the job does not run: vbstagein: {error}", _CODE)
        return _REFUSED
    status = run()
    try:
        if stage.fetch:
            fetch(session, directory, stage.fetch, stage.fetch_limit)
    except (JobError, OSError) as error:
        say(f"not all results have come back: vbstageout: {error}", _CODE)
        return status or _FAILED
    return status


def working_directory(environ: Mapping[str, str]) -> str:
    """Where the job was submitted, or the user's home; on the node and in the guest."""
    for name in ("PBS_O_WORKDIR", "SLURM_SUBMIT_DIR", "HOME"):
        path = os.path.normpath(environ.get(name) or ".")
        if path.startswith("/") and path.isprintable() and os.path.isdir(path):
            return f"/{path.lstrip('/')}"
    return "/"


def _request(directory: str, names: tuple[str, ...]) -> bytes:
    """For the kit's stage.sh."""
    lines = ["vmbatch 1", f"dir {directory}", *(f"name {name}" for name in names), "run"]
    return "".join(f"{line}\n" for line in lines).encode()


def _start(session: list[str], way: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*session, f"{_COMMAND} {way}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/"})


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()


class _Counted:
    """A stream for tarfile that takes no more than `limit` bytes."""

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self._stream = stream
        self._left = self._limit = limit

    def write(self, data: bytes) -> int:
        """Writes on, or raises JobError."""
        self._left -= len(data)
        if self._left < 0:
            raise JobError(f"the files are larger than {format_size(self._limit)}, which is the most that may be sent",
                           code="VB804")
        self._stream.write(data)
        return len(data)


def send(session: list[str], directory: str, files: Sequence[tuple[str, str]], limit: int) -> None:
    """Sends files and directories, each (path here, path below `directory` of the guest). JobError, OSError."""
    import tarfile

    for path, _name in files:
        if not os.path.exists(path):
            raise JobError(f"there is no {path}", code="VB804")
    process = _start(session, "in")
    try:
        if process.stdin is None:
            return
        try:
            process.stdin.write(_request(directory, ()))
            # the end of an archive is filled up to 10 KiB
            sink: Any = _Counted(process.stdin, limit + 10 * 1024)
            with tarfile.open(mode="w|", fileobj=sink, format=tarfile.GNU_FORMAT) as archive:
                for path, name in files:
                    archive.add(os.path.realpath(path), f"./{name}", filter=_as_sent)
            process.stdin.close()
        except BrokenPipeError:
            pass  # its exit status says more
        except tarfile.TarError as error:
            raise JobError(str(error), code="VB804") from None
        status = process.wait()
        if status:
            raise JobError(f"the guest did not take the files: status {status}", code="VB804")
    finally:
        _end(process)


def _as_sent(member: Any) -> Any:
    """A member with nothing of the node's accounts, no device, and no rights but plain ones."""
    if not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode &= 0o777
    return member


def fetch(session: list[str], directory: str, names: tuple[str, ...], limit: int, *, place: str = "",
          what: str = "vbstageout") -> None:
    """Brings files and directories of the guest's `directory` back, into `place` or one of the same name; `what` asked for it.

    JobError says what did not come, OSError.
    """
    process = _start(session, "out")
    try:
        if process.stdin is None or process.stdout is None:
            return
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(_request(directory, names))
            process.stdin.close()
        problems = unpack(process.stdout.read, place or directory, names, limit)
        while process.stdout.read(1 << 16):  # what fills up the end of an archive
            pass
        status = process.wait()
        for problem in problems[:_TOLD]:
            say(f"{what}: {problem}")
        if problems:
            raise JobError(f"{len(problems)} of the guest's files were left out", code="VB804")
        if status:
            raise JobError(f"the guest did not send everything: status {status}", code="VB804")
    except FormatError as error:
        raise JobError(f"what the guest sends {error.what}", code="VB804") from None
    finally:
        _end(process)


def unpack(read: Callable[[int], bytes], directory: str, names: tuple[str, ...], limit: int) -> list[str]:
    """Unpacks a hostile archive; what was left out, and why. JobError for too much of it, FormatError, OSError."""
    wanted = tuple(os.fsencode(name) for name in names)
    left = limit
    problems: list[str] = []
    top = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        reader = Reader(read)
        for member in reader:
            left -= _EACH + member.size
            if left < 0:
                raise JobError(f"the files are larger than {format_size(limit)}, which is the most that may be fetched",
                               code="VB804")
            try:
                _place(top, member, reader, wanted)
            except (_LeftOutError, OSError) as error:
                why = error.strerror if isinstance(error, OSError) else str(error)
                problems.append(f"{_shown(member.name)}: {why}")
                if len(problems) > _MANY:
                    raise JobError(f"too much goes wrong; the last: {problems[-1]}", code="VB804") from None
    finally:
        os.close(top)
    return problems


class _LeftOutError(Exception):
    """A member that is not unpacked; the text says why."""


def _shown(name: bytes) -> str:
    return "".join(char if char.isprintable() else "?" for char in name[:200].decode(errors="replace"))


def _parts(name: bytes, wanted: tuple[bytes, ...]) -> list[bytes]:
    """A checked name's parts."""
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    plain = b"/".join(parts)
    if name.startswith(b"/") or b".." in parts or b"\0" in name:
        raise _LeftOutError("this name leads out of the directory")
    if not any(plain == known or plain.startswith(known + b"/") for known in wanted):
        raise _LeftOutError("nobody asked for this")
    return parts


def _place(top: int, member: Member, reader: Reader, wanted: tuple[bytes, ...]) -> None:
    """Makes one member below the open directory `top`."""
    *above, name = _parts(member.name, wanted)
    if member.kind == "directory":
        os.close(_enter(top, [*above, name], member.mode))
        return
    parent = _enter(top, above, 0o777)
    try:
        if member.kind == "file":
            _write(parent, name, member, reader)
        elif member.kind == "link":
            _link(parent, above, name, member.target, wanted)
        elif member.kind == "hard link":
            _hard_link(top, parent, name, _parts(member.target, wanted))
        else:
            raise _LeftOutError("only files, directories and links are fetched")
    finally:
        os.close(parent)


def _enter(top: int, parts: list[bytes], mode: int) -> int:
    """Opens a directory below `top`, made where it is not there; no link on the way is followed."""
    here = os.dup(top)
    try:
        for part in parts:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, mode & 0o777 | 0o700, dir_fd=here)
            try:
                inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
            except OSError:
                raise _LeftOutError(f"{_shown(part)} is there, and no directory (links are not followed)") from None
            os.close(here)
            here = inner
    except BaseException:
        os.close(here)
        raise
    return here


@contextlib.contextmanager
def _into_place(parent: int, name: bytes) -> Any:
    """A name beside `name` for something that replaces it once it is whole."""
    fresh = b".vmbatch-" + os.urandom(8).hex().encode()
    try:
        yield fresh
        os.rename(fresh, name, src_dir_fd=parent, dst_dir_fd=parent)
    finally:  # rename(2) leaves both names of one file
        with contextlib.suppress(FileNotFoundError):
            os.unlink(fresh, dir_fd=parent)


def _write(parent: int, name: bytes, member: Member, reader: Reader) -> None:
    with _into_place(parent, name) as fresh:
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, member.mode & 0o777,
                     dir_fd=parent)
        with open(fd, "wb", 0) as made:
            for piece in reader.data():
                view = memoryview(piece)
                while view:
                    view = view[made.write(view) or 0 :]
            with contextlib.suppress(OSError, OverflowError):
                os.utime(fd, (member.mtime, member.mtime))


def _link(parent: int, above: list[bytes], name: bytes, to: bytes, wanted: tuple[bytes, ...]) -> None:
    """A link to what was asked for, too, and not by way of `..`."""
    try:
        _parts(b"/".join((*above, to)) if not to.startswith(b"/") else to, wanted)
    except _LeftOutError:
        raise _LeftOutError("a link that leads elsewhere") from None
    with _into_place(parent, name) as fresh:
        os.symlink(to, fresh, dir_fd=parent)


def _hard_link(top: int, parent: int, name: bytes, to: list[bytes]) -> None:
    """A second name of a file of the same archive, or of the user's."""
    source = _enter(top, to[:-1], 0o777)
    try:
        if not stat.S_ISREG(os.lstat(to[-1], dir_fd=source).st_mode):
            raise _LeftOutError("a link to what is no file")
        with _into_place(parent, name) as fresh:
            os.link(to[-1], fresh, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
    finally:
        os.close(source)
