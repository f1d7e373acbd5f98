"""Boot a guest without any job, and say when it was how far: the proof that an image is good. Runs inside the node."""

import os
import re
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from .domain import Parts, domain
from .process import ProcessError, run

MEMORY_MIB = {"busybox": 192, "bare": 192, "sysv": 256, "debian": 512, "stock": 768}
LAST = re.compile(rb"guest: \S+ done|end Kernel panic|reboot: ")
"""What a console shows at the end of a boot."""


class Machine(NamedTuple):
    """What to boot: a guest's images, with their disk or as initramfs, a context medium, more for the kernel's command line."""

    guest: str
    images: Path
    from_disk: bool
    medium: Path | None
    append: str


def boot(machine: Machine, *, keep: bool, seconds: float) -> int:
    """Boot, show the console's lines with the host's seconds since the start, and destroy; the exit status."""
    name = f"boot-{machine.guest}-{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix=f"{name}-") as folder:
        work = Path(folder)
        work.chmod(0o711)
        console = Path("/var/log/libvirt") / f"{name}.console"
        disk = _overlay(machine.images / "disk.raw", work / "disk.qcow2") if machine.from_disk else None
        parts = Parts(machine.images, disk, machine.medium, console, machine.append)
        (work / "domain.xml").write_text(domain(name, MEMORY_MIB[machine.guest], parts))
        began = time.monotonic()
        run(["virsh", "-q", "create", work / "domain.xml"])
        print(f"{time.monotonic() - began:6.2f}s  domain created")
        try:
            return 0 if _follow(console, began, seconds) else 1
        finally:
            if not keep:
                _destroy(name)


def _overlay(base: Path, target: Path) -> Path:
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", target])
    return target


def _follow(console: Path, began: float, seconds: float) -> bool:
    """Print the console's lines as they come, until the boot's last one."""
    text = b""
    while time.monotonic() - began < seconds:
        fresh = console.read_bytes()[len(text) :]
        whole = fresh[: fresh.rfind(b"\n") + 1]
        for line in whole.splitlines():
            print(f"{time.monotonic() - began:6.2f}s  {line.decode(errors='replace')}", flush=True)
        text += whole
        if LAST.search(whole):
            return True
        time.sleep(0.02)
    print(f"not done after {seconds:g} s")
    return False


def _destroy(name: str) -> None:
    try:
        run(["virsh", "-q", "destroy", name])
    except ProcessError as error:
        if "Domain not found" not in str(error):  # it may have powered off
            raise
