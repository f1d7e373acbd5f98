"""File systems of any kind that Linux knows, changed by the kernel of a small virtual machine: guestfish(1) of libguestfs.

The disk is shown by an NBD server without rights (qemu-storage-daemon(1)); guestfish and its QEMU run as the same account in
namespaces of their own, without network: with the process that we start, all of them end, and their files in /tmp vanish.
The machine's own system is a fixed appliance, made of the node's kernel and programs by libguestfs-make-fixed-appliance(1).
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import select
import stat
import sys
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from ..errors import DeadlineError, NodeError
from ..format import FormatError
from ..host import file, process
from ..units import Deadline
from .files import ABSENT, READ_LIMIT, File, Found, Item, Link, Plan, Tree, plan
from .view import View

if TYPE_CHECKING:
    import subprocess

_GUESTFISH, _SERVER = "/usr/bin/guestfish", "/usr/bin/qemu-storage-daemon"
_INSIDE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(b"vmbatch", b"/tmp", b"tmpfs", 6, b"mode=1777,size=512m"):
    sys.exit("mount: /tmp: " + os.strerror(ctypes.get_errno()))
kept = {0, 1, 2, *map(int, sys.argv[1].split(","))}
for fd in map(int, os.listdir("/proc/self/fd")):
    if fd not in kept:
        try:
            os.close(fd)
        except OSError:
            pass
os.execv(sys.argv[2], sys.argv[2:])
"""
"""In the new namespaces: a /tmp that ends with them (mount(2), MS_NOSUID | MS_NODEV), no descriptors but those named."""
_MEMORY = 768
"""MiB of the virtual machine."""
_ADDRESS_SPACE = 8 << 30
_FILE_SIZE = 1 << 30
_ERROR = re.compile(r"^(?:\*stdin\*:[0-9]+: )?libguestfs: error: (.*)", re.MULTILINE)
_OUTPUT_LIMIT = 1 << 20
_CHUNK = 1 << 20
_ALIVE_SECONDS = 0.2


class Appliance:
    """The file system that a session has mounted, a files.Guest."""

    def __init__(self, session: _Session) -> None:
        self._session = session
        self._tree = Tree(self._look_many)

    def look(self, paths: Sequence[str]) -> None:
        """As files.Guest."""
        self._tree.look(paths)

    def real(self, path: str) -> str:
        """As files.Guest."""
        return self._tree.real(path)

    def read(self, path: str) -> str:
        """As files.Guest."""
        real = self.real(path)
        found = self._tree.found(real) if real else ABSENT
        if found.kind != "file" or not 0 < found.size <= READ_LIMIT:
            return ""
        return self._session.ask([f"cat {quoted(real)}"])[0]

    def write(self, items: Sequence[Item], deadline: Deadline) -> None:
        """As files.Guest; once in a session."""
        steps = plan(items, self._tree)
        session = self._session
        session.deadline = deadline
        session.ask([f"rm-f {quoted(path)}" for path in steps.remove])
        session.unpack(_archive(steps))
        labels = [f'lsetxattr security.selinux {item.label} {len(item.label)} {quoted(item.path)}'
                  for item in steps.items if item.label]
        session.ask(labels)
        self._tree.forget()
        self._check(steps)

    def _look_many(self, paths: Sequence[str]) -> Mapping[str, Found]:
        found = {}
        for path, said in zip(paths, self._session.ask([f"-lstatns {quoted(path)}" for path in paths]), strict=True):
            found[path] = _found(path, said)
        links = [path for path in paths if found[path].kind == "link"]
        for path, target in zip(links, self._session.ask([f"readlink {quoted(path)}" for path in links]), strict=True):
            if not target.isprintable() or "\ufffd" in target or not target:
                raise FormatError(f"has a symbolic link {path} to something that is no plain path")
            found[path] = msgspec.structs.replace(found[path], target=target)
        return found

    def _check(self, steps: Plan) -> None:
        found = self._look_many([*steps.directories, *(item.path for item in steps.items)])
        for item in steps.items:
            here = found[item.path]
            right = (here.kind == "link" and here.target == item.target if isinstance(item, Link) else
                     here.kind == "file" and here.mode == item.mode & 0o7777 and here.owner == (0, 0))
            if not right:
                raise FormatError(f"has a file system in which {item.path} is not as it was written")


