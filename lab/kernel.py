"""Debian's kernels as they boot quickest under emulation: an ELF image, and modules without debug data."""

import lzma
import struct
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from .cache import built
from .package import fetch, resolve, unpack
from .place import CLONE
from .process import run, run_bytes

_LZ4_LEGACY = b"\x02\x21\x4c\x18"
_XZ = b"\xfd7zXZ\0"
_TRACING = (".BTF", ".comment", ".orc_unwind", ".orc_unwind_ip", "__mcount_loc", "_ftrace_events", "_ftrace_eval_map")


class Kernel:
    """A directory with `vmlinux` and `lib/modules/VERSION/`."""

    def __init__(self, directory: Path) -> None:
        self.vmlinux = directory / "vmlinux"
        self.modules = next((directory / "lib/modules").iterdir())
        self.version = self.modules.name

    def files(self, names: Iterable[str]) -> list[Path]:
        """The module files of the names and all they need, in the order of loading; built-in names need none."""
        needs = {}
        for line in (self.modules / "modules.dep").read_text().splitlines():
            path, _, after = line.partition(":")
            needs[module_name(path)] = [path, *after.split()]
        built_in = {module_name(line) for line in (self.modules / "modules.builtin").read_text().splitlines()}
        order: dict[str, None] = {}
        for name in names:
            if name not in built_in:
                order.update(dict.fromkeys(reversed(needs[name])))  # modules.dep names the nearest dependency first
        return [self.modules / path for path in order]


def module_name(path: str) -> str:
    """As the kernel names the module of a file, or of what is built in."""
    return path.rsplit("/", 1)[-1].split(".ko")[0].replace("-", "_")


def copy_module(source: Path, target: Path) -> None:
    """Copy without signature and without what only debuggers and tracers read: loading takes a fifth of the time under TCG.

    The unwinder's tables are sorted at load, functions that can be traced are listed, and each trace event gets its files.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    run(["objcopy", "--strip-unneeded", *(word for section in _TRACING for word in ("-R", section)), source, target])


def extract(image: bytes) -> bytes:
    """The ELF kernel inside a bzImage, which QEMU starts by PVH without the guest unpacking it.

    Linux Documentation/arch/x86/boot.rst: setup sectors at 0x1f1, payload offset and length at 0x248, counted from the
    protected-mode code. The payload ends with its unpacked length in 4 bytes.
    """
    start = ((image[0x1F1] or 4) + 1) * 512
    offset, length = struct.unpack_from("<II", image, 0x248)
    payload = image[start + offset : start + offset + length - 4]
    if payload.startswith(_LZ4_LEGACY):
        kernel = run_bytes(["lz4", "-d", "-c", "-"], stdin=payload)
    elif payload.startswith(_XZ):
        kernel = lzma.decompress(payload, lzma.FORMAT_XZ)
    else:
        raise ValueError(f"kernel packed in an unknown way: {payload[:8].hex()}")
    if not kernel.startswith(b"\x7fELF"):
        raise ValueError("what the bzImage holds is not an ELF kernel")
    return kernel


def _build(metapackage: str, directory: Path) -> None:
    packages = [package for package in resolve([metapackage]) if package.name.startswith("linux-image-6")]
    tree = directory / "tree"
    tree.mkdir()
    unpack(fetch(packages), tree)
    (image,) = (tree / "boot").glob("vmlinuz-*")
    (directory / "vmlinux").write_bytes(extract(image.read_bytes()))
    (directory / "lib").mkdir()
    (tree / "lib/modules").rename(directory / "lib/modules")
    run(["rm", "-rf", tree])
    (modules,) = (directory / "lib/modules").iterdir()
    run(["depmod", "-b", directory, modules.name])


def kernel() -> Kernel:
    """The kernel of all guests but one."""
    return _built("kernel", "linux-image-cloud-amd64")


def generic() -> Kernel:
    """Debian's kernel for all machines: it has 9p, which the cloud kernel lacks, and costs a guest half a second more."""
    return _built("generic", "linux-image-amd64")


def _built(kind: str, metapackage: str) -> Kernel:
    here = CLONE / "lab"
    return Kernel(built(kind, [here / "kernel.py", here / "package.py"], partial(_build, metapackage)))
