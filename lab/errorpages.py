"""The pages below docs/errors, made from the catalogue and from the places in the code where each error is raised.

`python -m lab.errorpages` writes them anew.
"""

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from vmbatch.catalogue import CATALOGUE, THEMES, Entry, described
from vmbatch.errors import Fault, VmBatchError
from vmbatch.shell import LOST

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs/errors"
_LONGEST = 160
_REFUSALS = {"RefusedError": "VB801", "RejectedError": "VB805"}
"""The job shell's and the submit filter's own errors, and the code that they have unless they say another."""
_SAID = ("_refuse", "_reject", "say")
"""What tells a user a text, with its code behind it."""


class Raised(NamedTuple):
    """A place in the code that makes an error: its text with `…` for what varies; `code` is '' where it has none.

    `fault` is None where it is known only when the error comes, and for what only a user is told.
    """

    place: str
    code: str
    text: str
    fault: Fault | None


def raised() -> list[Raised]:
    """All such places of the product."""
    sources = sorted((ROOT / "vmbatch").rglob("*.py"))
    for path in sources:
        importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    kinds = {kind.__name__: kind for kind in _below(VmBatchError)}
    return [found for path in sources for found in _of_module(path, kinds)]


def _below(kind: type[VmBatchError]) -> list[type[VmBatchError]]:
    return [kind, *(found for known in kind.__subclasses__() for found in _below(known))]


def _of_module(path: Path, kinds: dict[str, type[VmBatchError]]) -> Iterator[Raised]:
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func).rpartition(".")[2]
        place = f"{path.relative_to(ROOT)}:{node.lineno}"
        given = {word.arg: word.value for word in node.keywords}
        first = node.args[0] if node.args else None
        if name in kinds:
            kind = kinds[name]
            yield Raised(place, _code(given.get("code")) or kind.code, _text(first), None if "fault" in given else kind.fault)
        elif name in _REFUSALS:
            yield Raised(place, _code(given.get("code")) or _REFUSALS[name], _text(first), None)
        elif name in _SAID and len(node.args) == 2 and (code := _code(node.args[1])):
            yield Raised(place, code, _text(first), None)


def _code(node: ast.expr | None) -> str:
    if isinstance(node, ast.Name) and node.id == "LOST":
        return LOST
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def _text(node: ast.expr | None) -> str:
    if isinstance(node, ast.Constant):
        text = str(node.value)
    elif isinstance(node, ast.JoinedStr):
        text = "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    else:
        text = ""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def page(entry: Entry, places: list[Raised]) -> str:
    """The page of one error, in Markdown."""
    parts = [f"# {entry.code}: {entry.title}\n"]
    parts += [f"## {heading}\n\n{_markdown(text)}\n" for heading, text in described(entry)]
    texts = sorted({found.text for found in places if found.text.strip("… ")})
    if texts:
        parts.append("## Messages\n\n" + "".join(f"- `{text.replace('`', chr(39))}`\n" for text in texts))
    parts.append("[All errors](index.md)\n")
    return "\n".join(parts)


def _markdown(text: str) -> str:
    """With tags as code: in Markdown they would be HTML's."""
    return re.sub(r"(`[^`]*`)|(<[a-z/][^<>]*>)", lambda match: match[1] or f"`{match[2]}`", text)


def index() -> str:
    """The page that lists all, in Markdown."""
    parts = ["# Errors\n", "The code of an error stands in brackets behind the message; it keeps its meaning in all versions.\n"
             "`vmbatch explain CODE` says the same on the node.\n"]
    for theme in THEMES.values():
        rows = [f"| [{entry.code}]({entry.code}.md) | {entry.title} |\n" for entry in CATALOGUE.values() if entry.theme == theme]
        parts.append(f"## {theme}\n\n| code | what |\n|---|---|\n{''.join(rows)}")
    return "\n".join(parts)


def pages() -> dict[str, str]:
    """The content of every page by its file's name."""
    places = raised()
    return {"index.md": index()} | {
        f"{code}.md": page(entry, [found for found in places if found.code == code]) for code, entry in CATALOGUE.items()}


def main() -> None:
    """Writes what is not as it should be, and removes what should not be there."""
    PAGES.mkdir(exist_ok=True)
    wanted = pages()
    for old in PAGES.iterdir():
        if old.name not in wanted:
            old.unlink()
    for name, text in wanted.items():
        (PAGES / name).write_text(text)


if __name__ == "__main__":
    main()
