"""Guests with several interfaces and both families of addresses, none of them from DHCP."""

import re

import pytest

from lab.mom import Mom

from . import matrix
from .test_context_matrix import archive, run

__all__ = ["archive"]
pytestmark = [pytest.mark.guest, pytest.mark.usefixtures("nothing_left", "archive")]

SCRIPT = b"""#!/bin/sh
ip addr show | sed -n 's/^ *inet6* \\([^ ]*\\) .*/\\1/p'
cat /etc/resolv.conf
grep vm- /etc/hosts
"""
SECOND = """<interface type='network'>
      <vbnetwork method='static' addresses='10.77.0.45 10.77.0.46' netmask='255.255.255.0'/>
      <source network='lab'/><model type='virtio'/><rom enabled='no'/>
    </interface>"""
SIX = "<vbnetwork method='static' first='fd00:77::20' count='16' prefix='64' dns='fd00:77::1' search='example.org'/>"


@pytest.mark.parametrize("guest", ["busybox", "systemd"])
def test_several_interfaces(mom: Mom, guest: str) -> None:
    text = matrix.template(guest, "CDROM", "static")
    text = text.replace("<source network='lab'/>", f"{SIX}<source network='lab'/>", 1).replace("<serial", f"{SECOND}<serial", 1)
    ended = run(mom, text, SCRIPT)
    assert ended.verdict == "run", ended.errors.decode()
    output = ended.output.decode()
    assert re.search(r"^10\.77\.0\.(2\d|3\d)/24$", output, re.MULTILINE)
    assert re.search(r"^10\.77\.0\.4[56]/24$", output, re.MULTILINE)
    assert re.search(r"^fd00:77::2[0-9a-f]/64$", output, re.MULTILINE)
    assert "nameserver fd00:77::1\n" in output
    assert re.search(r"^search example\.org$", output, re.MULTILINE)
    assert re.search(r"^10\.77\.0\.\d+ vm-\d+$", output, re.MULTILINE), "the guest's own name is at its own address"
