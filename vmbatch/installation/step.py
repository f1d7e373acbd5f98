"""What an installation wants, one value a thing: each looks at the node, and says what is to be done and recorded."""

import os
import stat
from collections.abc import Callable

import msgspec

from .. import digest
from ..errors import SiteError
from ..host import file, process
from ..units import Deadline
from . import block, hookfile
from .made import (
    Enabled,
    Made,
    MadeBlock,
    MadeDirectory,
    MadeFile,
    MadeHook,
    MadeLink,
    ServerHook,
    booted,
    content,
    is_enabled,
    link_target,
    rewrite,
    server_has,
    systemctl,
)
from .record import Record

_PROGRAM_SECONDS = 60.0
_HOOK_MODE = 0o755


class Act(msgspec.Struct, frozen=True):
    """One change: as a line for the admin, what is recorded before it (None: nothing new), and itself."""

    text: str
    entry: Made | None
    work: Callable[[], None]


class Step(msgspec.Struct, frozen=True):
    """One thing that is wanted."""

    def names(self) -> tuple[str, ...]:
        """What it is `about` in the record."""
        raise NotImplementedError

    def look(self, record: Record) -> list[Act]:
        """What is to be done; nothing if all is there. SiteError if it cannot be."""
        raise NotImplementedError


class Directory(Step, frozen=True):
    """A directory of root's; one that is there keeps its mode."""

    path: str
    mode: int = 0o755

    def names(self) -> tuple[str, ...]:
        """Its path."""
        return (self.path,)

    def look(self, record: Record) -> list[Act]:
        """Made if it is not there."""
        try:
            status = os.lstat(self.path)
        except FileNotFoundError:
            return [Act(f"make     {self.path}/", MadeDirectory(self.path), self._make)]
        if not stat.S_ISDIR(status.st_mode):
            raise SiteError(f"{self.path} is not a directory", "move it away", code="VB918")
        file.check_trusted(self.path)
        return []

    def _make(self) -> None:
        file.make_state_directory(self.path, self.mode)


class File(Step, frozen=True):
    """A file of VmBatch's. `editable`: the site may change it, and a file of that name that is there stays as it is."""

    path: str
    data: bytes
    mode: int = 0o644
    editable: bool = False

    def names(self) -> tuple[str, ...]:
        """Its path."""
        return (self.path,)

    def look(self, record: Record) -> list[Act]:
        """Written if it is not there, and anew if it is an older one of ours."""
        found = content(self.path)
        if found is None:
            return [self._write("write   ", record)]
        if found == self.data and self._has_mode():
            return []
        made = record.of(self.path)
        same = isinstance(made, MadeFile) and digest.of_bytes(found) in made.digests
        if same or (found == self.data and not self.editable):
            return [self._write("update  ", record)]
        if self.editable:
            return []
        if made is not None:
            raise SiteError(f"{self.path} is not as vmbatch install wrote it", "move it away, and install again", code="VB918")
        if hookfile.is_ours(found):
            return [self._write("take on ", record)]
        raise SiteError(f"there is a {self.path} already, which is not VmBatch's", "move it away, and install again",
                        code="VB918")

    def _has_mode(self) -> bool:
        return self.editable or stat.S_IMODE(os.lstat(self.path).st_mode) == self.mode

    def _write(self, verb: str, record: Record) -> Act:
        return Act(f"{verb} {self.path}", self._entry(record), lambda: file.replace(self.path, self.data, self.mode, sync=True))

    def _entry(self, record: Record) -> MadeFile:
        """With the digest from before as well, until the next time: between record and act it counts still."""
        made = record.of(self.path)
        before = made.digests[-1:] if isinstance(made, MadeFile) else ()
        return MadeFile(self.path, tuple(dict.fromkeys((*before, digest.of_bytes(self.data)))),
                        "leave" if self.editable else "refuse")


class Hook(Step, frozen=True):
    """A hook where the batch system looks for it; one of the site's gives way and goes on working under another name."""

    path: str
    data: bytes

    def names(self) -> tuple[str, ...]:
        """Its path."""
        return (self.path,)

    @property
    def _aside(self) -> str:
        return f"{self.path}.site"

    def look(self, record: Record) -> list[Act]:
        """Written where there is none; over one of ours; in place of the site's."""
        ours, found, made = File(self.path, self.data, _HOOK_MODE), content(self.path), record.of(self.path)
        if isinstance(made, MadeHook):
            return self._renew(made)
        if found is None or isinstance(made, MadeFile):
            return ours.look(record)
        if hookfile.is_ours(found):
            text = f"take on  {self.path}: VmBatch's, put there by hand; vmbatch uninstall will remove it"
            return [Act(text, MadeFile(self.path, (digest.of_bytes(self.data),)), self._write)]
        if os.path.lexists(self._aside):
            raise SiteError(f"{self.path} is the site's own, and so is {self._aside}, to which it would be moved",
                            "make one script of the two, under the second name", code="VB918")
        if not os.lstat(self.path).st_mode & 0o100:
            raise SiteError(f"{self.path} is the site's own and cannot be executed", f"chmod 755 {self.path}, or move it away",
                            code="VB918")
        return [self._replace((digest.of_bytes(self.data),))]

    def _renew(self, made: MadeHook) -> list[Act]:
        """What was begun, or made by an older version."""
        state, now = made.state(), digest.of_bytes(self.data)
        if state == "edited":
            raise SiteError(f"{self.path} is not as vmbatch install wrote it", "move it away, and install again", code="VB918")
        if state == "site":
            return [self._replace((now,))]
        if state == "ours" and content(self.path) == self.data and stat.S_IMODE(os.lstat(self.path).st_mode) == _HOOK_MODE:
            return []
        entry = MadeHook(self.path, tuple(dict.fromkeys((*made.digests[-1:], now))), self._aside)
        return [Act(f"update   {self.path}", entry, self._write)]

    def _replace(self, digests: tuple[str, ...]) -> Act:
        text = f"replace  {self.path}: the site's own becomes {os.path.basename(self._aside)}, which VmBatch's runs"
        return Act(text, MadeHook(self.path, digests, self._aside), self._take_place)

    def _take_place(self) -> None:
        """At no time there is none."""
        if not os.path.lexists(self._aside):
            os.link(self.path, self._aside, follow_symlinks=False)
        self._write()

    def _write(self) -> None:
        file.replace(self.path, self.data, _HOOK_MODE, sync=True)


