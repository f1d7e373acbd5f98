"""A plan decides everything and refuses before the first effect."""

import msgspec
import pytest

from vmbatch import template
from vmbatch.config import Config
from vmbatch.disk.duplicate import Duplicate
from vmbatch.disk.overlay import Overlay
from vmbatch.errors import JobError, NodeError, SiteError, VmBatchError
from vmbatch.exchange.meeting import Introduction
from vmbatch.exchange.member import Member
from vmbatch.format.name import Form
from vmbatch.hypervisor.domain import Domain
from vmbatch.hypervisor.netfilter import BridgePort, NetworkFilter
from vmbatch.plan import Plan, member, plan, preview
from vmbatch.resource import Resource
from vmbatch.spool.directory import Directory

from .sample import BASE, GIB, SCRIPT, TEMPLATE, TOKEN, facts, form, job, settings, user

COPY = TEMPLATE.replace("'cow'", "'copy'")


def refused(
    error: type[VmBatchError], config: Config, text: str = TEMPLATE, free: int = 100 * GIB, size: int = 2 * GIB, **changed: object
) -> str:
    with pytest.raises(VmBatchError) as caught:
        plan(job(**changed), form(text), config, facts(free, size))
    assert type(caught.value) is error
    return caught.value.what


def steps(chosen: Plan) -> list[object]:
    return [step for phase in chosen.phases for step in phase.steps]


@pytest.mark.error("VB206")
def test_denied_user() -> None:
    assert refused(JobError, settings(users_deny=("bob", "alice"))) == "jobs of alice do not run in queue vm"


@pytest.mark.parametrize("uid", [0, 1, 999])
def test_uid_too_low(uid: int) -> None:
    assert "jobs of alice do not run" in refused(JobError, settings(), user=user(uid=uid))


def test_minimum_uid_itself_is_fine() -> None:
    plan(job(user=user(uid=1000)), form(), settings(), facts())


def test_allow_list() -> None:
    assert "only those of bob, carol" in refused(JobError, settings(users_allow=("bob", "carol")))
    plan(job(), form(), settings(users_allow=("bob", "alice")), facts())


def test_denied_beats_allowed() -> None:
    refused(JobError, settings(users_allow=("alice",), users_deny=("alice",)))


def test_root_cannot_be_allowed() -> None:
    refused(JobError, settings(users_allow=("root",)), user=user(name="root", uid=0))


@pytest.mark.error("VB605")
def test_no_share() -> None:
    assert "[share] source is empty" in refused(SiteError, settings(share_source=""))


@pytest.mark.error("VB105")
def test_unknown_hypervisor() -> None:
    """A template cannot name one that parsing lets through; the plan does not count on that."""
    strange = msgspec.structs.replace(form(), hypervisor="HYPERV")
    with pytest.raises(SiteError, match="no hypervisor HYPERV"):
        plan(job(), strange, settings(), facts())


@pytest.mark.error("VB401")
def test_space() -> None:
    config = settings(spool_keep_free=GIB)
    assert "2048 MiB" in refused(NodeError, config, COPY, free=3 * GIB - 1)
    plan(job(), form(COPY), config, facts(3 * GIB))


def test_space_for_nothing_but_what_must_remain() -> None:
    refused(NodeError, settings(spool_keep_free=GIB), free=GIB - 1)
    plan(job(), form(), settings(spool_keep_free=GIB), facts(GIB))


@pytest.mark.error("VB402")
def test_job_limit() -> None:
    assert "more than [spool] job_limit = 1G" in refused(SiteError, settings(spool_job_limit=GIB), COPY)
    plan(job(), form(COPY), settings(spool_job_limit=2 * GIB), facts())
    plan(job(), form(), settings(spool_job_limit=0), facts())


def test_copies_are_summed() -> None:
    second = COPY.replace(
        "<interface",
        "<disk type='file'><vbdisksource source='/srv/second' source_format='raw' copy_method='copy'/>"
        "<target dev='vdb'/></disk><interface",
        1,
    )
    known = facts(size=GIB, text=second)
    with pytest.raises(SiteError, match="job_limit"):
        plan(job(), form(second), settings(spool_job_limit=2 * GIB - 1), known)
    plan(job(), form(second), settings(spool_job_limit=2 * GIB), known)


def test_the_domain_is_the_last_effect() -> None:
    found = steps(plan(job(), form(), settings(), facts()))
    assert [type(step) for step in found[-3:]] == [Domain, BridgePort, BridgePort], "its ports are there with it"
    assert [type(step) for step in found if isinstance(step, Resource)] == [
        Directory, NetworkFilter, NetworkFilter, Directory, Directory, Domain]


