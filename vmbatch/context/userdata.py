"""The site's own user-data for cloud-init: what it may be, and how it comes together with ours.

It is a `#cloud-config` in YAML, a script that begins with `#!`, an `#include` or `#include-once` of URLs, or a MIME message of
such parts. Whatever else cloud-init knows is refused.
"""

import base64
import json
import re
from typing import TYPE_CHECKING

import msgspec

from ..errors import InputError
from .cloudinit import LOCKED, Wishes, config, dump
from .siteyaml import Document, Problem

if TYPE_CHECKING:
    from email.message import Message

LIMIT = 256 << 10
"""Bytes of the site's file."""
_PARTS = 64
_BOUNDARY = "==vmbatch=="
_CONFIG = "text/cloud-config"
_KINDS = {"#cloud-config": _CONFIG, "#include": "text/x-include-url", "#include-once": "text/x-include-once-url"}
_SCRIPT = "text/x-shellscript"
_SNIFFED = ("text/plain", "text/x-not-multipart")
"""Of such parts cloud-init looks at the beginning, and so do we (cloudinit/user_data.py, TYPE_NEEDED)."""
_URL = re.compile(r"(https?://[^\s/]+|file://)/?\S*")

_REFUSED = {
    "ssh_keys": "VmBatch gives every guest the job's own host key",
    "hostname": "VmBatch names the guest: [guest] hostname in vmbatch.conf",
    "fqdn": "VmBatch names the guest: [guest] hostname in vmbatch.conf",
    "power_state": "it would end the guest before its job",
    "network": "cloud-init takes no network from user-data; write a <vbnetwork> in the template",
    "launch-index": "cloud-init would pass over the whole user-data",
    "merge_how": "VmBatch merges",
    "merge_type": "VmBatch merges",
    "cloud_init_modules": "VmBatch chooses the modules by the other keys",
    "cloud_config_modules": "VmBatch chooses the modules by the other keys",
    "cloud_final_modules": "VmBatch chooses the modules by the other keys",
    "system_info": "cloud-init does not take it from user-data",
}


class SiteFile(msgspec.Struct, frozen=True):
    """The site's user-data as it was read; the path is for messages."""

    path: str
    data: bytes


class Part(msgspec.Struct, frozen=True):
    """What goes to the guest beside the cloud-config: its MIME type and its text."""

    kind: str
    text: str


class UserData(msgspec.Struct, frozen=True):
    """The site's user-data, checked: the values of all its cloud-configs, and its other parts in their order."""

    config: dict[str, object] = {}
    parts: tuple[Part, ...] = ()

    def wishes(self) -> Wishes:
        """For cloudinit.config."""
        kinds = [part.kind for part in self.parts]
        return Wishes(self.config, scripts=_SCRIPT in kinds, includes=any("include" in kind for kind in kinds))


def parse(file: SiteFile) -> UserData:
    """The site's user-data. InputError with every mistake and its line."""
    return _Reader(file).result()


def render(label: str, instance: str, site: UserData | None) -> bytes:
    """The whole user-data: a cloud-config if that is all there is, else a MIME message. `site` is what the site has of its own.

    A cloud-config that is included comes behind the site's own and may change it. Ours then follows in parts of its own, which
    put bootcmd before, runcmd behind what is there, and the rest in its place (cloudinit/handlers/cloud_config.py, _merge_part).
    """
    wishes = None if site is None else site.wishes()
    parts = () if site is None else site.parts
    merged = config(label, instance, wishes)
    whole = dump(merged, "#cloud-config\n")
    if not parts and b"mime-version:" not in whole.lower():  # which cloud-init takes for a message (convert_string)
        return whole
    others = [(part.kind, part.text.encode(), "") for part in parts]
    if wishes is None or not wishes.includes:
        return _mime([*others, (_CONFIG, whole, "")])
    split = {key: {key: merged.pop(key)} for key in ("bootcmd", "runcmd")}
    return _mime([
        (_CONFIG, dump(merged, "#cloud-config\n"), ""), *others,
        (_CONFIG, dump(split["bootcmd"], "#cloud-config\n"), "list(prepend)+dict(no_replace,recurse_list)+str()"),
        (_CONFIG, dump(split["runcmd"], "#cloud-config\n"), "list(append)+dict(no_replace,recurse_list)+str()"),
        (_CONFIG, dump(LOCKED, "#cloud-config\n"), "dict(replace)+list()+str()"),
    ])


