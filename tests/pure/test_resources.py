"""Cores and memory in a job's domain, and what a template may not fix beside them."""

import re
from collections.abc import Callable

import pytest

from vmbatch.errors import InputError
from vmbatch.plan import plan, preview

from .sample import TEMPLATE, facts, form, job, settings

GIB = 1 << 30
TAGS = """<vbresources cores='job' maxcores='16' memory='job' maxmemory='64G'/>
<vbrequests><vbrequest name='vbstagein' max='1G'/></vbrequests></vbconfig>"""
SIZED = TEMPLATE.replace("</vbconfig>", TAGS).replace("<devices>", """<currentMemory unit='MiB'>256</currentMemory>
  <vcpu placement='static' cpuset='0-7'>1</vcpu>
  <cpu mode='host-model'><topology sockets='2' dies='1' cores='1' threads='1'/></cpu>
  <devices>""")


def xml(text: str = SIZED, **changed: object) -> str:
    return plan(job(**changed), form(text), settings(), facts(text=text)).xml.decode()


def test_golden(golden: Callable[[str, str], None]) -> None:
    golden("resources.xml.txt", xml(cores=8, memory=4 * GIB) + "\n")


def test_the_templates_own_when_nothing_is_known() -> None:
    found = xml()
    for line in ("<memory unit='MiB'>512</memory>", "<currentMemory unit='MiB'>256</currentMemory>",
                 "<vcpu placement='static' cpuset='0-7'>1</vcpu>", "cores='1'"):
        assert line.replace("'", '"') in found


def test_a_template_without_sizes_gets_them() -> None:
    found = xml(TEMPLATE.replace("</vbconfig>", TAGS).replace("<memory unit='MiB'>512</memory>", ""), cores=3, memory=GIB)
    assert '<memory unit="KiB">1048576</memory>' in found
    assert "<vcpu>3</vcpu>" in found
    assert "currentMemory" not in found


def test_the_plan_shows_it() -> None:
    chosen = plan(job(cores=8, memory=4 * GIB, wishes={"vbstagein": "a:b"}), form(SIZED), settings(), facts(text=SIZED))
    lines = preview(chosen)
    assert lines[:2] == ["note: the guest has 8 cores, as the job", "note: the guest has 4G of memory, as the job"]
    assert "  files a:b into the guest, (none) back" in lines


def mistakes(config: str, more: str = "") -> list[str]:
    with pytest.raises(InputError) as caught:
        form(TEMPLATE.replace("</vbconfig>", f"{config}</vbconfig>").replace("<devices>", f"{more}<devices>"))
    return [text for _, text in caught.value.problems]


CORES = "<vbresources cores='job' maxcores='4'/>"
MEMORY = "<vbrequests><vbrequest name='vbmemory' max='4G'/></vbrequests>"


@pytest.mark.parametrize(("config", "more", "element", "what"), [
    (CORES, "<vcpus><vcpu id='0' enabled='yes'/></vcpus>", "vcpus", "cores"),
    (CORES, "<cpu><numa><cell id='0' cpus='0' memory='1'/></numa></cpu>", "numa", "cores"),
    (CORES, "<cputune><vcpupin vcpu='0' cpuset='1'/></cputune>", "vcpupin", "cores"),
    (CORES, "<cputune><vcpusched vcpus='0' scheduler='fifo'/></cputune>", "vcpusched", "cores"),
    (MEMORY, "<maxMemory slots='2'>1</maxMemory>", "maxMemory", "memory"),
    (MEMORY, "<cpu><numa><cell id='0' cpus='0' memory='1'/></numa></cpu>", "numa", "memory"),
    (MEMORY, "<memtune><hard_limit>1</hard_limit></memtune>", "hard_limit", "memory"),
])
def test_what_fixes_a_second_time(config: str, more: str, element: str, what: str) -> None:
    assert mistakes(config, more) == [f"<{element}> fixes what <vbresources {what}='job'> or a <vbrequest name='vb{what}'> "
                                      "changes; take one of both out"]


def test_what_is_fixed_may_be_fixed_twice() -> None:
    numa = "<cpu><numa><cell id='0' cpus='0' memory='1'/></numa></cpu><devices>"
    assert form(TEMPLATE.replace("<devices>", numa)).resources.of_job == frozenset()


@pytest.mark.parametrize(("config", "more", "said"), [
    (CORES, "<vcpu current='1'>4</vcpu>",
     "<vcpu current=>: the guest's cores follow the job, and none can be missing; take it out"),
    (CORES, "<cpu><topology sockets='x' cores='1'/></cpu>", "<topology sockets='x'>: expected a number"),
    (MEMORY, "<memoryBacking><hugepages><page size='x'/></hugepages></memoryBacking>",
     "<page size='x' unit='KiB'>: expected such as size='1' unit='GiB'"),
    ("<vbresources cores='job'/>", "", "<vbresources cores='job'> needs maxcores=, beyond which no job of these guests may go"),
    ("<vbresources memory='job'/>", "",
     "<vbresources memory='job'> needs maxmemory=, beyond which no job of these guests may go"),
    ("<vbresources overhead='1M'/>", "", "<vbresources> overhead= goes with memory='job'"),
    ("<vbresources mincores='4' maxcores='2'/>", "", "<vbresources>: mincores= is more than maxcores="),
    ("<vbresources minmemory='4G' maxmemory='4095M'/>", "", "<vbresources>: minmemory= is more than maxmemory="),
    ("<vbresources maxcores='0'/>", "", "<vbresources> maxcores='0': expected the most that a guest gets: 1 to 9999"),
    ("<vbresources maxmemory='4 bushels'/>", "",
     "<vbresources> maxmemory='4 bushels': expected the most that a guest gets, a size such as '64G'"),
    ("<vbresources cores='all'/>", "", "<vbresources> cores='all': expected 'job' for the cores that the job has on this node, "
                                       "'template' for <vcpu> as it is"),
    ("<vbrequests><vbrequest name='vbkeep' max='2G'/></vbrequests>", "",
     "<vbrequest name='vbkeep' max='2G'>: expected a duration such as 2h"),
    ("<vbrequests><vbrequest name='vbcores' max='2h'/></vbrequests>", "",
     "<vbrequest name='vbcores' max='2h'>: expected a number of cores such as 8"),
    ("<vbrequests><vbrequest name='vbmemory' max='0'/></vbrequests>", "",
     "<vbrequest name='vbmemory' max='0'>: expected a size such as 8G"),
    ("<vbrequests><vbrequest name='vbkeep' max='1h'/><vbrequest name='vbkeep' max='2h'/></vbrequests>", "",
     "a second <vbrequest name='vbkeep'>"),
    ("<vbshell>CONSOLE</vbshell><vbrequests><vbrequest name='vbstageout' max='1G'/></vbrequests>", "",
     "<vbrequest name='vbstageout'>: files are sent over ssh, and <vbshell>CONSOLE</vbshell> has none"),
])
def test_mistakes(config: str, more: str, said: str) -> None:
    assert mistakes(config, more) == [said]


@pytest.mark.parametrize("name", ["vbtemplate", "vbuserimage", "vbother"])
def test_a_request_that_is_none(name: str) -> None:
    [text] = mistakes(f"<vbrequests><vbrequest name='{name}' max='1'/></vbrequests>")
    assert re.match(rf"<vbrequest> name='{name}': expected ", text)
