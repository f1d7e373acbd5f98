"""What an installation has made on this node, one value a thing: each knows how it is taken away again.

The fields are the record (record.py). `foresee` looks and changes nothing: what `undo` will do, as a line for the admin, or
SiteError if it must not be done. `undo` may run twice; it returns what it had to leave, as a line, or "".
"""

import contextlib
import os
import stat

import msgspec

from .. import digest
from ..errors import CommandError, SiteError
from ..host import file, process
from ..units import Deadline
from . import block

_PROGRAM_SECONDS = 60.0


class Entry(msgspec.Struct, frozen=True, tag_field="kind", forbid_unknown_fields=True):
    """One thing; `about` says which, so that a later state of it takes the place of an earlier one."""

    @property
    def about(self) -> str:
        """The name of the thing."""
        raise NotImplementedError

    def foresee(self) -> str:
        """What `undo` will do."""
        raise NotImplementedError

    def undo(self) -> str:
        """Takes the thing away."""
        raise NotImplementedError


class MadeDirectory(Entry, frozen=True, tag="directory"):
    """A directory that was not there."""

    path: str

    @property
    def about(self) -> str:
        """Its path."""
        return self.path

    def foresee(self) -> str:
        """It goes if nothing else came into it."""
        return f"remove   {self.path}/, if nothing else is in it" if os.path.isdir(self.path) else ""

    def undo(self) -> str:
        """Removes it, or leaves what others put into it."""
        try:
            os.rmdir(self.path)
        except FileNotFoundError:
            return ""
        except OSError as error:
            return f"{self.path}/ is left: {error.strerror}"
        return ""


class MadeFile(Entry, frozen=True, tag="file"):
    """A file that is all ours, with the digests of what was written there; `edited` says what becomes of one that has others."""

    path: str
    digests: tuple[str, ...]
    edited: str = "refuse"

    @property
    def about(self) -> str:
        """Its path."""
        return self.path

    def same(self) -> bool | None:
        """Whether it is as it was written; None if it is gone."""
        found = content(self.path)
        return None if found is None else digest.of_bytes(found) in self.digests

    def foresee(self) -> str:
        """It goes unless it was edited."""
        same = self.same()
        if same is None:
            return ""
        if same:
            return f"remove   {self.path}"
        if self.edited == "leave":
            return f"leave    {self.path}, which was edited"
        raise SiteError(f"{self.path} is not as vmbatch install wrote it", "remove it yourself, or put back what was there",
                        code="VB918")

    def undo(self) -> str:
        """Removes it, or leaves what was edited."""
        same = self.same()
        if same is False:
            return f"{self.path} is left: it was edited"
        if same:
            os.unlink(self.path)
            file.sync_directory(os.path.dirname(self.path))
        return ""


class MadeHook(Entry, frozen=True, tag="hook"):
    """A hook of ours in the place of one of the site's, which is in `aside` now."""

    path: str
    digests: tuple[str, ...]
    aside: str

    @property
    def about(self) -> str:
        """Its path."""
        return self.path

    def state(self) -> str:
        """`ours`, `edited`, `gone`, or `site`: the site's own is in its place, as nothing was done yet, or all is undone."""
        found = content(self.path)
        if found is None:
            return "gone"
        if digest.of_bytes(found) in self.digests:
            return "ours"
        return "edited" if os.path.lexists(self.aside) and not os.path.samefile(self.path, self.aside) else "site"

    def foresee(self) -> str:
        """The site's own comes back."""
        state = self.state()
        if state == "edited":
            raise SiteError(f"{self.path} is not as vmbatch install wrote it", "remove it yourself, or put back what was there",
                            code="VB918")
        if os.path.lexists(self.aside):
            return f"put back {self.path}, the site's own, which is {os.path.basename(self.aside)}"
        return f"remove   {self.path}; the site's own is not in {self.aside} any more" if state == "ours" else ""

    def undo(self) -> str:
        """The site's own takes its place again: at no time there is none."""
        state = self.state()
        if state == "edited":
            return f"{self.path} is left: it was edited"
        if state == "site":
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.aside)
        elif os.path.lexists(self.aside):
            os.rename(self.aside, self.path)
        elif state == "ours":
            os.unlink(self.path)
        else:
            return ""
        file.sync_directory(os.path.dirname(self.path))
        return ""


