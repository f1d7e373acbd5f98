"""A certificate authority, certificates, and images signed with them, all made by openssl."""

import base64
import json
import os
import subprocess
from pathlib import Path

BLOCK = 32 << 10
SUBJECT = "/DC=ch/DC=cern/OU=computers/CN=signer.example"
HOWTO = ["base64 -d <certificate>", "openssl dgst -sha256 -verify <pubkey> -signature <signature> $(head -c -32768 <image>)"]


def openssl(*words: str | Path, data: bytes | None = None) -> bytes:
    """What openssl writes."""
    return subprocess.run(["openssl", *words], input=data, capture_output=True, check=True).stdout


class Authority:
    """A directory with an authority's key and certificate, and `trusted`, a directory as openssl-rehash(1) makes it.

    With `parent` it is certified by that one, whose `trusted` it shares.
    """

    def __init__(self, directory: Path, name: str = "/CN=Grid CA", parent: "Authority | None" = None) -> None:
        self.directory = directory
        self.trusted: Path = parent.trusted if parent else directory / "trusted"
        directory.mkdir(parents=True)
        self.trusted.mkdir(exist_ok=True)
        if parent:
            parent.issue("ca", name, extensions="authority", place=directory)
        else:
            openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", directory / "ca.key",
                    "-out", directory / "ca.pem", "-subj", name, "-days", "30")
        (self.trusted / f"{directory.name}.pem").write_bytes((directory / "ca.pem").read_bytes())
        (directory / "index.txt").write_text("")
        (directory / "serial").write_text("1000\n")
        (directory / "ca.cnf").write_text(f"""[ca]
default_ca = ours
[ours]
dir = {directory}
database = {directory}/index.txt
serial = {directory}/serial
new_certs_dir = {directory}
certificate = {directory}/ca.pem
private_key = {directory}/ca.key
default_md = sha256
default_crl_days = 30
policy = any
unique_subject = no
[any]
commonName = supplied
domainComponent = optional
organizationalUnitName = optional
organizationName = optional
[plain]
basicConstraints = CA:FALSE
[authority]
basicConstraints = critical, CA:TRUE
""")
        self.rehash()

    def rehash(self) -> None:
        """As admins do after a change."""
        openssl("rehash", self.trusted)

    def issue(self, name: str, subject: str = SUBJECT, begin: str = "20250101000000Z", end: str = "20360101000000Z",
              bits: int = 2048, digest: str = "sha256", kind: str = "rsa", extensions: str = "plain",
              place: Path | None = None) -> Path:
        """The key of a certificate NAME.pem for a subject; `kind` is rsa or ec."""
        key = (place or self.directory) / f"{name}.key"
        request = key.with_suffix(".csr")
        new = [f"rsa:{bits}"] if kind == "rsa" else ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
        openssl("req", "-newkey", *new, "-nodes", "-utf8", "-multivalue-rdn", "-keyout", key, "-out", request, "-subj", subject)
        openssl("ca", "-batch", "-notext", "-preserveDN", "-config", self.directory / "ca.cnf", "-extensions", extensions,
                "-md", digest, "-in", request, "-out", key.with_suffix(".pem"), "-startdate", begin, "-enddate", end)
        return key

    def certificate(self, name: str) -> str:
        """The text of a certificate."""
        return (self.directory / f"{name}.pem").read_text()

    def publish(self, hours: int = 720) -> None:
        """The list of the certificates revoked so far."""
        openssl("ca", "-config", self.directory / "ca.cnf", "-gencrl", "-crlhours", str(hours),
                "-out", self.trusted / f"{self.directory.name}.crl.pem")
        self.rehash()

    def revoke(self, certificate: Path) -> None:
        """And publish that."""
        openssl("ca", "-config", self.directory / "ca.cnf", "-revoke", certificate)
        self.publish()


def padded(value: object) -> bytes:
    """A block."""
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return text.ljust(BLOCK, b"\0")


def body(seed: int = 1) -> bytes:
    """An image with its block about itself, to be signed."""
    return bytes([seed]) * 4096 + os.urandom(300_000) + padded({"ucernvm-version": "1.18-13", "snapshot": "none"})


def signature_of(data: bytes, key: Path, digest: str = "-sha256") -> str:
    """In base64."""
    return encoded(openssl("dgst", digest, "-sign", key, data=data))


def encoded(data: str | bytes) -> str:
    """Base64, as `base64 -w0`."""
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def signed(data: bytes, key: Path, pem: str, /, **changed: object) -> bytes:
    """The image with its signature block; `changed` fields of that replace the right ones, None takes them out."""
    block: dict[str, object] = {"certificate": encoded(pem), "howto-verify": HOWTO}
    if "signature" not in changed:
        block["signature"] = signature_of(data, key)
    block.update(changed)
    return data + padded({name: value for name, value in block.items() if value is not None})
