"""What a job gets of what it asks for: within the template, within what the batch system gives, or a clear refusal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmbatch.config import Config
from vmbatch.config import parse as parse_config
from vmbatch.errors import JobError, SiteError
from vmbatch.grant import Grant, grant, template_name
from vmbatch.staging import Stage

from .sample import TEMPLATE, form, job, settings

MIB = 1 << 20
GIB = 1 << 30
OF_JOB = "<vbresources cores='job' mincores='2' maxcores='8' memory='job' minmemory='512M' maxmemory='16G' overhead='256M'/>"
OFFERS = """<vbrequests><vbrequest name='vbcores' max='6'/><vbrequest name='vbmemory' max='12G'/>
<vbrequest name='vbkeep' max='4h'/><vbrequest name='vbstagein' max='1G'/><vbrequest name='vbstageout' max='2G'/></vbrequests>"""
KEEPING = settings(requests_keep=3, requests_keep_longest=7200.0)


def granted(tags: str, config: Config = KEEPING, devices: str = "", **changed: object) -> Grant:
    text = TEMPLATE.replace("</vbconfig>", f"{tags}</vbconfig>").replace("<devices>", f"{devices}<devices>")
    return grant(job(**changed), form(text), config)


def refused(tags: str, config: Config = KEEPING, devices: str = "", **changed: object) -> str:
    with pytest.raises(JobError) as caught:
        granted(tags, config, devices, **changed)
    return "; ".join(caught.value.lines())


def test_nothing_asked_and_nothing_followed() -> None:
    assert granted("", cores=4, memory=GIB) == Grant()
    assert granted("<vbresources mincores='2' maxcores='4'/>", cores=8) == Grant()


@pytest.mark.parametrize(("given_cores", "cores", "why"), [
    (4, 4, "the guest has 4 cores, as the job"), (8, 8, "the guest has 8 cores, as the job"),
    (1, 2, "the guest has 2 cores, the least that its template gives"),
])
def test_cores_of_the_job(given_cores: int, cores: int, why: str) -> None:
    found = granted(OF_JOB, cores=given_cores)
    assert (found.cores, found.notes[0]) == (cores, why)


@pytest.mark.parametrize(("memory", "size", "why"), [
    (4 * GIB, 4 * GIB - 256 * MIB, "the guest has 3840M of memory, as the job, less 256M for the hypervisor"),
    (4 * GIB + 1, 4 * GIB - 256 * MIB, "the guest has 3840M of memory, as the job, less 256M for the hypervisor"),
    (16 * GIB + 256 * MIB, 16 * GIB, "the guest has 16G of memory, as the job, less 256M for the hypervisor"),
    (100 * MIB, 512 * MIB, "the guest has 512M of memory, the least that its template gives"),
    (0, 512 * MIB, "the guest has 512M of memory, the least that its template gives"),
])
def test_memory_of_the_job(memory: int, size: int, why: str) -> None:
    found = granted(OF_JOB, memory=memory)
    assert (found.cores, found.memory, found.notes) == (None, size, (why,))


def test_what_the_batch_system_does_not_say() -> None:
    found = granted(OF_JOB)
    assert (found.cores, found.memory) == (None, None)
    assert found.notes == ("the batch system does not say how much memory the job has: the guest gets the template's",)


@pytest.mark.error("VB204")
def test_more_than_the_template_has() -> None:
    assert refused(OF_JOB, cores=9) == ("the job has 9 cores on this node, and guests of this template have 8 at most "
                                        "(ask for fewer, or for another template)")
    assert refused(OF_JOB, memory=17 * GIB) == ("the job has 17G of memory on this node, and guests of this template have 16G at "
                                                "most (ask for less, or for another template)")


@pytest.mark.parametrize(("wish", "size"), [("8G", 8 * GIB), ("8gb", 8 * GIB), ("700M", 700 * MIB), ("1048577k", GIB),
                                            ("12G", 12 * GIB)])
def test_memory_by_wish(wish: str, size: int) -> None:
    found = granted(OFFERS, wishes={"vbmemory": wish})
    assert (found.memory, found.notes[0].rpartition(", ")[2]) == (size, "as was asked for")


@pytest.mark.parametrize(("wish", "said"), [
    ("13G", "vbmemory=13G: guests of this template can have 1M to 12G"),
    ("1023k", "vbmemory=1023k: guests of this template can have 1M to 12G"),
    *[(bad, f"vbmemory={bad}: not a size (write for instance vbmemory=8G)")
      for bad in ("", "0", "-1G", "8 G", "8X", "1e9", "8G ", "8GG", "١G", "0x1G", "9" * 16 + "G")],
])
def test_memory_by_wish_refused(wish: str, said: str) -> None:
    assert refused(OFFERS, wishes={"vbmemory": wish}) == said


@pytest.mark.parametrize(("wish", "said"), [
    ("7", "vbcores=7: guests of this template can have 1 to 6 cores"),
    *[(bad, f"vbcores={bad}: not a number of cores (write for instance vbcores=4)")
      for bad in ("0", "-1", "1.5", "x", " 4", "00004", "10000", "٤")],
])
def test_cores_by_wish_refused(wish: str, said: str) -> None:
    assert refused(OFFERS, wishes={"vbcores": wish}) == said


def test_a_wish_within_what_the_batch_system_gives() -> None:
    """It may be less, and not more: the rest is others'."""
    both = OF_JOB + OFFERS
    found = granted(both, cores=6, memory=8 * GIB, wishes={"vbcores": "3", "vbmemory": "2G"})
    assert (found.cores, found.memory) == (3, 2 * GIB)
    assert refused(both, cores=2, wishes={"vbcores": "3"}) == (
        "vbcores=3: the batch system gives the job 2 on this node (ask it for more, such as by -l nodes=1:ppn=)")
    assert refused(both, memory=2 * GIB, wishes={"vbmemory": "2G"}) == (
        "vbmemory=2G: the batch system gives the job 2G on this node, less 256M for the hypervisor "
        "(ask it for more, such as by -l mem=)")
    assert refused(both, wishes={"vbcores": "1"}) == "vbcores=1: guests of this template can have 2 to 6 cores"
    assert refused(both, wishes={"vbmemory": "256M"}) == "vbmemory=256M: guests of this template can have 512M to 12G"


