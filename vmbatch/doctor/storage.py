"""Where VmBatch writes: owner, mode, and room."""

import os
import stat
from collections.abc import Iterator

import msgspec

from .. import journal, status
from ..host import acl, file
from ..units import format_size
from .finding import Check, Finding, Site, error, ok, warning

_FEW_INODES = 100


class Place(msgspec.Struct, frozen=True):
    """A directory, or the nearest one above it that is there: owner, mode, bytes and inodes free (None: without limit).

    `shut` is the first directory on its way that others cannot enter, or ''.
    """

    path: str
    owner: int
    mode: int
    readonly: bool
    free: int
    inodes: int | None
    shut: str = ""


def look(path: str) -> Place:
    """What is there. OSError."""
    there = file.nearest(path)
    owner, state = os.stat(there), os.statvfs(there)
    above = there.split("/")
    ways = ["/".join(above[:length]) or "/" for length in range(1, len(above) + 1)]
    shut = next((place for place in ways if not os.stat(place).st_mode & 0o001), "")
    return Place(there, owner.st_uid, stat.S_IMODE(owner.st_mode), bool(state.f_flag & os.ST_RDONLY),
                 state.f_bavail * state.f_frsize, state.f_favail if state.f_files else None, shut)


def judge(found: Place, wanted: str, keep: int, option: str, *, open_to_qemu: bool = False) -> Finding:
    """`keep` bytes are to be left there; `option` is the setting's name; QEMU's account must be able to get in where it is so."""
    said = f"{wanted}: {found.free / (1 << 30):.1f} GiB free"
    if found.path == wanted and (found.owner != 0 or found.mode & 0o022):
        return error(f"{wanted} can be changed by others than root (mode {found.mode:04o}, owner {found.owner})",
                     f"chown root {wanted}; chmod go-w {wanted}")
    if open_to_qemu and found.shut:
        return error(f"{found.shut} cannot be entered by others, so QEMU's account cannot reach {wanted}",
                     f"chmod o+x {found.shut}")
    if found.readonly:
        return error(f"{found.path} is on a read-only file system", "mount it rw; dmesg says if the disk is failing")
    if found.free < max(keep, 1):
        return error(said, f"[{option.replace('.', '] ')} = {format_size(keep)}: free some, or lower it" if keep else "free some")
    if found.inodes is not None and found.inodes < _FEW_INODES:
        return error(f"{wanted}: {found.inodes} inodes free", "remove files there")
    return ok(said if found.path == wanted else f"{said}; it is made when the first job comes")


def spool(site: Site) -> Iterator[Finding]:
    """Jobs' disks."""
    config = site.config
    yield judge(look(config.spool_directory), config.spool_directory, config.spool_keep_free, "spool.keep_free",
                open_to_qemu=True)


def store(site: Site) -> Iterator[Finding]:
    """Images."""
    config = site.config
    found = look(config.images_directory)
    judged = judge(found, config.images_directory, 0, "images.keep_free", open_to_qemu=True)
    if judged.level == "ok" and found.free < config.images_keep_free:
        keep = f"[images] keep_free = {format_size(config.images_keep_free)}"
        judged = warning(judged.found, f"{keep}: images that nobody uses are removed for each new one; see vmbatch image list")
    yield judged


def records(site: Site) -> Iterator[Finding]:
    """Journals, logs and the trace: without room for them no job starts."""
    config = site.config
    for path, option in ((journal.directory(), ""), (config.log_directory, "log.directory"), (config.log_trace, "log.trace")):
        if path:
            yield judge(look(path), path, 0, option)


def lists(site: Site) -> Iterator[Finding]:
    """For users: status, log and console of their own jobs are root's, and open to one more account."""
    places = {"vmbatch ps": status.DIRECTORY, "vmbatch log": site.config.log_directory,
              "vmbatch console": site.config.spool_directory}
    without = {command: path for command, path in places.items() if not acl.possible(file.nearest(path))}
    for command, path in without.items():
        yield warning(f"the file system of {path} has no access control lists, so {command} is for root alone",
                      "ext4, xfs and tmpfs have them")
    if not without:
        yield ok("status, logs and consoles can be shown to the users whose jobs they are of")


CHECKS = (
    Check("spool", "whether jobs' disks can be made: owner, mode, room", spool, root=True),
    Check("store", "the same of the store of images", store, root=True),
    Check("records", "the same of journals, logs and the trace", records, root=True),
    Check("lists", "whether users can be shown what is of their own jobs: by access control lists", lists),
)
