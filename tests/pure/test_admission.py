"""Room on a node: what a guest takes of it, what is refused for ever and what for now, and what a start waits for."""

import os

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmbatch import admission
from vmbatch.admission import Room
from vmbatch.batch import failures, openpbs, slurm, torquefault
from vmbatch.batch.system import Call
from vmbatch.claim import Claim
from vmbatch.errors import BusyError, Fault, JobError, NodeError, SiteError
from vmbatch.grant import Grant, grant
from vmbatch.host import clock, libvirtd
from vmbatch.template import own_size
from vmbatch.units import Deadline

from .sample import TEMPLATE, form, job, settings

MIB = 1 << 20
GIB = 1 << 30
ME = clock.ProcessIdentity(1, 2, "boot")
NODE = Room(slots=4, cores=8, memory=16 * GIB)


def claim(cores: int = 1, memory: int = GIB, asked: float = 0.0) -> Claim:
    return Claim("/nowhere", "0" * 32, "42.vm", cores, memory, asked, ME)


@pytest.mark.parametrize(("wanted", "others", "lack"), [
    (claim(8, 16 * GIB), [], ""),
    (claim(9), [], "9 cores, and this node has 8 for guests"),
    (claim(1, 16 * GIB + 1), [], "16385 MiB of memory, and this node has 16384 for guests"),
    (claim(4), [claim(4)], ""),
    (claim(5), [claim(4)], "5 cores, and 4 of 8 are free"),
    (claim(1, 9 * GIB), [claim(1, 4 * GIB)] * 2, "9216 MiB of memory, and 8192 of 16384 are free"),
    (claim(), [claim()] * 4, "a slot, and none of 4 is free"),
    (claim(1), [claim(9)], "1 core, and 0 of 8 are free"),
])
def test_what_is_lacking(wanted: Claim, others: list[Claim], lack: str) -> None:
    assert NODE.lacks(wanted, others) == lack
    assert Room(None, None, None).lacks(wanted, others) == ""


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 20 * GIB)), max_size=12))
def test_no_more_is_let_in_than_there_is(guests: list[tuple[int, int]]) -> None:
    inside: list[Claim] = []
    for cores, memory in guests:
        if not NODE.lacks(claim(cores, memory), inside):
            inside.append(claim(cores, memory))
    assert len(inside) <= 4
    assert sum(each.cores for each in inside) <= 8
    assert sum(each.memory for each in inside) <= 16 * GIB


@pytest.mark.parametrize(("xml", "size"), [
    ("<memory>1048576</memory><vcpu>4</vcpu>", (4, GIB)), ("<memory unit='GiB'>2</memory>", (1, 2 * GIB)),
    ("<memory unit='MB'>500</memory><vcpu placement='static'> 3 </vcpu>", (3, 500_000_000)), ("", (1, 0)),
    ("<memory unit='furlong'>9</memory><vcpu>many</vcpu>", (0, 0)), ("<memory>-1</memory>", (1, 0)),
])
def test_size_of_a_domain(xml: str, size: tuple[int, int]) -> None:
    assert own_size(form(TEMPLATE.replace("<memory unit='MiB'>512</memory>", xml)).root) == size


OF_JOB = "<vbresources cores='job' maxcores='64' memory='job' maxmemory='64G' overhead='256M'/></vbconfig>"


def test_what_a_guest_takes() -> None:
    plain, following = form(), form(TEMPLATE.replace("</vbconfig>", OF_JOB))
    config = settings()
    wanted = job(cores=6, memory=8 * GIB)

    def taken(template: object) -> tuple[int, int]:
        found = admission.claim(wanted, template, grant(wanted, template, config), config, ME)  # type: ignore[arg-type]
        assert (found.token, found.job, found.owner) == (wanted.token, "42.vm", ME)
        return found.cores, found.memory

    assert taken(plain) == (1, 512 * MIB + 128 * MIB)
    assert taken(following) == (6, 8 * GIB), "the guest gets 256M less than the job, and the hypervisor those"


def test_never_by_what_the_job_asks_for() -> None:
    with pytest.raises(JobError) as caught:
        admission.check(claim(9), Grant(cores=9), NODE)
    assert caught.value.lines() == ["the guest needs 9 cores, and this node has 8 for guests (ask for less, or for another node)"]
    admission.check(claim(8), Grant(cores=8), NODE)