def test_what_is_made_lies_in_what_is_owned() -> None:
    """Every piece is inside a directory that was acquired before it, so that releasing that removes it."""
    owned: list[str] = []
    for step in steps(plan(job(), form(COPY), settings(), facts())):
        if isinstance(step, Directory):
            owned.append(step.path)
        elif not isinstance(step, Domain | NetworkFilter | BridgePort):
            place: str = getattr(step, "directory", "") or getattr(step, "path", "")
            assert any(place == parent or place.startswith(f"{parent}/") for parent in owned), step


def test_disks() -> None:
    assert [step for step in steps(plan(job(), form(), settings(), facts())) if isinstance(step, Overlay)] == [
        Overlay(f"/var/lib/vmbatch/spool/42.vm.{TOKEN}/vda.qcow2", Form("", "qcow2"), "", BASE, "raw", 2 * GIB)
    ]
    assert [step for step in steps(plan(job(), form(COPY), settings(), facts())) if isinstance(step, Duplicate)] == [
        Duplicate(BASE, f"/var/lib/vmbatch/spool/42.vm.{TOKEN}/vda.raw")
    ]


def test_plan_is_pure() -> None:
    """The same in, the same out; and no file is looked at (none of these exists)."""
    one = plan(job(), form(), settings(), facts())
    assert steps(one) == steps(plan(job(), form(), settings(), facts()))
    assert job().script == SCRIPT


def test_preview_names_every_step() -> None:
    chosen = plan(job(), form(), settings(), facts())
    text = "\n".join(preview(chosen))
    for step in steps(chosen):
        assert str(step) in text
        assert TOKEN[:8] in str(step) or "/run/vmbatch/handover" in str(step)
    assert "-----BEGIN" not in text


def test_template_of_the_test_driver() -> None:
    text = TEMPLATE.replace("'kvm'", "'test'").replace("KVM", "TEST")
    assert (
        plan(job(), template.parse(text.encode(), "t.xml"), settings(libvirt_uri="test:///default"), facts()).domain.uri
        == "test:///default"
    )


PAIR = job(nodes=("node1", "node2"))


def test_one_node_meets_nobody() -> None:
    for alone in (job(), job(nodes=("node1",))):
        assert member(alone, settings(), "elsewhere", 300.0) is None
        assert "meeting" not in [phase.name for phase in plan(alone, form(), settings(), facts()).phases]


def test_the_first_node_and_a_sister() -> None:
    first = member(PAIR, settings(), "node1.cluster", 300.0)
    sister = member(job(rank=1, nodes=("node1",)), settings(nodes_directory="/nodes"), "node2", 300.0)
    assert first == Member("/srv/vmbatch/share/.nodes", PAIR.token, "42.vm", "node1.cluster", 0, "vm-42", ("node2",), 300.0)
    assert sister == Member("/nodes", PAIR.token, "42.vm", "node2", 1, "vm-42-n1", ("node1",), 300.0)


def test_guests_are_introduced_before_their_media_are_made() -> None:
    met = member(PAIR, settings(), "node1", 300.0)
    chosen = plan(PAIR, form(), settings(), facts(), met)
    assert [phase.name for phase in chosen.phases] == ["disks", "network filter", "meeting", "context", "start"]
    (meeting,) = (phase.steps for phase in chosen.phases if phase.name == "meeting")
    assert [type(step).__name__ for step in meeting] == ["Keys", "Introduction"]
    assert isinstance(meeting[1], Introduction)
    assert (meeting[1].member, meeting[1].hosts, meeting[1].node_file) == (met, ("node1", "node2"), job().node_file)


@pytest.mark.error("VB608")
def test_a_node_that_its_batch_system_calls_otherwise() -> None:
    with pytest.raises(NodeError, match=r"^the batch system calls this node node1, but its host name is node1-ib\.cluster$"):
        member(PAIR, settings(), "node1-ib.cluster", 300.0)


@pytest.mark.error("VB208")
def test_guests_without_ssh_are_for_one_node() -> None:
    console = TEMPLATE.replace("<vbconfig>", "<vbconfig><vbshell>CONSOLE</vbshell>")
    console = console.replace("<devices>", "<devices><console type='pty'><target type='virtio'/></console>", 1)
    plan(job(), form(console), settings(), facts(text=console))
    with pytest.raises(JobError, match="jobs on several nodes do not run in queue vm: its guests cannot reach each other"):
        plan(PAIR, form(console), settings(), facts(text=console), member(PAIR, settings(), "node1", 300.0))
