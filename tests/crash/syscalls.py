"""The system calls that touch the world, as a seccomp filter that stops a traced process before each (x86-64)."""

import ctypes
import os
import struct

_TRACE, _ALLOW = 0x7FF00000, 0x7FFF0000
_NEW = os.O_CREAT | os.O_TRUNC | os.O_TMPFILE & ~os.O_DIRECTORY
_FICLONE = 0x40049409

CALLS = {
    1: "write", 18: "pwrite", 20: "writev", 296: "pwritev", 40: "sendfile", 326: "copy_file_range", 285: "fallocate",
    44: "sendto", 46: "sendmsg", 307: "sendmmsg", 42: "connect",
    2: "open", 257: "openat", 85: "creat", 437: "openat2",
    83: "mkdir", 258: "mkdirat", 84: "rmdir", 87: "unlink", 263: "unlinkat", 86: "link", 265: "linkat", 88: "symlink",
    266: "symlinkat", 82: "rename", 264: "renameat", 316: "renameat2",
    74: "fsync", 75: "fdatasync", 76: "truncate", 77: "ftruncate", 73: "flock", 16: "ioctl",
    90: "chmod", 91: "fchmod", 268: "fchmodat", 92: "chown", 93: "fchown", 94: "lchown", 260: "fchownat",
    56: "clone", 57: "fork", 58: "vfork", 435: "clone3", 59: "execve", 322: "execveat",
}
_FLAGS = {2: (1, _NEW), 257: (2, _NEW)}
"""Which argument must have one of which bits."""
_EQUAL = {16: (1, _FICLONE)}
"""Which argument must have which value."""
ON_DESCRIPTOR = frozenset(("write", "pwrite", "writev", "pwritev", "sendto", "sendmsg", "sendmmsg", "connect", "fsync",
                           "fdatasync", "ftruncate", "flock", "fchmod", "fchown", "ioctl", "fallocate"))
SECOND_PATH = frozenset(("openat", "openat2", "mkdirat", "unlinkat", "symlinkat", "fchmodat", "fchownat"))
FIRST_PATH = frozenset(("open", "creat", "mkdir", "rmdir", "unlink", "chmod", "chown", "lchown", "truncate", "execve"))
BIRTHS = frozenset(("clone", "clone3", "fork", "vfork"))


def _operation(code: int, jump_true: int, jump_false: int, value: int) -> bytes:
    return struct.pack("=HBBI", code, jump_true, jump_false, value)


def _program() -> bytes:
    load, equal, any_bit, give = 0x20, 0x15, 0x45, 0x06
    operations = []
    for number in CALLS:
        argument, code = (_FLAGS[number], any_bit) if number in _FLAGS else (_EQUAL.get(number), equal)
        inside = [_operation(give, 0, 0, _TRACE)]
        if argument is not None:
            index, value = argument
            inside = [_operation(load, 0, 0, 16 + 8 * index), _operation(code, 0, 1, value), *inside,
                      _operation(give, 0, 0, _ALLOW)]
        operations += [_operation(load, 0, 0, 0), _operation(equal, 0, len(inside), number), *inside]
    return b"".join((*operations, _operation(give, 0, 0, _ALLOW)))


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def install() -> None:
    """From now on this process and its children stop before each of the calls; without a tracer the calls fail."""
    program = _program()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(22, 2, ctypes.byref(_Program(len(program) // 8, program)), 0, 0):
        raise OSError(ctypes.get_errno(), "the seccomp filter was refused")
