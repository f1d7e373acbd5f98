"""The programs that VmBatch starts: those that these settings and templates need, and the package of each."""

import os
from collections.abc import Iterator

from ..disk.blank import MAKERS
from ..format.name import parse_form
from ..host import process
from ..template import BlankSource
from .finding import Check, Finding, Site, error, ok

_ALWAYS = {"setpriv": "util-linux", "prlimit": "util-linux", "ssh": "openssh-client", "ssh-keygen": "openssh-client"}
_IN_DISKS = {"qemu-storage-daemon": "qemu-system-common", "debugfs": "e2fsprogs", "e2fsck": "e2fsprogs", "dumpe2fs": "e2fsprogs",
             "mcopy": "mtools", "mount": "mount", "unshare": "util-linux"}
_MAKERS = {"mkfs.xfs": "xfsprogs", "mkfs.vfat": "dosfstools", "mkswap": "util-linux"}


def needed(site: Site) -> dict[str, str]:
    """Debian's package of each program that is needed here."""
    config = site.config
    found = dict(_ALWAYS)
    for form in site.templates:
        if form.method == "DISK":
            found |= _IN_DISKS
        if form.type == "xen":
            found |= {"xl": "xen-utils-4.17", "losetup": "mount"}
        for tag in form.disks:
            if tag.user is not None:
                found |= {"qemu-img": "qemu-utils"}
            if isinstance(tag.source, BlankSource) and tag.source.filesystem:
                maker = MAKERS[tag.source.filesystem][0]
                found[maker] = _MAKERS.get(maker, "e2fsprogs")
                if parse_form(tag.source.form).format != "raw":
                    found["qemu-img"] = "qemu-utils"
    if config.userimages_signers:
        found["openssl"] = "openssl"
    return found


def tools(site: Site) -> Iterator[Finding]:
    """Whether each is there, where VmBatch looks: not by the PATH of whoever asks."""
    wanted = needed(site)
    missing = [name for name in wanted if process.find(name) is None]
    for name in missing:
        yield error(f"{name} is not in {process.ENVIRONMENT['PATH']}", f"install it (Debian: {wanted[name]})")
    for path in (*site.config.images_hash_programs, *filter(None, (site.config.requests_qstat,))):
        if not os.access(path, os.X_OK):
            missing.append(path)
            yield error(f"{path} is not there, or cannot be executed", "install it, or correct vmbatch.conf")
    if not missing:
        yield ok(f"all are there: {' '.join(sorted(wanted))}")


CHECKS = (Check("tools", "whether the programs are there that settings and templates need", tools),)