class Block(Step, frozen=True):
    """Marked lines in a file of the site's, whose lines in `aside` lose their force.

    Whoever edits the lines keeps what he wrote, as long as all of `needed` are there, be it with more behind them.
    """

    path: str
    lines: tuple[str, ...]
    needed: tuple[str, ...] = ()
    aside: tuple[str, ...] = ()

    def names(self) -> tuple[str, ...]:
        """The file's path."""
        return (self.path,)

    def look(self, record: Record) -> list[Act]:
        """Put in if there are none; brought up to date if nobody has edited them."""
        wanted = "".join(f"{line}\n" for line in self.lines).encode()
        text = content(self.path)
        made = record.of(self.path)
        before = made.digests[-1:] if isinstance(made, MadeBlock) else ()
        alone = made.alone if isinstance(made, MadeBlock) else text is None
        entry = MadeBlock(self.path, tuple(dict.fromkeys((*before, digest.of_bytes(wanted)))), alone)
        if text is None:
            data = block.put(b"", wanted, ())
            return [Act(self._shown(), entry, lambda: file.replace(self.path, data, 0o644, sync=True))]
        parts = block.split(text, self.path)
        if parts.lines is None:
            data = block.put(text, wanted, tuple(line.encode() for line in self.aside))
            return [Act(self._shown(), entry, lambda: rewrite(self.path, data))]
        if parts.lines == wanted:
            return [] if made is not None else [Act(f"take on  the marked lines in {self.path}", entry, lambda: None)]
        if digest.of_bytes(parts.lines) in before:
            data = block.changed(parts, wanted)
            return [Act(self._shown(), entry, lambda: rewrite(self.path, data))]
        there = [" ".join(line.split()) + " " for line in parts.lines.decode(errors="replace").splitlines()]
        if missing := [needed for needed in self.needed if not any(line.startswith(f"{needed} ") for line in there)]:
            raise SiteError(f"{self.path}: VmBatch's lines have been edited, and lack: {'; '.join(missing)}", "put that back",
                            code="VB918")
        return []

    def _shown(self) -> str:
        lines = "".join(f"\n             {line}" for line in self.lines)
        return f"add to   {self.path}:{lines}" + "".join(f"\n         and set aside there: {line}" for line in self.aside)


class Link(Step, frozen=True):
    """A symbolic link; what else has that name stays."""

    path: str
    target: str

    def names(self) -> tuple[str, ...]:
        """Its path."""
        return (self.path,)

    def look(self, record: Record) -> list[Act]:
        """Made if there is nothing."""
        if os.path.lexists(self.path) and not (record.of(self.path) and link_target(self.path) not in (None, self.target)):
            return []
        return [Act(f"link     {self.path} to {self.target}", MadeLink(self.path, self.target), self._make)]

    def _make(self) -> None:
        if os.path.lexists(self.path):
            os.unlink(self.path)
        os.symlink(self.target, self.path)


class Unit(Step, frozen=True):
    """A unit of systemd's, enabled, and if it waits for a time or a file started where systemd runs."""

    name: str

    def names(self) -> tuple[str, ...]:
        """Its name."""
        return (self.name,)

    def look(self, record: Record) -> list[Act]:
        """Enabled if it is not."""
        if is_enabled(self.name):
            return []
        return [Act(f"enable   {self.name}", Enabled(self.name), self._enable)]

    def _enable(self) -> None:
        if booted():
            systemctl("daemon-reload")
        systemctl("enable", *(["--now"] if booted() and self.name.endswith((".timer", ".path")) else []), self.name)


class Imported(Step, frozen=True):
    """OpenPBS's hook, as its server has it: made once, its program imported anew when it is another."""

    name: str
    qmgr: str
    settings: tuple[str, ...]
    source: str
    program: bytes

    def names(self) -> tuple[str, ...]:
        """The hook's name."""
        return (f"hook {self.name}",)

    def look(self, record: Record) -> list[Act]:
        """Asks the server."""
        there = server_has(self.qmgr, self.name)
        if there and self._exported() == self.program.decode():
            return []
        entry = None if there and record.of(f"hook {self.name}") is None else ServerHook(self.name, self.qmgr)
        commands = self.commands() if not there else self.commands()[-1:]
        return [Act("run      " + "\n         ".join(f'{self.qmgr} -c "{command}"' for command in commands), entry,
                    lambda: self._run(commands))]

    def commands(self) -> list[str]:
        """What qmgr is told, from nothing."""
        return [f"create hook {self.name}", *(f"set hook {self.name} {setting}" for setting in self.settings),
                f"import hook {self.name} application/x-python default {self.source}"]

    def _exported(self) -> str:
        return process.run([self.qmgr, "-c", f"export hook {self.name} application/x-python default"],
                           Deadline(_PROGRAM_SECONDS), quiet=True)

    def _run(self, commands: list[str]) -> None:
        for command in commands:
            process.run([self.qmgr, "-c", command], Deadline(_PROGRAM_SECONDS))
