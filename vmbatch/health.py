"""Whether this node can start guests, asked by the batch system now and then: what it needs, and how its last starts went."""

import os
import threading
from collections.abc import Callable

from . import drain, journal
from .batch import failures
from .config import Config
from .errors import Fault, VmBatchError
from .host import file, libvirtd
from .units import Deadline

_SECONDS = 20.0
"""For all checks together: pbs_mom does nothing else meanwhile, and slurmd kills the program after a minute."""


def problems(config: Config, seconds: float = _SECONDS) -> list[str]:
    """A sentence for each thing that is wrong; what does not answer is wrong, too."""
    checks: dict[str, Callable[[], str]] = {
        "the note of vmbatch drain": _drained,
        "libvirt": lambda: _libvirt(config),
        "the share": lambda: _share(config),
        "the spool": lambda: _space(config.spool_directory, config.spool_keep_free),
        "the store of images": lambda: _space(config.images_directory, 0),
        "the directory of journals": lambda: _space(journal.directory(), 0),
        "the count of failures": lambda: row(config),
    }
    found: dict[str, str] = {}

    def look(name: str, check: Callable[[], str]) -> None:
        try:
            said = check()
        except VmBatchError as error:
            said = error.what
        except OSError as error:
            said = f"{name}: {error.filename or ''}: {error.strerror}"
        found[name] = said

    threads = {name: threading.Thread(target=look, args=(name, check), daemon=True) for name, check in checks.items()}
    for thread in threads.values():
        thread.start()
    over = Deadline(seconds)
    for name, thread in threads.items():
        thread.join(over.left())
        found.setdefault(name, f"{name} has not answered for {seconds:.0f} s")
    return [found[name] for name in checks if found[name]]


def _drained() -> str:
    """Its admin's word comes first, as a batch system shows only so much of a reason."""
    note = drain.look()
    return "" if note is None else str(note)


def _libvirt(config: Config) -> str:
    libvirtd.node_size(config.libvirt_uri)
    return ""


def _share(config: Config) -> str:
    """Where there is one: mounted, and ready to be written to."""
    if not config.share_source:
        return ""
    path = config.share_directory
    if not config.share_local and os.stat(path).st_dev == os.stat("/").st_dev:
        return f"the share {path} is not mounted"
    probe = os.path.join(path, f".health@{os.uname().nodename}")
    if os.path.isdir(probe):
        os.rmdir(probe)  # of a check that was killed
    os.mkdir(probe, 0o700)
    os.rmdir(probe)
    return ""


def _space(path: str, free: int) -> str:
    there = file.nearest(path)
    state = os.statvfs(there)
    if state.f_flag & os.ST_RDONLY:
        return f"{there} is read-only"
    if state.f_bavail * state.f_frsize < max(free, 1) or (state.f_files and not state.f_favail):
        wanted = f", and {free >> 20} MiB are to be left" if free else ""
        return f"{there} has {state.f_bavail * state.f_frsize >> 20} MiB and {state.f_favail} inodes free{wanted}"
    return ""


def row(config: Config) -> str:
    """A sentence where so many starts failed here lately that the node itself may be at fault; else ''."""
    row = failures.against(failures.recent(config.torque_within), Fault.NODE)
    if len(row) < max(1, config.torque_failures):
        return ""
    return f"{len(row)} starts failed here within {config.torque_within / 60:g} min: {row[-1].what}"
