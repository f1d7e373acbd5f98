"""What Xen may keep of a guest: found by the guest's numbers and files, and waited for, ended or named."""

from pathlib import Path

import pytest

from vmbatch.errors import NodeError
from vmbatch.host import process, virt, xen
from vmbatch.host.xen import XenDomain
from vmbatch.hypervisor import domain as domains
from vmbatch.units import Deadline

UUID = "8b00930f-1111-4222-8333-444455556666"
OTHER = "5e1e0c0e-1111-4222-8333-444455556666"
SPOOL = "/var/lib/vmbatch/spool/42.vm.8b00"


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A /sys of our own, without time to wait."""
    (tmp_path / "devices").mkdir()
    (tmp_path / "block").mkdir()
    monkeypatch.setattr(xen, "_BACKENDS", tmp_path / "devices")
    monkeypatch.setattr(xen, "_LOOPS", tmp_path / "block")
    monkeypatch.setattr(xen, "_PAUSE_SECONDS", 0)
    return tmp_path


def loop(node: Path, name: str, file: str) -> None:
    place = node / "block" / name / "loop"
    place.mkdir(parents=True)
    (place / "backing_file").write_text(f"{file}\n")


def test_back_ends_of_these_domains_alone(node: Path) -> None:
    for name in ("vif-7-0", "qdisk-7-51712", "vbd-17-51712", "console-70-0", "vif-8-7"):
        (node / "devices" / name).mkdir()
    assert xen.backends({7}) == ["qdisk-7-51712", "vif-7-0"]
    assert xen.backends({8, 17}) == ["vbd-17-51712", "vif-8-7"]
    assert xen.backends(set()) == []


def test_no_back_ends_on_a_node_without_xen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xen, "_BACKENDS", tmp_path / "none")
    assert xen.backends({7}) == []


def test_loop_devices_on_files_of_this_job_alone(node: Path) -> None:
    loop(node, "loop0", f"{SPOOL}/xvda.raw")
    loop(node, "loop1", f"{SPOOL}/xvdb.raw (deleted)")
    loop(node, "loop2", f"{SPOOL}x/xvda.raw")
    loop(node, "loop3", "/srv/images/base.raw")
    (node / "block/loop4").mkdir()
    assert xen.loops_below(SPOOL) == ["/dev/loop0", "/dev/loop1"]
    assert xen.loops_below("") == []


def test_what_libvirt_has_forgotten_is_ended(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [
        [XenDomain("vmbatch-42.vm-8b00930f", 7, UUID, False), XenDomain("vmbatch-1-5e1e0c0e", 8, OTHER, False)],
        [XenDomain("(null)", 7, UUID, True), XenDomain("vmbatch-1-5e1e0c0e", 8, OTHER, False)],
        [XenDomain("vmbatch-1-5e1e0c0e", 8, OTHER, False)],
    ]
    ended: list[list[str]] = []
    loop(node, "loop0", f"{SPOOL}/xvda.raw")

    def run(argv: list[str], _deadline: Deadline) -> str:
        ended.append(argv)
        if argv[0].endswith("losetup"):
            (node / "block/loop0/loop/backing_file").unlink()
        return ""

    monkeypatch.setattr(xen, "domains", lambda _deadline: listed.pop(0) if len(listed) > 1 else listed[0])
    monkeypatch.setattr(process, "run", run)
    monkeypatch.setattr(process, "find", lambda name: f"/usr/sbin/{name}")
    xen.see_gone(UUID, SPOOL, set(), Deadline(10))
    assert ended == [["/usr/sbin/xl", "destroy", "7"], ["/usr/sbin/losetup", "--detach", "/dev/loop0"]]


@pytest.mark.error("VB713")
def test_what_stays_is_named(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (node / "devices/vif-9-0").mkdir()
    monkeypatch.setattr(xen, "domains", lambda _deadline: [XenDomain("(null)", 7, UUID, True)])
    with pytest.raises(NodeError) as caught:
        xen.see_gone(UUID, "", {9}, Deadline(0))
    assert caught.value.what == "of the guest is left after its end: Xen's domain 7 (dying), the back end vif-9-0"


def test_the_sweep_sees_ours_by_name_and_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    known = "9b00930f-1111-4222-8333-444455556666"
    found = [
        XenDomain("vmbatch-42.vm-8b00930f", 7, UUID, False),
        XenDomain("vmbatch-43.vm-8b00930f", 8, OTHER, False),
        XenDomain("web-8b00930f", 9, UUID, False),
        XenDomain("vmbatch-44.vm-9b00930f", 10, known, False),
        XenDomain("(null)", 11, UUID, True),
    ]
    monkeypatch.setattr(xen, "domains", lambda _deadline: found)
    monkeypatch.setattr(virt, "find", lambda _uri, uuid: object() if uuid == known else None)
    assert domains.forgotten("xen:///system", Deadline(1)) == [
        domains.Domain("xen:///system", "vmbatch-42.vm-8b00930f", UUID, "8b00930f", "")]
    assert domains.forgotten("qemu:///system", Deadline(1)) == []
