"""POSIX access control lists: which one account, by number, may read what is root's.

The bytes are those of Linux's include/uapi/linux/posix_acl_xattr.h: version 2, then (tag, permissions, id) for each entry.
"""

import errno
import os
import stat
import struct

_NAME = "system.posix_acl_access"
_NOBODY = 0xFFFFFFFF
_USER_OBJ, _USER, _GROUP_OBJ, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x10, 0x20
_READ, _WRITE, _SEARCH = 4, 2, 1
_ENTRY = struct.Struct("<HHI")


def let_read(place: str | int, uid: int) -> None:
    """Only its owner can change a file or directory, only the owner and `uid` can read it, from now on.

    OSError where there are no such lists.
    """
    if uid == os.geteuid():
        return
    read = _READ | (_SEARCH if stat.S_ISDIR(os.stat(place).st_mode) else 0)
    entries = ((_USER_OBJ, read | _WRITE, _NOBODY), (_USER, read, uid), (_GROUP_OBJ, 0, _NOBODY), (_MASK, read, _NOBODY),
               (_OTHER, 0, _NOBODY))
    os.setxattr(place, _NAME, struct.pack("<I", 2) + b"".join(_ENTRY.pack(*entry) for entry in entries))


def reader(place: str | int) -> int | None:
    """Whom the list names; None if there is no list. OSError where there are no such lists."""
    try:
        found = os.getxattr(place, _NAME)
    except OSError as error:
        if error.errno == errno.ENODATA:
            return None
        raise
    return next((uid for tag, _, uid in _ENTRY.iter_unpack(found[4:]) if tag == _USER), None)


def shut(place: str | int) -> None:
    """Takes the list away: a file is its owner's alone. OSError."""
    if reader(place) is not None:
        os.removexattr(place, _NAME)
    os.chmod(place, 0o600)


def possible(directory: str) -> bool:
    """Whether the file system there has such lists. OSError."""
    try:
        reader(directory)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return False
        raise
    return True