@pytest.mark.error("VB909")
def test_never_by_what_the_template_has() -> None:
    with pytest.raises(SiteError, match="the guest needs 9 cores, and this node has 8 for guests"):
        admission.check(claim(9), Grant(), NODE)


def test_never_by_what_the_template_has_beside_the_jobs_wish() -> None:
    with pytest.raises(SiteError, match="the guest needs 16385 MiB of memory, and this node has 16384 for guests"):
        admission.check(claim(2, 16 * GIB + 1), Grant(cores=2), NODE)
    with pytest.raises(JobError, match="the guest needs 16385 MiB of memory"):
        admission.check(claim(2, 16 * GIB + 1), Grant(cores=2, memory=16 * GIB), NODE)
    with pytest.raises(SiteError, match="a slot, and none of 0 is free"):
        admission.check(claim(2), Grant(cores=2), Room(0, 8, 16 * GIB))


@pytest.mark.parametrize(("changed", "room"), [
    ({}, Room(None, 16, 63 * GIB)),
    ({"admission_reserve_cores": 2, "admission_reserve_memory": 4 * GIB}, Room(None, 14, 60 * GIB)),
    ({"admission_cores": 40, "admission_memory": "none", "admission_slots": 7}, Room(7, 40, None)),
    ({"admission_cores": "none", "admission_memory": 5 * GIB, "admission_reserve_memory": GIB}, Room(None, None, 5 * GIB)),
])
def test_what_a_node_has(monkeypatch: pytest.MonkeyPatch, changed: dict[str, object], room: Room) -> None:
    monkeypatch.setattr(libvirtd, "node_size", lambda uri: (16, 64 * GIB))
    assert admission.room(settings(**changed)) == room


def test_limits_of_the_sites_own_need_no_hypervisor(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_uri: str) -> tuple[int, int]:
        raise NodeError("libvirt was asked")

    monkeypatch.setattr(libvirtd, "node_size", fail)
    assert admission.room(settings(admission_cores="none", admission_memory="none")) == Room(None, None, None)
    with pytest.raises(NodeError, match="libvirt was asked"):
        admission.room(settings())


def test_what_a_start_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    free = settings(spool_keep_free=0)
    monkeypatch.setattr(os, "getloadavg", lambda: (7.5, 0.0, 0.0))
    assert admission.throttle(1000, 1 << 60, free) == ""
    several = msgspec.structs.replace(free, admission_starts=4)
    assert [admission.throttle(number, GIB, several) for number in (3, 4)] == ["", "others are being started: 4"]
    loaded = msgspec.structs.replace(free, admission_load=7.5)
    assert admission.throttle(0, GIB, loaded) == ""
    assert admission.throttle(0, GIB, msgspec.structs.replace(loaded, admission_load=7.4)) == "the load is 7.5"
    short = msgspec.structs.replace(free, admission_free_memory=1 << 60)
    assert admission.throttle(0, GIB, short).endswith(" MiB of memory are free")
    assert admission.throttle(0, 0, msgspec.structs.replace(short, admission_free_memory=1)) == ""
    assert admission.throttle(0, GIB, settings(spool_keep_free=1 << 60, spool_directory="/nowhere")).startswith("/nowhere has ")


def test_a_full_node_is_no_failure_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the site does with a node that fails: the job goes back, and nothing is counted or told to the batch system."""
    full = BusyError("this node has no room for the guest now: it needs a slot, and none of 4 is free")
    assert full.fault is Fault.NODE
    config = settings(torque_node_fault="offline", torque_failures=1, openpbs_node_fault="offline", slurm_node_fault="drain")
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(failures, "note", lambda *_, **__: asked.append(("counted",)))
    call = Call(["prologue", "42.vm", "alice", "alice", "job", "", "vm", "", ""], {}, "/")
    outcome = torquefault.failed(full, call, config, None, Deadline(9))
    assert (outcome.status, outcome.text, outcome.pause) == (2, "the job goes back into its queue", 0.0)
    assert openpbs._verdict(full, config) == "rerun"

    def ask(_environ: object, *argv: str) -> str:
        asked.append(argv)
        return ""

    monkeypatch.setattr(slurm, "_ask", ask)
    told = slurm.Slurm().failed(full, Call([], {"SLURM_JOB_ID": "42"}, "/"), config, None)
    assert told.text == "the job goes back into its queue"
    assert asked == [("scontrol", "requeue", "42")]
