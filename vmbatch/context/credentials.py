"""systemd credentials that a guest's firmware carries: SMBIOS strings of type 11, read by systemd 252 and later.

They stand on QEMU's command line and in the domain's XML, so every user of the node can read them: no secrets.
Names, prefixes and sizes: systemd, src/core/import-creds.c and src/shared/creds-util.c (credential_name_valid).
"""

import base64
import re

from ..errors import SiteError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_SIZE = 32 << 10
"""Bytes of one."""
_TOTAL = 48 << 10
"""Bytes of all strings. libvirt makes one word of QEMU's command line of them, for which Linux takes 128 KiB; and with an entry
point of 32 bits, QEMU's default before 8.1, all tables of the firmware have 64 KiB (hw/smbios)."""
_COUNT = 64
_PLAIN = re.compile(rb"[!-~]([ -~]*[!-~])?")
_SECRETS = (
    (re.compile(rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY"), "a private key"),
    (re.compile(rb"PuTTY-User-Key-File"), "a private key"),
    (re.compile(rb"AGE-SECRET-KEY-1"), "a private key"),
)
_SECRET_NAMES = re.compile(r"passwd\.(plaintext|hashed)-password\..*")
_PUBLIC_KEY = re.compile(rb"(ssh-(ed25519|rsa)|ecdsa-sha2-nistp(256|384|521)|sk-(ssh-ed25519|ecdsa-sha2-nistp256)@openssh\.com)"
                         rb" [A-Za-z0-9+/]+={0,2}( [ -~]*)?\n?")


def root_key(public: bytes) -> dict[str, bytes]:
    """The credential by which root's public key gets into a guest (systemd, tmpfiles.d/provision.conf). SiteError."""
    if not _PUBLIC_KEY.fullmatch(public):
        raise SiteError("what should be root's public key for the guest is not the one line of an OpenSSH public key",
                        "see ssh-keygen -y", code="VB502")
    return {"ssh.authorized_keys.root": public.rstrip(b"\n") + b"\n"}


def oem_strings(credentials: dict[str, bytes]) -> list[str]:
    """A string of SMBIOS type 11 for each. SiteError for what cannot be one, or should not be seen by everybody."""
    if len(credentials) > _COUNT:
        raise SiteError(f"{len(credentials)} systemd credentials are too many; the firmware takes {_COUNT}", code="VB502")
    found = []
    for name, content in credentials.items():
        _check(name, content)
        plain = _PLAIN.fullmatch(content)
        found.append(f"io.systemd.credential:{name}={content.decode('ascii')}" if plain else
                     f"io.systemd.credential.binary:{name}={base64.b64encode(content).decode('ascii')}")
    size = sum(map(len, found))
    if size > _TOTAL:
        raise SiteError(f"the systemd credentials have {size} bytes in all; the firmware takes {_TOTAL}",
                        "put large files onto the medium, with <vbtarfile>", code="VB502")
    return found


def _check(name: str, content: bytes) -> None:
    if not _NAME.fullmatch(name):
        raise SiteError(f"{name[:80]!r} is not the name of a systemd credential", "use letters, digits and '._-'", code="VB502")
    if len(content) > _SIZE:
        raise SiteError(f"the systemd credential {name} has {len(content)} bytes; at most {_SIZE} are taken",
                        "put large files onto the medium, with <vbtarfile>", code="VB502")
    secret = "a password" if _SECRET_NAMES.fullmatch(name) else next(
        (what for pattern, what in _SECRETS if pattern.search(content) or pattern.search(_decoded(content))), "")
    if secret:
        raise SiteError(f"the systemd credential {name} is {secret}, and every user of the node could read it",
                        "put it onto the medium, with <vbtarfile> or a script of the site's", code="VB502")


def _decoded(content: bytes) -> bytes:
    """What is behind base64, if it is that."""
    try:
        return base64.b64decode(b"".join(content.split()), validate=True)
    except ValueError:
        return b""
