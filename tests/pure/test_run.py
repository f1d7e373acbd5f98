"""`vmbatch run`: what is read of its arguments, a user's own places, and templates made to fit."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner
from lxml import etree

from vmbatch import session
from vmbatch.cli import main
from vmbatch.command import File, choose_template, parse_file
from vmbatch.errors import InputError, JobError
from vmbatch.handover import Handover, decode
from vmbatch.shell.command import Command
from vmbatch.template import adapted, brought

from .sample import TEMPLATE, TOKEN, settings


def record(**changed: object) -> Handover:
    return Handover(**{"job": "7.run", "token": TOKEN, "user": "alice", "uid": 1500, "address": "127.0.0.1", "alias": "a",  # type: ignore[arg-type]
                       "console": "", "template": "/t.xml", "script": None, "node_file": False, "environment": {}, **changed})


@pytest.mark.parametrize(("text", "here", "there"), [
    ("data", "/work/data", "data"), ("../data", "/data", "data"), ("/etc/hosts", "/etc/hosts", "hosts"),
    ("data:in/x", "/work/data", "in/x"), ("data:./in//x", "/work/data", "in/x"), ("data/", "/work/data", "data"),
])
def test_inputs(monkeypatch: pytest.MonkeyPatch, text: str, here: str, there: str) -> None:
    monkeypatch.setattr(os, "getcwd", lambda: "/work")
    assert parse_file(text, inward=True) == File(here, there)


@pytest.mark.parametrize(("text", "here", "there"), [
    ("out", "/work/out", "out"), ("a/b:c", "/work/c", "a/b"), ("a/b", "/work/b", "a/b"), ("out/", "/work/out", "out"),
    ("out:/tmp/x", "/tmp/x", "out"),  # noqa: S108
])
def test_outputs(monkeypatch: pytest.MonkeyPatch, text: str, here: str, there: str) -> None:
    monkeypatch.setattr(os, "getcwd", lambda: "/work")
    assert parse_file(text, inward=False) == File(here, there)


@pytest.mark.parametrize("text", ["a:", "a:/abs", "a:../b", "a:..", "a:.", "a:b\nc"])
def test_inputs_that_lead_elsewhere(text: str) -> None:
    with pytest.raises(ValueError, match=r"colon|not a path below"):
        parse_file(text, inward=True)


@pytest.mark.parametrize("text", ["/etc/passwd", "../x", "..", ".:x"])
def test_outputs_from_elsewhere(text: str) -> None:
    with pytest.raises(ValueError, match="not a path below"):
        parse_file(text, inward=False)


def test_the_command_is_what_was_typed() -> None:
    call = Command(record(), ["sh", "-c", "echo 'a' \"$B\""], {"B": "it's\n"}, "/home/alice")
    call.uses_input = True
    assert call.request().decode() == (
        "vmbatch 1\nenv B it\\0047s\\0012\ncwd /home/alice\n"
        "command exec \\0047sh\\0047 \\0047-c\\0047 \\0047echo \\0047\\0134\\0047\\0047a\\0047\\0134\\0047\\0047 "
        "\\0042\\0044B\\0042\\0047\nrun\n")


def test_a_port_goes_with_the_record() -> None:
    assert decode(record(port=40123).encode()).port == 40123
    assert decode(record().encode().replace(b"port 22\n", b"")).port == 22, "of an older one"


def test_a_users_own_places(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONFIG", "STATE", "CACHE"):
        monkeypatch.delenv(f"XDG_{name}_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/alice")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1500")
    assert session.places() == session.Places(
        "/home/alice/.config/vmbatch", "/home/alice/.local/state/vmbatch", "/home/alice/.cache/vmbatch", "/run/user/1500/vmbatch")
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("XDG_CACHE_HOME", "/scratch")
    assert session.places().state == "/home/alice/.local/state/vmbatch", "the specification ignores what is not absolute"
    assert session.places().cache == "/scratch/vmbatch"


def tree(text: bytes) -> etree._Element:
    return etree.fromstring(text)


def test_an_image_of_ones_own() -> None:
    found = tree(adapted(brought(), "session.xml", "/home/alice/debian.qcow2", emulated=False))
    [source] = found.iterfind("devices/disk/vbdisksource")
    assert (source.get("source"), source.get("source_format"), found.get("type")) == ("/home/alice/debian.qcow2", "qcow2", "kvm")
    found = tree(adapted(TEMPLATE.encode(), "t.xml", "https://images.example/a.RAW", emulated=False))
    [source] = found.iterfind("devices/disk/vbdisksource")
    assert (source.get("source"), source.get("source_format")) == ("https://images.example/a.RAW", "raw")


def test_without_kvm() -> None:
    found = tree(adapted(brought(), "session.xml", "", emulated=True))
    model = found.find("cpu")
    assert model is not None
    assert (found.get("type"), found.findtext("vbconfig/vbhypervisor")) == ("qemu", "QEMU")
    assert dict(model.attrib) == {"mode": "maximum"}
    other = TEMPLATE.replace("type='kvm'", "type='qemu'").replace("KVM", "QEMU").encode()
    assert tree(adapted(other, "t.xml", "", emulated=True)).get("type") == "qemu"


def test_a_digest_is_of_the_templates_own_image() -> None:
    text = TEMPLATE.replace("<target dev='vda'", "<vbcheckhash hashfunction='sha256' hashvalue='00'/><target dev='vda'")
    assert tree(adapted(text.encode(), "t.xml", "/x.raw", emulated=False)).find("devices/disk/vbcheckhash") is None
    assert tree(adapted(text.encode(), "t.xml", "", emulated=False)).find("devices/disk/vbcheckhash") is not None


@pytest.mark.parametrize(("text", "image", "kind", "why"), [
    (b"<domain", "", InputError, "t.xml:1: is not XML"),
    (b"<domain type='kvm'/>", "/x.raw", JobError, "the template t.xml has no disk with an image"),
    (TEMPLATE.encode(), "/x.img", JobError, "/x.img: the name does not tell the image's format"),
])
def test_what_cannot_be_made_to_fit(text: bytes, image: str, kind: type[Exception], why: str) -> None:
    with pytest.raises(kind, match=why):
        adapted(text, "t.xml", image, emulated=False)


def test_which_template(tmp_path: Path) -> None:
    one = settings(queues={"vm": ("debian.xml",), "other": ("debian.xml",)}, templates_directory=str(tmp_path))
    with pytest.raises(JobError, match="there is no template none"):
        choose_template("none", one)
    with pytest.raises(JobError, match=r"no template was named, and this node's queues have 2"):
        choose_template("", settings(queues={"vm": ("a.xml", "b.xml")}))
    with pytest.raises(JobError, match=r"no template was named, and this node's queues have none"):
        choose_template("", settings(queues={}))
    assert choose_template("./x.xml", one) == os.path.abspath("x.xml")


@pytest.mark.parametrize(("words", "why"), [
    (["--input", "a:../b", "--", "true"], "is not a path below the home directory"),
    (["--env", "1=2", "--", "true"], "is not NAME=VALUE"), (["--env", "A", "--", "true"], "is not NAME=VALUE"),
    (["--timeout", "soon", "--", "true"], "--timeout"), (["--memory", "much", "--", "true"], "--memory"),
    ([], "Missing argument"),
])
def test_wrong_arguments(words: list[str], why: str) -> None:
    done = CliRunner().invoke(main, ["run", *words])
    assert done.exit_code == 2
    assert why in done.output


def test_roots_commands_belong_to_somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_USER", raising=False)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    done = CliRunner().invoke(main, ["run", "true"])
    assert (done.exit_code, "say whose it is with --user" in done.output) == (2, True)


def test_explain() -> None:
    said = CliRunner().invoke(main, ["explain", "[vb704]"])
    assert said.exit_code == 0
    assert said.output.startswith("VB704  The guest was not ready in time\n\nCause\n  The guest boots slowly")
    every = CliRunner().invoke(main, ["explain"]).output
    assert "\nImages\n  VB301  An image has not the digest" in every
    unknown = CliRunner().invoke(main, ["explain", "VB000"])
    assert (unknown.exit_code, "there is no error VB000" in unknown.output) == (2, True)
