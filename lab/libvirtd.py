"""The node's libvirtd, killed and started again while guests run."""

import contextlib
import os
import select
import signal
import subprocess
import time
from pathlib import Path

import libvirt

_SECONDS = 30


def kill() -> None:
    """Without a warning, until it is gone; the guests, virtlogd and dnsmasq live on."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{name}/comm").read_text() == "libvirtd\n":
                handle = os.pidfd_open(int(name))
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                select.select([handle], [], [], _SECONDS)
                os.close(handle)


def start() -> None:
    """Returns when it answers. TimeoutError."""
    subprocess.Popen(["libvirtd", "--timeout", "0"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                     stderr=subprocess.DEVNULL, start_new_session=True)
    over = time.monotonic() + _SECONDS
    while time.monotonic() < over:
        with contextlib.suppress(libvirt.libvirtError):
            libvirt.open("qemu:///system").close()
            return
        time.sleep(0.1)
    raise TimeoutError("libvirtd does not answer")
