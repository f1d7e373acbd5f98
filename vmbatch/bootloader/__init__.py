"""A guest's kernel, initrd and kernel line, read out of its disk: what `pygrub-vmbatch` gives to Xen's toolstack."""

import msgspec

KERNEL_LIMIT = 128 << 20
INITRD_LIMIT = 512 << 20
"""Bytes of all initrds together."""
LINE_LIMIT = 1023
"""Bytes of a kernel line: Xen cuts off what is longer without a word (xen/include/public/xen.h, MAX_GUEST_CMDLINE)."""
DAMAGED = 3
"""Exit status of the reader if it must stop while it copies."""
TEXT_LIMIT = 1 << 20
"""Bytes of a file of the boot configuration."""


class Wish(msgspec.Struct, frozen=True):
    """What the toolstack asks for, '' where it leaves the choice to the guest.

    `args` is appended to the kernel line, `default_args` is that line where the guest has none. `kernel` and `ramdisk` are files
    of the guest's, `entry` is the number, the name or the title of a menu entry.
    """

    args: str = ""
    default_args: str = ""
    kernel: str = ""
    ramdisk: str = ""
    entry: str = ""


class Found(msgspec.Struct, frozen=True):
    """What the reader has chosen, and says before it hands over `kernel_size` and then `initrd_size` bytes.

    `where` names the file system and the configuration; `kernel` and `initrds` are paths in there.
    """

    where: str
    title: str
    kernel: str
    initrds: tuple[str, ...]
    args: str
    kernel_size: int
    initrd_size: int


class Refusal(msgspec.Struct, frozen=True):
    """Why there is nothing to boot; `what` continues "the disk ..."."""

    what: str
    hint: str
    detail: tuple[str, ...]