def _mime(parts: list[tuple[str, bytes, str]]) -> bytes:
    """A MIME message of (type, content, Merge-Type or ''). All content is base64, so no boundary can stand in it.

    cloud-init runs scripts in the order of their file names, and that of runcmd among them; part-N comes before it.
    """
    lines = ["MIME-Version: 1.0", f'Content-Type: multipart/mixed; boundary="{_BOUNDARY}"', ""]
    for number, (kind, content, merge) in enumerate(parts, 1):
        lines += [f"--{_BOUNDARY}", f'Content-Type: {kind}; charset="utf-8"', "Content-Transfer-Encoding: base64",
                  f'Content-Disposition: attachment; filename="part-{number:03d}"',
                  *([f"Merge-Type: {merge}"] if merge else []), "", base64.encodebytes(content).decode().rstrip("\n")]
    return "\n".join([*lines, f"--{_BOUNDARY}--", ""]).encode("ascii")


def text_of(data: bytes, problems: list[Problem]) -> str | None:
    """The text of a file of the site's; None, and a mistake in `problems`, if it is none."""
    if len(data) > LIMIT:
        problems.append((0, f"has {len(data)} bytes; user-data has {LIMIT} at most"))
        return None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        problems.append((data.count(b"\n", 0, error.start) + 1, "is not text in UTF-8"))
        return None
    strange = re.search(r"[\r\0]", text)
    if strange:
        problems.append((text.count("\n", 0, strange.start()) + 1, "has carriage returns or NULs; write it with UNIX line ends"))
        return None
    return text


