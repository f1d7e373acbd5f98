"""Marked lines at the end of a configuration file of the site's: bytes to bytes, so that taking them out leaves what was there.

All that is needed for that stands in the file: one mark says that the line before it had no end, another is before each line
of the site's that was set aside.
"""

import msgspec

from ..errors import SiteError

BEGIN = b"# --- VmBatch, put here by vmbatch install; vmbatch uninstall takes it out, edited or not ---\n"
JOINED = b"# --- VmBatch, put here by vmbatch install; vmbatch uninstall takes it out, and the line end before it ---\n"
END = b"# --- end of VmBatch ---\n"
ASIDE = b"# set aside by vmbatch install: "


class Parts(msgspec.Struct, frozen=True):
    """A file: what is before the marked lines, these without the marks (None: there are none), and what is behind."""

    before: bytes
    lines: bytes | None
    behind: bytes
    joined: bool


def split(text: bytes, path: str) -> Parts:
    """The parts of a file. SiteError if its marks are damaged."""
    begins = text.count(BEGIN) + text.count(JOINED)
    if (begins, text.count(END)) == (0, 0):
        return Parts(text, None, b"", False)
    joined = JOINED in text
    before, _, rest = text.partition(JOINED if joined else BEGIN)
    lines, end, behind = rest.partition(END)
    if begins != 1 or text.count(END) != 1 or not end:
        raise SiteError(f"{path}: the marks around VmBatch's lines are damaged", "take these lines and their marks out by hand",
                        code="VB918")
    return Parts(before, lines, behind, joined)


def put(text: bytes, lines: bytes, aside: tuple[bytes, ...]) -> bytes:
    """A file without marks, with the lines, and with the lines `aside` (without their ends) out of force."""
    kept = b"".join(ASIDE + line if line.rstrip(b"\r\n") in aside else line for line in text.splitlines(keepends=True))
    joined = bool(kept) and not kept.endswith(b"\n")
    return kept + (b"\n" + JOINED if joined else BEGIN) + lines + END


def changed(parts: Parts, lines: bytes) -> bytes:
    """A file with marks, with other lines between them."""
    return parts.before + (JOINED if parts.joined else BEGIN) + lines + END + parts.behind


def without(parts: Parts) -> bytes:
    """The file as it was, but for what the site has changed outside of the marks since."""
    before = parts.before
    if parts.joined and not parts.behind:
        before = before.removesuffix(b"\n")
    rest = before + parts.behind
    return b"".join(line.removeprefix(ASIDE) for line in rest.splitlines(keepends=True))


def rest(parts: Parts) -> bytes:
    """What the site has in force outside of the marks."""
    return parts.before + parts.behind


def set_aside(parts: Parts) -> list[bytes]:
    """The site's lines that are out of force."""
    return [line.removeprefix(ASIDE) for line in rest(parts).splitlines() if line.startswith(ASIDE)]
