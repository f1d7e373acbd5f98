"""Job ids and names: what may become part of a path, a domain's name, or a shell's line."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmbatch.errors import Fault, JobError
from vmbatch.job import check_job_id, check_name, check_token, is_of_node, slug

from .sample import TOKEN, job

GOOD = {
    "42": "42",
    "42.vm": "42.vm",
    "42[1].vm": "42-1.vm",
    "42[].vm": "42-.vm",
    "42[1]": "42-1",
    "7.a-b.example.org": "7.a-b.example.org",
}
HOSTILE = [
    "",
    ".",
    "..",
    "../42",
    "42/../../etc",
    "42.vm/..",
    "/42",
    "42..vm",
    "42.vm..",
    "42.",
    "42.-vm",
    "42.vm\n",
    "\n42",
    "42.v\nm",
    "42\x00",
    "42.vm\x00.x",
    "٤٢.vm",
    "４２.vm",
    "42.vм",
    "42.vm ",
    " 42",
    "-42",
    "--help",
    "42[-1].vm",
    "42[1][2].vm",
    "42[1.vm",
    "42]1[.vm",
    "42[a].vm",
    "42[٣].vm",
    "42-1.vm",
    "42;id",
    "42.$(id)",
    "42.`id`",
    "42.'",
    "vm",
    "0x2a",
    "1" * 19,
    "42." + "a" * 122,
    "42.vm\x1b[31m",
    "\udc80",
]
NAMES = ["alice", "a", "_x", "A.b-c", "host$", "x" * 64, "0day"]
NO_NAMES = [
    "",
    ".",
    "..",
    "-x",
    "a b",
    "a/b",
    "a:b",
    "a\n",
    "\na",
    "a\x00",
    "a'b",
    "a$b",
    "$",
    "ä",
    "١",
    "a;b",
    "x" * 65,
    "a\\b",
    "a:b",
    "\udc80",
]


@pytest.mark.parametrize(("identifier", "name"), GOOD.items())
def test_slug(identifier: str, name: str) -> None:
    assert slug(identifier) == name
    assert job(id=identifier).slug == name
    assert job(id=identifier).unique == f"{name}.{TOKEN}"


@pytest.mark.parametrize("identifier", HOSTILE, ids=ascii)
def test_hostile_job_id(identifier: str) -> None:
    with pytest.raises(JobError) as caught:
        slug(identifier)
    assert caught.value.fault is Fault.JOB
    assert len(caught.value.what) < 500
    assert caught.value.what.isprintable(), "the message goes to a terminal"


@given(st.text(alphabet="0123456789[].-a/\n\0 ", max_size=12))
def test_a_slug_is_a_plain_file_name(identifier: str) -> None:
    try:
        name = slug(identifier)
    except JobError:
        return
    assert re.fullmatch(r"[0-9][A-Za-z0-9.-]*", name)
    assert ".." not in name


IDENTIFIERS = st.from_regex(r"[0-9]{1,3}(\[[0-9]{0,2}\])?(\.[0-9ab-]{1,4})?", fullmatch=True)


@given(IDENTIFIERS, IDENTIFIERS)
def test_no_two_jobs_share_a_slug(one: str, other: str) -> None:
    try:
        same = slug(one) == slug(other)
    except JobError:
        return
    assert same == (one == other)


@pytest.mark.parametrize("name", NAMES)
def test_name(name: str) -> None:
    check_name(name, "user")


@pytest.mark.parametrize("name", NO_NAMES, ids=ascii)
def test_hostile_name(name: str) -> None:
    with pytest.raises(JobError, match="is not the name of a queue") as caught:
        check_name(name, "queue")
    assert caught.value.what.isprintable()


@pytest.mark.error("VB201")
def test_long_names_are_cut_in_messages() -> None:
    for check in (check_job_id, lambda text: check_name(text, "user")):
        with pytest.raises(JobError) as caught:
            check("x" * 100_000)
        assert len(caught.value.what) < 200


@pytest.mark.parametrize(
    "token", ["", TOKEN[:-1], TOKEN + "0", TOKEN.upper(), TOKEN[:-1] + "\n", TOKEN + "\n", "٣" * 32, "g" * 32]
)
def test_no_token(token: str) -> None:
    with pytest.raises(JobError):
        check_token(token)


def test_token() -> None:
    check_token(TOKEN)


def test_what_other_nodes_own_is_told_by_its_name() -> None:
    nodes = ("node1", "node1.cluster", "1")
    assert job().unique_on("node1") == f"42.vm@node1.{TOKEN}"
    assert job().unique_on("a b/c") == f"42.vm@a_b_c.{TOKEN}"
    assert job().unique_on("") == job().unique
    for node in nodes:
        assert [other for other in nodes if is_of_node(job().unique_on(node), other)] == [node]
    assert is_of_node(job().unique, "node1")
