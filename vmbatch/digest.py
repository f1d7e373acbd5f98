"""A digest by which a value can be recognised without being kept."""

import hashlib


def of_text(value: str) -> str:
    """Half a SHA-256, hexadecimal."""
    return hashlib.sha256(value.encode(errors="surrogateescape")).hexdigest()[:32]
