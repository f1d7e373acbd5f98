"""Links where a text names a page, a manual or an example: `docs/disks.md`, vmbatch.conf(5), `examples/domains/copy.xml`."""

import itertools
import os
import re

from website import DOCS

_WHOLE = re.compile(r"(`[^`]+`|\[[^\]]*\]\([^)]*\))")
"""Code, and what is a link already."""
_FILE = re.compile(r"`?(?<![\w/.-])docs/([\w/.-]+\.md)`?")
_EXAMPLE = re.compile(r"`?(?<![\w/.-])examples/domains/([\w-]+)\.(xml|md)`?")
_TOP = re.compile(r"`(CONTRIBUTING|CHANGELOG)\.md`")
_MANUAL = re.compile(r"(?<![\w/.`\[-])([a-z][\w.-]*)\(([1-8])\)(?!\])")


def linked(text: str, place: str, pages: set[str]) -> str:
    """The page's Markdown with links, relative to its own `place`; headings, code and what is a link already stay."""
    fenced = False

    def is_text(line: str) -> bool:
        nonlocal fenced
        fence = line.lstrip().startswith("```")
        fenced ^= fence
        return not (fence or fenced or line.startswith(("#", "    ")))

    blocks = itertools.groupby(text.splitlines(), is_text)
    return "".join(_paragraphs(block, place, pages) if plain else block
                   for plain, block in ((plain, "".join(f"{line}\n" for line in lines)) for plain, lines in blocks))


def _paragraphs(text: str, place: str, pages: set[str]) -> str:
    def to(target: str, words: str, otherwise: str) -> str:
        return f"[{words}]({os.path.relpath(target, os.path.dirname(place))})" if target in pages - {place} else otherwise

    def file(match: re.Match[str]) -> str:
        return to(match[1], title(match[1]), match[0])

    def example(match: re.Match[str]) -> str:
        name = "index" if match[1] == "README" else match[1]
        return to(f"examples/{name}.md", "Examples" if name == "index" else f"`{name}.xml`", match[0])

    def top(match: re.Match[str]) -> str:
        return to(f"{match[1].lower()}.md", match[1].capitalize(), match[0])

    def manual(match: re.Match[str]) -> str:
        return to(f"man/{match[1]}.{match[2]}.md", match[0], match[0])

    parts = _WHOLE.split(text)
    parts[0::2] = [_MANUAL.sub(manual, _FILE.sub(file, _EXAMPLE.sub(example, part))) for part in parts[0::2]]
    parts[1::2] = [_TOP.sub(top, part) if _TOP.fullmatch(part) else
                   _FILE.sub(file, part) if _FILE.fullmatch(part) else
                   _EXAMPLE.sub(example, part) if _EXAMPLE.fullmatch(part) else part for part in parts[1::2]]
    return "".join(parts)


def title(page: str) -> str:
    """The heading of a page in docs/, without code marks."""
    path = DOCS / page
    first = path.read_text().partition("\n")[0] if path.exists() else page
    return first.removeprefix("# ").replace("`", "")


def anchor(heading: str) -> str:
    """Where a heading is on its page."""
    from markdown.extensions.toc import slugify

    return str(slugify(heading, "-"))
