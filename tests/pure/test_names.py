"""Every durable name carries the job's id and the start's token; no two starts share one."""

import re
import uuid
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmbatch.context.parameters import assignments, hostname, parameters
from vmbatch.plan import Plan, names, plan

from .sample import OTHER_TOKEN, TEMPLATE, TOKEN, facts, form, job, settings

HANDOVER = "/run/vmbatch/handover/"


def planned(job_id: str = "42.vm", token: str = TOKEN, text: str = TEMPLATE) -> Plan:
    return plan(job(id=job_id, token=token), form(text), settings(), facts())


def durable(chosen: Plan) -> set[str]:
    """Every path that is made, and the domain's name and uuid."""
    found = {chosen.domain.name, chosen.domain.uuid, chosen.domain.xml, chosen.inbox, chosen.console, chosen.handover}
    for phase in chosen.phases:
        for step in phase.steps:
            found |= {value for name in ("path", "directory", "keys") if (value := getattr(step, name, None))}
    return found


@pytest.mark.parametrize(("job_id", "slug"), [("42.vm", "42.vm"), ("42[7].vm", "42-7.vm"), ("42", "42")])
def test_names_carry_id_and_token(job_id: str, slug: str) -> None:
    chosen = planned(job_id)
    assert chosen.domain.name == f"vmbatch-{slug}-{TOKEN[:8]}"
    assert uuid.UUID(chosen.domain.uuid).hex[:12] == TOKEN[:12]
    assert chosen.handover == HANDOVER + slug
    for name in durable(chosen) - {chosen.domain.name, chosen.domain.uuid}:
        assert f"/{slug}.{TOKEN}" in name or name.startswith(HANDOVER + slug), name


def test_two_starts_of_a_job_share_only_the_hand_over() -> None:
    """That lies in /run, is the job shell's to find by the job's id alone, and carries the token in its mark."""
    assert {name for name in durable(planned()) & durable(planned(token=OTHER_TOKEN)) if not name.startswith(HANDOVER)} == set()


@pytest.mark.parametrize(
    ("one", "other"),
    [("42.vm", "43.vm"), ("42[1].vm", "42[2].vm"), ("42[1].vm", "42.vm"), ("4.vm", "42.vm"), ("42[].vm", "42.vm")],
)
def test_two_jobs_share_nothing(one: str, other: str) -> None:
    assert not durable(planned(one)) & durable(planned(other, OTHER_TOKEN))
    with_one_token = durable(planned(one)) & durable(planned(other))
    assert with_one_token == {planned(one).domain.uuid}


@given(st.text("0123456789abcdef", min_size=32, max_size=32))
def test_uuid(token: str) -> None:
    """Of the right version and variant, and of the token alone."""
    found = uuid.UUID(planned(token=token).domain.uuid)
    assert (found.version, found.variant) == (4, uuid.RFC_4122)
    assert re.sub(r"[^0-9a-f]", "", str(found))[:12] == token[:12]


def macs(token: str, text: str = TEMPLATE) -> list[str]:
    root = ElementTree.fromstring(planned(token=token, text=text).xml)  # noqa: S314
    return [element.get("address", "") for element in root.findall("devices/interface/mac")]


def test_macs() -> None:
    found = macs(TOKEN) + macs(OTHER_TOKEN)
    assert len(set(found)) == 4
    assert all(re.fullmatch(r"52:54:00(:[0-9a-f]{2}){3}", address) for address in found)
    assert macs(TOKEN) == found[:2]


def test_a_fixed_mac_is_kept() -> None:
    fixed = TEMPLATE.replace("<interface type='network'>", "<interface type='network'><mac address='52:54:00:00:00:01'/>", 1)
    assert macs(TOKEN, fixed) == ["52:54:00:00:00:01", macs(TOKEN)[1]]


def test_places() -> None:
    assert names(job(id="42[7].vm"), settings(), "node2.cluster") == (
        f"/var/lib/vmbatch/spool/42-7.vm.{TOKEN}",
        f"/srv/vmbatch/share/42-7.vm@node2.cluster.{TOKEN}",
        "/run/vmbatch/handover/42-7.vm",
    )


