"""A context by each way, for five small files, for a thousand in an archive, and with one of 50 MB beside them.

What is measured is what comes between the job's disk and the guest's start. ROOTSSH comes after it, and is left out.
"""

import contextlib
import io
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from vmbatch.context.content import Content
from vmbatch.context.medium import Medium
from vmbatch.disk import overlay
from vmbatch.format.name import Form
from vmbatch.guestdisk.inject import Injection, Target
from vmbatch.report.figure import Figure
from vmbatch.resource import Work
from vmbatch.template import TarFile
from vmbatch.units import Deadline

from .beside import against, measure

WORK = Work(Deadline(1e6), lambda: None, lambda _line: None)
MIB = 1 << 20
SIZE = 512 * MIB
ROUNDS = 15
REFERENCE = "CDROM"


def figures() -> Iterator[Figure]:
    """Each way against the medium."""
    with tempfile.TemporaryDirectory(prefix="vmbatch-bench-", dir="/var/tmp") as name:
        directory = Path(name)
        directory.chmod(0o755)
        small = _content(directory)
        tar = directory / "large.tar"
        tar.write_bytes(os.urandom(50_000_000))
        large = _content(directory, TarFile(str(tar), "/opt", 0, False))
        for title, content, rounds in (("five small files", small, ROUNDS), ("50 MB more", large, 5)):
            yield from against(f"A context, {title}", measure({
                REFERENCE: _medium(directory, content),
                "DISK, ext4 on a qcow2 overlay": _disk(directory, content, "ext4", "qcow2", trusted=False),
                "DISK, ext4 on a raw copy": _disk(directory, content, "ext4", "raw", trusted=False),
                "DISK, trusted xfs on a qcow2 overlay": _disk(directory, content, "xfs", "qcow2", trusted=True),
            }, rounds), REFERENCE)
        tar.unlink()
        many = directory / "many.tar"
        _archive(many, 1000)
        one = directory / "one.tar"
        _archive(one, 1)
        yield from against("1,000 files in a tar, on the medium", measure({
            "one file of the same bytes": _medium(directory, _content(directory, TarFile(str(one), "/opt", 0, False))),
            "1,000 files": _medium(directory, _content(directory, TarFile(str(many), "/opt", 0, False))),
        }, ROUNDS), "one file of the same bytes")


def _archive(path: Path, files: int) -> None:
    """4 MB in so many files."""
    with tarfile.open(path, "w") as archive:
        for number in range(files):
            member = tarfile.TarInfo(f"set/{number // 100}/{number}")
            member.size = 4_000_000 // files
            archive.addfile(member, io.BytesIO(os.urandom(member.size)))


def _content(directory: Path, *archives: TarFile) -> Content:
    keys = directory / "keys"
    if not keys.exists():
        keys.mkdir()
        for name in ("id_ed25519", "host_key"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys / name], check=True)
    return Content(parameters={"VMBATCH_JOB": "42.vm", "VMBATCH_TOKEN": "0" * 32}, keys=str(keys), host_key=True, script=None,
                   node_file=None, archives=archives, scripts=())


def _medium(directory: Path, content: Content) -> Callable[[], None]:
    path = directory / "context.iso"

    def make() -> None:
        Medium(str(path), "VMBATCH", content).make(WORK)
        path.unlink()

    return make


def _disk(directory: Path, content: Content, filesystem: str, form: str, *, trusted: bool) -> Callable[[], None]:
    """The disk of a guest with systemd, made anew for each round; an overlay costs nothing, a copy of the empty one little."""
    base = directory / f"{filesystem}.raw"
    if not base.exists():
        _make_base(base, filesystem)
    path = directory / f"job.{form}"
    target = Target(str(path), form, (str(base), "raw") if form == "qcow2" else None, 0, "", trusted, "bench")
    piece = Injection(content, target, None, "", "systemd", str(directory), "nobody", "/nonexistent", True)

    def make() -> None:
        if form == "qcow2":
            overlay.Overlay(str(path), Form("", form), "", str(base), "raw", SIZE).make(WORK)
        else:
            subprocess.run(["cp", "--sparse=always", base, path], check=True)
        piece.make(WORK)
        path.unlink()

    return make


def _make_base(path: Path, filesystem: str) -> None:
    with path.open("xb") as file:
        file.truncate(SIZE)
    path.chmod(0o644)
    subprocess.run([f"mkfs.{filesystem}", "-q", path], check=True)
    with _mounted(path) as root:
        for name in ("etc/systemd/system", "usr/lib/systemd", "usr/local/sbin", "var/lib", "sbin"):
            (root / name).mkdir(parents=True)


@contextlib.contextmanager
def _mounted(path: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as place:
        subprocess.run(["mount", "-o", "loop", path, place], check=True)
        try:
            yield Path(place)
        finally:
            subprocess.run(["umount", place], check=True)

