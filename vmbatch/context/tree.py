"""The files of a job's context, however they get into the guest."""

import msgspec


class Entry(msgspec.Struct, frozen=True):
    """A regular file: `name` is relative, its content is `data`, or that of the node's file `source` when it is delivered."""

    name: str
    mode: int
    data: bytes = b""
    source: str = ""
