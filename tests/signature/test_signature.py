"""An image is taken only with a whole signature of the right signer; every other way it is refused."""

import base64
import contextlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from tests.descriptors import descriptors
from vmbatch.errors import CommandError, DeadlineError, EndedError, SiteError
from vmbatch.format import FormatError
from vmbatch.host import process
from vmbatch.image import signature
from vmbatch.resource import Work
from vmbatch.units import Deadline

from .authority import BLOCK, HOWTO, SUBJECT, Authority, body, encoded, openssl, padded, signature_of, signed

NO_BLOCK = "is not signed: its last 32 KiB are no signature block"
NOTHING = "is not signed: before its signature block is nothing about the image"
NO_CERTIFICATE = "has a signature block without one certificate in it"
CHANGED = f"is not as {SUBJECT} signed it"
UNTRUSTED = f"is signed by {SUBJECT}, whose certificate is not to be trusted: "
NO_ISSUER = f"{UNTRUSTED}unable to get local issuer certificate"


class Good(msgspec.Struct, frozen=True):
    """One image, its signature, and its signer's certificate; making them takes a while."""

    data: bytes
    value: str
    pem: str
    key: Path

    def image(self, **changed: object) -> bytes:
        """Signed, but for fields of the block that are changed, or None to be left out."""
        return signed(self.data, self.key, self.pem, **{"signature": self.value, **changed})


@contextlib.contextmanager
def reachable() -> Iterator[Path]:
    """A directory that the account without rights can look into; pytest closes its own to others, also those in use."""
    with tempfile.TemporaryDirectory(prefix="vmbatch-signature-") as made:
        path = Path(made)
        path.chmod(0o755)
        yield path


@pytest.fixture(scope="session")
def ours() -> Iterator[Authority]:
    with reachable() as place:
        yield Authority(place / "ours")


@pytest.fixture(scope="session")
def others() -> Iterator[Authority]:
    with reachable() as place:
        yield Authority(place / "others", "/CN=Another CA")


