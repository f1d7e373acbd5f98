"""What the boot configurations of all kinds come to: entries of a menu, and which of them is to be booted."""

import re
from collections.abc import Sequence
from typing import Protocol

import msgspec

from ..format import FormatError

OWN = 0
"""Where the configuration itself lies. Also for what it calls the whole disk, where an old file system may begin."""
_SHOWN = 10


class File(msgspec.Struct, frozen=True):
    """A file in the partition `number` as Linux numbers them, or OWN."""

    number: int
    path: str


class Entry(msgspec.Struct, frozen=True):
    """`names` are all by which the entry can be asked for, its title first."""

    names: tuple[str, ...]
    kernel: File
    initrds: tuple[File, ...] = ()
    args: str = ""


class World(Protocol):
    """What a configuration may ask of the disk; paths are absolute. FormatError."""

    def read(self, file: File) -> str | None:
        """The text of a small file."""

    def exists(self, file: File, kind: str = "") -> bool:
        """Whether there is such a thing; `kind` is file, directory or '' for both."""

    def names(self, directory: File) -> list[str]:
        """Of what is in a directory, none if there is none."""

    def search(self, what: str, value: str) -> int | None:
        """The partition whose file system has this `uuid` or `label`, or that has this `file`."""


def chosen(names: Sequence[Sequence[str]], wanted: str) -> int | None:
    """The entry that a name or number stands for; each is asked for by any of its names."""
    found = next((index for index, each in enumerate(names) if wanted in each), None)
    if found is None and re.fullmatch(r"[0-9]{1,5}", wanted) and int(wanted) < len(names):
        return int(wanted)
    return found


def required(names: Sequence[Sequence[str]], wanted: str) -> int:
    """As `chosen`. FormatError tells what there is."""
    found = chosen(names, wanted)
    if found is None:
        there = ", ".join(shown(each[0]) for each in names[:_SHOWN])
        raise FormatError(f"has no menu entry {shown(wanted)}", f"there are {there}")
    return found


def shown(text: str) -> str:
    """Fit for a message."""
    return repr("".join(letter for letter in text if letter.isprintable())[:100])


def kernel_and_modules(files: Sequence[tuple[File, str]]) -> tuple[File, tuple[File, ...], str]:
    """Of the modules of a menu entry that boots Xen itself: the first is the kernel, with its line, the others are initrds."""
    if not files:
        raise FormatError("has a menu entry for Xen without a kernel for dom0")
    (kernel, args), *initrds = files
    return kernel, tuple(file for file, _ in initrds), args
