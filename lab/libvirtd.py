"""The node's libvirtd: killed and started again while guests run, or without its rules."""

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def rules_lost(how: str = "flush ruleset") -> Iterator[None]:
    """Rules of the node are gone, as by its firewall's restart; in the end its own, which iptables has made, are back."""
    saved = {name: subprocess.run([f"{name}-save"], stdout=subprocess.PIPE, check=True).stdout
             for name in ("iptables", "ip6tables")}
    subprocess.run(["nft", how], check=True)
    try:
        yield
    finally:
        for name, rules in saved.items():
            subprocess.run([f"{name}-restore"], input=rules, check=True)
