"""A guest's QEMU is ended at once, and nothing else in its place."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmbatch.host import virt
from vmbatch.units import Deadline

URI, NAME, UUID = "qemu:///system", "vmbatch-42.vm-0123abcd", "0123abcd-1111-4222-8333-444455556666"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where libvirtd has its guests' pid files."""
    monkeypatch.setattr(virt, "_STATES", {URI: (str(tmp_path), str(tmp_path))})
    return tmp_path


@pytest.fixture
def guest() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that has the guest's uuid among its arguments, as QEMU has."""
    process = subprocess.Popen(["/bin/sh", "-c", "read line", "-uuid", UUID], stdin=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_the_guests_own_process_ends(place: Path, guest: "subprocess.Popen[bytes]") -> None:
    (place / f"{NAME}.pid").write_text(f"{guest.pid}\n")
    virt.kill(URI, NAME, UUID, Deadline(10))
    assert os.waitid(os.P_PID, guest.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None, "it has ended by now"
    assert guest.wait(5) == -9


def test_a_number_that_has_gone_to_another_process_is_left_alone(place: Path, guest: "subprocess.Popen[bytes]") -> None:
    (place / f"{NAME}.pid").write_text(f"{guest.pid}\n")
    virt.kill(URI, NAME, UUID.replace("0", "1"), Deadline(10))
    assert guest.poll() is None


@pytest.mark.parametrize("text", [None, "", "none\n", "999999999\n"])
def test_a_guest_whose_process_is_not_known_is_for_libvirt(place: Path, text: str | None) -> None:
    if text is not None:
        (place / f"{NAME}.pid").write_text(text)
    virt.kill(URI, NAME, UUID, Deadline(10))


def test_other_hypervisors_have_no_such_process() -> None:
    virt.kill("xen:///system", NAME, UUID, Deadline(10))