@contextlib.contextmanager
def appliance(view: View, device: str, account: str, directory: str, scratch: str, deadline: Deadline, *, emulated: bool
              ) -> Iterator[Appliance]:
    """The file system on `device` of the disk: '' for all of it, a partition's number, or a logical volume VG/LV.

    `directory` has the fixed appliance; `scratch` is where an empty directory for a socket may be made; `emulated` is for nodes
    without KVM. What was written is in the disk behind it. FormatError, NodeError, DeadlineError.
    """
    if not os.path.exists(f"{directory}/kernel"):
        raise NodeError(f"there is no appliance of libguestfs in {directory}",
                        f"install libguestfs-tools; libguestfs-make-fixed-appliance {directory}", code="VB404")
    file.check_trusted(*(os.path.join(directory, name) for name in os.listdir(directory)))
    with contextlib.ExitStack() as opened:
        place = _socket_directory(scratch, account, opened)
        server = _served(view, place, account, deadline, opened)
        session = _Session(place, account, directory, deadline, emulated, opened)
        session.ask([f"add-drive '' format:raw protocol:nbd server:unix:/proc/1/fd/{place}/disk", "run"])
        session.ask([f"mount {quoted(_device(device))} /"])
        yield Appliance(session)
        session.ask(["umount-all", "shutdown"])
        session.close()
        _stop(server, deadline)


def _device(device: str) -> str:
    """As libguestfs names it: the only disk is /dev/sda."""
    return f"/dev/{device}" if "/" in device else f"/dev/sda{device}"


def _socket_directory(scratch: str, account: str, opened: contextlib.ExitStack) -> int:
    """An open directory of the account's, which reaches it as /dev/fd/N."""
    path = os.path.join(scratch, "nbd")
    os.mkdir(path, 0o700)
    opened.callback(os.rmdir, path)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    opened.callback(os.close, fd)
    found = process.account_of(account)
    os.fchown(fd, found.pw_uid, found.pw_gid)
    opened.callback(_unlink, fd)
    return fd


def _unlink(directory: int) -> None:
    for name in os.listdir(directory):
        os.unlink(name, dir_fd=directory)


def _served(view: View, place: int, account: str, deadline: Deadline, opened: contextlib.ExitStack
            ) -> subprocess.Popen[bytes]:
    """The disk as NBD on the socket `disk` in the directory."""
    name = int(view.path.rpartition("/")[2])
    server = process.start(
        [_SERVER, "--blockdev", f"driver=file,node-name=disk,filename={view.path}",
         "--nbd-server", f"addr.type=unix,addr.path=/dev/fd/{place}/disk",
         "--export", "type=nbd,id=disk,node-name=disk,name=,writable=on"],
        account=account, pass_fds=(name, place), limits=("--core=0", f"--fsize={view.size}"))
    opened.callback(process.end, server)
    while not os.path.exists(f"/proc/self/fd/{place}/disk"):
        if server.poll() is not None:
            said = server.stdout.read().decode("utf-8", "replace") if server.stdout else ""
            raise NodeError(f"qemu-storage-daemon does not serve a job's disk: {(said.strip().splitlines() or ['it ended'])[-1]}",
                            code="VB404")
        process.alive()
        if deadline.passed():
            raise DeadlineError("qemu-storage-daemon did not serve a job's disk in time", code="VB406")
        time.sleep(0.01)
    return server


def _stop(server: subprocess.Popen[bytes], deadline: Deadline) -> None:
    server.terminate()
    said = b"".join(process.stream(server, deadline, lambda: None)).decode("utf-8", "replace")
    if said.strip():
        raise NodeError(f"a job's disk could not be closed: {said.strip().splitlines()[-1]}", code="VB404")


