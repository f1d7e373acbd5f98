"""Which guest was whose: what is written, what is found again, and what a crash or a full disk leaves."""

import gzip
import json
import lzma
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from vmbatch import config, hooked, template, trace
from vmbatch.cli import main
from vmbatch.errors import NodeError
from vmbatch.facts import Image
from vmbatch.plan import plan
from vmbatch.template import ImageSource

from .sample import BASE, OTHER_TOKEN, TEMPLATE, TOKEN, facts, job, settings

BEGIN = trace.Begin(
    time=100.0, token=TOKEN, job="42.vm", user="alice", uid=1500, queue="vm", batch="torque", node="node1", started=99.0,
    guest="vmbatch-42.vm-01234567", uuid="01234567-89ab-4def-8123-456789abcdef", template="/etc/vmbatch/domains/vm.xml",
    macs=("52:54:00:01:02:03",), addresses=("10.0.0.20",), images=(trace.Image("vda", BASE, "sha256:ab"),))
OTHER = msgspec.structs.replace(BEGIN, token=OTHER_TOKEN, job="43.vm", user="bob", time=200.0, macs=("52:54:00:aa:bb:cc",),
                                addresses=())
LEASE = trace.Lease(105.0, TOKEN, "42.vm", "10.0.0.21")
READY = trace.Ready(110.0, TOKEN, "42.vm", "10.0.0.20")
END = trace.End(150.0, TOKEN, "42.vm", "alice", "its epilogue has run", 7)


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    def write(*events: trace.Event) -> Path:
        for event in events:
            trace.write(str(tmp_path / "trace"), event)
        return tmp_path / "trace"

    return write


def found(directory: Path) -> list[trace.Guest]:
    return list(trace.guests(str(directory)))


def test_a_guests_lines_are_put_together(written: Callable[..., Path]) -> None:
    place = written(BEGIN, OTHER, READY, END)
    assert found(place) == [
        trace.Guest(begin=BEGIN, ready=110.0, address="10.0.0.20", ended=150.0, status=7, why="its epilogue has run"),
        trace.Guest(begin=OTHER)]
    lines = (place / "trace.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["begin", "begin", "ready", "end"]
    assert json.loads(lines[0])["images"] == [{"disk": "vda", "source": BASE, "digest": "sha256:ab", "modified": 0.0}]
    assert ((place / "trace.jsonl").stat().st_mode & 0o777, place.stat().st_mode & 0o777) == (0o640, 0o750)


def test_what_dhcp_has_given_a_guest(written: Callable[..., Path]) -> None:
    """Also one that never got ready."""
    (guest,) = found(written(BEGIN, LEASE, LEASE, END))
    assert (guest.ready, guest.addresses) == (None, ("10.0.0.20", "10.0.0.21"))
    assert guest.has_address("10.0.0.21")


def test_a_guest_that_waited_is_nobody_s_and_then_the_job_s(written: Callable[..., Path]) -> None:
    """What it did before is not held against the user; its address was its own all the time."""
    nobody = msgspec.structs.replace(BEGIN, job="7.pool", user="root", uid=0, queue="local", batch="local", started=98.0)
    taken = trace.Taken(time=120.0, token=TOKEN, job="42.vm", user="alice", uid=1500, queue="vm", batch="torque", started=119.0)
    before, after = found(written(nobody, LEASE, trace.Ready(110.0, TOKEN, "7.pool", "10.0.0.20"), taken,
                                  trace.Ready(121.0, TOKEN, "42.vm", "10.0.0.20"), END))
    assert (before.begin, before.ended, before.why) == (nobody, 120.0, "job 42.vm took it, for which it had waited")
    assert after.begin == msgspec.structs.replace(BEGIN, time=120.0, started=119.0)
    assert (after.ready, after.ended, after.status) == (121.0, 150.0, 7)
    assert before.addresses == after.addresses == ("10.0.0.20", "10.0.0.21")
    assert (before.was_there(115.0), after.was_there(115.0), after.was_there(130.0)) == (True, False, True)


def test_a_second_end_and_one_without_a_beginning(written: Callable[..., Path]) -> None:
    again = trace.End(900.0, TOKEN, "42.vm", "alice", "the sweep")
    (guest,) = found(written(trace.End(1.0, OTHER_TOKEN, "43.vm", "bob", "the sweep"), BEGIN, END, again))
    assert (guest.ended, guest.why) == (150.0, "its epilogue has run")


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_torn_line_costs_no_other(written: Callable[..., Path], cut: int) -> None:
    place = written(BEGIN, END)
    path = place / "trace.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    written(OTHER)
    assert [guest.begin for guest in found(place)] == [BEGIN, OTHER]


@pytest.mark.error("VB906")
def test_a_full_disk_is_said(written: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    place = written(BEGIN)
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:20]))
    with pytest.raises(NodeError, match="a line could not be written whole: is the disk full"):
        written(OTHER)
    monkeypatch.undo()
    written(OTHER)
    assert [guest.begin.job for guest in found(place)] == ["42.vm", "43.vm"]


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "trace").mkdir()
    (tmp_path / "trace/trace.jsonl").symlink_to(tmp_path / "victim")
    with pytest.raises(NodeError, match=r"trace\.jsonl cannot be written: Too many levels of symbolic links"):
        trace.write(str(tmp_path / "trace"), BEGIN)
    assert not (tmp_path / "victim").exists()