@pytest.fixture
def instead(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Puts a script in openssl's place."""
    with reachable() as place:
        def put(script: str) -> None:
            program = place / "openssl"
            program.write_text(f"#!/bin/sh\n{script}\n")
            program.chmod(0o755)
            monkeypatch.setattr(signature, "_OPENSSL", str(program))

        yield put


@pytest.fixture(scope="session")
def good(ours: Authority) -> Good:
    key, data = ours.issue("good"), body()
    return Good(data, signature_of(data, key), ours.certificate("good"), key)


def work(alive: Callable[[], None] = lambda: None, seconds: float = 120) -> Work:
    return Work(Deadline(seconds), alive, lambda _line: None)


def check(tmp_path: Path, image: bytes, ours: Authority, subject: str = ".*", given: Work | None = None) -> str:
    path = tmp_path / "image"
    path.write_bytes(image)
    before = descriptors()
    try:
        with path.open("rb") as file:
            return signature.check(
                file.fileno(), authorities=str(ours.trusted), subject=subject, account="nobody", work=given or work())
    finally:
        assert not descriptors() - before


def refused(tmp_path: Path, image: bytes, ours: Authority, said: str, subject: str = ".*") -> None:
    with pytest.raises(FormatError) as caught:
        check(tmp_path, image, ours, subject)
    assert caught.value.what == said
    assert caught.value.hint


def test_signed(tmp_path: Path, ours: Authority, good: Good) -> None:
    assert check(tmp_path, good.image(), ours, "/DC=ch/DC=cern/.*/CN=signer\\.example") == SUBJECT


def test_as_cernvm_writes_it(tmp_path: Path, ours: Authority, good: Good) -> None:
    """The text of cernvm-micro's script, with its spaces and line ends."""
    lines = ",\n".join(f"    {json.dumps(line)}" for line in HOWTO)
    text = (f'{{\n  "certificate": "{encoded(good.pem)}",\n  "signature": "{good.value}",\n'
            f'  "howto-verify": [\n{lines}\n  ]\n}}\n')
    assert check(tmp_path, good.data + padded(text.encode()), ours) == SUBJECT


def test_rsa_4096(tmp_path: Path, ours: Authority) -> None:
    key = ours.issue("long", bits=4096)
    assert check(tmp_path, signed(body(), key, ours.certificate("long")), ours) == SUBJECT


def test_without_howto(tmp_path: Path, ours: Authority, good: Good) -> None:
    assert check(tmp_path, good.image(**{"howto-verify": None}), ours) == SUBJECT


UNSIGNED: dict[str, Callable[[Good], bytes]] = {
    "random tail": lambda good: good.data + os.urandom(BLOCK),
    "zero tail": lambda good: good.data + bytes(BLOCK),
    "no tail": lambda good: good.data,
    "all zero": lambda _: bytes(4 * BLOCK),
    "nesting": lambda good: good.data + b"[" * BLOCK,
    "nesting of objects": lambda good: good.data + (b'{"a":' * BLOCK)[:BLOCK],
    "long number": lambda good: good.data + b"9" * BLOCK,
    "a list": lambda good: good.data + padded([]),
    "null": lambda good: good.data + padded(None),
    "empty object": lambda good: good.data + padded({}),
    "text": lambda good: good.data + padded(b"certificate"),
    "not utf-8": lambda good: good.data + padded(b"\xff\xfe"),
    "utf-16": lambda good: good.data + padded(good.image()[-BLOCK:].rstrip(b"\0").decode().encode("utf-16-be")),
    "two objects": lambda good: good.data + padded(good.image()[-BLOCK:].rstrip(b"\0") + b"{}"),
    "text behind the padding": lambda good: good.image()[:-1] + b"x",
    "text before the object": lambda good: good.data + padded(b"x" + good.image()[-BLOCK:].rstrip(b"\0")),
    "one byte more": lambda good: good.image() + b"\0",
    "one byte less": lambda good: good.image()[:-1],
    "block before its place": lambda good: good.image() + bytes(BLOCK),
    "comma missing": lambda good: good.data + good.image()[-BLOCK:].replace(b', "signature"', b'  "signature"'),
}


@pytest.mark.parametrize("make", UNSIGNED.values(), ids=UNSIGNED.keys())
def test_not_signed(tmp_path: Path, ours: Authority, good: Good, make: Callable[[Good], bytes]) -> None:
    refused(tmp_path, make(good), ours, NO_BLOCK)


@pytest.mark.parametrize("size", [0, 1, BLOCK, 2 * BLOCK])
def test_too_short(tmp_path: Path, ours: Authority, good: Good, size: int) -> None:
    refused(tmp_path, good.image()[-size:] if size else b"", ours, "is not signed: it is too short")


@pytest.mark.parametrize("changed", [
    {"certificate": None}, {"signature": None}, {"certificate": 7}, {"certificate": True}, {"signature": ["x"]},
    {"signature": {}}, {"signing": "x"}, {"howto_verify": ["x"]}, {"howto": ["x"]}, {"Certificate": "x"}, {"howto-verify": "x"},
    {"howto-verify": [1]}, {"howto-verify": {"x": "y"}},
], ids=repr)
def test_fields(tmp_path: Path, ours: Authority, good: Good, changed: dict[str, object]) -> None:
    refused(tmp_path, good.image(**changed), ours, NO_BLOCK)


@pytest.mark.parametrize("name", ["signature", "certificate", "howto-verify", "\\u0073ignature"])
@pytest.mark.parametrize("first", [True, False])
def test_a_name_twice(tmp_path: Path, ours: Authority, good: Good, name: str, first: bool) -> None:
    text, more = good.image()[-BLOCK:].rstrip(b"\0").decode(), f'"{name}": {"[]" if "-" in name else json.dumps("")}'
    text = f"{{{more}, {text[1:]}" if first else f"{text[:-1]}, {more}}}"
    refused(tmp_path, good.data + padded(text.encode()), ours, NO_BLOCK)


@pytest.mark.parametrize("about", [
    padded([]), padded("text"), padded(b'{"a": 1, "a": 2}'), bytes(BLOCK), os.urandom(BLOCK), b"[" * BLOCK,
    padded(b'{"snapshot": "HEAD",\n}'),
], ids=["list", "text", "twice", "zero", "random", "nesting", "comma"])
def test_nothing_about_the_image(tmp_path: Path, ours: Authority, good: Good, about: bytes) -> None:
    """Though the signature is right."""
    refused(tmp_path, signed(good.data[:-BLOCK] + about, good.key, good.pem), ours, NOTHING)


@pytest.mark.parametrize(("where", "said"), [
    (0, CHANGED), (100_000, CHANGED), (-2 * BLOCK - 1, CHANGED), (-2 * BLOCK + 3, CHANGED), (-BLOCK - 1, NOTHING),
])
def test_changed(tmp_path: Path, ours: Authority, good: Good, where: int, said: str) -> None:
    image = bytearray(good.image())
    image[where] ^= 0x20
    refused(tmp_path, bytes(image), ours, said)


def test_changed_just_before_the_block(tmp_path: Path, ours: Authority, good: Good) -> None:
    """A byte that is as good JSON as before."""
    data = good.data[:-BLOCK] + good.data[-BLOCK:].rstrip(b"\0").ljust(BLOCK, b" ")
    image = bytearray(signed(data, good.key, good.pem))
    assert check(tmp_path, bytes(image), ours) == SUBJECT
    image[-BLOCK - 1] = ord("\n")
    refused(tmp_path, bytes(image), ours, CHANGED)


@pytest.mark.parametrize("change", [
    lambda data: data[:-BLOCK] + padded({"ucernvm-version": "1.18-13", "snapshot": "other"}),
    lambda data: bytes(512) + data,
    lambda data: data[512:],
    lambda data: data[:-BLOCK] + data[-BLOCK:] * 2,
    lambda _: body(2),
], ids=["other metadata", "longer", "shorter", "metadata twice", "transplanted"])
def test_signature_of_another_image(tmp_path: Path, ours: Authority, good: Good, change: Callable[[bytes], bytes]) -> None:
    refused(tmp_path, change(good.data) + good.image()[-BLOCK:], ours, CHANGED)


@pytest.mark.parametrize("over", [
    lambda data: data + padded({}), lambda data: data + bytes(BLOCK), lambda data: data[:-BLOCK], lambda _: b"",
], ids=["whole file", "whole file with an empty block", "without metadata", "nothing"])
def test_signature_over_something_else(tmp_path: Path, ours: Authority, good: Good, over: Callable[[bytes], bytes]) -> None:
    refused(tmp_path, good.image(signature=signature_of(over(good.data), good.key)), ours, CHANGED)


@pytest.mark.parametrize("digest", ["-sha1", "-md5", "-sha224", "-sha512"])
def test_another_digest(tmp_path: Path, ours: Authority, good: Good, digest: str) -> None:
    refused(tmp_path, good.image(signature=signature_of(good.data, good.key, digest)), ours, CHANGED)


def test_another_padding(tmp_path: Path, ours: Authority, good: Good) -> None:
    value = openssl("dgst", "-sha256", "-sign", good.key, "-sigopt", "rsa_padding_mode:pss", data=good.data)
    refused(tmp_path, good.image(signature=encoded(value)), ours, CHANGED)


def test_a_signature_with_another_key(tmp_path: Path, ours: Authority, good: Good) -> None:
    """Of somebody else who has a certificate of the same authority."""
    key = ours.issue("else", "/CN=somebody else")
    refused(tmp_path, good.image(signature=signature_of(good.data, key)), ours, CHANGED)


@pytest.mark.parametrize("text", ["", "not base64!", "AAA", "AAAA\n", " AAAA", "\ud800", "é", "=", "AA=A"])
def test_a_signature_that_is_not_base64(tmp_path: Path, ours: Authority, good: Good, text: str) -> None:
    refused(tmp_path, good.image(signature=text), ours, "has a signature that is not base64")


@pytest.mark.parametrize("change", [
    lambda _: b"\0", lambda value: value[:-1], lambda value: value + b"\0", lambda value: b"\0" + value, lambda value: bytes(256),
    lambda value: b"\0" * 255 + b"\1", lambda value: b"\xff" * 256, lambda value: value * 2,
], ids=["one byte", "shorter", "longer", "zero before", "zero", "one", "ones", "twice"])
def test_a_wrong_signature(tmp_path: Path, ours: Authority, good: Good, change: Callable[[bytes], bytes]) -> None:
    refused(tmp_path, good.image(signature=encoded(change(base64.b64decode(good.value)))), ours, CHANGED)


def test_unknown_authority(tmp_path: Path, ours: Authority, others: Authority) -> None:
    key = others.issue("signer")
    refused(tmp_path, signed(body(), key, others.certificate("signer")), ours, NO_ISSUER)


def test_an_authority_with_a_known_name(tmp_path: Path, ours: Authority) -> None:
    other = Authority(tmp_path / "impostor")
    key = other.issue("signer")
    with pytest.raises(FormatError, match=f"^{re.escape(UNTRUSTED)}"):
        check(tmp_path, signed(body(), key, other.certificate("signer")), ours)


def test_self_signed(tmp_path: Path, ours: Authority) -> None:
    key, pem = tmp_path / "self.key", tmp_path / "self.pem"
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", pem, "-subj", SUBJECT)
    refused(tmp_path, signed(body(), key, pem.read_text()), ours, f"{UNTRUSTED}self-signed certificate")


def test_an_authority_of_the_directory_may_sign(tmp_path: Path, ours: Authority) -> None:
    image = signed(body(), ours.directory / "ca.key", ours.certificate("ca"))
    assert check(tmp_path, image, ours) == "/CN=Grid CA"


def test_certified_by_one_who_is_no_authority(tmp_path: Path, ours: Authority) -> None:
    """Who has a certificate must not make others with it, even where it lies in the directory."""
    plain = ours.issue("plain", "/CN=plain")
    issued = tmp_path / "issued.pem"
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", tmp_path / "k", "-out", tmp_path / "r", "-subj", SUBJECT)
    openssl("x509", "-req", "-in", tmp_path / "r", "-CA", plain.with_suffix(".pem"), "-CAkey", plain, "-CAcreateserial",
            "-out", issued)
    image = signed(body(), tmp_path / "k", issued.read_text())
    refused(tmp_path, image, ours, NO_ISSUER)
    (ours.trusted / "plain.pem").write_text(ours.certificate("plain"))
    ours.rehash()
    try:
        refused(tmp_path, image, ours, f"{UNTRUSTED}invalid CA certificate")
    finally:
        (ours.trusted / "plain.pem").unlink()
        ours.rehash()


@pytest.mark.parametrize(("begin", "end", "said"), [
    ("20200101000000Z", "20210101000000Z", "certificate has expired"),
    ("20350101000000Z", "20360101000000Z", "certificate is not yet valid"),
])
def test_dates(tmp_path: Path, ours: Authority, good: Good, begin: str, end: str, said: str) -> None:
    key = ours.issue("dated", begin=begin, end=end)
    refused(tmp_path, signed(good.data, key, ours.certificate("dated")), ours, f"{UNTRUSTED}{said}")


@pytest.mark.parametrize(("how", "said"), [
    ({"bits": 1024}, "EE certificate key too weak"), ({"digest": "sha1"}, "CA signature digest algorithm too weak"),
    ({"digest": "md5"}, "CA signature digest algorithm too weak"),
], ids=repr)
def test_weak_certificates(tmp_path: Path, ours: Authority, good: Good, how: dict[str, object], said: str) -> None:
    key = ours.issue("weak", **how)  # type: ignore[arg-type]
    refused(tmp_path, signed(good.data, key, ours.certificate("weak")), ours, f"{UNTRUSTED}{said}")


def test_a_key_that_is_not_rsa(tmp_path: Path, ours: Authority, good: Good) -> None:
    key = ours.issue("curve", kind="ec")
    image = signed(good.data, key, ours.certificate("curve"))
    refused(tmp_path, image, ours, f"is signed by {SUBJECT} with a key that is not RSA")


@pytest.mark.parametrize("wanted", [
    "", "signer", "/DC=ch/DC=cern/OU=computers", "CN=signer.example", SUBJECT + "x", "x" + SUBJECT, SUBJECT[:-1],
    "/CN=signer\\.example", SUBJECT.upper(), f"{SUBJECT[:-1]}|x", "/DC=ch|/CN=signer.*",
])
def test_another_subject(tmp_path: Path, ours: Authority, good: Good, wanted: str) -> None:
    refused(tmp_path, good.image(), ours, f"is signed by {SUBJECT}, whose signature this site does not take", wanted)


@pytest.mark.parametrize("subject", [f"{SUBJECT}/CN=evil", f"/O=evil{SUBJECT}", f"{SUBJECT}.evil"])
def test_a_subject_that_contains_the_wanted_one(tmp_path: Path, ours: Authority, good: Good, subject: str) -> None:
    key = ours.issue("around", subject)
    image = signed(good.data, key, ours.certificate("around"))
    refused(tmp_path, image, ours, f"is signed by {subject}, whose signature this site does not take", re.escape(SUBJECT))


@pytest.mark.parametrize(("subject", "name"), [
    ("/CN=evil\\/DC=ch\\/CN=signer.example", "/CN=evil\\2FDC=ch\\2FCN=signer.example"),
    ("/DC=ch/CN=host\\/a.example", "/DC=ch/CN=host\\2Fa.example"),
    ("/O=Fermi, LLC, CN=signer.example/CN=x", "/O=Fermi, LLC, CN=signer.example/CN=x"),
    ("/CN=a+OU=b", "/CN=a+OU=b"),
    ("/CN=a\\+OU=b", "/CN=a\\2BOU=b"),
    ("/CN=Zo\u00eb", "/CN=Zo\\C3\\AB"),
    ('/CN="quoted"; <x> = y', '/CN="quoted"; <x> = y'),
    ("/CN=back\\\\2Fslash", "/CN=back\\5C2Fslash"),
    ("/CN=#0C0178", "/CN=\\230C0178"),
    ("/CN= a ", "/CN= a "),
    ("/CN=a\nsubject=CN = signer.example", "/CN=a\\0Asubject=CN = signer.example"),
    ("/CN=a/CN=b/O=c", "/CN=a/CN=b/O=c"),
])
def test_subjects(tmp_path: Path, ours: Authority, good: Good, subject: str, name: str) -> None:
    """Only what openssl took for two parts looks like two."""
    key = ours.issue("odd", subject)
    assert check(tmp_path, signed(good.data, key, ours.certificate("odd")), ours, re.escape(name)) == name


def test_without_a_subject(tmp_path: Path, ours: Authority, good: Good) -> None:
    key, request, pem = tmp_path / "key", tmp_path / "csr", tmp_path / "pem"
    openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", request, "-subj", "/")
    openssl("x509", "-req", "-in", request, "-CA", ours.directory / "ca.pem", "-CAkey", ours.directory / "ca.key",
            "-CAcreateserial", "-out", pem)
    refused(tmp_path, signed(good.data, key, pem.read_text()), ours, "has a certificate without a subject", "")


PEM: dict[str, Callable[[str], str]] = {
    "nothing": lambda _: "",
    "two": lambda pem: pem + pem,
    "private key": lambda pem: pem + "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
    "private key first": lambda pem: "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n" + pem,
    "half of another": lambda pem: pem + "-----BEGIN CERTIFICATE-----\n",
    "text behind": lambda pem: pem + "text\n",
    "text before": lambda pem: "text\n" + pem,
    "without an end": lambda pem: pem.replace("-----END", "-----BACK"),
    "public key": lambda pem: pem.replace("CERTIFICATE", "PUBLIC KEY"),
    "trusted certificate": lambda pem: pem.replace("CERTIFICATE", "TRUSTED CERTIFICATE"),
    "header": lambda pem: pem.replace("-----\n", "-----\nProc-Type: 4,ENCRYPTED\n\n", 1),
}


@pytest.mark.parametrize("change", PEM.values(), ids=PEM.keys())
def test_not_one_certificate(tmp_path: Path, ours: Authority, good: Good, change: Callable[[str], str]) -> None:
    refused(tmp_path, good.image(certificate=encoded(change(good.pem))), ours, NO_CERTIFICATE)


@pytest.mark.parametrize("text", ["", "\ud800", "!", "AAAA", "-----BEGIN CERTIFICATE-----"])
def test_a_certificate_that_is_not_base64(tmp_path: Path, ours: Authority, good: Good, text: str) -> None:
    refused(tmp_path, good.image(certificate=text), ours, NO_CERTIFICATE)


def test_a_certificate_as_it_is(tmp_path: Path, ours: Authority, good: Good) -> None:
    refused(tmp_path, good.image(certificate=good.pem), ours, NO_CERTIFICATE)


@pytest.mark.parametrize("change", [
    lambda pem: pem.replace("MII", "AAA", 1), lambda pem: "\n".join([*pem.split("\n")[:5], *pem.split("\n")[-2:]]),
    lambda pem: pem.replace(pem.split("\n")[1], ""),
], ids=["no DER", "cut", "a line gone"])
def test_a_broken_certificate(tmp_path: Path, ours: Authority, good: Good, change: Callable[[str], str]) -> None:
    refused(tmp_path, good.image(certificate=encoded(change(good.pem))), ours, "has a certificate that openssl cannot read")


def test_a_changed_certificate(tmp_path: Path, ours: Authority, good: Good) -> None:
    """It reads as before, but its authority did not sign this."""
    der = base64.b64decode("".join(good.pem.splitlines()[1:-1]))
    assert der.count(b"360101") == 1
    changed = base64.encodebytes(der.replace(b"360101", b"370101")).decode()
    pem = f"-----BEGIN CERTIFICATE-----\n{changed}-----END CERTIFICATE-----\n"
    refused(tmp_path, good.image(certificate=encoded(pem)), ours, f"{UNTRUSTED}certificate signature failure")


@pytest.fixture
def root() -> Iterator[Authority]:
    with reachable() as place:
        yield Authority(place / "root")


def test_revoked(tmp_path: Path, root: Authority) -> None:
    bad, kept = root.issue("bad"), root.issue("kept")
    revoked = signed(body(), bad, root.certificate("bad"))
    assert check(tmp_path, revoked, root) == SUBJECT
    root.revoke(bad.with_suffix(".pem"))
    refused(tmp_path, revoked, root, f"{UNTRUSTED}certificate revoked")
    assert check(tmp_path, signed(body(), kept, root.certificate("kept")), root) == SUBJECT


def test_a_list_that_is_too_old(tmp_path: Path, root: Authority) -> None:
    key = root.issue("signer")
    config = root.directory / "ca.cnf"
    openssl("ca", "-config", config, "-gencrl", "-crl_lastupdate", "20250101000000Z", "-crl_nextupdate", "20250201000000Z",
            "-out", root.trusted / "old.crl.pem")
    root.rehash()
    refused(tmp_path, signed(body(), key, root.certificate("signer")), root, f"{UNTRUSTED}CRL has expired")


def test_a_list_that_cannot_be_read(tmp_path: Path, root: Authority) -> None:
    """It may name the signer."""
    key = root.issue("signer")
    root.publish()
    (root.trusted / "root.crl.pem").chmod(0o600)
    refused(tmp_path, signed(body(), key, root.certificate("signer")), root, f"{UNTRUSTED}unable to get certificate CRL")


@pytest.mark.parametrize("lists", [(), ("root",), ("between",), ("root", "between")], ids=str)
def test_an_authority_between(tmp_path: Path, root: Authority, lists: tuple[str, ...]) -> None:
    between = Authority(root.directory.parent / "between", "/CN=Between", root)
    key = between.issue("signer")
    for authority in (root, between):
        if authority.directory.name in lists:
            authority.publish()
    assert check(tmp_path, signed(body(), key, between.certificate("signer")), root) == SUBJECT


def test_an_authority_between_is_not_there(tmp_path: Path, root: Authority) -> None:
    between = Authority(root.directory.parent / "between", "/CN=Between", root)
    key = between.issue("signer")
    image = signed(body(), key, between.certificate("signer"))
    (root.trusted / "between.pem").rename(tmp_path / "between.pem")
    root.rehash()
    refused(tmp_path, image, root, NO_ISSUER)


def test_an_authority_between_without_its_root(tmp_path: Path, root: Authority) -> None:
    between = Authority(root.directory.parent / "between", "/CN=Between", root)
    key = between.issue("signer")
    (root.trusted / "root.pem").unlink()
    root.rehash()
    with pytest.raises(FormatError, match=r"not to be trusted: unable to get (local )?issuer certificate$"):
        check(tmp_path, signed(body(), key, between.certificate("signer")), root)


def test_revoked_between(tmp_path: Path, root: Authority) -> None:
    between = Authority(root.directory.parent / "between", "/CN=Between", root)
    key = between.issue("signer")
    between.publish()
    root.revoke(between.directory / "ca.pem")
    refused(tmp_path, signed(body(), key, between.certificate("signer")), root, f"{UNTRUSTED}certificate revoked")


def test_revoked_by_the_authority_between(tmp_path: Path, root: Authority) -> None:
    """Though its root has no list."""
    between = Authority(root.directory.parent / "between", "/CN=Between", root)
    key = between.issue("signer")
    between.revoke(key.with_suffix(".pem"))
    refused(tmp_path, signed(body(), key, between.certificate("signer")), root, f"{UNTRUSTED}certificate revoked")


@pytest.mark.parametrize("names", [("SSL_CERT_DIR", "OTHER"), ("OTHER", "SSL_CERT_FILE")])
def test_authorities_of_the_system_do_not_count(
        tmp_path: Path, ours: Authority, others: Authority, instead: Callable[[str], None], names: tuple[str, str]) -> None:
    key = others.issue("signer")
    instead(f'export {names[0]}={others.trusted} {names[1]}={others.trusted}/others.pem; exec /usr/bin/openssl "$@"')
    refused(tmp_path, signed(body(), key, others.certificate("signer")), ours, NO_ISSUER)


def test_no_authorities(tmp_path: Path, root: Authority, good: Good) -> None:
    root.trusted.rename(tmp_path / "elsewhere")
    with pytest.raises(SiteError) as caught:
        check(tmp_path, good.image(), root)
    assert caught.value.lines() == [
        f"{root.trusted}, the directory of those who may certify signers, is not there "
        "(see [userimages] authorities in vmbatch.conf)"]


def test_no_openssl(tmp_path: Path, ours: Authority, good: Good, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is not the image's fault."""
    monkeypatch.setattr(signature, "_OPENSSL", "/no/openssl")
    with pytest.raises(CommandError, match=r"^/no/openssl failed with exit status 127"):
        check(tmp_path, good.image(), ours)


def test_limits_that_cannot_be_set(tmp_path: Path, ours: Authority, good: Good, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signature, "_LIMITS", ("--cpu=much",))
    with pytest.raises(CommandError, match=r"prlimit: "):
        check(tmp_path, good.image(), ours)


def test_rights_that_cannot_be_dropped(tmp_path: Path, ours: Authority, good: Good, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "WITH_PARENT", ("/usr/bin/setpriv", "--pdeathsig=NOTHING", "--"))
    with pytest.raises(CommandError, match=r"setpriv: "):
        check(tmp_path, good.image(), ours)


@pytest.mark.parametrize("script", ["kill -SEGV $$", "exit 1", "while :; do :; done"], ids=["crash", "failure", "endless"])
def test_an_openssl_that_the_certificate_upsets(
        tmp_path: Path, ours: Authority, good: Good, instead: Callable[[str], None], monkeypatch: pytest.MonkeyPatch,
        script: str) -> None:
    """That is."""
    instead(script)
    monkeypatch.setattr(signature, "_LIMITS", ("--cpu=1", "--core=0"))
    refused(tmp_path, good.image(), ours, "has a certificate that openssl cannot read")


def test_openssl_has_no_rights(tmp_path: Path, ours: Authority, good: Good, instead: Callable[[str], None]) -> None:
    instead('[ "$(id -u) $(id -G)" = "65534 65534" ] && exec /usr/bin/openssl "$@"; exit 1')
    assert check(tmp_path, good.image(), ours) == SUBJECT


def test_an_openssl_that_warns(tmp_path: Path, root: Authority, instead: Callable[[str], None]) -> None:
    """Its words among the answers must not have a list be overlooked."""
    key = root.issue("signer")
    image = signed(body(), key, root.certificate("signer"))
    root.revoke(key.with_suffix(".pem"))
    instead('echo "warning: no configuration" >&2; exec /usr/bin/openssl "$@"')
    refused(tmp_path, image, root, f"{UNTRUSTED}certificate revoked")


def test_an_openssl_that_says_no_issuer(tmp_path: Path, ours: Authority, good: Good, instead: Callable[[str], None]) -> None:
    instead('case "$*" in *-issuer_hash*) exit 0;; esac; exec /usr/bin/openssl "$@"')
    refused(tmp_path, good.image(), ours, f"{UNTRUSTED}openssl refuses it")


def test_the_job_is_over(tmp_path: Path, ours: Authority, good: Good) -> None:
    def over() -> None:
        raise EndedError("the job has ended")

    with pytest.raises(EndedError):
        check(tmp_path, good.image(), ours, given=work(over))


def test_deadline(tmp_path: Path, ours: Authority, good: Good) -> None:
    with pytest.raises(DeadlineError):
        check(tmp_path, good.image(), ours, given=work(seconds=0))


def test_deadline_while_the_image_is_read(tmp_path: Path, ours: Authority, good: Good) -> None:
    given = work()

    def late() -> None:
        given.deadline.at = 0.0

    with pytest.raises(DeadlineError, match=r"^the signature of an image was not checked in time$"):
        check(tmp_path, good.image(), ours, given=Work(given.deadline, late, given.say))


def test_cut_while_it_is_read(tmp_path: Path, ours: Authority, good: Good) -> None:
    with pytest.raises(FormatError, match=r"^was cut while it was read$"):
        check(tmp_path, good.image(), ours, given=work(lambda: os.truncate(tmp_path / "image", 0)))


def test_an_image_of_many_pieces(tmp_path: Path, ours: Authority, good: Good, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signature, "_PIECE", 1000)
    assert check(tmp_path, good.image(), ours) == SUBJECT
    image = bytearray(good.image())
    image[1000] ^= 1
    refused(tmp_path, bytes(image), ours, CHANGED)
