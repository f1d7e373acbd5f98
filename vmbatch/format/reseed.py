"""A program for guests that has their kernel take its random numbers from a new seed, which no POSIX shell can ask for.

Written to the bytes of /dev/urandom, a seed only waits: the kernel goes on with what it has, for up to a minute. All guests that
are made of one saved guest would have the same random numbers so long.
"""

import struct

_OPEN, _IOCTL, _EXIT = 2, 16, 60
_RNDRESEEDCRNG = 0x5207
"""linux/random.h, _IO('R', 0x07); Linux 4.14 and later."""
_PATH = b"/dev/urandom\0"
_BASE = 0x400000
_HEADERS = 64 + 56


def program() -> bytes:
    """A static ELF executable for Linux on x86-64: opens the device, asks, and exits with the error's number, or 0."""
    before = b"\xb8" + struct.pack("<I", _OPEN)  # mov eax, open
    after = b"".join((
        b"\x31\xf6",  # xor esi, esi: for reading
        b"\x0f\x05",  # syscall
        b"\x89\xc7",  # mov edi, eax: the descriptor
        b"\xbe" + struct.pack("<I", _RNDRESEEDCRNG),  # mov esi, request
        b"\xb8" + struct.pack("<I", _IOCTL),  # mov eax, ioctl
        b"\x0f\x05",  # syscall
        b"\x89\xc7\xf7\xdf",  # mov edi, eax; neg edi: what went wrong
        b"\xb8" + struct.pack("<I", _EXIT),  # mov eax, exit
        b"\x0f\x05",  # syscall
    ))
    code = before + b"\x48\x8d\x3d" + struct.pack("<i", len(after)) + after + _PATH  # lea rdi, path: it follows the code
    size = _HEADERS + len(code)
    elf = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return elf + segment + code