class _Session:
    """guestfish, which reads commands from a pipe, and says after each what we ask it to say."""

    def __init__(self, place: int, account: str, directory: str, deadline: Deadline, emulated: bool,
                 opened: contextlib.ExitStack) -> None:
        self.deadline = deadline
        self._nonce = secrets.token_hex(8)
        commands, self._commands = os.pipe2(os.O_CLOEXEC)
        archive, self._archive = os.pipe2(os.O_CLOEXEC)
        self._reads_archive = archive
        opened.callback(self._close_pipes)
        found = process.account_of(account)
        os.fchown(archive, found.pw_uid, found.pw_gid)
        try:
            self._process = process.start(
                _argv(found.pw_uid, found.pw_gid, directory, (place, archive), deadline, emulated),
                stdin=commands, pass_fds=(place, archive))
        finally:
            os.close(commands)
            os.close(archive)
        opened.callback(process.end, self._process)
        self._text = b""

    def ask(self, commands: Sequence[str]) -> list[str]:
        """What each command says, without its last newline; one that begins with `-` may fail. FormatError if another fails."""
        said = []
        for at in range(0, len(commands), 50):
            some = commands[at : at + 50]
            self._send("".join(f"{command}\necho {self._nonce}\n" for command in some))
            said += [self._answer(command) for command in some]
        return said

    def unpack(self, archive: Iterator[bytes]) -> None:
        """A tar archive into the root, once."""
        self._send(f"tar-in /dev/fd/{self._reads_archive} /\necho {self._nonce}\n")
        try:
            for piece in archive:
                view = memoryview(piece)
                while view:
                    while not select.select([], [self._archive], [], min(_ALIVE_SECONDS, self.deadline.left()))[1]:
                        process.alive()
                        if self.deadline.passed():
                            raise DeadlineError("guestfish did not take the context in time", code="VB406")
                    view = view[os.write(self._archive, view[: select.PIPE_BUF]) :]
        except BrokenPipeError:
            pass  # it says why
        finally:
            os.close(self._archive)
            self._archive = -1
        self._answer("tar-in")

    def close(self) -> None:
        """The end of the session."""
        os.close(self._commands)
        self._commands = -1
        b"".join(process.stream(self._process, self.deadline, lambda: None))

    def _close_pipes(self) -> None:
        for fd in (self._commands, self._archive):
            if fd >= 0:
                os.close(fd)

    def _send(self, text: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            view = memoryview(text.encode())
            while view:
                view = view[os.write(self._commands, view) :]

    def _answer(self, command: str) -> str:
        end = f"{self._nonce}\n".encode()
        while end not in self._text:
            piece = self._read()
            if not piece or len(self._text) > _OUTPUT_LIMIT:
                raise _failed(command, (self._text + piece).decode("utf-8", "replace"))
            self._text += piece
        text, _, self._text = self._text.partition(end)
        return text.decode("utf-8", "replace").removesuffix("\n")

    def _read(self) -> bytes:
        if self._process.stdout is None:
            return b""
        source = self._process.stdout.fileno()
        while not select.select([source], [], [], min(_ALIVE_SECONDS, self.deadline.left()))[0]:
            process.alive()
            if self.deadline.passed():
                raise DeadlineError("guestfish did not answer in time", "a node without KVM needs more [times] than others",
                                    code="VB406")
        return os.read(source, 1 << 16)


def _argv(uid: int, gid: int, directory: str, fds: tuple[int, int], deadline: Deadline, emulated: bool) -> list[str]:
    """KVM is for its group."""
    groups = "--clear-groups"
    if not emulated and os.path.exists("/dev/kvm"):
        status = os.stat("/dev/kvm")
        if status.st_gid and stat.S_ISCHR(status.st_mode):
            groups = f"--groups={status.st_gid}"
    cpu = int(deadline.left()) * 2 + 1
    return [
        "/usr/bin/unshare", "--mount", "--pid", "--net", "--ipc", "--fork", "--kill-child", "--mount-proc",
        "--propagation", "private", "--", sys.executable, "-I", "-S", "-c", _INSIDE, ",".join(map(str, fds)),
        "/usr/bin/setpriv", "--pdeathsig=KILL", f"--reuid={uid}", f"--regid={gid}", groups, "--no-new-privs", "--inh-caps=-all",
        "--bounding-set=-all", "--",
        "/usr/bin/prlimit", f"--as={_ADDRESS_SPACE}", f"--cpu={cpu}", f"--fsize={_FILE_SIZE}", "--core=0", "--",
        "/usr/bin/env", "LIBGUESTFS_BACKEND=direct", f"LIBGUESTFS_PATH={directory}", f"LIBGUESTFS_MEMSIZE={_MEMORY}",
        *(["LIBGUESTFS_BACKEND_SETTINGS=force_tcg"] if emulated else []),
        "/usr/bin/stdbuf", "-oL", _GUESTFISH,
    ]


def _failed(command: str, output: str) -> FormatError | NodeError:
    """What guestfish says when it ends at a command: of launching it is the node's fault, else the file system's."""
    found = _ERROR.findall(output)
    lines = found or output.strip().splitlines() or ["it ended"]
    text = "".join(letter for letter in lines[-1] if letter.isprintable())[:300]
    if command == "run" or command.startswith("add-drive") or not found:
        return NodeError(f"the appliance of libguestfs does not start: {text}", "see guestfish(1) and libguestfs-test-tool(1)",
                         code="VB404")
    if re.search(r"No space left on device|tar: .*: Wrote only", text):
        return FormatError("has a file system without enough room left for the context", "make it larger, or free some")
    return FormatError(f"has a file system that libguestfs cannot work on: {text}")


def quoted(text: str) -> str:
    """A word for guestfish (guestfish(1), ESCAPE SEQUENCES IN DOUBLE QUOTED ARGUMENTS). ValueError for what ends the line."""
    if not text.isprintable():
        raise ValueError(f"{text!r} cannot stand in a line")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _found(path: str, said: str) -> Found:
    fields = dict(re.findall(r"^(st_[a-z]+): ([0-9]+)$", said, re.MULTILINE))
    if not {"st_mode", "st_uid", "st_gid", "st_size"} <= fields.keys():
        if re.search(r": (No such file or directory|Not a directory|Too many levels of symbolic links)\s*\Z", said):
            return ABSENT
        raise _failed("lstatns", said)
    mode = int(fields["st_mode"])
    kinds = {stat.S_IFDIR: "directory", stat.S_IFREG: "file", stat.S_IFLNK: "link"}
    return Found(kinds.get(stat.S_IFMT(mode), "other"), "", stat.S_IMODE(mode),
                 (int(fields["st_uid"]), int(fields["st_gid"])), int(fields["st_size"]))


def _archive(steps: Plan) -> Iterator[bytes]:
    """The plan's directories and items as a tar. NodeError for a source."""
    now = int(time.time())
    for path in steps.directories:
        yield _header(path, tarfile.DIRTYPE, 0o755, now)
    for item in steps.items:
        if isinstance(item, Link):
            yield _header(item.path, tarfile.SYMTYPE, 0o777, now, target=item.target)
        else:
            yield from _member(item, now)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _member(item: File, now: int) -> Iterator[bytes]:
    if not item.source:
        yield _header(item.path, tarfile.REGTYPE, item.mode, now, size=len(item.data))
        yield item.data + bytes(-len(item.data) % tarfile.BLOCKSIZE)
        return
    try:
        with open(os.open(item.source, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise NodeError(f"{item.source} is not a regular file", code="VB503")
            yield _header(item.path, tarfile.REGTYPE, item.mode, now, size=status.st_size)
            left = status.st_size
            while left:
                piece = file.read(min(_CHUNK, left))
                if not piece:
                    raise NodeError(f"{item.source} became shorter while it was read", code="VB503")
                left -= len(piece)
                yield piece
            yield bytes(-status.st_size % tarfile.BLOCKSIZE)
    except OSError as error:
        raise NodeError(f"{item.source} cannot be read: {error.strerror}", code="VB503") from None


def _header(path: str, kind: bytes, mode: int, now: int, *, size: int = 0, target: str = "") -> bytes:
    member = tarfile.TarInfo(path.lstrip("/"))
    member.type, member.mode, member.mtime, member.size, member.linkname = kind, mode & 0o7777, now, size, target
    return member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
