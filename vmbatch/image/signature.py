"""Images that carry their signature, as CernVM's do: who signed one, and whether it is as it was then.

The last 32 KiB of a file are JSON, filled up with NUL: `certificate` (base64 of a PEM certificate), `signature` (base64; RSA
PKCS #1 v1.5 over SHA-256 of the file without these 32 KiB), and `howto-verify`, lines for people. The 32 KiB before them are a
JSON object about the image, filled up likewise (CernVM Image Signatures, and the script of cernvm-micro that signs images; vac,
vacutils.py, getCernvmImageData).
Certificates and signatures are judged by openssl(1), without rights and within limits; nothing is written to a disk.
"""

import base64
import contextlib
import glob
import hashlib
import json
import os
import re

import msgspec

from ..errors import CommandError, DeadlineError, SiteError
from ..format import FormatError
from ..host import file, process
from ..resource import Work

BLOCK = 32 << 10
_PIECE = 4 << 20
_OPENSSL = "/usr/bin/openssl"
_LIMITS = ("--as=1073741824", "--cpu=10", "--fsize=0", "--core=0")
_STARTERS = ("setpriv: ", "prlimit: ")
"""Who speaks where openssl cannot be started."""
_HINT = "only images that are signed may be used here; ask the site's admins"
_NO_LIST = re.compile(r"^error 3 at ", re.MULTILINE)
"""X509_V_ERR_UNABLE_TO_GET_CRL (openssl, x509_vfy.h)."""
_NAME_OPTIONS = "esc_2253,esc_ctrl,esc_msb,utf8,dump_nostr,dump_unknown,dump_der,sep_comma_plus,sname"
_PART = re.compile(r"([A-Za-z0-9.-]+)=((?:\\[0-9A-F]{2}|\\.|[^\\,+])*)([,+]|$)")


class _Block(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"howto": "howto-verify"}):
    certificate: str
    signature: str
    howto: tuple[str, ...] = ()


class _RefusedError(Exception):
    """openssl says no; `output` is how."""

    def __init__(self, output: str) -> None:
        super().__init__(output)
        self.output = output


def check(fd: int, *, authorities: str, subject: str, account: str, work: Work) -> str:
    """The subject that signed an open file, `/DC=ch/.../CN=...`, if `subject`, a regular expression, matches all of it.

    `authorities` is a directory as openssl-rehash(1) makes it. FormatError; SiteError or NodeError if nothing can be judged.
    """
    if not os.path.isdir(authorities):
        raise SiteError(f"{authorities}, the directory of those who may certify signers, is not there",
                        "see [userimages] authorities in vmbatch.conf", code="VB313")
    file.check_trusted(authorities)
    size = os.fstat(fd).st_size
    block = _block(fd, size)
    signature = _decoded(block.signature)
    if not signature:
        raise FormatError("has a signature that is not base64", _HINT)
    pem = _decoded(block.certificate).strip() + b"\n"
    if not re.fullmatch(rb"-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]+\n-----END CERTIFICATE-----\n", pem):
        raise FormatError("has a signature block without one certificate in it", _HINT)
    name = _subject(pem, account, work)
    _check_certificate(pem, name, authorities, account, work)
    if not re.fullmatch(subject, name):
        raise FormatError(f"is signed by {name}, whose signature this site does not take", _HINT)
    _check_signature(pem, name, signature, _digest(fd, size - BLOCK, work), account, work)
    return name


def _block(fd: int, size: int) -> _Block:
    if size <= 2 * BLOCK:
        raise FormatError("is not signed: it is too short", _HINT)
    try:
        block = msgspec.convert(_json(os.pread(fd, BLOCK, size - BLOCK)), _Block)
    except (ValueError, RecursionError):
        raise FormatError(f"is not signed: its last {BLOCK >> 10} KiB are no signature block", _HINT) from None
    try:
        msgspec.convert(_json(os.pread(fd, BLOCK, size - 2 * BLOCK)), dict[str, object])
    except (ValueError, RecursionError):
        raise FormatError("is not signed: before its signature block is nothing about the image", _HINT) from None
    return block


def _json(data: bytes) -> object:
    """ValueError for what is not JSON in UTF-8, or has a name twice."""
    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name stands there twice")
        return found

    return json.loads(data.rstrip(b"\0").decode(), object_pairs_hook=once)


def _decoded(text: str) -> bytes:
    """Nothing for what is not base64."""
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return b""


def _digest(fd: int, size: int, work: Work) -> bytes:
    state = hashlib.sha256()
    offset = 0
    while offset < size:
        work.alive()
        if work.deadline.passed():
            raise DeadlineError("the signature of an image was not checked in time", code="VB311")
        piece = os.pread(fd, min(_PIECE, size - offset), offset)
        if not piece:
            raise FormatError("was cut while it was read")
        state.update(piece)
        offset += len(piece)
    return state.digest()


