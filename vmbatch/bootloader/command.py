"""`pygrub-vmbatch`: called by Xen's toolstack as it calls pygrub, with the guest's disk as the last argument.

libxl (tools/libs/light/libxl_bootloader.c, make_bootloader_args, bootloader_gotptys, parse_bootloader_result) gives an
environment with TERM alone, a terminal whose text goes to /var/log/xen/bootloader.ID.log, and the words `--kernel=`,
`--ramdisk=`, `--args=`, `--runas=UID --quiet`, `--output=FILE`, `--output-format=simple0`, `--output-directory=`, those of
bootloader_args, and the disk, which is always a raw one: libxl shows others as block devices. It reads `kernel PATH`,
`ramdisk PATH` and `args LINE` out of the file, each with a NUL behind it. libvirt hands over all of <bootloader_args> as one
word (src/libxl/libxl_conf.c, g_strsplit with a separator of three characters).

xend (tools/python/xen/xend/XendBootloader.py) makes `--output` a FIFO and waits until somebody opens it; it reads an
S-expression.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shlex
import signal
import stat
import sys
import time
from collections.abc import Iterator, Sequence

import msgspec

from ..config import OPTIONS, parse
from ..errors import JobError, NodeError, SiteError, VmBatchError
from ..host import file
from ..native import CONFIG
from ..units import Deadline
from . import Found, Wish
from .load import SECONDS, boot_of, look

USAGE = (
    "Usage: pygrub-vmbatch [--output=FILE] [--output-format=sxp|simple|simple0] [--output-directory=DIRECTORY] [--args=LINE]\n"
    "       [--default_args=LINE] [--entry=ENTRY] [--kernel=PATH [--ramdisk=PATH]] [--runas=UID] [-q] [-n] DISK\n"
)
VALUES = ("output", "output-format", "output-directory", "args", "default_args", "entry", "kernel", "ramdisk", "runas")
FLAGS = {"-q": "quiet", "--quiet": "quiet", "-n": "not-really", "--not-really": "not-really"}
_FORMATS = ("sxp", "simple", "simple0")
_DIRECTORIES = ("/var/run/xend/boot", "/run/xen/pygrub")
"""Where xend and libxl expect the files if nothing is said."""
_FIFO_SECONDS, _RELEASE_SECONDS = 0.05, 10.0


class Call(msgspec.Struct, frozen=True):
    """The command line. `output` '' is standard output."""

    disk: str
    wish: Wish
    output: str = ""
    form: str = "sxp"
    directory: str = ""
    uid: int | None = None
    dry: bool = False


def main() -> None:
    """Exit status 0, or 1 and why on standard error."""
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGHUP, _stop)
    if sys.argv[1:] in (["-h"], ["--help"]):
        sys.stdout.write(USAGE)
        sys.exit(0)
    try:
        try:
            call = arguments(sys.argv[1:])
        except SiteError:
            _release(sys.argv[1:])
            raise
        run(call)
    except VmBatchError as error:
        first, *rest = error.lines()
        for line in (error.coded(first), *rest):
            sys.stderr.write(f"pygrub-vmbatch: {line}\n")
        sys.exit(1)
    except OSError as error:
        sys.stderr.write(f"pygrub-vmbatch: {error.filename or 'the disk'}: {error.strerror}\n")
        sys.exit(1)


def _stop(number: int, frame: object) -> None:
    sys.exit(128 + number)


def arguments(words: Sequence[str]) -> Call:
    """SiteError for what is not known: it comes from an admin's template."""
    values: dict[str, str] = {}
    flags: set[str] = set()
    disks: list[str] = []
    todo = [part for word in words for part in _parted(word)]
    while todo:
        word = todo.pop(0)
        name, sign, value = word.removeprefix("--").partition("=")
        if word in FLAGS:
            flags.add(FLAGS[word])
        elif word.startswith("--") and name in VALUES:
            if not sign and not todo:
                raise SiteError(f"{word} needs a value", USAGE.strip(), code="VB712")
            values[name] = value if sign else todo.pop(0)
        elif word.startswith("-") and len(word) > 1:
            raise SiteError(f"{word} is no option of pygrub-vmbatch", "see pygrub-vmbatch(8) and the domain's <bootloader_args>",
                            code="VB712")
        else:
            disks.append(word)
    if len(disks) != 1:
        raise SiteError("one disk is needed" if not disks else f"one disk is needed, and not {' '.join(disks)}", USAGE.strip(),
                        code="VB712")
    if values.get("output-format", "sxp") not in _FORMATS:
        raise SiteError(f"{values['output-format']!r} is no format for the output", f"there are {', '.join(_FORMATS)}",
                        code="VB712")
    uid = values.get("runas")
    if uid is not None and not re.fullmatch(r"[1-9][0-9]{0,8}", uid, re.ASCII):
        raise SiteError(f"--runas={uid} is no uid without rights", code="VB712")
    wish = Wish(**{name: values.get(name, "") for name in Wish.__struct_fields__})
    for name in Wish.__struct_fields__:
        if not getattr(wish, name).isprintable():
            raise SiteError(f"--{name} has characters that cannot be printed", code="VB712")
    if wish.ramdisk and not wish.kernel:
        raise SiteError("--ramdisk needs --kernel", code="VB712")
    output = values.get("output", "-")
    return Call(disks[0], wish, "" if output == "-" else output, values.get("output-format", "sxp"),
                values.get("output-directory", ""), int(uid) if uid else None, "not-really" in flags)


