"""Which guests can wait for jobs, what they are made with, and what is left for the job that takes one."""

import os
import tarfile
from pathlib import Path

import msgspec
import pytest

from vmbatch import boot, pool
from vmbatch.context.keys import HandoverKeys
from vmbatch.context.medium import Medium
from vmbatch.errors import InputError, SiteError
from vmbatch.exchange.channel import Channel
from vmbatch.facts import Facts, Image
from vmbatch.grant import Grant
from vmbatch.guest import Message
from vmbatch.host import clock
from vmbatch.hypervisor.domain import Domain
from vmbatch.hypervisor.watcher import Watcher
from vmbatch.job import Group, Job, User
from vmbatch.plan import Plan, plan
from vmbatch.record import Waits
from vmbatch.spool.directory import Directory
from vmbatch.template import Pool, Template, pool_obstacle

from .sample import BASE, TEMPLATE, TOKEN, facts, form, job, settings

POOLED = TEMPLATE.replace("<vbhypervisor>", "<vbstart size='3' lifetime='90min'>POOL</vbstart><vbhypervisor>")
ROOT = User("root", 0, Group("root", 0), (), "/", "/bin/sh")
NOBODY = Job(id="7.pool", token=TOKEN, user=ROOT, name="pool", queue="local", account="", resources="", script=None,
             node_file=None, batch="local")
TAKER = job(pooled="7.pool")
ADDRESS = "10.77.0.42"


def pooled(text: str = POOLED) -> Template:
    return form(text)


def steps(chosen: Plan) -> list[object]:
    return [step for phase in chosen.phases for step in phase.steps]


def of_job(text: str = POOLED) -> Plan:
    return plan(TAKER, form(text), settings(), facts(waited=ADDRESS))


def test_size_and_lifetime() -> None:
    assert pooled().pool == Pool(3, 5400.0)
    assert form(POOLED.replace(" size='3' lifetime='90min'", "")).pool == Pool(1, 12 * 3600.0)
    assert form().pool is None
    assert form(POOLED.replace(" size='3' lifetime='90min'>POOL", ">RESUME")).pool is None
    several = pooled(POOLED.replace("size='3'", "size='3' jobs='5' idle='30s'")).pool
    assert several == Pool(3, 5400.0, 5, 30.0)
    assert several.reuses
    assert not Pool().reuses
    assert pooled(POOLED.replace("size='3'", "jobs='5'")).pool == Pool(1, 5400.0, 5, 600.0)