def _openssl(words: list[str | bytes], account: str, work: Work) -> str:
    """What openssl writes; bytes among its words are contents of files without names. _RefusedError, NodeError."""
    argv = [_OPENSSL]
    fds: list[int] = []
    with contextlib.ExitStack() as opened:
        for word in words:
            if isinstance(word, bytes):
                fds.append(os.memfd_create("vmbatch", os.MFD_CLOEXEC))
                opened.callback(os.close, fds[-1])
                os.write(fds[-1], word)
                word = f"/dev/fd/{fds[-1]}"
            argv.append(word)
        try:
            return process.run(argv, work.deadline, account=account, limits=_LIMITS, pass_fds=tuple(fds))
        except CommandError as error:
            if error.output.startswith(_STARTERS):
                raise
            raise _RefusedError(error.output) from None


def _subject(pem: bytes, account: str, work: Work) -> str:
    """As grids write it: `/TYPE=VALUE`, with `+` instead of `/` between values that stand at one level.

    A byte of a value that is `/`, `+`, `#`, `\\` or no printable ASCII is written `\\HH`, so that no value looks like two.
    """
    try:
        said = _openssl(["x509", "-in", pem, "-noout", "-subject", "-nameopt", _NAME_OPTIONS], account, work)
    except _RefusedError:
        raise FormatError("has a certificate that openssl cannot read", _HINT) from None
    found = re.search(r"^subject=(.+)$", said, re.MULTILINE)
    if not found:
        raise FormatError("has a certificate without a subject", _HINT)
    name, joint, position = "", "/", 0
    while position < len(found[1]):
        part = _PART.match(found[1], position)
        if not part:
            raise FormatError("has a certificate whose subject cannot be read", _HINT)
        value = part[2] if part[2].startswith("#") else _plain(part[2])
        name += f"{joint}{part[1]}={value}"
        joint = "+" if part[3] == "+" else "/"
        position = part.end()
    return name


def _plain(escaped: str) -> str:
    r"""A value as openssl escapes it (`\,` or `\C3`) with our escapes."""
    value = re.sub(r"\\([0-9A-F]{2}|.)", lambda found: chr(int(found[1], 16)) if len(found[1]) == 2 else found[1], escaped)
    return re.sub(r"[^ -~]|[/+#\\]", lambda found: f"\\{ord(found[0]):02X}", value)


def _check_certificate(pem: bytes, name: str, authorities: str, account: str, work: Work) -> None:
    """Chain, dates and strength (as TLS asks by default: 112 bits), and revocation lists where the directory has them.

    The list of the signer's issuer must be sound if there is one; those of the authorities above count if each has one.

    The certificate of an authority in the directory may sign, a self-signed one from elsewhere may not. Its purpose is not asked
    for: CernVM's signer has a host certificate. `-x509_strict` would refuse roots that grids use.
    """
    trust = ["verify", "-no-CAfile", "-no-CAstore", "-CApath", authorities, "-purpose", "any", "-auth_level", "2"]
    try:
        said = _openssl(["x509", "-in", pem, "-noout", "-issuer_hash"], account, work)
        issuer = re.search(r"^[0-9a-f]{8}$", said, re.MULTILINE)
        if not issuer:
            raise _RefusedError(said)
        if not glob.glob(os.path.join(glob.escape(authorities), f"{issuer[0]}.r[0-9]*")):
            _openssl([*trust, pem], account, work)
            return
        try:
            _openssl([*trust, "-crl_check", "-crl_check_all", pem], account, work)
        except _RefusedError as error:
            if not _NO_LIST.search(error.output):
                raise
            _openssl([*trust, "-crl_check", pem], account, work)
    except _RefusedError as error:
        why = re.search(r"^error \d+ at \d+ depth lookup: *(.+)$", error.output, re.MULTILINE)
        raise FormatError(f"is signed by {name}, whose certificate is not to be trusted: "
                          f"{why[1] if why else 'openssl refuses it'}", _HINT) from None


def _check_signature(pem: bytes, name: str, signature: bytes, digest: bytes, account: str, work: Work) -> None:
    try:
        key = _openssl(["x509", "-in", pem, "-noout", "-pubkey"], account, work)
        _openssl(["pkeyutl", "-verify", "-pubin", "-inkey", key.encode(), "-sigfile", signature, "-in", digest,
                  "-pkeyopt", "digest:sha256", "-pkeyopt", "rsa_padding_mode:pkcs1"], account, work)
    except _RefusedError as error:
        if "Signature Verification Failure" in error.output:
            raise FormatError(f"is not as {name} signed it", "fetch it again") from None
        raise FormatError(f"is signed by {name} with a key that is not RSA", _HINT) from None
