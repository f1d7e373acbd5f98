"""Digests: by which an image is known, and by which a value can be recognised without being kept."""

import hashlib

ALGORITHMS = ("sha256", "sha512", "sha384", "sha224", "blake2b", "sha1", "md5")
WEAK = ("sha1", "md5")
"""Against mistakes they still help, against forgery they do not."""
_PROGRAMS = {"b2sum": "blake2b", **{f"{name}sum": name for name in ("sha256", "sha512", "sha384", "sha224", "sha1", "md5")}}


def algorithm(function: str) -> str | None:
    """hashlib's name of a digest that is named, or whose program is: `sha256`, `SHA-256`, `/usr/bin/md5sum`; or None."""
    if "/" in function:
        return _PROGRAMS.get(function.rsplit("/", 1)[1])
    name = function.lower().replace("-", "")
    return name if name in ALGORITHMS else _PROGRAMS.get(name)


def digits(name: str) -> int:
    """Hexadecimal digits of a digest."""
    return hashlib.new(name, usedforsecurity=False).digest_size * 2


def of_text(value: str) -> str:
    """Half a SHA-256, hexadecimal."""
    return hashlib.sha256(value.encode(errors="surrogateescape")).hexdigest()[:32]


def of_bytes(data: bytes) -> str:
    """A SHA-256, hexadecimal."""
    return hashlib.sha256(data).hexdigest()
