"""The guests of the lab, by name; each is a directory of images in the cache."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from . import bare, busybox, debian, stock, sysv
from .cache import built


class Guest(NamedTuple):
    """How a guest is built: what decides whether it must be built again, and what fills its directory."""

    inputs: Sequence[Path]
    build: Callable[[Path], None]


GUESTS = {
    "busybox": Guest(busybox.INPUTS, busybox.build),
    "debian": Guest(debian.INPUTS, debian.build),
    "bare": Guest(bare.INPUTS, bare.build),
    "sysv": Guest(sysv.INPUTS, sysv.build),
    "stock": Guest(stock.INPUTS, stock.build),
}


def directory(name: str) -> Path:
    """The directory with the images of a guest, built first if need be."""
    guest = GUESTS[name]
    return built(name, guest.inputs, guest.build)


def directories() -> dict[str, Path]:
    """All guests."""
    return {name: directory(name) for name in GUESTS}
