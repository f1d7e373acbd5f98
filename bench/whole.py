"""A whole job, `true`, on an image of 4 GB: ours, and as a plain script the way of the published VM-Service, which copies it."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

from lab.domain import Parts, domain
from lab.mom import Mom
from vmbatch.report.figure import Figure

from . import resume, site
from .beside import against, measure

_SIZE = 4_000_000_000
_PIECE = 1 << 20
_SCRIPT = Path(__file__).with_name("vmservice.sh")
_MAC = "52:54:00:99:00:04"
_REFERENCE = "VM-Service's way: copy, mount, boot, ssh, destroy, mount"
_QUEUE, _SAVED = "benchwhole", "benchwholesaved"


def figures(rounds: int = 3) -> Iterator[Figure]:
    """Debian with systemd, from prologue to epilogue's end."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/var/lib/vmbatch") as name:  # on a disk, and root's all the way
        directory = Path(name)
        directory.chmod(0o755)
        xml = site.template("debian")
        source = re.search(r"source='([^']+/disk\.raw)'", xml)
        if source is None:
            raise RuntimeError("debian.xml has no disk.raw")
        image = directory / "image.raw"
        _fill(Path(source[1]), image)
        published = _published(image, Path(source[1]).parent, directory)
        own = xml.replace(source[1], str(image))
        with site.changed(templates={_QUEUE: own, _SAVED: resume.resumed(own)}):
            resume.save(_SAVED)
            seconds = measure({"cold boot, overlay": lambda: _job(_QUEUE), "from a saved guest": lambda: _job(_SAVED),
                               _REFERENCE: published}, rounds)
    yield from against("A whole job, `true`, on an image of 4 GB", seconds, _REFERENCE,
                       {"cold boot, overlay": 0.5, "from a saved guest": 0.1})


def _job(queue: str) -> None:
    ended = Mom().run(b"#!/bin/sh\nexec true\n", queue=queue)
    if ended.verdict != "run" or ended.status or ended.epilogue:
        raise RuntimeError(f"{ended.verdict} {ended.status} {ended.epilogue} {ended.errors.decode()}")


def _fill(source: Path, image: Path) -> None:
    """Debian's disk, with a host key, and more behind its file system: no hole in it, as in an image that was installed."""
    subprocess.run(["cp", "--sparse=never", source, image], check=True)
    image.chmod(0o644)
    with image.open("ab") as file:
        while file.tell() < _SIZE:
            file.write(os.urandom(min(_PIECE, _SIZE - file.tell())))
    root = image.with_name("root")
    root.mkdir()
    subprocess.run(["mount", "-o", "loop,offset=1048576", image, root], check=True)
    try:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", root / "etc/ssh/ssh_host_ed25519_key"], check=True)
    finally:
        subprocess.run(["umount", root], check=True)


def _published(image: Path, images: Path, directory: Path) -> Callable[[], None]:
    """The script, with a guest as large as ours."""
    work = directory / "work"
    root = ElementTree.fromstring(domain(  # noqa: S314 (our own)
        "vmservice", 512, Parts(images, work / "disk.raw", None, directory / "console.log", "")))
    for path, attribute, value in (("devices/disk/driver", "type", "raw"), ("devices/disk/driver", "cache", "unsafe")):
        _found(root, path).set(attribute, value)
    _found(root, "vcpu").text = "2"
    ElementTree.SubElement(_found(root, "devices/interface"), "mac", address=_MAC)
    xml = directory / "domain.xml"
    xml.write_bytes(ElementTree.tostring(root))

    def run() -> None:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(mode=0o755)
        try:
            subprocess.run([_SCRIPT, image, xml, _MAC, work], check=True, timeout=300)
        except BaseException:
            subprocess.run(["virsh", "-q", "destroy", "vmservice"], check=False, stderr=subprocess.DEVNULL)
            subprocess.run(["umount", work / "root"], check=False, stderr=subprocess.DEVNULL)
            raise

    return run


def _found(root: ElementTree.Element, path: str) -> ElementTree.Element:
    found = root.find(path)
    if found is None:
        raise RuntimeError(f"the lab's domain has no {path}")
    return found
