"""What the node's store knows of an image, and by which key."""

import hashlib

import msgspec

from ..template import Checksum, ImageSource


class Validators(msgspec.Struct, frozen=True):
    """By which a server knows the state of an object again; empty where it gave none."""

    url: str
    etag: str
    last_modified: str


class Stamp(msgspec.Struct, frozen=True):
    """A file as it was when its content was checked."""

    device: int
    inode: int
    size: int
    mtime_ns: int


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """An image in the store: `content` is the SHA-256 by which it is addressed, `size` is what the guest sees, in bytes.

    `checked`: when its source was last asked, in seconds since 1970. `published`: digests of what came over the net, where that
    was packed or converted. `origin` is what people read: a URL or a user's path.
    """

    origin: str
    format: str
    size: int
    content: str
    published: dict[str, str]
    validators: Validators | None
    stamp: Stamp
    checked: float
    signer: str = ""


def key(source: ImageSource, more: str = "") -> str:
    """By which an image is found: from where, how it is read, which digest it must have; `more` is what else matters."""
    text = msgspec.json.encode([source.places, source.format, source.compression, source.checksum, more])
    return hashlib.sha256(text).hexdigest()[:32]


def fits(record: Record, checksum: Checksum | None) -> bool:
    """Whether the digest that a template asks for is one that was computed."""
    return checksum is None or record.published.get(checksum.function) == checksum.value
