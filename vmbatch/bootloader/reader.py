"""The process that reads a guest's disk: without rights, with an open disk and a pipe, and with no way to open anything else.

    python -I -m vmbatch.bootloader.reader DISK-DESCRIPTOR SIZE WISH

writes a line of JSON, {"found": Found} and behind it the kernel's and the initrd's bytes, or {"refusal": Refusal}. What is
found to be damaged when it is copied is said on stderr, with the exit status DAMAGED.
Several initrds follow each other at multiples of four bytes, as the kernel's early user space asks
(Documentation/driver-api/early-userspace/buffer-format.rst).
"""

import os
import resource
import sys

import msgspec

from ..format import FormatError
from ..format.foreign import signature
from . import DAMAGED, Found, Refusal, Wish
from .choice import Choice, NothingError, Source, choose

_ALIGNMENT = 4


def main() -> None:
    """Reads, says what it found, and hands it over."""
    disk, size, wish = int(sys.argv[1]), int(sys.argv[2]), msgspec.json.decode(sys.argv[3].encode(), type=Wish)
    _confine()
    encode = msgspec.json.Encoder().encode

    def read(offset: int, length: int) -> bytes:
        return os.pread(disk, length, offset) if length > 0 and offset < 1 << 62 else b""

    try:
        kind = signature(read, size)
        if kind:
            raise FormatError(f"is not a raw disk but {kind}", "state its format in the domain's XML, and Xen shows it raw")
        choice = choose(read, size, wish)
    except FormatError as error:
        detail = error.detail if isinstance(error, NothingError) else ()
        _say(encode({"refusal": Refusal(_plain(error.what), _plain(error.hint), tuple(map(_plain, detail)))}))
    except OSError as error:
        _say(encode({"refusal": Refusal(f"cannot be read: {error.strerror}", "", ())}))
    except (RecursionError, MemoryError):
        _say(encode({"refusal": Refusal("has a boot configuration or a file system that is too deep or too large", "", ())}))
    else:
        _say(encode({"found": _found(choice)}))
        _hand_over(choice)


def _hand_over(choice: Choice) -> None:
    try:
        _copy(choice.kernel)
        for number, source in enumerate(choice.initrds, 1):
            _copy(source)
            if number < len(choice.initrds):
                _put(bytes(-source.node.size % _ALIGNMENT))
    except (FormatError, OSError) as error:
        text = error.what if isinstance(error, FormatError) else f"cannot be read: {error.strerror}"
        os.write(2, _plain(text).encode())
        sys.exit(DAMAGED)


def _confine() -> None:
    """No descriptor, process or file of any size from now on (setrlimit(2)); all modules must be there by now."""
    for what in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(what, (0, 0))


def _found(choice: Choice) -> Found:
    sizes = [source.node.size for source in choice.initrds]
    padded = sum(size + -size % _ALIGNMENT for size in sizes[:-1]) + sum(sizes[-1:])
    return Found(_plain(choice.where), _plain(choice.title), choice.kernel.path, tuple(source.path for source in choice.initrds),
                 choice.args.replace("\t", " ").strip(), choice.kernel.node.size, padded)


def _plain(text: str) -> str:
    """What a terminal may get."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:500]


def _copy(source: Source) -> None:
    for piece in source.system.content(source.node):
        _put(piece)


def _say(line: bytes) -> None:
    _put(line + b"\n")


def _put(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


if __name__ == "__main__":
    main()