def _release(words: Sequence[str]) -> None:
    """Of words that are wrong: xend waits at the FIFO that they name, and is not to wait for ever."""
    path = next((word.partition("=")[2] for word in words if word.startswith("--output=")), "")
    with contextlib.suppress(VmBatchError, OSError), _output("" if path == "-" else path, Deadline(_RELEASE_SECONDS)):
        pass


def _parted(word: str) -> list[str]:
    """A word in which libvirt has left several options; what the toolstack says itself is one, whatever is in it."""
    if not re.match(r"-\S*\s", word) or re.match(r"--(?:args|default_args|kernel|ramdisk|output|output-directory)=", word):
        return [word]
    try:
        return shlex.split(word)
    except ValueError:
        raise SiteError(f"{word!r} cannot be read as options", "a quote in <bootloader_args> does not end",
                        code="VB712") from None


def run(call: Call) -> None:
    """Finds, copies and says what is to be booted."""
    deadline = Deadline(SECONDS)
    with _output(call.output, deadline) as out:
        account = call.uid if call.uid is not None else _account()
        disk = os.open(call.disk, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        try:
            if call.dry:
                found = look(disk, call.wish, account=account, deadline=deadline)
                text = formatted(call.form, f"<kernel:{found.kernel}>", _named(found), found.args)
            else:
                boot = boot_of(disk, _directory(call), call.wish, account=account, deadline=deadline)
                found = boot.found
                text = formatted(call.form, boot.kernel, boot.initrd, boot.args)
        finally:
            os.close(disk)
        if call.output:
            sys.stderr.write(f"pygrub-vmbatch: {found.where}: {found.title}: {found.kernel} {' '.join(found.initrds)}\n")
        _write(out, text.encode("utf-8", "surrogateescape"))


def _named(found: Found) -> str:
    return f"<ramdisk:{','.join(found.initrds)}>" if found.initrds else ""


def _account() -> str:
    """Of the site's configuration, where there is one."""
    if os.path.exists(CONFIG):
        return parse(file.read_trusted(CONFIG), CONFIG).images_account
    return str(OPTIONS["images.account"].default)


def _directory(call: Call) -> str:
    if call.directory:
        return call.directory
    found = next((path for path in _DIRECTORIES if os.path.isdir(path)), "")
    if not found:
        raise SiteError("there is no directory for kernel and initrd", "use --output-directory", code="VB712")
    return found


@contextlib.contextmanager
def _output(path: str, deadline: Deadline) -> Iterator[int]:
    """Opened at once, and closed in any case: xend waits at its end of the FIFO until then."""
    if not path:
        yield 1
        return
    fd = _opened(path, deadline)
    try:
        yield fd
    finally:
        os.close(fd)


def _opened(path: str, deadline: Deadline) -> int:
    while True:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError as error:
            if error.errno != errno.ENXIO or deadline.passed():
                raise NodeError(f"{path} cannot be written to: {error.strerror}", code="VB906") from None
            time.sleep(_FIFO_SECONDS)
            continue
        os.set_blocking(fd, True)
        mode = os.fstat(fd).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISFIFO(mode) and not stat.S_ISCHR(mode):
            os.close(fd)
            raise SiteError(f"{path} is not a file for the output", code="VB712")
        return fd


def formatted(form: str, kernel: str, ramdisk: str, args: str) -> str:
    """As the toolstack reads it: nothing of a guest's can end a value."""
    values = [(name, value) for name, value in (("kernel", kernel), ("ramdisk", ramdisk), ("args", args)) if value]
    if not all(value.isprintable() for _, value in values):
        raise JobError("kernel line or paths have characters that cannot be printed", code="VB711")
    if form == "sxp":
        return "linux " + "".join(f"({name} {_string(value)})" for name, value in values)
    end = "\0" if form == "simple0" else "\n"
    return "".join(f"{name} {value}{end}" for name, value in values) + end


def _string(text: str) -> str:
    """xend's strings know these two escapes, among others (tools/python/xen/xend/sxp.py)."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