class MadeBlock(Entry, frozen=True, tag="block"):
    """Marked lines in a file of the site's, with their digests; `alone`: the file was not there."""

    path: str
    digests: tuple[str, ...]
    alone: bool

    @property
    def about(self) -> str:
        """The file's path."""
        return self.path

    def foresee(self) -> str:
        """The lines go, edited or not, and what was set aside comes back."""
        text = content(self.path)
        parts = None if text is None else block.split(text, self.path)
        if parts is None or parts.lines is None:
            return ""
        what = f"take out VmBatch's lines from {self.path}"
        if digest.of_bytes(parts.lines) not in self.digests:
            shown = "".join(f"\n             {line}" for line in parts.lines.decode(errors="replace").splitlines())
            what += f", which were edited:{shown}"
        back = [line.decode(errors="replace") for line in block.set_aside(parts)]
        return what + "".join(f"\n         and put back: {line}" for line in back)

    def undo(self) -> str:
        """Takes them out."""
        text = content(self.path)
        if text is None:
            return ""
        rest = block.without(block.split(text, self.path))
        if self.alone and not rest:
            os.unlink(self.path)
            file.sync_directory(os.path.dirname(self.path))
        elif rest != text:
            rewrite(self.path, rest)
        return ""


class MadeLink(Entry, frozen=True, tag="link"):
    """A symbolic link."""

    path: str
    target: str

    @property
    def about(self) -> str:
        """Its path."""
        return self.path

    def foresee(self) -> str:
        """It goes unless it leads elsewhere by now."""
        return f"remove   {self.path}" if link_target(self.path) == self.target else ""

    def undo(self) -> str:
        """Removes it."""
        if link_target(self.path) == self.target:
            os.unlink(self.path)
        return ""


class Enabled(Entry, frozen=True, tag="unit"):
    """A unit of systemd's that was enabled, and started where systemd runs."""

    unit: str

    @property
    def about(self) -> str:
        """Its name."""
        return self.unit

    def foresee(self) -> str:
        """It is disabled and stopped."""
        return f"disable  {self.unit}" if is_enabled(self.unit) else ""

    def undo(self) -> str:
        """Disables and stops it."""
        if is_enabled(self.unit):
            systemctl("disable", *(["--now"] if booted() else []), self.unit)
        return ""


class ServerHook(Entry, frozen=True, tag="server hook"):
    """The hook that OpenPBS's server was given by qmgr."""

    name: str
    qmgr: str

    @property
    def about(self) -> str:
        """Its name, which no file can have."""
        return f"hook {self.name}"

    def foresee(self) -> str:
        """It is deleted."""
        return f'run      {self.qmgr} -c "delete hook {self.name}"'

    def undo(self) -> str:
        """Deletes it; the server may have lost it already."""
        if server_has(self.qmgr, self.name):
            process.run([self.qmgr, "-c", f"delete hook {self.name}"], Deadline(_PROGRAM_SECONDS))
        return ""


Made = MadeDirectory | MadeFile | MadeHook | MadeBlock | MadeLink | Enabled | ServerHook


def content(path: str) -> bytes | None:
    """What a regular file of root's has in it; None if there is none. SiteError for links, and what others can change."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISLNK(status.st_mode):
        raise SiteError(f"{path} is a symbolic link", "VmBatch is installed with regular files: put the file itself there",
                        code="VB918")
    return file.read_trusted(path)


def rewrite(path: str, data: bytes) -> None:
    """Other content in a file of root's, with the mode and group that it has."""
    status = os.lstat(path)
    file.replace(path, data, stat.S_IMODE(status.st_mode), status.st_gid, sync=True)


def link_target(path: str) -> str | None:
    """Where a symbolic link leads; None if there is none."""
    with contextlib.suppress(OSError):
        return os.readlink(path)
    return None


def booted() -> bool:
    """Whether systemd runs this node (sd_booted(3))."""
    return os.path.isdir("/run/systemd/system")


def systemctl(*words: str) -> str:
    """systemctl(1), which works on files alone where systemd does not run."""
    return process.run(["/usr/bin/systemctl", *words], Deadline(_PROGRAM_SECONDS))


def is_enabled(unit: str) -> bool:
    """Whether systemd starts it at boot."""
    try:
        return systemctl("is-enabled", unit).strip() == "enabled"
    except CommandError:
        return False


def server_has(qmgr: str, name: str) -> bool:
    """Whether OpenPBS's server has a hook of that name."""
    try:
        process.run([qmgr, "-c", f"list hook {name}"], Deadline(_PROGRAM_SECONDS))
    except CommandError:
        return False
    return True
