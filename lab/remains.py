"""What is left of jobs on the worker's node; nothing may be."""

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import libvirt

from vmbatch import sweep
from vmbatch.config import parse
from vmbatch.guard import TABLE
from vmbatch.host.log import Log

from . import leftover, nest, place
from .process import run

RESERVATIONS = place.SHARE / ".addresses"
MEETING = place.SHARE / ".nodes"
PLACES = (Path("/var/lib/vmbatch/jobs"), nest.SPOOL, place.SHARE, Path("/run/vmbatch/handover"),
          Path("/var/lib/vmbatch/store/uses"), RESERVATIONS, MEETING, Path("/run/vmbatch/claims"),
          Path("/run/vmbatch/addresses"))
FILLING = Path("/var/lib/vmbatch/store/once")
_ENDING_SECONDS, _LOOK_SECONDS = 2.0, 0.01
EXPORTS = Path("/var/lib/nfs/etab")


class Node:
    """The worker's node as it was before the first hook."""

    def __init__(self) -> None:
        self.connection = libvirt.open(nest.URI)
        self.daemons = nest.daemons()
        self.config = parse(nest.CONFIG.encode(), "crash")

    def reconnect(self) -> None:
        """To the libvirtd of now."""
        self.connection = libvirt.open(nest.URI)

    @contextmanager
    def configured(self, config: str) -> Iterator[None]:
        """With another configuration."""
        path = Path("/etc/vmbatch/vmbatch.conf")
        path.write_text(config)
        self.config = parse(config.encode(), "crash")
        try:
            yield
        finally:
            path.write_text(nest.CONFIG)
            self.config = parse(nest.CONFIG.encode(), "crash")

    def domains(self) -> list["libvirt.virDomain"]:
        """All but the one that the test driver begins with."""
        return [domain for domain in self.connection.listAllDomains() if domain.name() != "test"]

    def processes(self) -> dict[int, str]:
        """Those that are not the node's; zombies are reaped, and are none, nor is one that is dying and has no words left."""
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        found = {}
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                if name.isdigit() and int(name) not in self.daemons:
                    state = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()[0]
                    words = Path(f"/proc/{name}/cmdline").read_text().replace("\0", " ")
                    if state not in b"ZX" and words:
                        found[int(name)] = words
        return found

    def _lasting(self) -> dict[int, str]:
        """Those that do not end by themselves, as one does whose parent has just ended."""
        over = time.monotonic() + _ENDING_SECONDS
        while (found := self.processes()) and time.monotonic() < over:
            time.sleep(_LOOK_SECONDS)
        return found

    def left(self) -> list[str]:
        """A line for each thing that jobs have left."""
        found = [f"process {pid}: {command}" for pid, command in self._lasting().items()]
        found += [f"domain {domain.name()}" for domain in self.domains()]
        found += [str(path) for parent in PLACES if parent.exists() for path in parent.iterdir()
                  if path not in (RESERVATIONS, MEETING)]
        found += [str(path) for path in FILLING.glob("*.making")]
        found += [str(path) for path in Path("/run/vmbatch/status").glob("*/*")]
        found += leftover.filters()
        found += [f"mounted: {path}" for path in _volumes()] + [f"exported: {line}" for line in _exports()]
        return found + [f"sweep --dry-run: {line}" for line in in_child(self._sweep)]

    def _sweep(self) -> list[str]:
        return sweep.sweep(self.config, Log(self.config.log_directory, "0", "sweep"), dry_run=True)

    def clear(self) -> None:
        """Removes everything, for the next case: as if no job had ever run, and no libvirtd had been killed by a case."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.reconnect()
        for domain in self.domains():
            domain.destroy()
        if leftover.filters():
            run(["nft", "delete", "table", "bridge", TABLE])
        if _exports():
            run(["exportfs", "-u", "-a"])
        for volume in _volumes():
            run(["umount", "--lazy", volume])
        for parent in (Path("/var/lib/vmbatch"), place.SHARE, Path("/run/vmbatch")):
            for path in parent.iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()


def _volumes() -> list[str]:
    lines = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [words[1] for words in lines if words[0].startswith("vmbatch:")]


def _exports() -> list[str]:
    return EXPORTS.read_text().splitlines() if EXPORTS.exists() else []


class QuietNode(Node):
    """With a connection to libvirt only while it is asked: hooks that are forked from here would inherit its descriptor."""

    @property
    def connection(self) -> "libvirt.virConnect":
        """A new one, which ends with its last domain."""
        return libvirt.open(nest.URI)

    @connection.setter
    def connection(self, _: object) -> None:
        """None is kept."""


def in_child(act: object) -> list[str]:
    """What `act` returns or raises, called in a child: vmbatch's own connection to libvirt does not outlive it."""
    assert callable(act)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = act()
        except BaseException as error:
            said = [f"{type(error).__name__}: {error}"]
        with contextlib.suppress(BaseException):
            os.write(write, "\n".join(said).encode()[:60000])
        os._exit(0)
    os.close(write)
    with open(read, encoding="utf-8") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return text.split("\n") if text else []
