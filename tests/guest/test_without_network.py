"""Jobs in guests that have no network, or no share: over the console, with messages by the console or by virtio-serial."""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab.mom import Ended, Mom

from .conftest import CONFIG
from .disks import DOMAINS

pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("nothing_left")]

WHO = b"#!/bin/sh\nid; ls /sys/class/net; echo to stderr >&2; exit 7\n"


@contextmanager
def queue(config: str, *, network: bool) -> Iterator[str]:
    """A queue whose guests are the lab's small one with these tags in <vbconfig>."""
    text = (DOMAINS / "busybox.xml").read_text().replace("</vbconfig>", f"{config}</vbconfig>", 1)
    if not network:
        text = re.sub(r"<interface.*?</interface>", "", text, flags=re.DOTALL)
    before = CONFIG.read_text()
    (DOMAINS / "console.xml").write_text(text)
    CONFIG.write_text(before.replace("[queues]\n", '[queues]\nconsole = "console.xml"\n'))
    try:
        yield "console"
    finally:
        CONFIG.write_text(before)
        (DOMAINS / "console.xml").unlink()


def run(mom: Mom, config: str, script: bytes, *, network: bool = False) -> Ended:
    with queue(config, network=network) as name:
        return mom.run(script, queue=name)


@pytest.mark.parametrize("device", ["hvc0", "ttyS1"])
@pytest.mark.parametrize("messages", ["CONSOLE", "CHANNEL"])
def test_without_network_and_share(mom: Mom, device: str, messages: str) -> None:
    ended = run(mom, f"<vbshell device='{device}'>CONSOLE</vbshell><vbmessages>{messages}</vbmessages>", WHO)
    assert (ended.verdict, ended.status) == ("run", 7), ended.errors.decode()
    assert ended.output.decode().splitlines() == [
        "uid=1500(alice) gid=1500(alice) groups=1500(alice),1600(physics)", "lo"]
    assert ended.errors == b"to stderr\n"


def test_messages_by_virtio_serial_and_the_job_by_ssh(mom: Mom) -> None:
    ended = run(mom, "<vbmessages>CHANNEL</vbmessages>", b"#!/bin/sh\ngrep -c vmbatch /proc/mounts\nexit 7\n", network=True)
    assert (ended.verdict, ended.status) == ("run", 7), ended.errors.decode()
    assert ended.output == b"1\n", "the medium, and no share"


def test_the_console_beside_network_and_share(mom: Mom) -> None:
    ended = run(mom, "<vbshell>CONSOLE</vbshell>", WHO, network=True)
    assert (ended.verdict, ended.status) == ("run", 7), ended.errors.decode()
    assert b"eth0" in ended.output


def test_a_megabyte_of_random_bytes(mom: Mom) -> None:
    """Out with the script, and back."""
    data = os.urandom(1 << 20)
    script = b"#!/bin/sh\nsed '1,/^exit/d' \"$0\"\nexit 7\n" + data
    ended = run(mom, "<vbshell>CONSOLE</vbshell><vbmessages>CONSOLE</vbmessages>", script)
    assert (ended.verdict, ended.status) == ("run", 7), ended.errors.decode()
    assert hashlib.sha256(ended.output).hexdigest() == hashlib.sha256(data).hexdigest()