@pytest.mark.parametrize(
    ("pattern", "job_id", "name"),
    [
        ("vm-{job}", "42.vm", "vm-42"),
        ("vm-{job}", "42[7].vm", "vm-42-7"),
        ("vm-{job}", "42[].vm", "vm-42"),
        ("{job}", "42", "42"),
        ("{job}-{job}", "4", "4-4"),
        ("v" * 60, "4", "v" * 60),
        ("{job}" * 10, "9" * 18, "9" * 63),
        ("vm", "1", "vm"),
    ],
)
def test_hostname(pattern: str, job_id: str, name: str) -> None:
    assert hostname(pattern, job(id=job_id)) == name


SHARES = """<vbconfig><vbshares><vbshare type='nfs4' source='server:/home' target='/home' options='soft'/>
<vbshare type='9p' source='/srv/software' target='/opt/software' readonly='yes'/></vbshares>"""


def test_parameters_are_those_of_the_architecture() -> None:
    shared = form(TEMPLATE.replace("<vbconfig>", SHARES))
    assert parameters(job(), shared, settings(), "server:/share/x/guest") == {
        "VMBATCH_JOB": "42.vm",
        "VMBATCH_TOKEN": TOKEN,
        "VMBATCH_HOSTNAME": "vm-42",
        "VMBATCH_USER": "alice",
        "VMBATCH_UID": "1500",
        "VMBATCH_GROUP": "alice",
        "VMBATCH_GID": "1500",
        "VMBATCH_GROUPS": "physics:1600 grid:1700",
        "VMBATCH_HOME": "/home/alice",
        "VMBATCH_SHELL": "/bin/bash",
        "VMBATCH_SHARE_SOURCE": "server:/share/x/guest",
        "VMBATCH_SHARE_TYPE": "nfs4",
        "VMBATCH_SHARE_OPTIONS": "vers=4.2,sec=sys,soft,timeo=100,retrans=3",
        "VMBATCH_SHARE_PATH": "/mnt/vmbatch",
        "VMBATCH_PATIENCE": "230",
        "VMBATCH_MESSAGES": "share",
        "VMBATCH_CONSOLE": "",
        "VMBATCH_HEARTBEAT": "",
        "VMBATCH_WATCHDOG": "",
        "VMBATCH_SHARES": "2",
        "VMBATCH_HOME_SHARED": "yes",
        "VMBATCH_SHARE0_TYPE": "nfs4",
        "VMBATCH_SHARE0_SOURCE": "server:/home",
        "VMBATCH_SHARE0_PATH": "/home",
        "VMBATCH_SHARE0_OPTIONS": "soft",
        "VMBATCH_SHARE1_TYPE": "9p",
        "VMBATCH_SHARE1_SOURCE": "vbshare1",
        "VMBATCH_SHARE1_PATH": "/opt/software",
        "VMBATCH_SHARE1_OPTIONS": "ro",
    }


@given(st.text(st.characters(exclude_characters="\0", codec="utf-8")))
def test_assignments_quote_everything(value: str) -> None:
    """Read back by POSIX's rule for single quotes alone."""
    line = assignments({"NAME": value}).decode()
    assert line.startswith("NAME=")
    assert line.endswith("\n")
    words = re.fullmatch(r"((?:'[^']*'|\\')*)", line[5:-1])
    assert words
    assert "".join("'" if part == "\\'" else part[1:-1] for part in re.findall(r"'[^']*'|\\'", words[1])) == value


@pytest.mark.parametrize(("pattern", "rank", "name"), [
    ("vm-{job}", 1, "vm-42-n1"), ("vm", 12, "vm-n12"), ("v" * 63, 1234, "v" * 57 + "-n1234"),
])
def test_a_sisters_guest_has_another_name(pattern: str, rank: int, name: str) -> None:
    assert hostname(pattern, job(rank=rank)) == name
