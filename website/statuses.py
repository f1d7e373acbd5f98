"""The reference of exit statuses: what every manual says of its program's, in one page."""

import re

from website import DOCS
from website.crossref import title

NAMES = {"remoteshell.1.md": "Jobs (remoteshell)", "vmbatch-hooks.8.md": "Hooks", "vmbatch.8.md": "vmbatch"}
"""Manuals in the order of their readers' number, with what they are about; the others follow under their own names."""


def page() -> str:
    """Markdown: a part for each program."""
    lines = ["# Exit statuses", "", "Of a job, of the hooks, and of every program, from their manuals."]
    rest = sorted(path.name for path in (DOCS / "man").glob("*.md") if path.name not in NAMES)
    for name in (*NAMES, *rest):
        if text := section(name):
            lines += ["", f"## {NAMES.get(name, title(f'man/{name}').partition('(')[0])}", "", text, "",
                      f"From [{title(f'man/{name}')}](../man/{name}#exit-status)."]
    return "\n".join([*lines, ""])


def section(name: str) -> str:
    """What a manual has below EXIT STATUS; '' if there is no such part."""
    found = re.search(r"^## EXIT STATUS\n(.*?)(?=^## |\Z)", (DOCS / "man" / name).read_text(), re.MULTILINE | re.DOTALL)
    return found[1].strip() if found else ""
