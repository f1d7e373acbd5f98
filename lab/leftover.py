"""What jobs have left on the node, seen by looking, not by asking VmBatch."""

import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import libvirt

from . import place

RESERVATIONS = str(place.SHARE / ".addresses")
MEETINGS = str(place.SHARE / ".nodes")
PLACES = ("/var/lib/vmbatch/jobs", "/var/lib/vmbatch/spool", "/run/vmbatch/handover", "/run/vmbatch/claims", str(place.SHARE),
          "/run/vmbatch/addresses",
          "/var/lib/vmbatch/store/uses", RESERVATIONS, MEETINGS)
_PROGRAMS = ("qemu-system-x86_64", "qemu-img", "cp", "cat", "ssh", "ssh-keygen", "prologue", "epilogue", "remoteshell",
             "vmbatch.watcher")


def dry_run() -> str:
    """What a sweep would remove."""
    swept = subprocess.run(["/srv/vmbatch/venv/bin/vmbatch", "sweep", "--dry-run"], capture_output=True, text=True, check=False)
    return swept.stdout + swept.stderr


def found(uri: str = "qemu:///system", sweep: Callable[[], str] = dry_run) -> list[str]:
    """A line for every file, domain and process of a job; and for each that the sweep would remove."""
    lines = [str(path) for directory in PLACES if Path(directory).is_dir() for path in sorted(Path(directory).iterdir())
             if str(path) not in (RESERVATIONS, MEETINGS)]
    lines += [str(path) for path in sorted(Path("/run/vmbatch/status").glob("*/*"))]
    connection = libvirt.open(uri)
    try:
        lines += [f"domain {domain.name()}" for domain in connection.listAllDomains()]
    finally:
        connection.close()
    lines += filters() + processes()
    return lines + [line for line in sweep().splitlines() if line]


def filters() -> list[str]:
    """What is left of network filters: chains, sets and elements of an interface's own."""
    shown = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
    return [f"nft: {line.strip()}" for line in shown.splitlines() if re.search(r"-[0-9a-f]{32}-|\"vb-[0-9a-f]", line)]


def processes() -> list[str]:
    """Processes of the node that only a job can have started."""
    lines = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            dead = _dead((entry / "status").read_text())
        except OSError:
            continue
        names = {Path(word.decode(errors="replace")).name for word in words[:3]}
        if not dead and names & set(_PROGRAMS) and b"lab.leftover" not in words:
            lines.append(f"process {entry.name}: {b' '.join(words).decode(errors='replace')[:200]}")
    return lines


def _dead(status: str) -> bool:
    """Whether a process is, or is about to be, once the machine has a processor for that: SIGKILL is pending (proc(5))."""
    said = dict(line.split(":", 1) for line in status.splitlines())
    pending = int(said["SigPnd"], 16) | int(said["ShdPnd"], 16)
    return said["State"].strip().startswith("Z") or bool(pending >> signal.SIGKILL - 1 & 1)


def settings() -> list[str]:
    """What tests have left that would run in every later guest of the node."""
    return [str(path) for path in sorted(Path("/etc/vmbatch/guest.d").rglob("*"))]


if __name__ == "__main__":
    print("\n".join(found() + settings()))
