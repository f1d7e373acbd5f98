"""GRUB 2's grub.cfg: run as far as it says what to boot; what it does to screens and modules is left out.

Commands and variables as in GRUB's manual; `blscfg` as in Fedora's and Red Hat's GRUB.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Sequence

import msgspec

from ..format import FormatError
from . import bls
from .menu import OWN, Entry, File, World, chosen, kernel_and_modules, required
from .script import Block, Command, For, Function, If, Loop, Statement, Word
from .script import parse as parse_script

NAMES = ("/boot/grub/grub.cfg", "/grub/grub.cfg", "/boot/grub2/grub.cfg", "/grub2/grub.cfg")
_STEPS_LIMIT, _DEPTH_LIMIT, _FILES_LIMIT, _ENTRIES_LIMIT = 50_000, 40, 8, 2000
_TEXT_LIMIT = 64 << 10
_VARIABLES_LIMIT = 2000
_DEVICE = re.compile(r"\(?(?:hd0|xen/xvd[a-z]+)(?:,(?:msdos|gpt)?([0-9]{1,3}))?\)?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_QUIET = frozenset((
    "insmod", "true", "echo", "export",
    "terminal_input", "terminal_output", "terminal", "clear", "save_env", "serial", "terminfo",
    "play", "sleep", "gfxmode", "password", "password_pbkdf2", "fakebios", "hiddenmenu", "rmmod", "cpuid", "efi-watchdog",
))
"""What succeeds, and has nothing to do with what is booted."""
_LINUX, _INITRD = ("linux", "linux16", "linuxefi", "kernel"), ("initrd", "initrd16", "initrdefi")
_DEFAULTS = {
    "grub_platform": "xen", "grub_cpu": "x86_64", "feature_menuentry_id": "y", "feature_platform_search_hint": "y",
    "feature_default_font_path": "y", "feature_all_video_module": "y", "feature_timeout_style": "y",
    "feature_nativedisk_cmd": "y", "feature_200_final": "y", "feature_chainloader_bpb": "y", "feature_ntldr": "y",
}


class _Return(Exception):
    """`return`."""


class _Break(Exception):
    """`break`."""


class _Item(msgspec.Struct, frozen=True):
    """An entry or submenu as it stands in the menu: `names` are title and id; `variables` those of its definition."""

    names: tuple[str, ...]
    block: Block
    submenu: bool
    entry: Entry | None = None


class _Loaded(msgspec.Struct):
    """What the commands of an entry have asked for."""

    kernel: File | None = None
    args: str = ""
    initrds: tuple[File, ...] = ()
    modules: tuple[tuple[File, str], ...] = ()
    multiboot: bool = False


def parse(text: str, path: str, world: World, wanted: str) -> Entry:
    """The entry to boot: `wanted`, or else the default. FormatError."""
    return _Shell(world, posixpath.dirname(path)).boot(text, wanted)


def number_of(device: str) -> int:
    """The partition that GRUB calls `hd0,msdos1` or `(hd0,gpt2)`; OWN for what is not on the first disk."""
    match = _DEVICE.fullmatch(device)
    return OWN if match is None else int(match[1] or 0)


class _Shell:
    def __init__(self, world: World, directory: str) -> None:
        self._world = world
        self._variables = {**_DEFAULTS, "prefix": directory, "config_directory": directory, "root": ""}
        self._functions: dict[str, Block] = {}
        self._words: Sequence[str] = ()
        self._items: list[_Item] = []
        self._loaded = _Loaded()
        self._steps = self._depth = self._files = 0
        self._status = True
        self._commands: dict[str, Callable[[list[str]], bool]] = {
            "set": self._set, "unset": self._unset, "[": self._test, "test": self._test, "load_env": self._load_env,
            "search": self._search, "search.fs_uuid": self._search_uuid, "search.fs_label": self._search_label,
            "search.file": self._search_file, "source": self._source, ".": self._source, "configfile": self._configfile,
            "blscfg": self._blscfg, "linux_args": self._nothing, "return": self._return, "break": self._break,
            "multiboot": self._multiboot, "multiboot2": self._multiboot, "xen_hypervisor": self._multiboot,
            "module": self._module, "module2": self._module, "xen_module": self._module,
            **dict.fromkeys(_LINUX, self._linux), **dict.fromkeys(_INITRD, self._initrd),
        }

    def boot(self, text: str, wanted: str) -> Entry:
        self._all(parse_script(text))
        if not self._items:
            if self._loaded.kernel or self._loaded.multiboot:
                return self._entry(("the commands of grub.cfg",))
            raise FormatError("has no menu entry")
        way = wanted or self._variables.get("default", "")
        depth = 0
        while True:
            item, way = self._pick(way, bool(wanted))
            if item.entry:
                return item.entry
            self._loaded = _Loaded()
            self._variables["chosen"] = item.names[0]
            if not item.submenu:
                self._all(item.block)
                return self._entry(item.names)
            depth += 1
            if depth > _FILES_LIMIT:
                raise FormatError(f"has submenus deeper than {_FILES_LIMIT} levels")
            self._items = []
            self._all(item.block)
            if not self._items:
                raise FormatError("has a submenu without entries")

    def _pick(self, way: str, strict: bool) -> tuple[_Item, str]:
        """The item that a way `SUBMENU>ENTRY` leads to first, and the rest of the way."""
        names = [item.names for item in self._items]
        if (index := chosen(names, way)) is not None:
            return self._items[index], ""
        first, _, rest = way.partition(">")
        if (index := chosen(names, first)) is not None:
            return self._items[index], rest
        if strict and way:
            return self._items[required(names, way)], ""
        return self._items[0], ""

    def _entry(self, names: tuple[str, ...]) -> Entry:
        loaded = self._loaded
        if loaded.multiboot:
            return Entry(names, *kernel_and_modules(loaded.modules))
        if loaded.kernel is None:
            raise FormatError("has a menu entry without a kernel")
        return Entry(names, loaded.kernel, loaded.initrds, loaded.args)

    def _all(self, block: Block) -> None:
        """Runs commands to their end, or to a `return`."""
        try:
            self._run(block)
        except (_Return, _Break):
            self._depth = 0

    def _run(self, block: Block) -> bool:
        """Whether its last command succeeds."""
        self._depth += 1
        if self._depth > _DEPTH_LIMIT:
            raise FormatError(f"is nested deeper than {_DEPTH_LIMIT} levels")
        self._status = True
        for statement in block:
            self._steps += 1
            if self._steps > _STEPS_LIMIT:
                raise FormatError(f"takes more than {_STEPS_LIMIT} steps")
            self._status = self._step(statement)
        self._depth -= 1
        return self._status

    def _step(self, statement: Statement) -> bool:
        match statement:
            case Command():
                return self._command(statement)
            case If():
                return self._if(statement)
            case Function():
                self._functions[statement.name] = statement.body
                return True
            case For():
                for word in self._expanded(statement.words):
                    self._store(statement.name, word)
                    if not self._looped(statement.body):
                        break
                return True
            case Loop():
                while self._run(statement.condition) != statement.until:
                    if not self._looped(statement.body):
                        break
                return True

    def _looped(self, body: Block) -> bool:
        """Whether the loop goes on."""
        depth = self._depth
        try:
            self._run(body)
        except _Break:
            self._depth = depth
            return False
        return True

    def _if(self, statement: If) -> bool:
        for condition, body in statement.branches:
            if self._run(condition):
                return self._run(body)
        return self._run(statement.otherwise)

    def _command(self, command: Command) -> bool:
        words = self._expanded(command.words)
        if not words:
            return True
        name, *rest = words
        if name == "!":
            return not self._command(Command(command.words[1:], command.block))
        if name in ("menuentry", "submenu"):
            self._add(rest, command.block or (), submenu=name == "submenu")
            return True
        assignment, sign, value = name.partition("=")
        if sign and _NAME.fullmatch(assignment) and not rest:
            self._store(assignment, value)
            return True
        if name in self._functions:
            return self._call(self._functions[name], rest)
        if name in self._commands:
            return self._commands[name](rest)
        return name in _QUIET

    def _call(self, body: Block, words: list[str]) -> bool:
        before, depth = self._words, self._depth
        self._words = words
        try:
            return self._run(body)
        except _Return:
            self._depth = depth
            return self._status
        finally:
            self._words = before

    def _add(self, words: list[str], block: Block, *, submenu: bool) -> None:
        names: list[str] = []
        identity = ""
        rest = iter(words)
        for word in rest:
            if word == "--id":
                identity = next(rest, "")
            elif word.startswith("--id="):
                identity = word.removeprefix("--id=")
            elif word in ("--class", "--users", "--hotkey", "--source"):
                next(rest, "")
            elif not word.startswith("--"):
                names.append(word)
        self._put(_Item(tuple(name for name in (names[0] if names else "", identity) if name) or ("",), block, submenu))

    def _put(self, item: _Item) -> None:
        if len(self._items) == _ENTRIES_LIMIT:
            raise FormatError(f"has more than {_ENTRIES_LIMIT} menu entries")
        self._items.append(item)

    def _store(self, name: str, value: str) -> None:
        if len(self._variables) > _VARIABLES_LIMIT:
            raise FormatError(f"has more than {_VARIABLES_LIMIT} variables")
        self._variables[name] = value

    def _value(self, name: str) -> str:
        if name in ("@", "*"):
            return " ".join(self._words)
        if name == "#":
            return str(len(self._words))
        if name == "?":
            return "0" if self._status else "1"
        if name.isdigit():
            return self._words[int(name) - 1] if 0 < int(name[:9]) <= len(self._words) else ""
        return self._variables.get(name, "")

    def _expanded(self, words: Sequence[Word]) -> list[str]:
        found: list[str] = []
        size = 0
        for word in words:
            for text in self._word(word):
                size += len(text)
                if size > _TEXT_LIMIT:
                    raise FormatError(f"has a command of more than {_TEXT_LIMIT} characters")
                found.append(text)
        return found

    def _word(self, word: Word) -> list[str]:
        """A variable that is not quoted may be several words, or none."""
        found: list[str] = []
        text, there, size = "", False, 0
        for piece in word:
            value = self._value(piece.text) if piece.variable else piece.text
            size += len(value)
            if size > _TEXT_LIMIT:
                raise FormatError(f"has a word of more than {_TEXT_LIMIT} characters")
            if piece.variable and not piece.quoted:
                parts = value.split()
                if value[:1].isspace() and there:
                    found.append(text)
                    text, there = "", False
                for part in parts[:-1]:
                    found.append(text + part)
                    text = ""
                text, there = text + (parts[-1] if parts else ""), there or bool(parts)
            else:
                text, there = text + value, True
        return [*found, text] if there else found

    def expand(self, text: str) -> str:
        """The variables of an entry of the Boot Loader Specification."""
        return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda match: self._value(match[1] or match[2])[:_TEXT_LIMIT], text[:_TEXT_LIMIT])

    def _file(self, text: str) -> File:
        """`(hd0,msdos1)/path`, or a path on what `root` says."""
        if text.startswith("("):
            device, _, path = text.partition(")")
            return File(number_of(device[1:]) if device != "(" else OWN, path)
        return File(number_of(self._variables["root"]) if self._variables.get("root") else OWN, text)

    def _nothing(self, words: list[str]) -> bool:
        return True

    def _return(self, words: list[str]) -> bool:
        self._status = not words or words[0] == "0"
        raise _Return

    def _break(self, words: list[str]) -> bool:
        raise _Break

    def _set(self, words: list[str]) -> bool:
        for word in words:
            name, sign, value = word.partition("=")
            if sign and _NAME.fullmatch(name):
                self._store(name, value)
        return True

    def _unset(self, words: list[str]) -> bool:
        for word in words:
            self._variables.pop(word, None)
        return True

    def _linux(self, words: list[str]) -> bool:
        words = [word for word in words if word]
        if words:
            self._loaded.kernel, self._loaded.args = self._file(words[0]), " ".join(words[1:])
        return bool(words)

    def _initrd(self, words: list[str]) -> bool:
        self._loaded.initrds = tuple(self._file(word) for word in words if word and not word.startswith("newc:"))
        return True

    def _multiboot(self, words: list[str]) -> bool:
        self._loaded.multiboot = True
        return True

    def _module(self, words: list[str]) -> bool:
        words = [word for word in words if word and not word.startswith("--")]
        if words:
            self._loaded.modules += ((self._file(words[0]), " ".join(words[1:])),)
        return bool(words)

    def _load_env(self, words: list[str]) -> bool:
        name = f"{self._variables.get('prefix', '')}/grubenv"
        if "-f" in words[:-1]:
            name = words[words.index("-f") + 1]
        elif words and words[0].startswith("--file="):
            name = words[0].removeprefix("--file=")
        file = File(OWN, name) if not name.startswith("(") else self._file(name)
        text = self._world.read(file)
        for line in (text or "").splitlines():
            key, sign, value = line.partition("=")
            if sign and _NAME.fullmatch(key):
                self._store(key, re.sub(r"\\(.)", r"\1", value))
        return text is not None

    def _search(self, words: list[str]) -> bool:
        what, variable, values = "file", "root", []
        rest = iter(words)
        for word in rest:
            if word in ("--fs-uuid", "-u"):
                what = "uuid"
            elif word in ("--label", "-l"):
                what = "label"
            elif word in ("--set", "-s"):
                variable = "root"
            elif word.startswith("--set="):
                variable = word.removeprefix("--set=")
            elif word == "--hint" or (word.startswith("--hint-") and "=" not in word):
                next(rest, "")
            elif not word.startswith("-"):
                values.append(word)
        if len(values) > 1 and variable == "root":  # `--set NAME VALUE`
            variable = values[0]
        return self._found(what, values[-1] if values else "", variable)

    def _search_uuid(self, words: list[str]) -> bool:
        return self._search(["--fs-uuid", *self._plain(words)])

    def _search_label(self, words: list[str]) -> bool:
        return self._search(["--label", *self._plain(words)])

    def _search_file(self, words: list[str]) -> bool:
        return self._search(self._plain(words))

    def _plain(self, words: list[str]) -> list[str]:
        """`search.fs_uuid VALUE NAME HINT...`."""
        return [f"--set={words[1]}" if len(words) > 1 else "--set=root", words[0]] if words else []

    def _found(self, what: str, value: str, variable: str) -> bool:
        number = self._world.search(what, value) if value else None
        if number is None:
            return False
        self._store(variable, f"hd0,{number}" if number else "hd0")
        return True

    def _read(self, name: str) -> str | None:
        self._files += 1
        if self._files > _FILES_LIMIT:
            raise FormatError(f"reads more than {_FILES_LIMIT} further files")
        return self._world.read(self._file(name))

    def _source(self, words: list[str]) -> bool:
        text = self._read(words[0]) if words else None
        return text is not None and self._run(parse_script(text))

    def _configfile(self, words: list[str]) -> bool:
        text = self._read(words[0]) if words else None
        if text is None:
            return False
        self._items = []
        device, sign, path = words[0].rpartition(")")
        self._store("config_directory", device + sign + posixpath.dirname(path))
        return self._run(parse_script(text))

    def _blscfg(self, words: list[str]) -> bool:
        root = self._variables.get("root", "")
        found = bls.entries(self._world, number_of(root) if root else OWN, self.expand)
        for entry in found:
            self._put(_Item(entry.names, (), False, entry))
        return bool(found)

    def _test(self, words: list[str]) -> bool:
        words = words[:-1] if words[-1:] == ["]"] else words
        return _Test(words, self._is).value()

    def _is(self, what: str, name: str) -> bool:
        if what == "-s":
            return bool(self._world.read(self._file(name)))
        return self._world.exists(self._file(name), {"-f": "file", "-d": "directory"}.get(what, ""))


class _Test:
    """The words of `[`: -o binds less than -a."""

    def __init__(self, words: list[str], check: Callable[[str, str], bool]) -> None:
        self._words, self._check = words, check

    def value(self) -> bool:
        return any(all(self._one(part) for part in _divided(each, "-a")) for each in _divided(self._words, "-o"))

    def _one(self, words: list[str]) -> bool:
        if words and words[0] == "!":
            return not self._one(words[1:])
        match words:
            case ["(", *inner, ")"]:
                return _Test(inner, self._check).value()
            case ["-n", text]:
                return bool(text)
            case ["-z", text]:
                return not text
            case ["-f" | "-e" | "-s" | "-d" as what, name]:
                return self._check(what, name)
            case [left, "=" | "==", right]:
                return left == right
            case [left, "!=", right]:
                return left != right
            case [left, "<", right]:
                return left < right
            case [left, ">", right]:
                return left > right
            case [left, "-eq" | "-ne" | "-lt" | "-le" | "-gt" | "-ge" as sign, right]:
                one, other = _number(left), _number(right)
                return {"-eq": one == other, "-ne": one != other, "-lt": one < other, "-le": one <= other,
                        "-gt": one > other, "-ge": one >= other}[sign]
            case [text]:
                return bool(text)
        return False


def _divided(words: list[str], at: str) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in words:
        if word == at:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def _number(text: str) -> int:
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text, re.ASCII) else 0