class _Reader:
    """One file of the site's; its mistakes go to `problems`."""

    def __init__(self, file: SiteFile) -> None:
        self.path = file.path
        self.problems: list[Problem] = []
        self.config: dict[str, object] = {}
        self.parts: list[Part] = []
        text = text_of(file.data, self.problems)
        if text is not None:
            first = text.split("\n", 1)[0].lower()
            if first.startswith(("mime-version:", "content-type:")):
                self._message(file.data, text)
            else:
                self._part("", text, 1)

    def result(self) -> UserData:
        """What was read. InputError."""
        if self.problems:
            raise InputError(self.path, self.problems, "see docs/context-forms.md", code="VB505")
        return UserData(self.config, tuple(self.parts))

    def _part(self, stated: str, text: str, line: int) -> None:
        """A part whose text begins in `line` of the file; `stated` is its MIME type, or ''."""
        head = text.split("\n", 1)[0].rstrip()
        word = head.split(" ", 1)[0].lower()
        kind = _SCRIPT if head.startswith("#!") else _KINDS.get(word, "")
        if not kind or (kind == _CONFIG and head.lower() != "#cloud-config"):
            self.problems.append((line, f"begins with {head[:40]!r}; VmBatch takes '#cloud-config', '#!' with an interpreter, "
                                        "'#include', '#include-once', and MIME messages of these"))
        elif stated not in ("", kind, *_SNIFFED):
            self.problems.append((line, f"has a part with the Content-Type {stated}, which begins with {head[:40]!r}"))
        elif kind == _CONFIG:
            self._cloud_config(text, line)
        elif kind == _SCRIPT:
            self.parts.append(Part(kind, text))
        else:
            self._include(kind, text, line)

    def _cloud_config(self, text: str, line: int) -> None:
        document = Document(text, line)
        self.problems.extend(document.problems)
        for key, value in document.values.items():
            where = document.lines[key]
            if key in _REFUSED:
                self.problems.append((where, f"sets {key}: {_REFUSED[key]}; take it out"))
            elif key in LOCKED and value != LOCKED[key]:
                self.problems.append((where, f"sets {key}, which VmBatch needs to be {json.dumps(LOCKED[key])}; take it out"))
            elif key in ("bootcmd", "runcmd"):
                self._commands(key, value, where)
            elif key in self.config:
                self.problems.append((where, f"sets {key}, which another part of it sets, too"))
            else:
                self.config[key] = value

    def _commands(self, key: str, value: object, line: int) -> None:
        if not isinstance(value, list) or not all(
                isinstance(item, str) or (isinstance(item, list) and item and all(isinstance(word, str) for word in item))
                for item in value):
            self.problems.append((line, f"has {key} that is not a list of commands, each a text or a list of texts"))
            return
        before = self.config.setdefault(key, [])
        assert isinstance(before, list)
        before.extend(value)

    def _include(self, kind: str, text: str, line: int) -> None:
        for number, content in enumerate(text.split("\n"), line):
            url = re.sub(r"^#include(-once)?\s*", "", content, flags=re.IGNORECASE).strip()
            if url and not url.startswith("#") and not _URL.fullmatch(url):
                self.problems.append((number, f"includes {url[:200]!r}, which is no URL of http://, https:// or file:///"))
        self.parts.append(Part(kind, text))

    def _message(self, data: bytes, text: str) -> None:
        """A MIME message: one part, or a multipart of one level."""
        from email import message_from_bytes

        try:
            message = message_from_bytes(data)
        except RecursionError:
            self.problems.append((1, "has parts too deep in each other"))
            return
        parts = message.get_payload() if message.get_content_maintype() == "multipart" else [message]
        if not isinstance(parts, list) or not 0 < len(parts) <= _PARTS:
            self.problems.append((1, f"is not a MIME message of 1 to {_PARTS} parts"))
            return
        if "mime-version:" not in text[:4096].lower():
            self.problems.append((1, "has a Content-Type but no MIME-Version: 1.0, without which cloud-init takes it for text"))
        for number, (part, line) in enumerate(zip(parts, _bodies(message, text), strict=False), 1):
            self._mime_part(message, part, number, line)

    def _mime_part(self, message: "Message", part: "Message", number: int, line: int) -> None:
        before = len(self.problems)
        content = None if part.is_multipart() else part.get_payload(decode=True)
        for header in ("Merge-Type", "X-Merge-Type", "Launch-Index"):
            if header in part:
                self.problems.append((line, f"has a part with {header}; VmBatch merges, so take it out"))
        if message.defects or part.defects:
            what = ", ".join(type(defect).__name__ for defect in [*message.defects, *part.defects])
            self.problems.append((line, f"is not a well-formed MIME message: {what}"))
        elif not isinstance(content, bytes):
            self.problems.append((line, f"has a part of type {part.get_content_type()} in another one"))
        elif (text := text_of(content, self.problems)) is not None:
            stated = part.get_content_type() if "Content-Type" in part else ""
            plain = str(part.get("Content-Transfer-Encoding", "7bit")).strip().lower() in ("7bit", "8bit", "binary")
            self._part(stated, text, line if plain else 1)
            if not plain:
                self.problems[before:] = [(line, f"part {number}, line {at}: {what}") for at, what in self.problems[before:]]


def _bodies(message: "Message", text: str) -> list[int]:
    """The line in which the content of each part begins."""
    lines = text.split("\n")
    boundary = message.get_boundary()
    begins = [0] if boundary is None else [number for number, line in enumerate(lines) if line.rstrip() == f"--{boundary}"]
    found = []
    for begin in begins:
        while begin < len(lines) and lines[begin].strip():
            begin += 1
        found.append(begin + 2)
    return found
