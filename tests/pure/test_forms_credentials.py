"""systemd credentials as strings of the firmware, and the domain that carries them."""

import base64

import pytest
from lxml import etree

from vmbatch.context.credentials import oem_strings, root_key
from vmbatch.errors import SiteError
from vmbatch.template import schema
from vmbatch.template.credentials import add_oem_strings, check_firmware

PEM = b"-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk=\n-----END OPENSSH PRIVATE KEY-----\n"
PUBLIC = b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBhsFOUDb0d8XR7kP2cQkFJ2hDVYbYfIu6mC7rZ2uXyz root of vm"


def test_plain_and_binary() -> None:
    assert oem_strings({}) == []
    assert oem_strings({"a.b": b"one, two=3", "c": b"x\n", "d": b"", "e": b" x", "f": "ü".encode(), "g": b"\0\xff"}) == [
        "io.systemd.credential:a.b=one, two=3",
        "io.systemd.credential.binary:c=eAo=",
        "io.systemd.credential.binary:d=",
        "io.systemd.credential.binary:e=IHg=",
        "io.systemd.credential.binary:f=w7w=",
        "io.systemd.credential.binary:g=AP8=",
    ]


@pytest.mark.parametrize("name", ["", ".a", "a b", "a:b", "a/b", "a=b", "ä", "x" * 256, "a\n", "..", "-a"])
def test_names(name: str) -> None:
    with pytest.raises(SiteError, match="is not the name of a systemd credential"):
        oem_strings({name: b"x"})


@pytest.mark.error("VB502")
def test_sizes() -> None:
    assert oem_strings({"a": b"x" * 32768})
    with pytest.raises(SiteError, match=r"^the systemd credential a has 32769 bytes; at most 32768 are taken$"):
        oem_strings({"a": b"x" * 32769})
    with pytest.raises(SiteError, match=r"^the systemd credentials have [0-9]+ bytes in all; the firmware takes 49152$"):
        oem_strings({"a": b"x" * 30000, "b": b"x" * 30000})
    with pytest.raises(SiteError, match="65 systemd credentials are too many"):
        oem_strings({f"a{number}": b"" for number in range(65)})


@pytest.mark.parametrize("content", [
    PEM, b"x\n" + PEM, b"-----BEGIN RSA PRIVATE KEY-----\n", b"-----BEGIN PRIVATE KEY-----",
    b"-----BEGIN ENCRYPTED PRIVATE KEY-----",
    base64.b64encode(PEM), base64.encodebytes(PEM * 3), b"PuTTY-User-Key-File-3: ssh-ed25519\n", b"AGE-SECRET-KEY-1QQQ"])
def test_no_private_keys(content: bytes) -> None:
    with pytest.raises(SiteError, match=r"^the systemd credential k is a private key, and every user of the node could read it$"):
        oem_strings({"k": content})


@pytest.mark.parametrize("name", ["passwd.plaintext-password.root", "passwd.hashed-password.root"])
def test_no_passwords(name: str) -> None:
    with pytest.raises(SiteError, match="is a password"):
        oem_strings({name: b"x"})


@pytest.mark.parametrize("key", [PUBLIC, PUBLIC + b"\n", b"ssh-rsa AAAA==", b"sk-ssh-ed25519@openssh.com AAAA x"])
def test_root_key(key: bytes) -> None:
    found = root_key(key)
    assert found == {"ssh.authorized_keys.root": key.rstrip(b"\n") + b"\n"}
    (text,) = oem_strings(found)
    assert text == "io.systemd.credential.binary:ssh.authorized_keys.root=" + base64.b64encode(key.rstrip(b"\n") + b"\n").decode()


@pytest.mark.parametrize("key", [
    PEM, b"", PUBLIC + b"\n" + PUBLIC, b'command="x" ' + PUBLIC, b"ssh-dss AAAA", b"ssh-ed25519", PUBLIC + b"\0"])
def test_not_a_root_key(key: bytes) -> None:
    with pytest.raises(SiteError, match="is not the one line of an OpenSSH public key"):
        root_key(key)


def changed(xml: str, *strings: str) -> str:
    root = etree.fromstring(xml)
    add_oem_strings(root, strings)
    return etree.tostring(root, encoding="unicode")


def test_a_domain_without_any() -> None:
    assert changed("<domain><os><type>hvm</type></os>\n  <devices/></domain>", "a=1", "b<&") == (
        "<domain><os><type>hvm</type><smbios mode=\"sysinfo\"/></os>\n  "
        "<sysinfo type=\"smbios\"><oemStrings><entry>a=1</entry><entry>b&lt;&amp;</entry></oemStrings></sysinfo>\n"
        "  <devices/></domain>")


def test_nothing_to_add() -> None:
    xml = "<domain><os><type>hvm</type></os></domain>"
    assert changed(xml) == xml


def test_a_domain_that_has_some() -> None:
    found = etree.fromstring(changed(
        "<domain><os><smbios mode='emulate'/></os><sysinfo type='fwcfg'><entry name='opt/x'>y</entry></sysinfo>"
        "<sysinfo type='smbios'><system><entry name='vendor'>Site</entry></system><oemStrings><entry>theirs</entry></oemStrings>"
        "</sysinfo></domain>", "ours"))
    assert [smbios.get("mode") for smbios in found.findall("os/smbios")] == ["sysinfo"]
    assert [entry.text for entry in found.findall("sysinfo[@type='smbios']/oemStrings/entry")] == ["theirs", "ours"]
    assert found.findtext("sysinfo[@type='fwcfg']/entry") == "y" and found.findtext("sysinfo/system/entry") == "Site"
    assert len(found.findall("sysinfo")) == 2


@pytest.mark.parametrize(("mode", "lines"), [("host", [2]), ("sysinfo", []), ("emulate", [])])
def test_the_nodes_own_firmware(mode: str, lines: list[int]) -> None:
    found: list[schema.Problem] = []
    check_firmware(etree.fromstring(f"<domain><os>\n<smbios mode='{mode}'/></os></domain>"), found)
    assert [line for line, _ in found] == lines
    assert all("write mode='sysinfo', or take it out" in text for _, text in found)
    check_firmware(etree.fromstring("<domain/>"), found)
    assert len(found) == len(lines)
