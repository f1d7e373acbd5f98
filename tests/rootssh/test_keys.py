"""What is wrong with keys is said before there is a guest."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from vmbatch.errors import SiteError
from vmbatch.host.rootssh import RootAccess, check, load_key, parse_host_key

from .machine import make_key, public

LINE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPw+pqP9O44TYuKlcFSlHx7hqobrluVQ2qdbXoxhg+9Q"


@pytest.mark.parametrize(
    "kind, more, name",
    [
        ("ed25519", (), "ssh-ed25519"),
        ("rsa", (), "ssh-rsa"),
        ("rsa", ("-m", "PEM"), "ssh-rsa"),
        ("ecdsa", ("-b", "521"), "ecdsa-sha2-nistp521"),
        ("ecdsa", ("-m", "PEM"), "ecdsa-sha2-nistp256"),
    ],
)
def test_types(place: Path, kind: str, more: tuple[str, ...], name: str) -> None:
    key = load_key(str(make_key(place / "key", kind, *more)))
    assert (key.get_name(), f"{key.get_name()} {key.get_base64()}") == (name, public(place / "key"))


@pytest.mark.parametrize("more", [(), ("-m", "PEM"), ("-m", "PKCS8")])
def test_a_passphrase(place: Path, more: tuple[str, ...]) -> None:
    key = place / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-N", "secret", *more, "-f", str(key)], check=True)
    with pytest.raises(SiteError) as caught:
        load_key(str(key))
    assert caught.value.what == f"the private key {key} has a passphrase, and nobody is there to type it"
    assert caught.value.hint == f"ssh-keygen -p -N '' -f {key}"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"garbage\xff",
        b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
        b"-----BEGIN RSA PRIVATE KEY-----\n",
        LINE.encode(),
    ],
)
def test_no_key(place: Path, data: bytes) -> None:
    key = place / "key"
    key.write_bytes(data)
    key.chmod(0o600)
    with pytest.raises(SiteError) as caught:
        load_key(str(key))
    assert caught.value.what == f"{key} is not a private key of type ed25519, ecdsa or rsa in OpenSSH's form"


def test_who_may_read_it(place: Path) -> None:
    key = make_key(place / "key")
    key.chmod(0o640)
    with pytest.raises(SiteError) as caught:
        load_key(str(key))
    assert (caught.value.what, caught.value.hint) == (
        f"{key} can be read by others than root (mode 0640)",
        f"chmod 600 {key}",
    )
    key.chmod(0o600)
    os.chown(key, 1500, 1500)
    with pytest.raises(SiteError, match="belongs to uid 1500, not to root"):
        load_key(str(key))


def test_where_it_is(place: Path) -> None:
    with pytest.raises(SiteError, match="none: No such file or directory"):
        load_key(str(place / "none"))
    with pytest.raises(SiteError, match="Is a directory"):
        load_key(str(place))


@pytest.mark.parametrize("line", [LINE, f"{LINE} root@guest", f"  {LINE}\n"])
def test_host_keys(line: str) -> None:
    kind, blob = parse_host_key(line)
    assert (kind, len(blob)) == ("ssh-ed25519", 51)


@pytest.mark.parametrize(
    "line, what",
    [
        ("", "'' is not a host key as in /etc/ssh/ssh_host_ed25519_key.pub"),
        (f"guest {LINE}", f"{('guest ' + LINE)[:60]!r} is not a host key as in /etc/ssh/ssh_host_ed25519_key.pub"),
        ("ssh-dss AAAA", "'ssh-dss AAAA' is not a host key as in /etc/ssh/ssh_host_ed25519_key.pub"),
        ("ssh-ed25519", "the host key 'ssh-ed25519' is not whole"),
        ("ssh-ed25519 AAAA", "the host key 'ssh-ed25519 AAAA' is not whole"),
        (LINE[:60], f"the host key {LINE[:60]!r} is not whole"),
        (LINE.replace("+", "*"), f"the host key {LINE.replace('+', '*')[:60]!r} is not whole"),
        (
            LINE.replace("ssh-ed25519", "ssh-rsa", 1),
            f"the host key {LINE.replace('ssh-ed25519', 'ssh-rsa', 1)[:60]!r} is not whole",
        ),
    ],
)
def test_what_is_no_host_key(line: str, what: str) -> None:
    with pytest.raises(SiteError, match=f"^{re.escape(what)}$"):
        parse_host_key(line)


@pytest.mark.parametrize("host_keys, first_use", [((), False), ((LINE,), True)])
def test_one_of_both(place: Path, host_keys: tuple[str, ...], first_use: bool) -> None:
    make_key(place / "key")
    with pytest.raises(SiteError) as caught:
        check(RootAccess(key=str(place / "key"), host_keys=host_keys, first_use=first_use))
    assert caught.value.what == "root's ssh needs the guest's host key, or leave to trust the first one, and not both"