def test_steps_of_a_topology_and_of_huge_pages() -> None:
    topology = "<cpu><topology sockets='2' dies='1' cores='1' threads='2'/></cpu>"
    assert granted(OF_JOB, devices=topology, cores=8).cores == 8
    assert refused(OF_JOB, devices=topology, cores=6) == "guests of this template cannot have 6 cores (ask for a multiple of 4)"
    pages = "<memoryBacking><hugepages><page size='1' unit='GiB'/></hugepages></memoryBacking>"
    assert granted(OF_JOB, devices=pages, memory=4 * GIB).memory == 3 * GIB
    assert granted(OF_JOB, devices=pages, memory=GIB).memory == GIB
    assert granted(OFFERS, devices="<memoryBacking><hugepages/></memoryBacking>", wishes={"vbmemory": "513M"}).memory == 512 * MIB


@pytest.mark.parametrize(("wish", "seconds"), [("2h", 7200.0), ("90min", 5400.0), ("1s", 1.0)])
def test_keep(wish: str, seconds: float) -> None:
    assert granted(OFFERS, wishes={"vbkeep": wish}).keep == seconds


@pytest.mark.parametrize(("wish", "config", "said"), [
    ("3h", KEEPING, "vbkeep=3h: failed jobs of this template are kept for 120min at most"),
    ("0s", KEEPING, "vbkeep=0s: failed jobs of this template are kept for 120min at most"),
    ("2", KEEPING, "vbkeep=2: not a duration (write for instance vbkeep=2h)"),
    ("for ever", KEEPING, "vbkeep=for ever: not a duration (write for instance vbkeep=2h)"),
    ("1h", settings(), "vbkeep: this site keeps nothing of failed jobs (its admins set [requests] keep)"),
])
def test_keep_refused(wish: str, config: Config, said: str) -> None:
    assert refused(OFFERS, config, wishes={"vbkeep": wish}) == said


def test_stage() -> None:
    wishes = {"vbstagein": "data:./run//in/:a b;c+d@e:data", "vbstageout": "out"}
    share = "<vbshares><vbshare type='nfs4' source='s:/x' target='/scratch'/></vbshares>"
    assert granted(OFFERS + share, wishes=wishes).stage == Stage(
        send=("data", "run/in", "a b;c+d@e"), fetch=("out",), send_limit=GIB, fetch_limit=2 * GIB, shared=("/scratch",))
    assert granted(OFFERS, wishes={"vbstageout": "..x/y.."}).stage == Stage(
        send=(), fetch=("..x/y..",), send_limit=GIB, fetch_limit=2 * GIB)


