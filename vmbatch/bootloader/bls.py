"""The Boot Loader Specification's entries, one file each: EL8 and later, Fedora, systemd-boot.

https://uapi-group.org/specifications/specs/boot_loader_specification/, and Fedora's GRUB (grub-core/commands/blscfg.c).
"""

import itertools
import re
from collections.abc import Callable

from ..format import FormatError
from .menu import OWN, Entry, File, World, required

DIRECTORIES = ("/loader/entries", "/boot/loader/entries")
LOADERS = ("/loader/loader.conf", "/boot/loader/loader.conf")
_FILES_LIMIT = 200


def parse(text: str, path: str, world: World, wanted: str) -> Entry:
    """Of a disk with loader.conf, as systemd-boot has: the entry to boot. FormatError."""
    found = entries(world, OWN, lambda text: text)
    if not found:
        raise FormatError("has no entry for systemd-boot")
    names = [entry.names for entry in found]
    if wanted:
        return found[required(names, wanted)]
    default = next((line.split()[1] for line in text.splitlines() if re.match(r"default\s+\S", line)), "")
    pattern = default.removesuffix(".conf")
    match = next((index for index, each in enumerate(names) if any(_matches(one, pattern) for one in each)), 0)
    return found[match]


def _matches(name: str, pattern: str) -> bool:
    """`*` stands for anything."""
    first, *rest = pattern.split("*")
    if not rest or not name.startswith(first):
        return name == pattern
    at = len(first)
    for part in rest[:-1]:
        at = name.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return name.endswith(rest[-1]) and len(name) - len(rest[-1]) >= at


def entries(world: World, number: int, expand: Callable[[str], str]) -> list[Entry]:
    """All of a file system, the newest first; `expand` has GRUB's variables put in. FormatError."""
    for directory in DIRECTORIES:
        names = [name for name in world.names(File(number, directory)) if name.endswith(".conf")]
        if len(names) > _FILES_LIMIT:
            raise FormatError(f"has more than {_FILES_LIMIT} files in {directory}")
        if names:
            break
    found = []
    for name in sorted(names, key=_version, reverse=True):
        text = world.read(File(number, f"{directory}/{name}"))
        entry = _entry(text or "", name.removesuffix(".conf"), number, expand)
        if entry:
            found.append(entry)
    return found


def _entry(text: str, name: str, number: int, expand: Callable[[str], str]) -> Entry | None:
    """None for what boots no Linux."""
    values: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, _, value = line.strip().replace("\t", " ").partition(" ")
        if key and not key.startswith("#"):
            values.setdefault(key, []).append(value.strip())
    if "linux" not in values:
        return None
    title = values.get("title", [name])[0]
    version = values.get("version", [""])[0]
    names = tuple(dict.fromkeys(one for one in (title, name, f"{title} ({version})") if one))
    initrds = [path for text in values.get("initrd", []) for path in expand(text).split()]
    args = expand(" ".join(values.get("options", [])))
    return Entry(names, File(number, expand(values["linux"][0])), tuple(File(number, path) for path in initrds),
                 " ".join(args.split()))


def _version(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts names as rpm compares versions: numbers as numbers, and above words; the end lowest, but above `~`."""
    parts = re.findall(r"[0-9]+|[A-Za-z]+|~", name.removesuffix(".conf"), re.ASCII)
    keys = ((-1, 0, "") if part == "~" else (2, int(part[:18]), "") if part.isdigit() else (1, 0, part) for part in parts)
    return list(itertools.chain(keys, [(0, 0, "")]))
