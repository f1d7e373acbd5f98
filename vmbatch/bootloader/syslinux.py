"""The configuration of SYSLINUX, EXTLINUX and ISOLINUX, as far as it says what to boot (syslinux, doc/syslinux.txt, menu.txt)."""

from __future__ import annotations

import posixpath
import re

from ..format import FormatError
from .menu import OWN, Entry, File, World, chosen, kernel_and_modules, required

NAMES = ("/boot/extlinux/extlinux.conf", "/boot/extlinux.conf", "/extlinux/extlinux.conf", "/extlinux.conf",
         "/boot/syslinux/extlinux.conf", "/boot/syslinux/syslinux.cfg", "/syslinux/syslinux.cfg", "/syslinux.cfg",
         "/boot/isolinux/isolinux.cfg", "/isolinux/isolinux.cfg", "/isolinux/syslinux.cfg")
_KERNELS = ("kernel", "linux")
_ENTRIES_LIMIT = 1000
_INCLUDES_LIMIT = 16


class _Label:
    """Of a menu; `append` is None where the global one holds."""

    def __init__(self, name: str) -> None:
        self.name, self.title, self.kernel, self.initrd = name, "", "", ""
        self.append: str | None = None


class _Reader:
    """What the lines of a file and of those that it includes come to."""

    def __init__(self, world: World, path: str) -> None:
        self.world, self.directory = world, posixpath.dirname(path)
        self.labels: list[_Label] = []
        self.default = self.menu_default = self.append = self.initrd = ""
        self._files = 0

    def read(self, text: str) -> None:
        """FormatError for more than is sane."""
        self._files += 1
        if self._files > _INCLUDES_LIMIT:
            raise FormatError(f"includes more than {_INCLUDES_LIMIT} files in its boot configuration")
        for line in text.splitlines():
            word, _, rest = line.strip().partition(" ") if "\t" not in line.strip() else _parted(line.strip())
            self._line(word.lower(), rest.strip())

    def _line(self, word: str, rest: str) -> None:
        label = self.labels[-1] if self.labels else None
        if word == "label":
            if len(self.labels) == _ENTRIES_LIMIT:
                raise FormatError(f"has more than {_ENTRIES_LIMIT} menu entries")
            self.labels.append(_Label(rest))
        elif word in ("default", "ontimeout"):
            self.default = rest if word == "default" or not self.default else self.default
        elif word == "include" or (word == "menu" and rest.lower().startswith("include")):
            name = rest if word == "include" else rest.partition(" ")[2]
            included = self.world.read(File(OWN, self.path(name.strip())))
            if included is not None:
                self.read(included)
        elif word == "append":
            if label:
                label.append = "" if rest == "-" else rest
            else:
                self.append = rest
        elif word == "initrd":
            if label:
                label.initrd = rest
            else:
                self.initrd = rest
        elif label and word in _KERNELS:
            label.kernel = rest
        elif label and word == "menu":
            what, _, title = rest.partition(" ")
            if what.lower() == "label":
                label.title = title.replace("^", "").strip()
            elif what.lower() == "default":
                self.menu_default = label.name

    def path(self, name: str) -> str:
        """Names are those of the directory of the configuration."""
        return posixpath.normpath(posixpath.join("/", self.directory, name))


def _parted(line: str) -> tuple[str, str, str]:
    words = line.split(None, 1)
    return words[0], " ", words[1] if len(words) > 1 else ""


def parse(text: str, path: str, world: World, wanted: str) -> Entry:
    """The entry to boot: `wanted`, or else the default. FormatError."""
    reader = _Reader(world, path)
    reader.read(text)
    labels = reader.labels
    names = [tuple(name for name in (label.title, label.name) if name) or ("",) for label in labels]
    if wanted:
        return _entry(labels[required(names, wanted)], reader)
    index = chosen([(label.name,) for label in labels], reader.menu_default) if reader.menu_default else None
    if index is None and reader.default:
        index = chosen([(label.name,) for label in labels], reader.default.split()[0])
        if index is None and not reader.default.split()[0].endswith(".c32"):
            return _entry(_line_of(reader.default), reader)
    if index is None and not labels:
        raise FormatError("has no menu entry")
    return _entry(labels[index or 0], reader)


def _line_of(text: str) -> _Label:
    """`DEFAULT` may be a kernel with its line, instead of a label's name."""
    label = _Label("default")
    label.kernel, _, label.append = text.partition(" ")
    return label


def _entry(label: _Label, reader: _Reader) -> Entry:
    title = label.title or label.name
    words = (reader.append if label.append is None else label.append).split()
    kernel = label.kernel or label.name
    if posixpath.basename(kernel) == "mboot.c32":
        return _multiboot(title, words, reader)
    if re.search(r"\.(?:c32|com|cbt|bin|bss|bs|0|img)$", kernel, re.IGNORECASE):
        raise FormatError("has a default menu entry that boots no Linux")
    initrds = [word.partition("=")[2] for word in words if word.startswith("initrd=")]
    named = label.initrd or reader.initrd
    files = [name for text in ([named] if named else initrds[-1:]) for name in text.split(",") if name]
    args = " ".join(word for word in words if not word.startswith("initrd="))
    return Entry((title,), File(OWN, reader.path(kernel)), tuple(File(OWN, reader.path(name)) for name in files), args)


def _multiboot(title: str, words: list[str], reader: _Reader) -> Entry:
    """`mboot.c32 XEN ... --- KERNEL ARGS --- INITRD`."""
    modules = [part.split(None, 1) for part in " ".join(words).split("---")[1:] if part.strip()]
    files = [(File(OWN, reader.path(part[0])), part[1].strip() if len(part) > 1 else "") for part in modules]
    return Entry((title,), *kernel_and_modules(files))
