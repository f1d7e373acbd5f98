"""A whole job in a real PV guest."""

import re

import pytest

from .conftest import Dom0

pytestmark = [pytest.mark.xen, pytest.mark.usefixtures("nothing_left")]

WHO = """#!/bin/sh
id -un
cat /sys/hypervisor/type /sys/hypervisor/uuid
cat /sys/block/xvdb/ro; grep -c ' iso9660 ro' /proc/mounts
exit 7
"""


def test_the_guest_is_xens_and_the_jobs_own(dom0: Dom0) -> None:
    ended = dom0.play(WHO, queue="busybox")
    assert (ended.verdict, ended.status, ended.epilogue, ended.errors) == ("run", 7, 0, ""), ended.told()
    user, kind, uuid, *medium = ended.output.split()
    assert (user, kind) == ("alice", "xen")
    found = re.search(r"guest vmbatch-\S+-([0-9a-f]{8}) of alice is ready at 10\.78\.0\.\d+ after", ended.log)
    assert found is not None, ended.log
    assert uuid.startswith(found[1]), "the domain's uuid begins with the start's token, as its name ends"
    assert medium == ["1", "1"], "the medium is read-only"
