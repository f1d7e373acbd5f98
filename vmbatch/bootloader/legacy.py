"""GRUB Legacy's menu.lst, which EL5 and EL6 call grub.conf, as far as it says what to boot (GRUB 0.97's manual, "Commands")."""

import re

from ..format import FormatError
from .menu import OWN, Entry, File, World, chosen, kernel_and_modules, required

NAMES = ("/boot/grub/menu.lst", "/boot/grub/grub.conf", "/grub/menu.lst", "/grub/grub.conf")
_DEVICE = re.compile(r"\(hd0(?:,([0-9]{1,3}))?\)")
_LINE = re.compile(r"([^\s=]+)(?:\s*=\s*|\s+)?(.*)", re.DOTALL)
_OPTION = re.compile(r"--(?:type=\S*|no-mem-option)\s+")
_ENTRIES_LIMIT = 1000


def parse(text: str, path: str, world: World, wanted: str) -> Entry:
    """The entry to boot: `wanted`, or else the default. FormatError."""
    default, entries = _split(text)
    if not entries:
        raise FormatError("has no menu entry")
    titles = [(title,) for title, _ in entries]
    if wanted:
        index = required(titles, wanted)
    else:
        if default == "saved":
            default = (world.read(File(OWN, path.rpartition("/")[0] + "/default")) or "").partition("\n")[0].strip()
        index = (chosen((), default) or 0) if not default.isdigit() else min(int(default[:6]), len(entries))
        index = index if index < len(entries) else 0
    title, lines = entries[index]
    return _entry(title, lines)


def _split(text: str) -> tuple[str, list[tuple[str, list[tuple[str, str]]]]]:
    """The default, and (title, [(command, rest)]) of each entry."""
    default = "0"
    entries: list[tuple[str, list[tuple[str, str]]]] = []
    for line in text.splitlines():
        match = _LINE.fullmatch(line.strip())
        if match is None or match[1].startswith("#"):
            continue
        command, rest = match[1].lower(), match[2]
        if command == "title":
            if len(entries) == _ENTRIES_LIMIT:
                raise FormatError(f"has more than {_ENTRIES_LIMIT} menu entries")
            entries.append((rest, []))
        elif entries:
            entries[-1][1].append((command, rest))
        elif command == "default":
            default = rest
    return default, entries


def _entry(title: str, lines: list[tuple[str, str]]) -> Entry:
    root = OWN
    kernel, args = "", ""
    modules: list[tuple[File, str]] = []
    for command, rest in lines:
        if command in ("root", "rootnoverify"):
            root = _device(rest)
        elif command == "kernel":
            rest = _OPTION.sub("", rest + " ")
            kernel, _, args = rest.strip().partition(" ")
        elif command in ("initrd", "module", "modulenounzip"):
            name, _, line = rest.partition(" ")
            modules.append((_file(name, root), line.strip()))
    if not kernel:
        raise FormatError("has a menu entry without a kernel")
    if re.match(r"xen[^/]*$", kernel.rpartition("/")[2]) and any(command.startswith("module") for command, _ in lines):
        return Entry((title,), *kernel_and_modules(modules))
    return Entry((title,), _file(kernel, root), tuple(file for file, _ in modules), args.strip())


def _device(text: str) -> int:
    """`(hd0,0)` is the first partition."""
    match = _DEVICE.match(text)
    if not match:
        return OWN
    return int(match[1]) + 1 if match[1] else 0


def _file(text: str, root: int) -> File:
    return File(_device(text) if text.startswith("(") else root, text.partition(")")[2] if text.startswith("(") else text)
