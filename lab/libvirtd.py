"""The node's libvirtd, killed and started again while guests run."""

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
    for handle in _send(signal.SIGKILL):
        select.select([handle], [], [], _SECONDS)
        os.close(handle)


@contextmanager
def rules_lost() -> Iterator[None]:
    """All rules of the node are gone, as by its firewall's restart; in the end libvirtd has made its own again. TimeoutError."""
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    try:
        yield
    finally:
        for handle in _send(signal.SIGHUP):
            os.close(handle)
        over = time.monotonic() + _SECONDS
        while not _has_rules():
            if time.monotonic() > over:
                raise TimeoutError("libvirtd does not make its rules")
            time.sleep(0.05)


def _has_rules() -> bool:
    shown = subprocess.run(["nft", "list", "chain", "ip", "filter", "LIBVIRT_INP"], capture_output=True, check=False)
    return b"labbr0" in shown.stdout


def _send(number: signal.Signals) -> list[int]:
    """Handles of the processes that have got the signal."""
    handles = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{name}/comm").read_text() == "libvirtd\n":
                handles.append(os.pidfd_open(int(name)))
                signal.pidfd_send_signal(handles[-1], number)
    return handles


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
