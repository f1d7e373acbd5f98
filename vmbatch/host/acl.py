"""POSIX access control lists: who else may read a directory of root's, one account by number.

The bytes are those of Linux's include/uapi/linux/posix_acl_xattr.h: version 2, then (tag, permissions, id) for each entry.
"""

import os
import struct

_NAME = "system.posix_acl_access"
_NOBODY = 0xFFFFFFFF
_USER_OBJ, _USER, _GROUP_OBJ, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x10, 0x20
_READ_SEARCH, _ALL = 5, 7


def let_read(directory: str | int, uid: int) -> None:
    """Only root can change the directory, only root and `uid` can list and enter it. OSError where there are no such lists."""
    entries = ((_USER_OBJ, _ALL, _NOBODY), (_USER, _READ_SEARCH, uid), (_GROUP_OBJ, 0, _NOBODY),
               (_MASK, _READ_SEARCH, _NOBODY), (_OTHER, 0, _NOBODY))
    os.setxattr(directory, _NAME, struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries))
