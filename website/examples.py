"""The example templates as pages: the index, and each template with what it says of itself."""

import os
import re

from website import ROOT

FOLDER = ROOT / "examples/domains"


def pages() -> dict[str, str]:
    """The pages of examples/, by their places."""
    index = re.sub(r"\]\(([\w-]+)\.xml\)", r"](\1.md)", (FOLDER / "README.md").read_text())
    return {"examples/index.md": index,
            **{f"examples/{path.stem}.md": _page(path.stem, path.read_text()) for path in sorted(FOLDER.glob("*.xml"))}}


def about(text: str) -> str:
    """The comment at a template's top, as one paragraph."""
    found = re.match(r"<!--(.*?)-->", text, re.DOTALL)
    return " ".join(found[1].split()) if found else ""


def _page(name: str, text: str) -> str:
    said = re.sub(r"<[^<>]+>|\$?[\w./-]+=[\w./;':-]+", lambda part: f"`{part[0]}`", about(text))
    source = os.path.relpath(FOLDER / f"{name}.xml", ROOT)
    return f"# {name}\n\n{said}\n\n`{source}`:\n\n```xml\n{text.rstrip()}\n```\n"
