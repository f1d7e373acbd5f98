"""ext2, ext3 and ext4 in user space: debugfs(8) of e2fsprogs works on the guest's file system as an account without rights.

debugfs tells nearly every error by a line alone and goes on, so each line that it writes is accounted for, and what was written
is looked at again. It echoes the commands of a script (debugfs/debugfs.c, source_file), and splits them as libss does
(lib/ss/parse.c: words in double quotes, in which a quote is written twice).

The features are those whose metadata debugfs keeps right; for others there is the appliance. What `rm` forgets is the block of
a file's extended attributes (debugfs/debugfs.c, kill_file_by_inode): where there was one, e2fsck frees it.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import stat
from collections.abc import Iterator, Sequence

import msgspec

from ..errors import CommandError, NodeError
from ..format import FormatError
from ..units import Deadline
from .files import ABSENT, READ_LIMIT, File, Found, Item, Link, Plan, Tree, lent, plan
from .view import View

_DEBUGFS, _E2FSCK = "/usr/sbin/debugfs", "/usr/sbin/e2fsck"
_SUPER_AT, _SUPER_SIZE, _MAGIC = 1024, 1024, 0xEF53
_CLEAN, _ERRORS = 0x1, 0x2
_NEEDS_RECOVERY, _ORPHANS = 0x4, 0x10000
_COMPATIBLE = {
    0x2: "imagic_inodes", 0x40: "lazy_bg", 0x80: "exclude_inode", 0x100: "exclude_bitmap",
}
_INCOMPATIBLE = 0x2 | 0x4 | 0x10 | 0x40 | 0x80 | 0x200 | 0x400 | 0x2000 | 0x4000
"""filetype, recover, meta_bg, extents, 64bit, flex_bg, ea_inode, metadata_csum_seed, large_dir."""
_READ_ONLY = 0x1 | 0x2 | 0x8 | 0x10 | 0x20 | 0x40 | 0x200 | 0x400 | 0x8000 | 0x10000
"""sparse_super, large_file, huge_file, uninit_bg, dir_nlink, extra_isize, bigalloc, metadata_csum, verity, orphan_present."""
_INODE_LIMIT = 4096
_EXTENTS = 0x80000
_FAST_LINK = 60
_LINE = re.compile(r"([0-7]{4,})  ((?:[0-9a-f]{2,4} +){1,8})")
_OUTPUT = 40_000
"""Bytes that one run may write: process.run keeps 64 KiB."""
_SCRIPT, _SCRIPT_FILES = 12_000, 100
_NOTHING = ("File not found by ext2_lookup", "Ext2 inode is not a directory", "Too many symbolic links encountered.")
"""The last two come from paths through links, which nobody asks for again once the link has been seen."""
_ECHO = re.compile(r"debugfs 1\.|# |debugfs: (?:idump|cat|rm|mkdir|sif|write|symlink|ea_set|features) ")
_STARTERS = ("setpriv: ", "prlimit: ", "/usr/bin/prlimit: ")


class Super(msgspec.Struct, frozen=True):
    """Of a superblock: `odd` names what debugfs is not to be trusted with, or is ''."""

    inode_size: int
    clean: bool
    odd: str


def superblock(data: bytes) -> Super:
    """The bytes at 1024 of the file system (the kernel's fs/ext4/ext4.h, ext4_super_block). FormatError."""

    def number(at: int, size: int = 4) -> int:
        return int.from_bytes(data[at : at + size], "little")

    if len(data) < _SUPER_SIZE or number(56, 2) != _MAGIC:
        raise FormatError("has no ext2, ext3 or ext4 there")
    dynamic = number(76) > 0
    compatible, incompatible, read_only = (number(at) if dynamic else 0 for at in (92, 96, 100))
    inode_size = number(88, 2) if dynamic else 128
    odd = [f"{kind} features {bits:#x}" for kind, bits in (
        ("compatible", compatible & sum(_COMPATIBLE)), ("incompatible", incompatible & ~_INCOMPATIBLE),
        ("read-only compatible", read_only & ~_READ_ONLY)) if bits]
    if not 128 <= inode_size <= _INODE_LIMIT:
        odd.append(f"inodes of {inode_size} bytes")
    state = number(58, 2)
    clean = (state & (_CLEAN | _ERRORS) == _CLEAN and not incompatible & _NEEDS_RECOVERY and not read_only & _ORPHANS
             and not number(232))
    return Super(inode_size, clean, ", ".join(odd))


def odd(view: View, offset: int) -> str:
    """Why the file system at `offset` is not for debugfs, or ''. FormatError."""
    return superblock(view.read(offset + _SUPER_AT, _SUPER_SIZE)).odd


class Ext:
    """The file system at `offset` of the disk, a files.Guest. `scratch` is a directory with room for a copy of each file.

    Where its journal or its state asks for it, `e2fsck -p` has repaired it before it is read. FormatError if it cannot.
    """

    def __init__(self, view: View, offset: int, scratch: str, deadline: Deadline) -> None:
        self._view, self._offset, self._scratch, self._deadline = view, offset, scratch, deadline
        found = self._superblock()
        if not found.clean:
            self._repair()
            found = self._superblock()
        self._inode_size = found.inode_size
        self._tree = Tree(self._look_many)
        self._attributed: set[str] = set()

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
        return self._cat(real, found.size) if found.kind == "file" and found.size <= READ_LIMIT else ""

    def write(self, items: Sequence[Item], deadline: Deadline) -> None:
        """As files.Guest."""
        steps = plan(items, self._tree)
        self._deadline = deadline
        with contextlib.ExitStack() as opened:
            sizes = self._change(steps, opened)
        if not self._attributed.isdisjoint(steps.remove):
            self._repair("-f")
        self._tree.forget()
        self._check(steps, sizes)

    def _superblock(self) -> Super:
        found = superblock(self._view.read(self._offset + _SUPER_AT, _SUPER_SIZE))
        if found.odd:
            raise FormatError(f"has an ext file system with {found.odd}, which debugfs may spoil")
        return found

    @property
    def _place(self) -> str:
        return f"{self._view.path}?offset={self._offset}"

    def _repair(self, *options: str) -> None:
        """e2fsck replays a journal and then, of a file system that does not begin where its file does, loses its way to clear the
        flag (e2fsck/unix.c, main, the second ext2fs_open, without the offset). If the journal is empty by then, we clear it.
        """
        said = self._e2fsck(*options)
        if "while trying to re-open" in said:
            empty = self._view.run(["/usr/sbin/dumpe2fs", "-h", self._place], self._deadline)
            if re.search(r"^Journal start: +0$", empty, re.MULTILINE):
                self._run(["features -needs_recovery"], tells=True)
                said = self._e2fsck(*options)
        if said:
            shown = [line.rpartition("/dev/fd/")[2].partition(": ")[2] for line in said.splitlines()]
            raise FormatError(f"has an ext file system that e2fsck -p cannot repair{_shown([line for line in shown if line])}",
                              "repair it with e2fsck -f, or take an image of a guest that was shut down")

    def _e2fsck(self, *options: str) -> str:
        """What it says if it fails. Statuses: e2fsck(8), EXIT CODE; up to 3 all is well now."""
        try:
            self._view.run([_E2FSCK, "-p", *options, self._place], self._deadline)
        except CommandError as error:
            if error.output.startswith(_STARTERS):
                raise
            return "" if 0 < error.status < 4 else error.output or error.what
        return ""

    def _look_many(self, paths: Sequence[str]) -> dict[str, Found]:
        each = self._inode_size * 5 + 2 * max(len(path.encode()) for path in paths) + 200
        count = max(1, _OUTPUT // each)
        found: dict[str, Found] = {}
        for at in range(0, len(paths), count):
            found.update(self._look_some(paths[at : at + count]))
        return found

    def _look_some(self, paths: Sequence[str]) -> dict[str, Found]:
        commands = [f"idump {quoted(path)}" for path in paths]
        found = {}
        for path, lines in zip(paths, self._run(commands, write=False), strict=True):
            absent = len(lines) == 1 and lines[0] in {f"{path}: {reason}" for reason in _NOTHING}
            found[path] = ABSENT if absent else self._found(path, lines)
        return found

    def _found(self, path: str, lines: list[str]) -> Found:
        inode = _unhex(lines)
        if inode is None:
            raise _unreadable(path, lines)
        mode = int.from_bytes(inode[0:2], "little")
        owner = (int.from_bytes(inode[2:4] + inode[120:122], "little"), int.from_bytes(inode[24:26] + inode[122:124], "little"))
        size = int.from_bytes(inode[4:8] + inode[108:112], "little")
        if any(inode[104:108]):
            self._attributed.add(path)
        kinds = {stat.S_IFDIR: "directory", stat.S_IFREG: "file", stat.S_IFLNK: "link"}
        kind = kinds.get(stat.S_IFMT(mode), "other")
        target = ""
        if kind == "link":
            flags = int.from_bytes(inode[32:36], "little")
            if size < _FAST_LINK and not flags & _EXTENTS:
                target = inode[40 : 40 + size].decode("utf-8", "replace")
            elif size < READ_LIMIT:
                target = self._cat(path, size)
            if not target.isprintable() or "\ufffd" in target or not target:
                raise FormatError(f"has a symbolic link {path} to something that is no plain path")
        return Found(kind, target, stat.S_IMODE(mode), owner, size)

    def _cat(self, path: str, size: int) -> str:
        """The content of a file or long link. debugfs writes a complaint to stderr, which is not to be mixed with the content."""
        script = [f"cat {quoted(path)}"]
        with self._script(script) as (name, fd):
            text = self._debugfs(["-f", name], fd, quiet=True).removeprefix(f"debugfs: {script[0]}\n")
        if "\ufffd" not in text and len(text.encode()) != size:
            raise FormatError(f"has a file {path} that debugfs cannot read")
        return text

    def _change(self, steps: Plan, opened: contextlib.ExitStack) -> dict[str, int]:
        """The sizes of the files that were written, by their paths."""
        sizes: dict[str, int] = {}
        script = [f"rm {quoted(path)}" for path in steps.remove]
        for path in steps.directories:
            script += [f"mkdir {quoted(path)}", *_owned(path, stat.S_IFDIR | 0o755)]
        fds: list[int] = []
        inner = opened.enter_context(contextlib.ExitStack())
        for item in steps.items:
            script_bytes = sum(len(line) for line in script)
            if script_bytes > _SCRIPT or len(fds) >= _SCRIPT_FILES:
                self._run(script, fds)
                script, fds = [], []
                inner.close()
            if isinstance(item, Link):
                script += [f"symlink {quoted(item.path)} {quoted(item.target)}", *_labelled(item)]
                continue
            fd = inner.enter_context(lent(item, self._scratch))
            sizes[item.path] = os.fstat(fd).st_size
            fds.append(fd)
            script += _put(item, fd)
        self._run(script, fds)
        return sizes

    def _check(self, steps: Plan, sizes: dict[str, int]) -> None:
        """What we wrote is there as it should be."""
        wanted: dict[str, Found] = {path: Found("directory", "", 0o755) for path in steps.directories}
        for item in steps.items:
            wanted[item.path] = (Found("link", item.target, 0o777) if isinstance(item, Link) else
                                 Found("file", "", item.mode & 0o7777, (0, 0), sizes[item.path]))
        found = self._look_many(list(wanted)) if wanted else {}
        for path, expected in wanted.items():
            size = found[path].size if expected.kind != "file" else expected.size
            if found[path] != msgspec.structs.replace(expected, size=size):
                raise FormatError(f"has an ext file system in which {path} is not as it was written",
                                  "check the image with e2fsck -f")

    @contextlib.contextmanager
    def _script(self, commands: Sequence[str]) -> Iterator[tuple[str, int]]:
        with lent(File("", 0, "".join(f"{line}\n" for line in commands).encode()), "") as fd:
            yield f"/dev/fd/{fd}", fd

    def _run(self, commands: Sequence[str], fds: Sequence[int] = (), *, write: bool = True, tells: bool = False
             ) -> list[list[str]]:
        """What each command said; nothing, if it is to `write`, unless it `tells`."""
        if not commands:
            return []
        nonce = f"# {secrets.token_hex(8)}"
        lines = [text for command in commands for text in (nonce, command)]
        with self._script(lines) as (name, fd):
            output = self._debugfs([*(["-w"] if write else []), "-f", name], fd, fds)
        head, *parts = f"\n{output}".split(f"\n{nonce}\n")
        if [line for line in head.splitlines() if line and not line.startswith("debugfs 1.")] or len(parts) != len(commands):
            raise _unusable(head + output[-300:])
        said = []
        for command, part in zip(commands, parts, strict=True):
            first, *rest = part.split("\n")
            if first != f"debugfs: {command}":
                raise _unusable(part)
            rest = [line.rstrip() for line in rest if line.strip()]
            if write and not tells and [line for line in rest if not re.fullmatch(r"Allocated inode: [0-9]+", line)]:
                raise _failed(command, rest)
            said.append(rest)
        return said

    def _debugfs(self, options: list[str], script: int, fds: Sequence[int] = (), *, quiet: bool = False) -> str:
        try:
            return self._view.run([_DEBUGFS, *options, self._place], self._deadline, pass_fds=(script, *fds), quiet=quiet)
        except CommandError as error:
            if error.output.startswith(_STARTERS):
                raise
            raise _unusable(error.output if error.status > 0 else f"debugfs was killed by signal {-error.status}") from None


def quoted(text: str) -> str:
    """A word for libss. ValueError for what would end the line."""
    if not text.isprintable():
        raise ValueError(f"{text!r} cannot stand in a line")
    return '"' + text.replace('"', '""') + '"'


def _owned(path: str, mode: int) -> list[str]:
    name = quoted(path)
    return [f"sif {name} mode 0{mode:o}", f"sif {name} uid 0", f"sif {name} gid 0"]


def _put(item: File, fd: int) -> list[str]:
    return [f"write /dev/fd/{fd} {quoted(item.path)}", *_owned(item.path, stat.S_IFREG | item.mode & 0o7777), *_labelled(item)]


def _labelled(item: Item) -> list[str]:
    return [f"ea_set {quoted(item.path)} security.selinux {item.label}\\000"] if item.label else []


def _unhex(lines: list[str]) -> bytes | None:
    """The bytes of an inode as debugfs dumps them (debugfs/util.c, do_byte_hexdump): `*` stands for lines as the one above."""
    data = bytearray()
    for line in lines:
        if line == "*":
            continue
        match = _LINE.match(line)
        if not match:
            return None
        at = int(match[1], 8)
        if at > len(data) and (len(data) < 16 or at > _INODE_LIMIT):
            return None
        while len(data) < at:
            data += data[-16:]
        data += bytes.fromhex(match[2])
    if data and lines[-1] == "*":
        data += data[-16:] * (_INODE_LIMIT // 16)
    return bytes(data[:_INODE_LIMIT]) if len(data) >= 128 else None


def _unreadable(path: str, lines: list[str]) -> FormatError:
    return FormatError(f"has an ext file system in which {path} cannot be read{_shown(lines)}", "check it with e2fsck -f")


def _unusable(output: str) -> FormatError | NodeError:
    lines = [line.removeprefix("debugfs: ") for line in output.splitlines() if line.strip() and not _ECHO.match(line)]
    shown = _shown([re.sub(r" ?/dev/fd/\S+", "", line) for line in lines])
    if "Permission denied" in shown:
        return NodeError(f"debugfs may not work on a job's disk{shown}", "its mode must be 0600", code="VB404")
    return FormatError(f"has an ext file system that debugfs cannot work on{shown}", "check it with e2fsck -f")


def _failed(command: str, lines: list[str]) -> FormatError | NodeError:
    text = " ".join(lines)
    if "No space left on device" in text or "Input/output error" in text:
        return NodeError(f"a job's disk cannot be written to{_shown(lines)}", "is the spool's file system full?", code="VB405")
    if re.search(r"Could not allocate (block|inode)", text):
        what = "inodes" if "allocate inode" in text else "room"
        return FormatError(f"has a file system without enough {what} left for the context", "make it larger, or free some")
    return FormatError(f"has an ext file system that debugfs cannot change: {command}{_shown(lines)}", "check it with e2fsck -f")


def _shown(lines: list[str]) -> str:
    """The first line, fit for a message."""
    text = "".join(letter for letter in (lines[0] if lines else "") if letter.isprintable())
    return f": {text[:200]}" if text else ""
