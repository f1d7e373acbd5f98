"""The ways of a context into a PV guest, and the ways of a job: network, console, neither of both."""

import re

import pytest

from .conftest import Dom0
from .template import STATIC, WHERE, template

pytestmark = [pytest.mark.xen, pytest.mark.usefixtures("nothing_left")]


def test_over_the_console_alone(dom0: Dom0) -> None:
    """No network and no share: messages, login and job come through Xen's console, with the kernel's own messages between."""
    config = "<vbshell>CONSOLE</vbshell><vbmessages>CONSOLE</vbmessages>"
    ended = dom0.play("#!/bin/sh\nid -un; ls /sys/class/net; cat; exit 7\n", template(config, network=""))
    assert (ended.verdict, ended.status, ended.errors) == ("run", 7, ""), ended.told()
    assert ended.output == "alice\nlo\n"


def test_by_roots_ssh(dom0: Dom0) -> None:
    key = "/etc/vmbatch/rootssh/id_ed25519"
    dom0.run("sh", "-c", f"mkdir -p -m 700 {key.rpartition('/')[0]}; rm -f {key}*; ssh-keygen -q -t ed25519 -N '' -f {key}")
    public = dom0.call("read", path=f"{key}.pub").split()[1]
    config = f"<vbrootssh key='{key}' firstuse='yes' give='image'/><vbkernelline>yes</vbkernelline>"
    ended = dom0.play(WHERE, template(config, "", method="ROOTSSH", network=STATIC, line=f"lab.rootkey={public}"))
    assert (ended.verdict, ended.status, ended.errors) == ("run", 0, ""), ended.told()
    assert re.fullmatch(r"alice\n10\.78\.0\.[23]\d/24\nxen\n", ended.output)
