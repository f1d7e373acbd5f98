"""The templates of examples/domains in the lab: what of each is replaced, and what is put where it looks for images.

A replacement that finds nothing to replace is an error, so that the table stays true.
"""

import shutil
import subprocess
from pathlib import Path

from lab.domain import QUICK

from .matrix import PATIENCE, directory

FOLDER = Path(__file__).resolve().parents[2] / "examples/domains"
IMAGES = Path("/var/lib/vmbatch/images")
"""Where the examples have the site's images."""

Changes = dict[str, str]
EMULATED = {"<domain type='kvm'>": "<domain type='qemu'>", ">KVM<": ">QEMU<",
            "<cpu mode='host-passthrough'/>":
                "<cpu mode='custom' match='exact' check='none'><model fallback='allow'>qemu64</model></cpu>"}
"""The lab has no KVM."""
NETWORK = {"<source network='default'/>": "<source network='lab'/>"}


def booting(guest: str, line: str = "root=/dev/vda1 rw") -> Changes:
    """The lab's images have no boot loader, so that the node has the kernel; and its guests are small."""
    images = directory(guest)
    kernel = f"<kernel>{images}/vmlinux</kernel><initrd>{images}/initrd.cpio</initrd><cmdline>{QUICK} {PATIENCE} {line}</cmdline>"
    return {"<boot dev='hd'/>": kernel, "<memory unit='GiB'>4</memory>": "<memory unit='MiB'>768</memory>"}


def text(name: str, changes: Changes) -> str:
    """An example with its replacements made."""
    found = (FOLDER / f"{name}.xml").read_text()
    for old, new in changes.items():
        assert old in found, f"{name}.xml has no {old}"
        found = found.replace(old, new)
    return found


def place(name: str, guest: str, disk: str = "disk.raw") -> Path:
    """A disk of a lab's guest as the image `name` in the examples' directory, in the format of its name."""
    return convert(directory(guest) / disk, IMAGES / name)


def convert(source: Path, target: Path) -> Path:
    """A raw image in the format that the target's name ends in, for all to read."""
    form = {".raw": "raw", ".qcow2": "qcow2", ".vhd": "vpc"}[target.suffix]
    IMAGES.mkdir(parents=True, exist_ok=True)
    if form == "raw":
        shutil.copyfile(source, target)
    else:
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", form, source, target], check=True)
    target.chmod(0o644)
    return target
