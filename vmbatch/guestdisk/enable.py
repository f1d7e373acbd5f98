"""What makes a guest run its context: the program vmbatch-guest, and what its init needs to start it before and after sshd."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

import msgspec

from ..format import FormatError
from .files import File, Guest, Item, Link, parents

PROGRAM = "/usr/local/sbin/vmbatch-guest"
BASE = "/var/lib/vmbatch"
MEDIUM = f"{BASE}/medium"
INITS = ("systemd", "sysv", "busybox")
_KIT = os.path.join(os.path.dirname(os.path.dirname(__file__)), "kit/guest")
_LEVELS = (2, 3, 4, 5)
_INITTAB, _RCS, _FSTAB, _SELINUX = "/etc/inittab", "/etc/init.d/rcS", "/etc/fstab", "/etc/selinux/config"
_OWN_INITS = ("/sbin/init", "/init", _RCS, _INITTAB, "/etc/rc.local")
_SYSTEMD = ("/usr/lib/systemd/systemd", "/lib/systemd/systemd")
_LABELS = (
    (PROGRAM, "bin_t"), ("/etc/systemd/", "systemd_unit_file_t"), ("/etc/init.d/", "initrc_exec_t"), ("/etc/", "etc_t"),
    ("/var/lib/", "var_lib_t"), ("/usr/", "usr_t"),
)
"""Types of the targeted policy, as restorecon would give them: the first prefix of a path counts."""
_SCRIPTS = re.compile(r"(/etc/(?:[A-Za-z0-9_.-]+/)*)S(?:\?|\[0-9\]){2}\*")
_DEVICE = re.compile(r"/dev/(?:[A-Za-z0-9+_.-]+/)?[A-Za-z0-9+_.-]+")
_SSHD = re.compile(r"(?<![\w-])(?:sshd|dropbear)(?![\w-])")
_FUNCTION = re.compile(r"\s*(?:function\s+([\w-]+)|([\w-]+)\s*\(\s*\))")
_REDIRECTION = re.compile(r"\s*exec\s+[0-9]*[<>]")
_HERE = re.compile(r"(?<!<)<<-?\s*['\"]?([\w.-]+)")
_OPENING, _CLOSING = ("if", "case", "do", "{"), ("fi", "esac", "done", "}")

LOOKED_AT = (
    *_OWN_INITS, *_SYSTEMD, _FSTAB, _SELINUX, "/bin/busybox", "/usr/bin/busybox", "/etc/init.d", "/etc/init.d/.depend.start",
    "/etc/systemd/system", PROGRAM, *(f"/etc/rc{level}.d" for level in _LEVELS),
)
"""All that `items` asks about, for a guest that is looked at in one go."""


def items(guest: Guest, init: str, jobdisk: str = "") -> tuple[Item, ...]:
    """The program and what starts it; `init` is one of INITS, or '' to recognise it.

    `jobdisk` is the guest's name of the device on which job/ and tar/ of the context lie, in the directory /vmbatch; '' for none.
    FormatError where there is no way.
    """
    guest.look(LOOKED_AT)
    found = [_kit("vmbatch-guest", PROGRAM, 0o755)]
    if jobdisk:
        if not _DEVICE.fullmatch(jobdisk):
            raise ValueError(f"{jobdisk!r} is no device")
        found.append(File(f"{MEDIUM}/jobdisk", 0o644, f"{jobdisk}\n".encode()))
    if not _runs_it_already(guest):
        found += {"systemd": _systemd, "sysv": _sysv, "busybox": _busybox}[init or recognised(guest)](guest)
    return tuple(found)


def labelled(guest: Guest, things: Iterable[Item]) -> tuple[Item, ...]:
    """The items with the labels that SELinux wants before restorecon has run, where the guest has SELinux on."""
    enabled = re.search(r"^SELINUX=(enforcing|permissive)\s*$", guest.read(_SELINUX), re.MULTILINE)
    return tuple(msgspec.structs.replace(item, label=_label(item.path)) if enabled else item for item in things)


def check_mounts(guest: Guest, paths: Iterable[str]) -> None:
    """FormatError if the guest's /etc/fstab mounts something over what is to be put at the paths."""
    above = {parent: path for path in paths for parent in parents(path)}
    for line in guest.read(_FSTAB).splitlines():
        fields = line.split()
        if len(fields) < 3 or fields[0].startswith("#"):
            continue
        point = fields[1].rstrip("/")
        if point in above and "noauto" not in fields[3:4]:
            raise FormatError(f"has another file system on {point} (/etc/fstab), which would hide {above[point]}",
                              "the DISK method needs all but home directories and data on the root file system")


