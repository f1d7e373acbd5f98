"""Names of digests, and how long they are."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmbatch import digest

NAMED = {
    **{name: name for name in ("sha256", "sha512", "sha384", "sha224", "blake2b", "sha1", "md5")},
    "SHA256": "sha256",
    "SHA-256": "sha256",
    "Sha-512": "sha512",
    "MD5": "md5",
    "sha256sum": "sha256",
    "sha512sum": "sha512",
    "sha384sum": "sha384",
    "sha224sum": "sha224",
    "sha1sum": "sha1",
    "md5sum": "md5",
    "b2sum": "blake2b",
    "/usr/bin/sha256sum": "sha256",
    "/usr/bin/b2sum": "blake2b",
    "/usr/bin/md5sum": "md5",
    "/bin/sha1sum": "sha1",
}
DIGITS = {"sha256": 64, "sha512": 128, "sha384": 96, "sha224": 56, "blake2b": 128, "sha1": 40, "md5": 32}


@pytest.mark.parametrize(("function", "name"), NAMED.items())
def test_algorithm(function: str, name: str) -> None:
    assert digest.algorithm(function) == name


@pytest.mark.parametrize(
    "function",
    ["", "/", "crc32", "md4", "sha3_256", "blake2s", "sha-3", "sha256 ", " md5", "sha_256", "cksum", "/usr/bin/cksum",
     "/usr/bin/md5", "/usr/bin/sha256", "/usr/bin/MD5SUM", "/usr/bin/md5sum/", "/usr/bin/md5sum.sh", "shake_128"],
)
def test_no_algorithm(function: str) -> None:
    assert digest.algorithm(function) is None


@pytest.mark.parametrize(("name", "digits"), DIGITS.items())
def test_digits(name: str, digits: int) -> None:
    assert digest.digits(name) == digits == len(hashlib.new(name, usedforsecurity=False).hexdigest())


def test_every_algorithm_is_tested() -> None:
    assert set(digest.ALGORITHMS) == set(DIGITS) == set(NAMED.values())
    assert set(digest.WEAK) == {"sha1", "md5"}


@given(st.text())
def test_only_known_ones(function: str) -> None:
    assert digest.algorithm(function) in (None, *digest.ALGORITHMS)


def test_of_text() -> None:
    assert digest.of_text("") == "e3b0c44298fc1c149afbf4c8996fb924"
    assert digest.of_text("a\udcff") == hashlib.sha256(b"a\xff").hexdigest()[:32]
