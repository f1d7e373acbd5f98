"""Whole jobs in real PV guests."""

import re

import pytest

from .conftest import OWN, Dom0
from .template import MEDIUM, ROOT, template

pytestmark = [pytest.mark.xen, pytest.mark.usefixtures("nothing_left")]

WHO = """#!/bin/sh
id -un
cat /sys/hypervisor/type /sys/hypervisor/uuid
exit 7
"""


def test_the_guest_is_xens_and_the_jobs_own(dom0: Dom0) -> None:
    ended = dom0.play(WHO, queue="busybox")
    assert (ended.verdict, ended.status, ended.epilogue, ended.errors) == ("run", 7, 0, ""), ended.told()
    user, kind, uuid = ended.output.split()
    assert (user, kind) == ("alice", "xen")
    found = re.search(r"guest vmbatch-\S+-([0-9a-f]{8}) of alice is ready at 10\.78\.0\.\d+ after", ended.log)
    assert found is not None, ended.log
    assert uuid.startswith(found[1]), "the domain's uuid begins with the start's token, as its name ends"


def test_two_jobs_at_once_on_one_image(dom0: Dom0) -> None:
    dom0.call("write", path=OWN, text=template(devices=ROOT + MEDIUM, disk=True))
    script = "#!/bin/sh\necho $PBS_JOBID > ~/mine; sync; sleep 1; cat ~/mine; df -T / | sed -n 2p | cut -d' ' -f1\n"
    jobs = [dom0.accept(script, user=user) for user in ("alice", "bob")]
    for job in jobs:
        dom0.call("start_prologue", job=job)
    assert [dom0.call("finish_prologue", job=job) for job in jobs] == ["run", "run"], [dom0.call("log", job=job) for job in jobs]
    assert len(re.findall("vmbatch-", dom0.run("xl", "list"))) == 2
    assert [dom0.call("shell", job=job) for job in jobs] == [0, 0]
    assert [dom0.call("streams", job=job)[0].split() for job in jobs] == [[job, "/dev/xvda1"] for job in jobs]
    assert [dom0.call("epilogue", job=job) for job in jobs] == [0, 0]
    for job in jobs:
        dom0.call("forget", job=job)