def recognised(guest: Guest) -> str:
    """One of INITS, by what /sbin/init is, not by what lies about: Debian's packages bring units and boot scripts alike."""
    real = guest.real("/sbin/init")
    last = real.rpartition("/")[2]
    if last == "systemd":
        return "systemd"
    if last == "busybox":
        return "busybox"
    if any(guest.real(f"/etc/rc{level}.d") for level in _LEVELS) and guest.real("/etc/init.d"):
        return "sysv"
    if not real and any(guest.real(path) for path in _SYSTEMD):
        return "systemd"
    if guest.real(_RCS) and any(guest.real(path) for path in ("/bin/busybox", "/usr/bin/busybox")):
        return "busybox"
    raise FormatError(f"has no init that VmBatch knows ({real or 'no /sbin/init'})",
                      "say init='systemd', 'sysv' or 'busybox' in the <vbdisk>, name another partition, or install VmBatch's kit")


def _kit(name: str, path: str, mode: int) -> Item:
    with open(os.path.join(_KIT, name), "rb") as opened:
        return File(path, mode, opened.read())


def _runs_it_already(guest: Guest) -> bool:
    """Whether a boot script of the image's own starts the program."""
    return any("vmbatch-guest prolog" in guest.read(path) for path in _OWN_INITS)


def _systemd(guest: Guest) -> list[Item]:
    if not guest.real("/etc/systemd/system"):
        raise FormatError("has no /etc/systemd/system, so nothing can be enabled for systemd",
                          "see init= and partition= of the <vbdisk>")
    found: list[Item] = []
    for unit in ("vmbatch-prolog.service", "vmbatch-epilog.service"):
        found += [_kit(unit, f"/etc/systemd/system/{unit}", 0o644),
                  Link(f"/etc/systemd/system/multi-user.target.wants/{unit}", f"../{unit}")]
    return found


def _sysv(guest: Guest) -> list[Item]:
    """S00, as Debian's insserv numbers from 01. Debian's rc starts by .depend.start alone, unless .legacy-bootordering is there
    (sysv-rc, /etc/init.d/rc): then in the order of the names."""
    levels = [level for level in _LEVELS if guest.real(f"/etc/rc{level}.d")]
    if not levels or not guest.real("/etc/init.d"):
        raise FormatError("has no /etc/init.d and /etc/rc2.d to /etc/rc5.d, so nothing can be enabled for SysV init",
                          "see init= and partition= of the <vbdisk>")
    found = _init_scripts("/etc/init.d/vmbatch-prolog", "/etc/init.d/vmbatch-epilog")
    for level in levels:
        found += [Link(f"/etc/rc{level}.d/S00vmbatch-prolog", "../init.d/vmbatch-prolog"),
                  Link(f"/etc/rc{level}.d/S99vmbatch-epilog", "../init.d/vmbatch-epilog")]
    if guest.real("/etc/init.d/.depend.start"):
        found.append(File("/etc/init.d/.legacy-bootordering", 0o644))
    return found


def _init_scripts(prolog: str, epilog: str) -> list[Item]:
    return [_kit("vmbatch-prolog.init", prolog, 0o755), _kit("vmbatch-epilog.init", epilog, 0o755)]


def _busybox(guest: Guest) -> list[Item]:
    """BusyBox init runs `sysinit` of /etc/inittab, then `wait`, then `once`; without the file /etc/init.d/rcS (init/init.c)."""
    table = guest.read(_INITTAB)
    script = next((words[0] for words in _sysinit(table) if words and words[0].endswith("/rcS")), "") if table else _RCS
    text = guest.read(script) if script else ""
    directory = _SCRIPTS.search(text)
    if directory:
        return _init_scripts(f"{directory[1]}S15vmbatch-prolog", f"{directory[1]}S99vmbatch-epilog")
    if text and (_SSHD.search(text) or not table):
        return [_edited(script, 0o755, text, with_calls(text))]
    if table:
        return [_edited(_INITTAB, 0o644, table, with_entries(table))]
    raise FormatError("has neither /etc/inittab nor /etc/init.d/rcS, so nothing can be enabled for BusyBox init",
                      "see init= and partition= of the <vbdisk>")