def test_without_a_directory_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    trace.write("", BEGIN)
    assert list(tmp_path.iterdir()) == []
    assert found(tmp_path / "none") == []


def test_what_logrotate_has_put_aside(written: Callable[..., Path]) -> None:
    """A guest may begin in one file and end in the next; files of others are not read."""
    place = written(BEGIN)
    path = place / "trace.jsonl"
    (place / "trace.jsonl-20260101.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    written(READY)
    (place / "trace.jsonl.1.xz").write_bytes(lzma.compress(path.read_bytes()))
    path.unlink()
    os.utime(place / "trace.jsonl-20260101.gz", (1, 1))
    os.utime(place / "trace.jsonl.1.xz", (2, 2))
    written(END, OTHER)
    (place / "trace.jsonl~").write_bytes(msgspec.json.encode(msgspec.structs.replace(OTHER, token="f" * 32)))
    guests = found(place)
    assert [(guest.begin.job, guest.ready, guest.ended) for guest in guests] == [("42.vm", 110.0, 150.0), ("43.vm", None, None)]


@pytest.mark.parametrize("damage", [b"\x1f\x8b\x08nonsense", b""])
def test_a_damaged_file_is_said(written: Callable[..., Path], damage: bytes) -> None:
    place = written(BEGIN)
    (place / "trace.jsonl-20260101.gz").write_bytes(damage)
    if damage:
        with pytest.raises(NodeError, match=r"trace\.jsonl-20260101\.gz cannot be read"):
            found(place)
    else:
        assert len(found(place)) == 1


@pytest.mark.parametrize(("moment", "there"), [(99.0, False), (100.0, True), (150.0, True), (151.0, False)])
def test_when_it_was_there(moment: float, there: bool) -> None:
    assert trace.Guest(begin=BEGIN, ended=150.0).was_there(moment) == there
    assert trace.Guest(begin=BEGIN).was_there(1e9)


def test_addresses_however_they_are_spelled() -> None:
    guest = trace.Guest(begin=msgspec.structs.replace(BEGIN, addresses=("fd00::a",)), address="10.0.0.7")
    assert [guest.has_address(each) for each in ("fd00:0::A", "10.0.0.7", "10.0.0.20")] == [True, True, False]
    assert [guest.has_mac(each) for each in ("52-54-00-01-02-03", "52:54:00:01:02:04")] == [True, False]
    assert not trace.Guest(begin=OTHER).has_address("10.0.0.7")


@pytest.fixture
def asked(written: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """`vmbatch trace` with two guests."""
    place = written(BEGIN, READY, END, OTHER)
    monkeypatch.setattr(hooked, "load_config", lambda: config.parse(f"[log]\ntrace = '{place}'".encode(), "test"))

    def ask(*words: str) -> tuple[int, str]:
        done = CliRunner().invoke(main, ["trace", *words])
        return done.exit_code, done.output

    return ask


@pytest.mark.parametrize(("words", "jobs"), [
    ((), ["42.vm", "43.vm"]), (("--job", "42.vm"), ["42.vm"]), (("--user", "bob"), ["43.vm"]),
    (("--address", "10.0.0.20"), ["42.vm"]), (("--address", "10.0.0.20", "--at", "120"), ["42.vm"]),
    (("--address", "10.0.0.20", "--at", "160"), []), (("--mac", "52-54-00-AA-BB-CC"), ["43.vm"]), (("--job", "42"), []),
    (("--at", "1970-01-01T00:01:55+00:00"), ["42.vm"]), (("--user", "bob", "--job", "42.vm"), []),
])
def test_what_is_found(asked: Callable[..., tuple[int, str]], words: tuple[str, ...], jobs: list[str]) -> None:
    status, output = asked(*words, "--json")
    if jobs:
        assert (status, [json.loads(line)["begin"]["job"] for line in output.splitlines()]) == (0, jobs)
    else:
        assert (status, output) == (1, "vmbatch: the trace has no such guest\n")


@pytest.mark.parametrize("words", [("--at", "yesterday"), ("--mac", "52:54"), ("--address", "10.0.0"), ("--at", "1e9")])
def test_what_is_none(asked: Callable[..., tuple[int, str]], words: tuple[str, ...]) -> None:
    assert asked(*words)[0] == 2


def test_how_it_is_shown(asked: Callable[..., tuple[int, str]], written: Callable[..., Path],
                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmbatch.host.clock.for_people", str)
    assert asked("--job", "42.vm")[1] == f"""\
job 42.vm of alice (uid 1500), queue vm, on node1
  guest vmbatch-42.vm-01234567, uuid 01234567-89ab-4def-8123-456789abcdef, from /etc/vmbatch/domains/vm.xml
  MAC 52:54:00:01:02:03, address 10.0.0.20
  disk vda from {BASE}: sha256:ab
  started 99.0, ready 110.0
  ended 150.0: its epilogue has run, the job's status 7
"""
    written(trace.End(300.0, OTHER_TOKEN, "43.vm", "bob", "it could not start: \x1b[2J\nforged"))
    assert asked("--job", "43.vm")[1].splitlines()[-1] == "  ended 300.0: it could not start: ?[2J?forged"


def test_what_a_plan_says_of_its_images() -> None:
    text = TEMPLATE.replace("<target dev='vda' bus='virtio'/>\n    </disk>", f"""<target dev='vda' bus='virtio'/>
    </disk><disk type='file' device='disk'><driver name='qemu' type='raw'/>
      <vbdisksource source='https://images.example.org/b.raw' copy_method='download'/>
      <vbcheckhash hashfunction='sha256' hashvalue='{"0" * 64}'/><target dev='vdb'/></disk>""")
    form = template.parse(text.encode(), "/etc/vmbatch/domains/sample.xml")
    source = form.disks[0].source
    assert isinstance(source, ImageSource)
    stored = Image("/store/content/ff", "raw", 1 << 20, 1 << 20, origin="https://images.example.org/a.raw", digest="sha256:ff")
    chosen = plan(job(), form, settings(), facts(text=text, images={0: stored}))
    assert chosen.images == (trace.Image("vda", "https://images.example.org/a.raw", "sha256:ff"),
                             trace.Image("vdb", "https://images.example.org/b.raw", f"sha256:{'0' * 64}"))
