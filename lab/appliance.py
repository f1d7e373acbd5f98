"""libguestfs' fixed appliance: the lab's kernel, and this machine's programs. 400 MB, made in a quarter of a minute."""

import os
from pathlib import Path

from . import kernel
from .cache import built
from .place import CLONE
from .process import run

HERE = CLONE / "lab"
INPUTS = [HERE / "appliance.py", HERE / "kernel.py", HERE / "package.py"]


def build(directory: Path) -> None:
    """Fill `directory`. supermin(1): SUPERMIN_KERNEL, SUPERMIN_MODULES; it wants a /lib/modules, be it empty."""
    linux = kernel.kernel()
    Path("/lib/modules").mkdir(exist_ok=True)
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/", "TMPDIR": str(directory),
                   "LIBGUESTFS_BACKEND": "direct", "LIBGUESTFS_BACKEND_SETTINGS": "force_tcg",
                   "SUPERMIN_KERNEL": str(linux.vmlinux), "SUPERMIN_MODULES": str(linux.modules),
                   "SUPERMIN_KERNEL_VERSION": linux.version}
    run(["libguestfs-make-fixed-appliance", directory], env=environment)
    for path in directory.iterdir():
        os.chmod(path, 0o644)


def directory() -> Path:
    """Where it is, made first if need be."""
    return built("appliance", INPUTS, build)