def _edited(path: str, mode: int, before: str, after: str) -> Item:
    if "\ufffd" in before:
        raise FormatError(f"has a file {path} that is not UTF-8",
                          f"have it run {PROGRAM} prolog before sshd, and {PROGRAM} epilog & at its end")
    return File(path, mode, after.encode())


def _sysinit(table: str) -> list[list[str]]:
    """The command lines of an inittab's sysinit entries (id:runlevels:action:process)."""
    entries = (line.split(":", 3) for line in table.splitlines() if not line.lstrip().startswith("#"))
    return [entry[3].lstrip("-").split() for entry in entries if len(entry) == 4 and entry[2].strip() == "sysinit"]


def with_entries(table: str) -> str:
    """An inittab that runs prolog behind all else that is sysinit, and epilog behind what is waited for."""
    lines = table.splitlines()
    last = max((at for at, line in enumerate(lines) if _sysinit(line)), default=-1)
    lines.insert(last + 1, f"::sysinit:{PROGRAM} prolog")
    return "\n".join([*lines, f"::once:{PROGRAM} epilog", ""])


def with_calls(script: str) -> str:
    """A boot script that runs prolog before its first command about sshd or dropbear, and epilog at its end.

    The calls stand between whole commands: outside of functions, compound commands, here-documents and continued lines.
    """
    lines = script.splitlines()
    between, named, ending = _commands(lines)
    first = next((at for at, line in enumerate(lines) if named[at]), None)
    end = next((at for at in range(len(lines)) if between[at] and ending[at]), len(lines))
    before = max((at for at in range(min(len(lines) if first is None else first, end) + 1) if between[at]), default=0)
    end = max(end, before)
    if before == 0 and lines and lines[0].startswith("#!"):
        before = 1
    return "\n".join([*lines[:before], f"{PROGRAM} prolog", *lines[before:end],
                      f"{PROGRAM} epilog </dev/null >/dev/console 2>&1 &", *lines[end:], ""])


def _commands(lines: list[str]) -> tuple[list[bool], list[bool], list[bool]]:
    """For each line: whether a command could stand before it (and behind the last one), whether it starts sshd, whether it ends
    the script."""
    between, named, ending = [], [], []
    depth, document, continued, quote = 0, "", False, ""
    function, about = "", set[str]()
    for line in lines:
        between.append(not (depth or document or continued or quote))
        if document:
            document = "" if line.lstrip("\t") == document else document
            named.append(False)
            ending.append(False)
            continue
        code, plain, quote = _split(line, quote)
        words = re.findall(r"[^\s;&|()<>]+", plain)
        begins = _FUNCTION.match(plain)
        if begins and not depth:
            function = begins[1] or begins[2]
        concerned = bool(_SSHD.search(code))
        if function and concerned:
            about.add(function)
        named.append(not function and (concerned or not about.isdisjoint(words)))
        ending.append(not depth and not function and words[:1] in (["exit"], ["exec"]) and not _REDIRECTION.match(plain))
        depth = max(0, depth + sum((word in _OPENING) - (word in _CLOSING) for word in words))
        if not depth and "}" in words:
            function = ""
        here = _HERE.search(code)
        document = here[1] if here else ""
        continued = plain.endswith("\\") or plain.rstrip().endswith(("&&", "||", "|"))
    between.append(not (depth or document or continued or quote))
    return between, named, ending


def _split(line: str, quote: str) -> tuple[str, str, str]:
    """A line of shell without its comment, the same without what is quoted, and the quote that is still open behind it."""
    plain = ""
    at = 0
    while at < len(line):
        letter = line[at]
        if quote:
            at += 1 + (letter == "\\" and quote == '"')
            quote = "" if letter == quote else quote
        elif letter in "'\"":
            quote = letter
            plain += "''"
            at += 1
        elif letter == "\\":
            plain += line[at : at + 2]
            at += 2
        elif letter == "#" and (not at or line[at - 1] in " \t;&|("):
            break
        else:
            plain += letter
            at += 1
    return line[:at], plain, quote


def _label(path: str) -> str:
    kind = next((kind for prefix, kind in _LABELS if path.startswith(prefix)), "")
    return f"system_u:object_r:{kind}:s0" if kind else ""