@pytest.mark.parametrize(("before", "after", "said"), [
    ("size='3'", "size='0'", "<vbstart> size='0': expected with POOL"),
    ("size='3'", "size='65'", "<vbstart> size='65': expected with POOL"),
    ("90min", "soon", "<vbstart> lifetime='soon': expected with POOL"),
    ("90min", "0h", "<vbstart> lifetime='0h': expected with POOL"),
    (">POOL<", ">BOOT<", "<vbstart> size= goes with POOL"),
    ("size='3' lifetime", "count='3' lifetime", "<vbstart> has no attribute count"),
    ("size='3'", "jobs='0'", "<vbstart> jobs='0': expected with POOL"),
    ("size='3'", "jobs='1001'", "<vbstart> jobs='1001': expected with POOL"),
    ("size='3'", "jobs='2' idle='soon'", "<vbstart> idle='soon': expected with jobs"),
    ("size='3'", "idle='5min'", "<vbstart> idle= goes with jobs= of more than 1"),
    (" size='3' lifetime='90min'>POOL<", " jobs='2'>RESUME<", "<vbstart> jobs= goes with POOL"),
    ("<vbstart size='3' lifetime='90min'>POOL</vbstart>",
     "<vbstart jobs='2'>POOL</vbstart><vbshutdown seconds='9'/>", "<vbshutdown> shuts it down: take one out"),
])
def test_mistakes(before: str, after: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        form(POOLED.replace(before, after))
    assert said in " ".join(text for _, text in caught.value.problems)


@pytest.mark.parametrize(("changes", "why"), [
    ((), ""),
    ((("<vbconfig>", "<vbconfig><vbshell>CONSOLE</vbshell>"),), "come by <vbshell>CONSOLE</vbshell>"),
    ((("<vbpreparecdrom source='context.iso'/>", "<vbpreparecdrom source='context.iso' format='nocloud'/>"),),
     "more than VmBatch's own"),
    ((("<devices>", "<os><kernel>/boot/k</kernel><cmdline>quiet</cmdline></os><devices>"),
      ("<vbconfig>", "<vbconfig><vbkernelline>yes</vbkernelline>")), "<vbkernelline> tells the user"),
    (((f"<vbdisksource source='{BASE}' copy_method='cow'/>",
       "<vbdisksource source='scratch' create='once' size='64' format='raw'/>"),), "with create='once'"),
    ((("<devices>", "<devices><interface type='user'/>"),), "QEMU's own user network"),
    ((("type='kvm'", "type='xen'"), ("<vbhypervisor>KVM", "<vbhypervisor>XEN")), "only guests of QEMU and KVM"),
])
def test_what_cannot_wait(changes: tuple[tuple[str, str], ...], why: str) -> None:
    text = POOLED
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    assert (why in pool_obstacle(form(text))) if why else pool_obstacle(form(text)) == ""


def test_a_share_that_is_shown_as_the_user_s() -> None:
    assert "as the job's user" in pool.why_not(pooled(), settings(share_export="exportfs"))
    assert pool.why_not(pooled(), settings()) == ""
    alone = form(POOLED.replace("<vbconfig>", "<vbconfig><vbmessages>CHANNEL</vbmessages>"))
    assert pool.why_not(alone, settings(share_export="exportfs")) == ""


def test_what_waits_has_nothing_of_a_job() -> None:
    chosen = plan(NOBODY, pooled(), settings(), facts(), nobody=True)
    assert not [step for step in steps(chosen) if isinstance(step, HandoverKeys | Watcher)]
    assert not any(isinstance(step, Directory) and "handover" in step.path for step in steps(chosen))
    assert any(isinstance(step, Domain) for step in steps(chosen))
    medium, = (step for step in steps(chosen) if isinstance(step, Medium))
    names = {name for name in medium.content.parameters if name.startswith("VMBATCH_")}
    assert not names & {"VMBATCH_USER", "VMBATCH_UID", "VMBATCH_HOME", "VMBATCH_GROUPS"}
    assert medium.content.parameters["VMBATCH_POOL"] == "yes"
    assert (medium.content.nobody, medium.content.host_key, medium.content.kit) == (True, True, True)
    assert b"org.vmbatch.0" in chosen.xml
    assert chosen.messages == "CHANNEL"


def test_what_waits_has_keys_but_gets_the_host_s_alone(tmp_path: Path) -> None:
    chosen = plan(NOBODY, pooled(), settings(spool_directory=str(tmp_path)), facts(), nobody=True)
    medium, = (step for step in steps(chosen) if isinstance(step, Medium))
    names = [entry.name for entry in medium.content.entries()]
    assert {"ssh/host_key", "ssh/host_key.pub", "parameters.sh", "prolog.sh", "kit/pool.sh"} <= set(names)
    assert not [name for name in names if name.startswith(("job/", "tar/", "site/", "ssh/authorized", "ssh/party"))]


def test_archives_are_there_before_the_job(tmp_path: Path) -> None:
    """They are the template's, and may be large."""
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(__file__, "file")
    text = POOLED.replace("<vbconfig>", f"<vbconfig><vbtarfiles><vbtarfile tarfile='{archive}' path='/opt'/>"
                                        f"<vbtarfile tarfile='{archive}' path='.' option='cdrom'/></vbtarfiles>")
    chosen = plan(NOBODY, pooled(text), settings(spool_directory=str(tmp_path)), facts(), nobody=True)
    medium, = (step for step in steps(chosen) if isinstance(step, Medium))
    assert {"tar/0.tar", "tar/list", "file"} <= {entry.name for entry in medium.content.entries()}
    given = of_job(text).given
    assert given is not None
    assert not [entry for entry in msgspec.structs.replace(given, script=None, node_file=None).entries()
                if entry.name.startswith("tar/") or entry.name == "file"]
    known = facts(images={0: Image(__file__, "raw", 1, 1)})
    mine = key(known, pooled(text))
    with tarfile.open(archive, "w") as tar:
        tar.add(__file__, "other")
    os.utime(archive, (1, 1))
    assert mine != key(known, pooled(text))


def test_a_job_that_takes_one_makes_what_is_its_own_alone() -> None:
    chosen = of_job()
    assert [type(step).__name__ for step in steps(chosen)] == ["Directory", "HandoverKeys"]
    assert chosen.reservations == ()
    assert (chosen.waiting, chosen.rooms, chosen.sealed) == ((), (), True)
    assert chosen.addresses == (ADDRESS,)
    assert chosen.given is not None
    assert (chosen.given.kit, chosen.given.host_key) == (False, False)
    assert chosen.given.parameters["VMBATCH_USER"] == "alice"
    assert chosen.given.parameters["VMBATCH_HOSTNAME"] == "vm-42"
    assert "VMBATCH_POOL" not in chosen.given.parameters


def test_it_finds_everything_where_it_is() -> None:
    """By the names that it got before there was a job."""
    before, after = plan(NOBODY, pooled(), settings(), facts(), nobody=True), of_job()
    assert (after.domain, after.console, after.inbox, after.alias, after.macs) == (
        before.domain, before.console, before.inbox, before.alias, before.macs)
    assert after.handover.endswith("/42.vm")
    keys, = (step.keys for step in steps(after) if isinstance(step, HandoverKeys))
    assert keys == f"{os.path.dirname(after.console)}/keys"
    source = "VMBATCH_SHARE_SOURCE"
    medium, = (step for step in steps(before) if isinstance(step, Medium))
    assert after.given is not None
    assert after.given.parameters[source] == medium.content.parameters[source]


def test_a_guest_that_is_watched_is_watched_from_its_job_on() -> None:
    text = POOLED.replace("<vbconfig>", "<vbconfig><vbheartbeat seconds='60'/>")
    watcher = next(step for step in steps(of_job(text)) if isinstance(step, Watcher))
    assert watcher.job == "42.vm"
    assert not any(isinstance(step, Watcher) for step in steps(plan(NOBODY, form(text), settings(), facts(), nobody=True)))


def key(known: Facts, template: Template, granted: Grant | None = None, **changed: object) -> str:
    return pool.key(known, template, granted or Grant(), settings(**changed))


def test_what_a_guest_is_known_by(tmp_path: Path) -> None:
    image = tmp_path / "base.raw"
    image.write_bytes(b"x")
    known = facts(images={0: Image(str(image), "raw", 1, 1)})
    mine = key(known, pooled())
    assert mine == key(known, form(POOLED.replace("<devices>", "<!-- a comment --><devices>")))
    assert mine == key(known, pooled(), Grant(memory=512 << 20))
    assert mine == key(known, pooled(), queues={"other": ("x.xml",)}, admission_slots=7)
    assert len({mine, key(known, pooled(), Grant(cores=2)), key(known, pooled(), Grant(memory=1 << 30)),
                key(known, pooled(), share_options="soft"), key(known, pooled(), network_closed=("10.0.0.0/8",)),
                key(msgspec.structs.replace(known, credentials={"a": b"b"}), pooled()),
                key(known, form(POOLED.replace("512", "600")))}) == 7
    image.write_bytes(b"xy")
    assert mine != key(known, pooled())
    image.unlink()
    with pytest.raises(SiteError):
        key(known, pooled())


class _Port(Channel):
    """One that keeps what it is sent."""

    def __init__(self) -> None:
        self.sent = b""

    def send(self, pieces: object, alive: object) -> None:
        self.sent = b"".join(pieces)  # type: ignore[arg-type]

    def read(self, kind: str) -> Message | None:
        return None


def test_what_is_sent(tmp_path: Path) -> None:
    keys = tmp_path / f"7.pool.{TOKEN}/keys"
    keys.mkdir(parents=True)
    (keys / "id_ed25519.pub").write_text("ssh-ed25519 AAAA\n")
    chosen = plan(msgspec.structs.replace(TAKER, script=None, node_file=None), pooled(), settings(spool_directory=str(tmp_path)),
                  facts(waited=ADDRESS))
    port = _Port()
    assert chosen.given is not None
    boot._give(port, chosen.given, None)  # type: ignore[arg-type]
    head, _, data = port.sent.partition(b"\n")
    assert head == b"vmbatch 1 job %d" % len(data)
    assert b"VMBATCH_USER='alice'" in data
    assert b"PRIVATE" not in data


def test_a_guest_that_is_to_have_several_jobs_knows_it() -> None:
    """Before its first job, and with each."""
    several = form(POOLED.replace("size='3'", "jobs='2'"))
    chosen = (plan(NOBODY, several, settings(), facts(), nobody=True), plan(TAKER, several, settings(), facts(waited=ADDRESS)))
    medium = next(step for step in steps(chosen[0]) if isinstance(step, Medium))
    assert chosen[1].given is not None
    assert [content.parameters["VMBATCH_REUSE"] for content in (medium.content, chosen[1].given)] == ["yes", "yes"]
    once = plan(TAKER, pooled(), settings(), facts(waited=ADDRESS)).given
    assert once is not None
    assert "VMBATCH_REUSE" not in once.parameters


@pytest.mark.parametrize(("had", "jobs", "left", "why"), [
    (0, 1, 60.0, "it has had 1 of 1 jobs"), (0, 2, 60.0, ""), (1, 2, 60.0, "it has had 2 of 2 jobs"),
    (1, 3, 0.0, "its lifetime is over"),
])
def test_whether_a_guest_gets_a_further_job(had: int, jobs: int, left: float, why: str) -> None:
    waits = Waits("x", "k", ADDRESS, (), clock.boot_id(), 0.0, jobs=jobs, idle=30.0, lifetime=clock.uptime() + left, had=had)
    assert waits.is_spent == why
    assert msgspec.structs.replace(waits, boot="another").is_spent != ""


def test_whose_a_guest_is_that_has_had_a_job() -> None:
    """That user's, by name and number; before that it is anybody's."""
    waits = Waits("x", "k", ADDRESS, (), clock.boot_id(), 0.0, jobs=3, idle=30.0, lifetime=clock.uptime() + 60)
    assert waits.is_for("bob", 1501)
    again = waits.again("alice", 1500)
    assert (again.had, again.is_over) == (1, False)
    assert again.until == pytest.approx(clock.uptime() + 30, abs=2)
    assert [again.is_for(*who) for who in (("alice", 1500), ("alice", 1501), ("bob", 1500), ("bob", 1501))] == [
        True, False, False, False]
