"""The reference of vmbatch.conf: every setting that the code knows, its default as the shipped file has it, its meaning."""

import re

from vmbatch.config import OPTIONS
from website import ROOT
from website.crossref import anchor

FILE = ROOT / "etc/vmbatch.conf"


def page() -> str:
    """Markdown: a table for each section, then the shipped file."""
    shipped = FILE.read_text()
    lines = ["# Configuration", "", "Every setting of `/etc/vmbatch/vmbatch.conf`, made from the code that reads it. "
             "A setting's name leads to its whole text in vmbatch.conf(5)."]
    section = ""
    for name, option in OPTIONS.items():
        if section != (section := name.partition(".")[0]):
            lines += ["", f"## \\[{section}\\]", "", "| setting | default | meaning |", "|---|---|---|"]
        link = f"[`{name.partition('.')[2]}`](../man/vmbatch.conf.5.md#{anchor(name)})"
        lines.append(f"| {link} | {_default(shipped, name)} | {escaped(option.meaning)} |")
    return "\n".join([*lines, "", "## The file as it is shipped", "", "```toml", shipped.rstrip(), "```", ""])


def _default(shipped: str, name: str) -> str:
    """As the file shows it, commented out; nothing for those that a site names itself."""
    section, _, key = name.partition(".")
    inside = re.search(rf"^\[{section}\]\n(.*?)(?=^\[|\Z)", shipped, re.MULTILINE | re.DOTALL)
    line = re.search(rf"^#{re.escape(key)} = (.*)$", inside[1] if inside else "", re.MULTILINE)
    return f"`{line[1]}`" if line else ""


def escaped(text: str) -> str:
    """Plain text for a cell of a table: tags in it are shown, and no letter of it is markup."""
    return re.sub(r"<[^<>]+>", lambda tag: f"`{tag[0]}`", text).replace("|", "\\|").replace("*", "\\*").replace("_", "\\_")