@pytest.mark.parametrize("path", ["/etc/passwd", "..", "../x", "a/../../x", ".", "./", "a/./b/..", "", "a\nb", "\x1b[2J", "a\0b",
                                  "x" * 1001, "\udc80", "a/" * 600])
def test_stage_refused(path: str) -> None:
    said = refused(OFFERS, wishes={"vbstagein": f"ok:{path}"})
    assert said.startswith("vbstagein: ")
    assert "is not a path below the job's working directory" in said
    assert said.isprintable()


def test_too_many_paths() -> None:
    assert "101 paths are too many" in refused(OFFERS, wishes={"vbstagein": ":".join(map(str, range(101)))})


@given(st.text("ab/.:~-", min_size=1, max_size=20))
@pytest.mark.error("VB203")
def test_paths_stay_below(text: str) -> None:
    try:
        found = granted(OFFERS, wishes={"vbstagein": text}).stage
    except JobError:
        return
    assert found is not None
    for path in found.send:
        assert path
        assert not path.startswith("/")
        assert not {"", ".", ".."} & set(path.split("/"))


@pytest.mark.parametrize(("name", "said"), [
    ("vbmemory", "vbmemory: jobs of this queue cannot ask for that (they can ask for nothing by -l other=)"),
    ("vbmemroy", "vbmemroy: jobs of this queue cannot ask for that (did you mean vbmemory? they can ask for nothing by -l "
                 "other=)"),
    ("vb", "vb: jobs of this queue cannot ask for that (they can ask for nothing by -l other=)"),
])
def test_what_the_template_does_not_offer(name: str, said: str) -> None:
    assert refused("", wishes={name: "1"}) == said


@pytest.mark.error("VB202")
def test_what_it_offers_is_named() -> None:
    assert refused("<vbrequests><vbrequest name='vbkeep' max='1h'/></vbrequests>", wishes={"vbcores": "1"}) == (
        "vbcores: jobs of this queue cannot ask for that (they can ask for vbkeep)")


QUEUES = parse_config(b"""[queues]
vm = ["debian.xml", "el7.xml", "old.xml"]
one = "debian.xml"
[types]
legacy = "old.xml"
other = "other.xml"
[features]
el7 = "el7.xml"
old = "old.xml"
rhel7 = "el7.xml"
""", "c")


@pytest.mark.parametrize(("changed", "name"), [
    ({}, "debian.xml"),
    ({"wishes": {"vbtemplate": "el7"}}, "el7.xml"),
    ({"wishes": {"vbtemplate": "el7.xml"}}, "el7.xml"),
    ({"type": "legacy"}, "old.xml"),
    ({"type": "fast"}, "debian.xml"),
    ({"features": ("big", "el7")}, "el7.xml"),
    ({"features": ("rhel7", "el7")}, "el7.xml"),
    ({"features": ("el7",), "type": "legacy"}, "el7.xml"),
    ({"features": ("el7",), "type": "legacy", "wishes": {"vbtemplate": "debian"}}, "debian.xml"),
    ({"queue": "one", "type": "fast"}, "debian.xml"),
])
def test_which_template(changed: dict[str, object], name: str) -> None:
    assert template_name(job(**changed), QUEUES) == name


@pytest.mark.parametrize(("changed", "said"), [
    ({"wishes": {"vbtemplate": "el8"}}, "vbtemplate=el8: queue vm has no such template (it has debian, el7, old)"),
    ({"wishes": {"vbtemplate": "../el7"}}, "vbtemplate=../el7: queue vm has no such template (it has debian, el7, old)"),
    ({"type": "other"}, "job type other: queue vm has no such template (it has debian, el7, old)"),
    ({"type": "legacy", "queue": "one"}, "job type legacy: queue one has no such template (it has debian)"),
    ({"features": ("el7",), "queue": "one"}, "feature el7: queue one has no such template (it has debian)"),
    ({"features": ("el7", "old")}, "the features el7, old stand for several templates (ask for one of them)"),
])
@pytest.mark.error("VB205")
def test_which_template_refused(changed: dict[str, object], said: str) -> None:
    with pytest.raises(JobError) as caught:
        template_name(job(**changed), QUEUES)
    assert caught.value.lines() == [said]


@pytest.mark.error("VB102")
def test_a_native_queue_has_no_template() -> None:
    with pytest.raises(SiteError, match="queue batch has no template"):
        template_name(job(queue="batch"), QUEUES)


def test_a_chosen_template_may_be_asked_for() -> None:
    assert granted("", wishes={"vbtemplate": "el7"}) == Grant()


